"""MONAI's residual U-Net and its parts, with its names of parameters, without the seconds of its import.

Source: E. Kerfoot et al., Left-ventricle quantification using residual U-Net, STACOM 2018; MONAI's ``UNet``.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from anystroke.models.midline import asymmetry

Nonlinearity = Literal["prelu", "gelu"]

_ACTIVATIONS: dict[Nonlinearity, type[nn.Module]] = {"prelu": nn.PReLU, "gelu": nn.GELU}


class Convolution(nn.Sequential):
    """A convolution of 3 voxels, then instance norm, dropout and activation.

    Args:
        before: Channels in.
        after: Channels out.
        stride: 1, or 2 to halve the grid or double it.
        up: Double the grid.
        activation: Last of all.
        dropout: Probability.
        alone: Nothing follows the convolution.
    """

    def __init__(
        self,
        before: int,
        after: int,
        *,
        stride: int = 1,
        up: bool = False,
        activation: Nonlinearity = "prelu",
        dropout: float = 0.0,
        alone: bool = False,
    ) -> None:
        super().__init__()
        convolution = (
            nn.ConvTranspose3d(before, after, 3, stride, padding=1, output_padding=stride - 1)
            if up
            else nn.Conv3d(before, after, 3, stride, padding=1)
        )
        self.add_module("conv", convolution)
        if not alone:
            rest = nn.Sequential()
            rest.add_module("N", nn.InstanceNorm3d(after))
            rest.add_module("D", nn.Dropout(dropout))
            rest.add_module("A", _ACTIVATIONS[activation]())
            self.add_module("adn", rest)


class ResidualUnit(nn.Module):
    """Convolutions beside a shortcut, which is a convolution where channels or grid change.

    Args:
        before: Channels in.
        after: Channels out.
        stride: 2 halves the grid.
        units: Number of convolutions.
        activation: Of each of them.
        dropout: Probability.
        last_alone: Nothing follows the last convolution.
    """

    def __init__(
        self,
        before: int,
        after: int,
        *,
        stride: int = 1,
        units: int = 1,
        activation: Nonlinearity = "prelu",
        dropout: float = 0.0,
        last_alone: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        for number in range(units):
            unit = Convolution(
                after if number else before,
                after,
                stride=1 if number else stride,
                activation=activation,
                dropout=dropout,
                alone=last_alone and number == units - 1,
            )
            self.conv.add_module(f"unit{number}", unit)
        self.residual: nn.Module = nn.Identity()
        if stride != 1:
            self.residual = nn.Conv3d(before, after, 3, stride, padding=1)
        elif before != after:
            self.residual = nn.Conv3d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, ...) for (B, before, ...)."""
        features: Tensor = self.conv(x)
        shortcut: Tensor = self.residual(x)
        return features + shortcut


class _Beside(nn.Module):
    """What a part puts out, after what went in."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.submodule(x)], dim=1)


class ResidualUNet(nn.Module):
    """(B, inputs, X, Y, Z) to (B, outputs, X, Y, Z), whose sides can be halved at each level but the last.

    Args:
        outputs: Output channels.
        channels: Of each level, the finest first; all but the last halve the grid.
        dropout: Probability.
        inputs: Input channels.

    Example:
        >>> ResidualUNet(2, channels=(4, 8))(torch.zeros(1, 1, 8, 8, 8)).shape
        torch.Size([1, 2, 8, 8, 8])
    """

    def __init__(
        self, outputs: int, *, channels: Sequence[int], dropout: float = 0.0, inputs: int = 1
    ) -> None:
        super().__init__()
        self.model = _level(inputs, outputs, channels, dropout, top=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z)."""
        result: Tensor = self.model(x)
        return result

    def encoder(self) -> list[nn.Module]:
        """Return the blocks on the way down, the bottom last."""
        levels: list[nn.Module] = []
        part: nn.Module = self.model
        while isinstance(part, nn.Sequential):
            down, beside = part[0], part[1]
            levels.append(down)
            assert isinstance(beside, _Beside)
            part = beside.submodule
        return [*levels, part]


class MirroredUNet(ResidualUNet):
    """A residual U-Net that sees, beside a head, its mirror image and what it lacks there (`asymmetry`).

    The parameters have the names of a `ResidualUNet`.

    Args:
        outputs: Output channels.
        channels: As there.

    Example:
        >>> MirroredUNet(2, channels=(4, 8))(torch.randn(1, 1, 32, 32, 32)).shape
        torch.Size([1, 2, 32, 32, 32])
    """

    def __init__(self, outputs: int, *, channels: Sequence[int]) -> None:
        super().__init__(outputs, channels=channels, inputs=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z) for (B, 1, X, Y, Z)."""
        return super().forward(asymmetry(x))


def _level(before: int, after: int, channels: Sequence[int], dropout: float, *, top: bool) -> nn.Sequential:
    """Return the way down, what lies below, and the way up."""
    width, below = channels[0], channels[1:]
    if len(below) > 1:
        inner: nn.Module = _level(width, width, below, dropout, top=False)
        joined = 2 * width
    else:
        inner = ResidualUnit(width, below[0], dropout=dropout)
        joined = width + below[0]
    down = ResidualUnit(before, width, stride=2, dropout=dropout)
    up = nn.Sequential(
        Convolution(joined, after, stride=2, up=True, dropout=dropout),
        ResidualUnit(after, after, dropout=dropout, last_alone=top),
    )
    return nn.Sequential(down, _Beside(inner), up)


class ResidualEncoder(nn.Module):
    """The way down of a `ResidualUNet`, with the names of its parameters.

    Args:
        channels: Of each level, the finest first; all but the last halve the grid.
        dropout: Probability.

    Attributes:
        width: Channels of the deepest level.

    Example:
        >>> levels = ResidualEncoder(channels=(4, 8))(torch.zeros(1, 1, 8, 8, 8))
        >>> [tuple(level.shape) for level in levels]
        [(1, 4, 4, 4, 4), (1, 8, 4, 4, 4)]
    """

    def __init__(self, *, channels: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.width = channels[-1]
        self.model = _way_down(1, channels, dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of each level, the finest first."""
        levels: list[Tensor] = []
        part: nn.Module = self.model
        while isinstance(part, nn.Sequential):
            down, beside = part[0], part[1]
            assert isinstance(beside, _Beside)
            x = down(x)
            levels.append(x)
            part = beside.submodule
        return [*levels, part(x)]


def _way_down(before: int, channels: Sequence[int], dropout: float) -> nn.Module:
    width, below = channels[0], channels[1:]
    if not below:
        return ResidualUnit(before, width, dropout=dropout)
    down = ResidualUnit(before, width, stride=2, dropout=dropout)
    return nn.Sequential(down, _Beside(_way_down(width, below, dropout)))
