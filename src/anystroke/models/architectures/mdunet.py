"""MDUNet: a U-Net whose levels look far with large depth-wise kernels instead of attention maps.

Source: arXiv 2308.07251, with the numbers of its published code. The attention is the large-kernel attention
of Guo et al., Visual attention network, Computational Visual Media 9:733 (2023), in three dimensions.
"""

from collections.abc import Sequence

import torch
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn

FILTERS = (32, 64, 128, 256, 320, 320)
DEPTHS = (1, 1, 1, 1, 2, 1)
_EXPANSION = 4
_INITIAL_SCALE = 0.01


class LargeKernelAttention(nn.Module):
    """Weigh each voxel with what lies within 11 voxels of it: ``u * C1(D7(D5(u)))``.

    ``D5`` is a depth-wise convolution of 5 voxels, ``D7`` one of 7 voxels dilated by 3, ``C1`` is point-wise.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = nn.Conv3d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv3d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, X, Y, Z) for (B, C, X, Y, Z)."""
        weights: Tensor = self.mix(self.far(self.near(x)))
        return x * weights


class MDBlock(nn.Module):
    """Attention, then a convolutional feed-forward, each beside a shortcut and with a small learnt scale.

    Args:
        channels: Channels in and out.
        dropout: In the feed-forward.
        drop_path: Probability that a case skips the attention, or the feed-forward, in training.
    """

    def __init__(self, channels: int, *, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        wide = _EXPANSION * channels
        self.norm1, self.norm2 = nn.BatchNorm3d(channels), nn.BatchNorm3d(channels)
        self.attention = nn.Sequential(
            nn.Conv3d(channels, channels, 1),
            nn.GELU(),
            LargeKernelAttention(channels),
            nn.Conv3d(channels, channels, 1),
        )
        self.feed_forward = nn.Sequential(
            nn.Conv3d(channels, wide, 1),
            nn.Conv3d(wide, wide, 3, padding=1, groups=wide),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv3d(wide, channels, 1),
            nn.Dropout(dropout),
        )
        self.drop_path = DropPath(drop_path)
        self.scale1 = nn.Parameter(torch.full((channels, 1, 1, 1), _INITIAL_SCALE))
        self.scale2 = nn.Parameter(torch.full((channels, 1, 1, 1), _INITIAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, X, Y, Z) for (B, C, X, Y, Z)."""
        normed = self.norm1(x)
        x = x + self.drop_path(self.scale1 * (self.attention(normed) + normed))
        fed: Tensor = self.drop_path(self.scale2 * self.feed_forward(self.norm2(x)))
        return x + fed


class MDLevel(nn.Module):
    """Halve or double the grid with overlapping patches, then some blocks.

    Args:
        before: Channels in.
        after: Channels out.
        depth: Number of blocks.
        up: Double the grid instead of halving it.
    """

    def __init__(self, before: int, after: int, depth: int, *, up: bool = False) -> None:
        super().__init__()
        embed = (
            nn.ConvTranspose3d(before, after, 3, stride=2, padding=1, output_padding=1)
            if up
            else nn.Conv3d(before, after, 3, stride=2, padding=1)
        )
        self.embed = nn.Sequential(embed, nn.BatchNorm3d(after))
        self.blocks = nn.Sequential(*(MDBlock(after) for _ in range(depth)))
        self.norm = nn.LayerNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features on half or twice the grid."""
        features = self.blocks(self.embed(x))
        normed: Tensor = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        return normed.contiguous()


class ConvolutionalUp(nn.Module):
    """nnU-Net's decoder level: transposed convolution, the skip, two convolutions."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(before, after, 2, stride=2, bias=False)
        self.convolutions = double_convolution(2 * after, after)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return features (B, after, ...) on the grid of the skip."""
        features: Tensor = self.convolutions(torch.cat([self.up(x), skip], 1))
        return features


class AttentiveUp(nn.Module):
    """Decoder level of MDED: an ``MDLevel``, and the skip after it."""

    def __init__(self, before: int, after: int, depth: int) -> None:
        super().__init__()
        self.level = MDLevel(before, after, depth, up=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return features (B, 2 after, ...) on the grid of the skip."""
        return torch.cat([self.level(x), skip], 1)


def double_convolution(before: int, after: int) -> nn.Sequential:
    """Two convolutions of 3 voxels, each with instance norm and leaky ReLU."""
    parts: list[nn.Module] = []
    for channels in (before, after):
        parts += [
            nn.Conv3d(channels, after, 3, padding=1, bias=False),
            nn.InstanceNorm3d(after, affine=True),
            nn.LeakyReLU(0.01),
        ]
    return nn.Sequential(*parts)


class MDUNet(nn.Module):
    """The network: (B, channels, X, Y, Z) to logits (B, classes, X, Y, Z); sides are multiples of 32.

    Args:
        channels: Input channels.
        classes: Output classes.
        attentive_decoder: MDED, whose decoder has attention too, instead of MDE.
        filters: Channels of each level.
        depths: Blocks of each level; the first level has none in the encoder. The decoder's level has as many
            as the level below it.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        *,
        attentive_decoder: bool = False,
        filters: Sequence[int] = FILTERS,
        depths: Sequence[int] = DEPTHS,
    ) -> None:
        super().__init__()
        self.stem = double_convolution(channels, filters[0])
        below = list(zip(filters[:-1], filters[1:], depths[1:], strict=True))
        self.down = nn.ModuleList(MDLevel(before, after, depth) for before, after, depth in below)
        ups: list[nn.Module] = []
        width = filters[-1]
        for after, _, depth in reversed(below):
            ups.append(
                AttentiveUp(width, after, depth) if attentive_decoder else ConvolutionalUp(width, after)
            )
            width = 2 * after if attentive_decoder else after
        self.up = nn.ModuleList(ups)
        self.head = nn.Conv3d(width, classes, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z)."""
        skips = [self.stem(x)]
        for level in self.down:
            skips.append(level(skips[-1]))
        features = skips.pop()
        for level in self.up:
            features = level(features, skips.pop())
        logits: Tensor = self.head(features)
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
