"""Exact Euclidean distances to a set of voxels, in mm, on as many threads as torch may use."""

from itertools import pairwise

import numpy as np
import torch
from scipy.spatial import KDTree

from anystroke.core.arrays import Array
from anystroke.core.threads import in_threads
from anystroke.evaluation.metrics.distance_loops import along_columns, along_planes, along_rows

Spacing = tuple[float, float, float]

_PARTS = 8
_SPARSE = 50
"""Voxels of the box for each point from which a search tree is quicker than a transform."""


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
    points = np.count_nonzero(sources), np.count_nonzero(wanted)
    if points[0] > 0 and sum(points) * _SPARSE < sources.size:
        return _by_tree(sources, wanted, spacing)
    return _by_transform(sources, wanted, spacing)


def _by_tree(sources: Array, wanted: Array, spacing: Spacing) -> Array:
    """Look up each wanted voxel's nearest source: quicker where both are few in a large box."""
    step = np.asarray(spacing, dtype=np.float64)
    tree = KDTree(np.argwhere(sources) * step, balanced_tree=False, compact_nodes=False)
    found: Array = tree.query(np.argwhere(wanted) * step, workers=torch.get_num_threads())[0]
    return found


def _by_transform(sources: Array, wanted: Array, spacing: Spacing) -> Array:
    """Transform the whole box: its time depends on its size alone."""
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
