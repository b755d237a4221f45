"""The vision transformer of sequence-invariant pre-training, and UNETR, the network that has it.

Source: arXiv 2501.12057: ViT-B in patches of 16^3 voxels; A. Hatamizadeh et al., UNETR, WACV 2022.
"""

from itertools import pairwise

import torch
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import Tensor, nn
from torch.nn.functional import interpolate

PATCH = 16
WIDTH = 768
_SIDE = 96
_LAYERS, _HEADS, _INNER = 12, 12, 3072
_SKIPPED = (3, 6, 9)
_FEATURES = 16
DROPOUT = 0.2


class _Transformer(nn.Module):
    """Patches, their places, and layers of attention.

    Args:
        dropout: Probability.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv3d(1, WIDTH, PATCH, stride=PATCH)
        self.places = nn.Parameter(torch.empty(1, WIDTH, *(_SIDE // PATCH,) * 3))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, _HEADS, _INNER, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(_LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each layer puts out, (B, 768, X / 16, ...), and the last again after the norm.

        Places are learnt on 96^3 voxels; on other grids they are interpolated.
        """
        patches = self.patches(x)
        grid = patches.shape[2:]
        places: Tensor = self.places
        if grid != places.shape[2:]:
            places = interpolate(places, size=tuple(grid), mode="trilinear", align_corners=False)
        tokens = self.dropout((patches + places).flatten(2).transpose(1, 2))
        found = []
        for layer in self.layers:
            tokens = layer(tokens)
            found.append(tokens)
        found.append(self.norm(tokens))
        return [each.transpose(1, 2).unflatten(2, tuple(grid)).contiguous() for each in found]


class TransformerEncoder(nn.Module):
    """ViT-B in three dimensions; 88,368,384 parameters.

    The published count of 88.39 million has 12 norms of 1536 more, which MONAI's layers hold and never use.

    Args:
        dropout: Probability.

    Attributes:
        width: Channels of the features.
    """

    def __init__(self, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.width = WIDTH
        self.vit = _Transformer(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of layers 4, 7, 10 and the last, of (B, 1, X, Y, Z) in multiples of 16."""
        layers = self.vit(x)
        return [*(layers[number] for number in _SKIPPED), layers[-1]]


class TransformerUNet(nn.Module):
    """UNETR: the transformer, and convolutions on the way up.

    Args:
        outputs: Output channels.
        dropout: Probability, of the transformer.
    """

    def __init__(self, outputs: int, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.vit = _Transformer(dropout)
        how = {"kernel_size": 3, "norm_name": "instance", "res_block": True}
        self.fine = UnetrBasicBlock(3, 1, _FEATURES, stride=1, **how)
        self.side = nn.ModuleList(
            UnetrPrUpBlock(
                3,
                WIDTH,
                _FEATURES * 2 ** (number + 1),
                num_layer=2 - number,
                stride=1,
                upsample_kernel_size=2,
                conv_block=True,
                **how,
            )
            for number in range(3)
        )
        widths = [WIDTH, *(_FEATURES * 2**number for number in (3, 2, 1, 0))]
        self.up = nn.ModuleList(
            UnetrUpBlock(3, before, after, upsample_kernel_size=2, **how)
            for before, after in pairwise(widths)
        )
        self.head = UnetOutBlock(3, _FEATURES, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, X, Y, Z) for (B, 1, X, Y, Z) in multiples of 16."""
        layers = self.vit(x)
        skipped = [self.fine(x)]
        for number, side in zip(_SKIPPED, self.side, strict=True):
            skipped.append(side(layers[number]))
        features = layers[-1]
        for up in self.up:
            features = up(features, skipped.pop())
        result: Tensor = self.head(features)
        return result

    def encoder(self) -> list[nn.Module]:
        """Return the transformer."""
        return [self.vit]
