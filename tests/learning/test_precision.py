import copy

import pytest
import torch
from torch import nn

from anystroke.learning.precision import small_in_float32
from anystroke.models.architectures.catalogue import build_network


def _gradient(convolution: nn.Conv3d, image: torch.Tensor, *, fast: bool) -> torch.Tensor:
    convolution.zero_grad()
    # What memory that is not written to holds.
    kept = [torch.full_like(convolution.weight, torch.nan, dtype=torch.bfloat16) for _ in range(4)]
    del kept
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
        result = convolution(image)
    (result.float() * torch.randn(result.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert convolution.weight.grad is not None
    return convolution.weight.grad.clone()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (4, 4, 1), (4, 4, 2), (3, 3, 3)]
)
def test_gradients_of_small_images_are_those_of_float32(shape: tuple[int, int, int], stride: int) -> None:
    torch.manual_seed(1)
    convolution = nn.Conv3d(64, 64, 3, stride=stride, padding=1)
    image = torch.randn(1, 64, *shape)
    expected = _gradient(convolution, image, fast=False)
    network = nn.Sequential(convolution)
    small_in_float32(network)
    found = _gradient(convolution, image, fast=True)
    assert float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())


def test_weights_of_double_precision_stay_so() -> None:
    network = build_network("residual_unet", 2, seed=1).double().eval()
    small_in_float32(network)
    assert network(torch.randn(1, 1, 64, 64, 32, dtype=torch.float64)).dtype == torch.float64


def test_a_network_keeps_weights_and_can_be_copied() -> None:
    network = build_network("residual_unet", 2, seed=1).eval()
    image = torch.randn(1, 1, 64, 64, 32)
    with torch.no_grad():
        before = network(image)
        small_in_float32(network)
        copied = copy.deepcopy(network)
        assert torch.equal(network(image), before)
        assert torch.equal(copied(image), before)
    assert list(copied.state_dict()) == list(network.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.train()(image).float().square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
