"""What every network must do. A new one takes part as soon as it is in ``ARCHITECTURES``."""

import pytest
import torch

from anystroke.models.architectures.catalogue import ARCHITECTURES, DivisibleUNet, build_network

CLASSES = 3
LARGE = ("residual_unet", "plain_unet", "residual_encoder_unet", "mde", "mded", "estimator_unet")
"""Take seconds each."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in ARCHITECTURES],
)
def network(request: pytest.FixtureRequest) -> DivisibleUNet:
    return build_network(request.param, CLASSES, seed=1).eval()


def image(network: DivisibleUNet, count: int = 1) -> torch.Tensor:
    """Random images of the smallest side that instance norm takes: two voxels where it is halved most."""
    sides = (2 * network.divisor, network.divisor, network.divisor)
    return torch.randn(count, network.inputs, *sides, generator=torch.Generator().manual_seed(2))


def test_batch_equals_element_and_chance_plays_no_part(network: DivisibleUNet) -> None:
    x = image(network, 2)
    with torch.no_grad():
        logits, alone = network(x), network(x[1:])
        assert torch.equal(network(x[1:]), alone)
    assert logits.shape == (2, CLASSES, *x.shape[2:])
    assert bool(logits.isfinite().all())
    torch.testing.assert_close(logits[1:], alone, rtol=1e-3, atol=1e-4)


def test_sides_that_cannot_be_halved_are_named(network: DivisibleUNet) -> None:
    sides = (2 * network.divisor, network.divisor + 1, network.divisor)
    with pytest.raises(ValueError, match=str(network.divisor + 1)):
        network(torch.zeros(1, 1, *sides))


def test_every_weight_learns(network: DivisibleUNet) -> None:
    network.train()
    try:
        torch.manual_seed(4)
        loss = sum((head.square().mean() for head in network.heads(image(network))), torch.zeros(()))
        loss.backward()  # type: ignore[no-untyped-call]
    finally:
        network.eval()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
    assert any(bool(weight.grad.any()) for weight in network.parameters() if weight.grad is not None)
    network.zero_grad(set_to_none=True)


def test_another_network_takes_the_weights(network: DivisibleUNet) -> None:
    weights = {name: one.clone() for name, one in network.state_dict().items()}
    assert all(bool(one.isfinite().all()) for one in weights.values())
    x = image(network)
    with torch.no_grad():
        wanted = network(x)
        for one in network.parameters():
            one.add_(0.01)
        assert not torch.equal(network(x), wanted)
        network.load_state_dict(weights)
        assert torch.equal(network(x), wanted)
