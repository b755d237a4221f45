"""Network architectures; every number of a variant is in one place.

All networks map (B, 1, X, Y, Z) to logits (B, classes, X, Y, Z) on the same grid.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class _ConvNormAct(nn.Sequential):
    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(n_in, n_out, 3, stride, 1, bias=False),
            nn.InstanceNorm3d(n_out, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _ConvNormAct(channels, channels)
        self.second = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm3d(channels, affine=True)
        self.act = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.norm(self.second(self.first(x))) + x)
        return result


class CompactUNet(nn.Module):
    """A residual U-Net that computes at half the input's resolution and predicts sub-voxels.

    The first convolution (4^3, stride 2) and the last transposed one (2^3, stride 2) carry the full
    resolution in channels; nothing between them runs on the full grid, which makes the network fast on CPUs.

    Args:
        classes: Number of output classes.
        channels: Features of each level, from half resolution downwards.
        blocks: Residual blocks of each level of the encoder; the decoder has one per level.
    """

    def __init__(self, classes: int, channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        if len(channels) != len(blocks):
            raise ValueError(f"one number of blocks per level expected: {channels} levels, {blocks} blocks")
        self.stem = nn.Conv3d(1, channels[0], 4, 2, 1)
        self.encoder = nn.ModuleList()
        for level, (width, count) in enumerate(zip(channels, blocks, strict=True)):
            layers: list[nn.Module] = [] if level == 0 else [_ConvNormAct(channels[level - 1], width, 2)]
            self.encoder.append(nn.Sequential(*layers, *(_Residual(width) for _ in range(count))))
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for wide, narrow in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose3d(wide, narrow, 2, 2))
            self.decoder.append(nn.Sequential(_ConvNormAct(2 * narrow, narrow), _ConvNormAct(narrow, narrow)))
        self.head = nn.ConvTranspose3d(channels[0], classes, 2, 2)
        self.divisor = 2 ** len(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) for x (B, 1, X, Y, Z).

        Raises:
            ValueError: If a side of ``x`` is not a multiple of ``divisor``.
        """
        check_divisible(x, self.divisor)
        features: Tensor = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        skips.pop()
        for up, decode in zip(self.up, self.decoder, strict=True):
            features = decode(torch.cat([up(features), skips.pop()], dim=1))
        logits: Tensor = self.head(features)
        return logits


class _DivisibleUNet(nn.Module):
    divisor = 32

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        check_divisible(x, self.divisor)
        logits: Tensor = self.network(x)
        return logits


def check_divisible(x: Tensor, divisor: int) -> None:
    """Raise ValueError unless the last three sides of ``x`` are multiples of ``divisor``."""
    sides = tuple(x.shape[2:])
    if any(n % divisor for n in sides):
        raise ValueError(f"expected sides that are multiples of {divisor}, but got {sides}; pad the image")


def compact_unet(classes: int) -> nn.Module:
    """Build the default network, 7.0 M parameters for five classes, made for CPUs."""
    return CompactUNet(classes, (24, 48, 96, 192), (1, 1, 2, 2))


def residual_unet(classes: int) -> nn.Module:
    """Build the residual U-Net of SynthStroke, qATLAS and qSynth.

    18,615,295 parameters for two classes and 18,623,079 for six: MONAI's U-Net with channels
    32-64-128-256-320-320, five strides of two, one residual unit per block, instance norm, PReLU and dropout
    0.2.
    """
    from monai.networks.nets import UNet

    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        channels=(32, 64, 128, 256, 320, 320),
        strides=(2, 2, 2, 2, 2),
        num_res_units=1,
        dropout=0.2,
    )
    return _DivisibleUNet(network)


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "compact_unet": compact_unet,
    "residual_unet": residual_unet,
}


def build_network(architecture: str, classes: int, *, seed: int | None = None) -> nn.Module:
    """Build a network by name.

    Args:
        architecture: One of ``ARCHITECTURES``.
        classes: Number of output classes.
        seed: Makes the initial weights reproducible, without a trace on the global random state.

    Raises:
        ValueError: If the name is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    if seed is None:
        return ARCHITECTURES[architecture](classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](classes)
