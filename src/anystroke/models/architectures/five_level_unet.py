"""The convolutional encoder of sequence-invariant pre-training, and the U-Net that has it.

Source: arXiv 2501.12057 and its program: MONAI's basic U-Net with channels 64-128-256-512-768, GELU, instance
norm without scale and shift, and dropout.
"""

from collections.abc import Iterable
from itertools import pairwise

from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import Tensor, nn

CHANNELS = (64, 128, 256, 512, 768)
DROPOUT = 0.2
_LAST = 32


def _levels(dropout: float) -> nn.ModuleList:
    how = {"act": "gelu", "norm": "instance", "bias": True, "dropout": dropout}
    first = TwoConv(3, 1, CHANNELS[0], **how)
    pairs = pairwise(CHANNELS)
    return nn.ModuleList([first, *(Down(3, before, after, **how) for before, after in pairs)])


def _features(levels: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    found = []
    for level in levels:
        x = level(x)
        found.append(x)
    return found


class FiveLevelEncoder(nn.Module):
    """Pairs of convolutions with a maximum over 2^3 voxels between them; 40,592,448 parameters.

    Args:
        dropout: Probability.

    Attributes:
        width: Channels of the deepest level.
    """

    def __init__(self, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.width = CHANNELS[-1]
        self.levels = _levels(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of each level of (B, 1, X, Y, Z), the finest first."""
        return _features(self.levels, x)


class FiveLevelUNet(nn.Module):
    """The encoder, and transposed convolutions on the way up; 70,689,602 parameters for two outputs.

    Args:
        outputs: Output channels.
        dropout: Probability.
    """

    def __init__(self, outputs: int, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.levels = _levels(dropout)
        how = {"act": "gelu", "norm": "instance", "bias": True, "dropout": dropout, "upsample": "deconv"}
        self.up = nn.ModuleList()
        for level in reversed(range(1, len(CHANNELS))):
            below, beside, last = CHANNELS[level], CHANNELS[level - 1], level == 1
            self.up.append(UpCat(3, below, beside, _LAST if last else beside, halves=not last, **how))
        self.head = nn.Conv3d(_LAST, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z) for (B, 1, X, Y, Z), whose sides can be halved four times."""
        skipped = _features(self.levels, x)
        features = skipped.pop()
        for up in self.up:
            features = up(features, skipped.pop())
        result: Tensor = self.head(features)
        return result

    def encoder(self) -> list[nn.Module]:
        """Return the blocks on the way down, the bottom last."""
        return list(self.levels)
