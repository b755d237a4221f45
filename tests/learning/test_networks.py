import pytest
import torch

from anystroke.learning.checkpoints import parameter_count
from anystroke.learning.networks import ARCHITECTURES, build_network, residual_unet


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_have_the_grid_of_the_image(name: str) -> None:
    network = build_network(name, 5, seed=1).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 32, 64, 32)).shape == (1, 5, 32, 64, 32)
    with pytest.raises(ValueError, match=r"\(32, 40, 36\)"):
        network(torch.zeros(1, 1, 32, 40, 36))


def test_the_published_network_has_its_published_size() -> None:
    assert parameter_count(residual_unet(2)) == 18_615_295
    assert parameter_count(residual_unet(6)) == 18_623_079


def test_seeded_weights_are_the_same_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    first, second = (build_network("compact_unet", 5, seed=7).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_architecture_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"'unet3d'.*compact_unet"):
        build_network("unet3d", 5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("plain_unet", 31_190_312),
        ("residual_encoder_unet", 87_164_200),
        ("mde", 28_503_010),
        ("mded", 24_285_634),
    ],
)
def test_networks_have_the_sizes_that_they_state(name: str, parameters: int) -> None:
    assert parameter_count(ARCHITECTURES[name](2)) == parameters


@pytest.mark.parametrize(
    ("name", "count"), [("plain_unet", 4), ("residual_encoder_unet", 4), ("compact_unet", 1)]
)
def test_deep_supervision_has_its_heads_in_training_alone(name: str, count: int) -> None:
    network = build_network(name, 3, seed=1)
    x = torch.zeros(1, 1, 64, 32, 32)
    with torch.no_grad():
        heads = network.train().heads(x)
        assert len(heads) == count
        assert heads[0].shape == (1, 3, 64, 32, 32)
        assert len(network.eval().heads(x)) == 1
