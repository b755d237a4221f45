"""Masks that metrics get wrong, and metrics by the book: slow, without a library's help."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]
SPACINGS: tuple[Spacing, ...] = ((1.0, 1.0, 1.0), (0.45, 0.45, 5.0), (2.0, 1.0, 0.5))
SHAPE = (7, 6, 5)


def named_masks() -> dict[str, Mask]:
    rng = np.random.default_rng(1)
    empty = np.zeros(SHAPE, bool)

    def holding(*voxels: tuple[int, int, int]) -> Mask:
        mask = empty.copy()
        for voxel in voxels:
            mask[voxel] = True
        return mask

    border = empty.copy()
    border[0, :, :2] = True
    hollow = empty.copy()
    hollow[1:6, 1:5, 1:4] = True
    hollow[3, 2, 2] = False
    return {
        "empty": empty,
        "full": ~empty,
        "corner": holding((0, 0, 0)),
        "opposite corner": holding((6, 5, 4)),
        "one voxel": holding((3, 3, 2)),
        "diagonal": holding((1, 1, 1), (2, 2, 2), (3, 3, 2)),
        "edge neighbours": holding((2, 2, 2), (3, 3, 2)),
        "border": border,
        "hollow": hollow,
        "sparse": rng.random(SHAPE) < 0.1,
        "dense": rng.random(SHAPE) < 0.7,
    }


def pairs_of_masks() -> list[tuple[str, Mask, Mask]]:
    masks = named_masks()
    return [(f"{a} - {b}", masks[a], masks[b]) for a, b in itertools.product(masks, repeat=2)]


def edge_voxels(mask: Mask) -> list[tuple[int, int, int]]:
    found = []
    for voxel in voxels_of(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            other = list(voxel)
            other[axis] += step
            if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                found.append(voxel)
                break
    return found


def directed_distances(first: Mask, second: Mask, spacing: Spacing) -> list[float]:
    return [
        min(
            math.sqrt(sum((step * (a - b)) ** 2 for step, a, b in zip(spacing, one, other, strict=True)))
            for other in edge_voxels(second)
        )
        for one in edge_voxels(first)
    ]


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def components(mask: Mask, connectivity: int) -> list[set[tuple[int, int, int]]]:
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, s)) <= reach]
    left = set(voxels_of(mask))
    found = []
    while left:
        waiting, component = [left.pop()], set()
        while waiting:
            x, y, z = waiting.pop()
            component.add((x, y, z))
            for dx, dy, dz in steps:
                other = (x + dx, y + dy, z + dz)
                if other in left:
                    left.remove(other)
                    waiting.append(other)
        found.append(component)
    return found


def voxels_of(mask: Mask) -> Iterator[tuple[int, int, int]]:
    yield from map(tuple, np.argwhere(mask).tolist())
