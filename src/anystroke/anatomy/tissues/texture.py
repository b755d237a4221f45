"""Noise within tissues: periodic tiles, smoothed, read by the position of the voxel."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from anystroke.core.gathering import gathered
from anystroke.core.rng import on_device


@dataclass(frozen=True)
class Texture:
    """Noise within tissues, read from a periodic tile by the position of the output voxel.

    Attributes:
        sd: (T, C) standard deviation of each table column in each tissue.
        tiles: (C, n, n, n), zero mean and unit variance; neighbouring tiles fit seamlessly.
        start: Index of the tile's voxel at the grid's first voxel.
    """

    sd: Tensor
    tiles: Tensor
    start: tuple[int, int, int] = (0, 0, 0)

    def read(self, box: tuple[slice, slice, slice]) -> Tensor:
        """Return the noise (C, x, y, z) of all columns in a box of the grid, with slices of whole numbers."""
        tiles = self.tiles
        for axis, (part, first) in enumerate(zip(box, self.start, strict=True), start=1):
            index = torch.arange(part.start + first, part.stop + first) % tiles.shape[axis]
            tiles = tiles.index_select(axis, index.to(tiles.device))
        return tiles


def texture_tile(
    columns: int,
    side: int,
    smoothness: float,
    *,
    rng: torch.Generator,
    device: torch.device | None = None,
) -> Tensor:
    """Make periodic Gaussian noise of zero mean and unit variance.

    Args:
        columns: Number of independent tiles.
        side: Voxels along each axis.
        smoothness: Standard deviation of the smoothing in voxels; zero for white noise.
        rng: Random stream.
        device: Where to make it, with random numbers of that kind of device; that of the stream if None.

    Returns:
        (columns, side, side, side) float32.
    """
    rng = on_device(rng, device or rng.device)
    tile = torch.randn((columns, side, side, side), generator=rng, device=rng.device)
    if smoothness > 0.05:
        distance = torch.arange(side, dtype=torch.float64)
        distance = torch.minimum(distance, side - distance)
        kernel = torch.exp(-0.5 * (distance / smoothness) ** 2)
        # The variance of a sum of independent numbers is the sum of the squared weights.
        kernel /= kernel.square().sum().sqrt()
        index = (torch.arange(side)[:, None] - torch.arange(side)[None, :]) % side
        return _smoothed(_Smoothing(tile, kernel[index].float()))
    return tile


class _Smoothing(NamedTuple):
    tile: Tensor
    circulant: Tensor


@gathered
def _smoothed(asked: list[_Smoothing]) -> list[Tensor]:
    """Apply the circulant (n, n) of each request, on the CPU, along the axes of its tile (C, n, n, n)."""
    answers: dict[int, Tensor] = {}
    kinds: dict[torch.Size, list[int]] = {}
    for k, each in enumerate(asked):
        kinds.setdefault(each.tile.shape, []).append(k)
    for shape, members in kinds.items():
        tile = torch.stack([asked[k].tile for k in members])
        circulant = torch.stack([asked[k].circulant for k in members]).to(tile.device)[:, None]
        tile = tile @ circulant[:, None]
        tile = torch.matmul(circulant[:, None], tile)
        tile = torch.matmul(circulant, tile.flatten(3)).view(len(members), *shape)
        answers |= zip(members, tile, strict=True)
    return [answers[k] for k in range(len(asked))]


def spread_left(fwhm: int) -> float:
    """Return the share of white noise's SD that smoothing with a Gaussian leaves, in three dimensions.

    Args:
        fwhm: Full width at half maximum of the Gaussian, whole voxels; 0 smoothes nothing.

    Example:
        >>> round(spread_left(2), 2)
        0.19
    """
    if fwhm == 0:
        return 1.0
    offset = torch.arange(-4 * fwhm, 4 * fwhm + 1, dtype=torch.float64)
    kernel = torch.exp(-4 * math.log(2) * (offset / fwhm) ** 2)
    kernel /= kernel.sum()
    return math.pow(float(kernel.square().sum()), 1.5)
