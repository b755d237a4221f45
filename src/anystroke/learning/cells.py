"""Which lesion each voxel is close to: what losses that count lesions one by one are made of."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.core.arrays import Array

MOST_CELLS = 255
"""Lesions of one case that are told apart: their numbers fit a byte."""

_NEIGHBOURS = np.ones((3, 3, 3))


@dataclass(frozen=True)
class CellSettings:
    """How the neighbourhood of lesions is divided among them.

    Attributes:
        lesion: Number of the lesion's class, the last one.
        spacing: Voxel size [mm].
        smallest: Lesions below this volume are none of their own [ml].
        reach: How far from its lesion a cell goes [mm].
    """

    lesion: int
    spacing: float
    smallest: float
    reach: float


def lesion_cells(target: Tensor, settings: CellSettings) -> Tensor:
    """Give each connected lesion (26 neighbours) a cell.

    A cell is the voxels within reach of its lesion that are closer to it than to any other. A lesion below
    the smallest volume has none of its own: where it lies within that of a larger lesion it is a part of that
    one; elsewhere its voxels are in no cell, and count neither as a lesion nor as a false part. Only the 255
    largest have cells.

    The map belongs to the target: whatever flips, turns or crops the target does the same with it. Numbers
    stay valid, since a lesion is the voxels of the class within its cell.

    Args:
        target: (X, Y, Z) numbers of classes, or (K, X, Y, Z) shares, the lesion being where its own
            is a half or more.
        settings: How.

    Returns:
        (X, Y, Z) uint8: 0 far from any lesion, otherwise the number of a lesion, the largest being 1.

    Source: A. Jaus et al., Every component counts, AAAI 2025 (Voronoi regions of the components); here they
    end at a distance, so that false parts elsewhere do not drown a small lesion.

    Example:
        >>> target = torch.zeros(1, 1, 12, dtype=torch.uint8)
        >>> target[0, 0, 1:3] = target[0, 0, 7] = 4
        >>> lesion_cells(target, CellSettings(lesion=4, spacing=1.0, smallest=0.001, reach=2.0))
        tensor([[[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]]], dtype=torch.uint8)
    """
    soft = target.is_floating_point()
    lesion = (target[settings.lesion] >= 0.5 if soft else target == settings.lesion).numpy()
    cells = np.zeros(lesion.shape, np.uint8)
    numbers = _numbered(lesion, settings.smallest * 1000 / settings.spacing**3)
    if numbers.any():
        margin = int(settings.reach / settings.spacing) + 1
        box = _around(numbers, margin)
        within: Array = numbers[box]
        distances, nearest = ndimage.distance_transform_edt(within == 0, return_indices=True)
        owner = within[tuple(nearest)]
        cells[box] = np.where(distances * settings.spacing <= settings.reach, owner, 0)
    return torch.from_numpy(cells)


def _numbered(lesion: Array, fewest: float) -> Array:
    """Number the components of that many voxels or more, the largest first."""
    labels, count = ndimage.label(lesion, structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = [k for k in np.argsort(-sizes, kind="stable") if sizes[k] >= fewest][:MOST_CELLS]
    numbers = np.zeros(count + 1, np.uint8)
    for number, k in enumerate(order, start=1):
        numbers[k + 1] = number
    found: Array = numbers[labels]
    return found


def _around(numbers: Array, margin: int) -> tuple[slice, ...]:
    sides = []
    for axis in range(numbers.ndim):
        others = tuple(other for other in range(numbers.ndim) if other != axis)
        places = np.flatnonzero(numbers.any(axis=others))
        sides.append(slice(max(0, int(places[0]) - margin), int(places[-1]) + margin + 1))
    return tuple(sides)
