"""Convolutions that bfloat16 on a CPU gets wrong."""

import torch
from torch import Tensor, nn

SMALL = 2
"""Voxels along an axis; a convolution of an image with as few is small."""


class _SmallInFloat32(nn.Conv3d):
    """A convolution that computes small images of the CPU in float32."""

    def forward(self, image: Tensor) -> Tensor:
        """Convolve (B, C, X, Y, Z)."""
        if image.device.type != "cpu" or min(image.shape[2:]) > SMALL:
            return super().forward(image)
        with torch.autocast("cpu", enabled=False):
            return super().forward(image.to(self.weight.dtype))


def small_in_float32(network: nn.Module) -> None:
    """Have a network's convolutions compute images of one or two voxels along an axis in float32 on the CPU.

    The gradient of the weights of a 3 x 3 x 3 convolution of such images in bfloat16 is whatever the memory
    held before, for some of these shapes, in oneDNN as it comes with PyTorch 2.13 (found by comparing with
    float32: images of 2 x 2 x 2, 2 x 2 x 1 and others; larger ones are right, and transposed convolutions).
    The deepest level of a network has so few voxels where parts are small, and costs next to nothing.

    Args:
        network: Its convolutions are changed in place; weights stay.

    Example:
        >>> network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1))
        >>> small_in_float32(network)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     network(torch.ones(1, 1, 2, 2, 2)).dtype, network(torch.ones(1, 1, 4, 4, 4)).dtype
        (torch.float32, torch.bfloat16)
    """
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _SmallInFloat32
