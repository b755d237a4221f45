"""U-Nets for images with quantities in their voxels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from anystroke.models.architectures.residual_unet import Convolution, ResidualUNet, ResidualUnit


class InterpolatingUNet(nn.Module):
    """Encoder of residual units with strides of two; linear interpolation and a residual unit on the way up.

    Instance norm, dropout and GELU follow each convolution but the last one.

    Args:
        outputs: Output channels.
        channels: Of each level, the finest first; all but the last halve the grid.
        dropout: Probability.
        detail: Channels of two convolutions on the image's own grid that see the image beside what was
            interpolated to it; 0 for none, as published, where nothing finer than two voxels is seen again.

    Source: L. Chalcroft et al., qATLAS: residual units and channels of MONAI's U-Net, linear upsampling.

    Example:
        >>> network = InterpolatingUNet(4, channels=(4, 8, 8))
        >>> network(torch.zeros(1, 1, 16, 16, 16)).shape
        torch.Size([1, 4, 16, 16, 16])
    """

    def __init__(
        self, outputs: int, *, channels: Sequence[int], dropout: float = 0.0, detail: int = 0
    ) -> None:
        super().__init__()
        *upper, bottom = channels
        sides = [1, *upper]
        self.down = nn.ModuleList(
            ResidualUnit(before, after, stride=2, units=2, activation="gelu", dropout=dropout)
            for before, after in zip(sides, upper, strict=False)
        )
        self.bottom = ResidualUnit(upper[-1], bottom, units=2, activation="gelu", dropout=dropout)
        self.narrow, self.up = nn.ModuleList(), nn.ModuleList()
        below = bottom
        for level in reversed(range(len(upper))):
            width = upper[level - 1] if level else detail or outputs
            self.narrow.append(nn.Conv3d(upper[level] + below, width, 1))
            if level or not detail:
                self.up.append(_up_unit(width, dropout, top=level == 0))
            below = width
        self.detail = None if not detail else _detail_unit(detail, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z) for (B, 1, X, Y, Z), whose sides can be halved at each level."""
        skipped, x = [], image
        for down in self.down:
            x = down(x)
            skipped.append(x)
        x = self.bottom(x)
        for level, narrow in enumerate(self.narrow):
            x = narrow(torch.cat([skipped.pop(), x], dim=1))
            x = interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)
            if level < len(self.up):
                x = self.up[level](x)
        if self.detail is not None:
            x = self.detail(torch.cat([x, image], dim=1))
        return x

    def encoder(self) -> list[nn.Module]:
        """Return the blocks on the way down, the bottom last."""
        return [*self.down, self.bottom]


def _up_unit(width: int, dropout: float, *, top: bool) -> nn.Module:
    return nn.Sequential(
        Convolution(width, width, activation="gelu", dropout=dropout),
        ResidualUnit(width, width, activation="gelu", dropout=dropout, last_alone=top),
    )


def _detail_unit(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        Convolution(width + 1, width, activation="gelu"),
        nn.Conv3d(width, outputs, 3, padding=1),
    )


class DetailedUNet(ResidualUNet):
    """A residual U-Net, then a convolution on the image's own grid that sees the image beside its features.

    The names of the U-Net's parameters are those of `ResidualUNet`, so that training can start from a network
    that segments, which knows tissues whatever the contrast. Nothing is normalised after the U-Net, so that a
    value does not depend on how much of the image is head. The last convolution begins at zero.

    Args:
        outputs: Output channels.
        channels: Of each level, the finest first; all but the last halve the grid.
        features: Channels between U-Net and convolutions.

    Example:
        >>> DetailedUNet(4, channels=(4, 8), features=3)(torch.zeros(1, 1, 8, 8, 8)).shape
        torch.Size([1, 4, 8, 8, 8])
    """

    def __init__(self, outputs: int, *, channels: Sequence[int], features: int) -> None:
        super().__init__(features, channels=channels)
        last = nn.Conv3d(features, outputs, 1)
        # Features of the loaded part are large; exponentials of them would rule the first hundred steps.
        nn.init.zeros_(last.weight)
        self.detail = nn.Sequential(nn.Conv3d(features + 1, features, 3, padding=1), nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z) for (B, 1, X, Y, Z)."""
        result: Tensor = self.detail(torch.cat([super().forward(x), x], dim=1))
        return result
