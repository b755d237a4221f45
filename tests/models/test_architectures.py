import subprocess
import sys

import pytest
import torch

from anystroke.models.architectures.catalogue import ARCHITECTURES, build_network, residual_unet
from anystroke.models.architectures.residual_unet import ResidualUNet, ResidualUnit
from anystroke.models.checkpoints import parameter_count


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_have_the_grid_of_the_image(name: str) -> None:
    network = build_network(name, 5, seed=1).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, network.inputs, 32, 64, 32)).shape == (1, 5, 32, 64, 32)
    with pytest.raises(ValueError, match=r"\(32, 40, 36\)"):
        network(torch.zeros(1, network.inputs, 32, 40, 36))


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


@pytest.mark.parametrize(
    ("channels", "dropout"), [((24, 48, 96, 192, 192), 0.0), ((4, 8), 0.0), ((4, 8, 8), 0.2)]
)
def test_the_residual_unet_is_that_of_monai(channels: tuple[int, ...], dropout: float) -> None:
    from monai.networks.nets import UNet

    strides = (2,) * (len(channels) - 1)
    torch.manual_seed(3)
    theirs = UNet(3, 1, 5, channels, strides, num_res_units=1, dropout=dropout)
    torch.manual_seed(3)
    ours = ResidualUNet(5, channels=channels, dropout=dropout)
    first, second = theirs.state_dict(), ours.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    x = torch.randn(1, 1, 32, 16, 48)
    for training in (True, False):
        torch.manual_seed(4)
        wanted = theirs.train(training)(x)
        torch.manual_seed(4)
        assert torch.equal(ours.train(training)(x), wanted)


@pytest.mark.parametrize(("before", "stride", "alone"), [(4, 1, False), (4, 2, False), (3, 1, True)])
def test_the_residual_unit_is_that_of_monai(before: int, stride: int, alone: bool) -> None:
    from monai.networks.blocks.convolutions import ResidualUnit as Theirs

    torch.manual_seed(3)
    theirs = Theirs(3, before, 4, stride, subunits=2, act="GELU", dropout=0.1, last_conv_only=alone)
    torch.manual_seed(3)
    ours = ResidualUnit(before, 4, stride=stride, units=2, activation="gelu", dropout=0.1, last_alone=alone)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    x = torch.randn(2, before, 8, 6, 8)
    torch.manual_seed(4)
    wanted = theirs(x)
    torch.manual_seed(4)
    assert torch.equal(ours(x), wanted)


def test_building_the_default_network_does_not_import_monai() -> None:
    code = (
        "import sys\nfrom anystroke.models.architectures.catalogue import build_network\n"
        "build_network('compact_unet', 5)\n"
        "sys.exit('monai' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
