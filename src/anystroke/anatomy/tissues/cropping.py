"""Cut images to the box that what is marked in them fills."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def filled_box(mask: Tensor, margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds all marked voxels.

    Args:
        mask: (X, Y, Z) bool, some of it marked; in any order in memory.
        margin: Voxels to add on each side, where the map has them.

    Raises:
        ValueError: If nothing is marked.

    Example:
        >>> mask = torch.zeros((4, 5, 6), dtype=torch.bool)
        >>> mask[1, 2, 3] = True
        >>> filled_box(mask, 1)
        (slice(0, 3, None), slice(1, 4, None), slice(2, 5, None))
    """
    seen = mask.cpu().numpy()
    flat: NDArray[np.bool_] = np.logical_or.reduce(seen, axis=2)
    if not flat.any():
        raise ValueError("expected a map with at least one marked voxel, got an empty one")
    x, y = (_span(np.logical_or.reduce(flat, axis=axis), margin) for axis in (1, 0))
    return x, y, _span(np.logical_or.reduce(seen[x, y], axis=(0, 1)), margin)


def shifted(affine: Tensor, start: Sequence[int]) -> Tensor:
    """Return the affine of what is left of an image when it is cut to begin at another voxel.

    Args:
        affine: (4, 4) voxel -> mm, float64.
        start: The voxel that becomes the first.

    Example:
        >>> shifted(torch.eye(4, dtype=torch.float64), (1, 2, 3))[:3, 3].tolist()
        [1.0, 2.0, 3.0]
    """
    moved = affine.clone()
    moved[:3, 3] = (affine @ torch.tensor([*start, 1], dtype=torch.float64))[:3]
    return moved


def _span(line: NDArray[np.bool_], margin: int) -> slice:
    places = np.flatnonzero(line)
    return slice(max(int(places[0]) - margin, 0), min(int(places[-1]) + 1 + margin, len(line)))
