"""Which region of the brain a voxel of MNI space belongs to, and which artery feeds it."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from anystroke.anatomy.regions.grid import REGION_SHAPE, positions, tissue
from anystroke.core.arrays import Array

SIDES = ("left", "right")
_PARTS = ("cortex", "deep", "white_matter", "hindbrain")
# Ranges along the chain of points of the corticospinal tract, as shares of its length.
_TRACT_PARTS = {
    "tract_cortex": (0.0, 0.14),
    "tract_corona_radiata": (0.14, 0.38),
    "tract_capsule": (0.38, 0.6),
    "tract_brainstem": (0.6, 1.0),
}


@dataclass(frozen=True, eq=False)
class Regions:
    """Parts of the brain that lesions are measured in; the right hemisphere mirrors the left.

    Attributes:
        names: Of the parts, without their side: ``territory_...``, ``region_...``, ``tract_...``, tissues.
        labels: int16 (voxels,): numbers of regions, 0 outside of the brain.
        fed_by: int64 (regions,): the place in ``names`` of the territory of each region.
        weights: float32 (parts that are no regions, voxels), from 0 to 1: the tract and the tissues.
        side: int8 (voxels,): 0 left, 1 right; the middle plane counts as left.
    """

    names: tuple[str, ...]
    labels: Array
    fed_by: Array
    weights: Array
    side: Array

    def loads(self, voxels: Array, amounts: Array) -> Array:
        """Sum amounts in every part.

        Args:
            voxels: Flat numbers of voxels.
            amounts: Of each.

        Returns:
            float64 (parts, 2), left and right.
        """
        count = len(self.fed_by)
        side = self.side[voxels]
        found = np.zeros((len(self.names), 2))
        for k in (0, 1):
            chosen, weight = voxels[side == k], amounts[side == k]
            regions = np.bincount(self.labels[chosen], weight, minlength=count + 1)[1:]
            arteries = int(self.fed_by.max()) + 1
            territories = np.bincount(self.fed_by, regions, minlength=arteries)
            found[:, k] = np.concatenate([territories, regions, self.weights[:, chosen] @ weight])
        return found


def region_names() -> tuple[str, ...]:
    """Return the names of the numbered regions in order; number 1 is the first.

    Example:
        >>> region_names()[0], len(region_names())
        ('precentral', 61)
    """
    return tuple(_seeds())


@cache
def region_labels() -> Array:
    """Number the voxels of the MNI152 brain by region.

    Returns:
        int16 (91, 109, 91): 0 outside of the brain, else the place in `region_names` from 1; the same on both
        sides.

    Example:
        >>> labels = region_labels()
        >>> bool((labels == labels[::-1]).all())
        True
    """
    inside = (tissue().template > 0).reshape(-1)
    points = _left_half()[inside]
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    number = np.zeros(len(points), dtype=np.int16)
    for k, (x, y, z, reach, _) in enumerate(_seeds().values(), 1):
        distance = ((points - np.array([x, y, z], dtype=np.float32)) ** 2).sum(axis=1) / reach**2
        closer = distance < nearest
        nearest[closer], number[closer] = distance[closer], k
    labels = np.zeros(len(inside), dtype=np.int16)
    labels[inside] = number
    return labels.reshape(REGION_SHAPE)


@cache
def load_regions() -> Regions:
    """Return everything that loads are measured in: arterial territories, regions, a tract, grey and white.

    Example:
        >>> load_regions().names[0]
        'territory_anterior_cerebral'
    """
    seeds = _seeds()
    arteries = sorted({str(seed[4]) for seed in seeds.values()})
    brain = tissue()
    weighted = _tract_parts() | {
        "grey_matter": brain.grey.reshape(-1),
        "white_matter": brain.white.reshape(-1),
    }
    names = [f"territory_{name}" for name in arteries] + [f"region_{name}" for name in seeds] + list(weighted)
    fed_by = np.array([arteries.index(str(seed[4])) for seed in seeds.values()])
    weights = np.stack(list(weighted.values())).astype(np.float32)
    side = (positions()[:, 0] > 0).astype(np.int8)
    return Regions(tuple(names), region_labels().reshape(-1), fed_by, weights, side)


def _tract_parts() -> dict[str, Array]:
    """Return the nearness to parts of the corticospinal tract, 1 on its axis."""
    chain = np.array(_table()["corticospinal_tract"]["points"], dtype=np.float32)
    at = np.linspace(0, len(chain) - 1, 100)
    steps = np.stack([np.interp(at, np.arange(len(chain)), chain[:, k]) for k in range(4)], axis=1)
    points = _left_half()
    box = (points[:, 0] > -70) & (points[:, 1] > -70) & (points[:, 1] < 20)
    near = points[box]
    found = {}
    for name, (low, high) in _TRACT_PARTS.items():
        highest = np.zeros(len(near), dtype=np.float32)
        for x, y, z, radius in steps[int(low * 100) : int(high * 100)]:
            squared = ((near - np.array([x, y, z], dtype=np.float32)) ** 2).sum(axis=1)
            highest = np.maximum(highest, np.exp(-squared / (2 * radius**2)))
        whole = np.zeros(len(points), dtype=np.float32)
        whole[box] = np.where(highest > 0.01, highest, 0)
        found[name] = whole
    return found


def _left_half() -> Array:
    """Return the centres of all voxels, those on the right mirrored to the left."""
    points = positions()
    points[:, 0] = -np.abs(points[:, 0])
    return points


def _seeds() -> dict[str, tuple[float, float, float, float, str]]:
    """Return name -> centre, reach and artery."""
    table = _table()
    return {name: tuple(seed) for part in _PARTS for name, seed in table[part].items()}


@cache
def _table() -> dict[str, Any]:
    text = resources.files("anystroke.anatomy.regions").joinpath("brain_regions.toml").read_text("utf-8")
    return tomllib.loads(text)
