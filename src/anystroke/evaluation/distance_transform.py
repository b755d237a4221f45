"""Exact Euclidean distances to a set of voxels, in mm, on as many threads as torch may use."""

from itertools import pairwise
from typing import Any

import numpy as np

from anystroke.evaluation.distance_loops import along_columns, along_planes, along_rows
from anystroke.threads import in_threads

Array = np.ndarray[Any, np.dtype[Any]]
Spacing = tuple[float, float, float]

_PARTS = 8


def distances_between(sources: Array, wanted: Array, *, spacing: Spacing) -> Array:
    """Compute the distance from each wanted voxel to the nearest source.

    Args:
        sources: (X, Y, Z) boolean.
        wanted: (X, Y, Z) boolean.
        spacing: Voxel size along the axes [mm].

    Returns:
        (N,) float64 [mm], one for each wanted voxel in the order of ``wanted.nonzero()``; infinite without
        sources.

    Example:
        >>> line = np.zeros((1, 1, 5), bool)
        >>> first, last = line.copy(), line.copy()
        >>> first[0, 0, 0] = last[0, 0, 4] = True
        >>> distances_between(first, last, spacing=(1.0, 1.0, 2.0))
        array([8.])
    """
    sources, wanted = np.ascontiguousarray(sources), np.ascontiguousarray(wanted)
    squares = np.empty(sources.shape)
    x, y, z = (float(step) for step in spacing)
    in_threads(lambda part: along_rows(sources, z, squares, *part), _parts(sources.shape[0]))
    in_threads(lambda part: along_columns(squares, y, *part), _parts(sources.shape[0]))
    in_threads(lambda part: along_planes(squares, wanted, x, *part), _parts(sources.shape[1]))
    found: Array = np.sqrt(squares[wanted])
    return found


def _parts(count: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, count, min(count, _PARTS) + 1).astype(int).tolist()
    return list(pairwise(edges))
