"""What is measured of a lesion: size, side, shape, loads of territories, regions and a tract; and its map."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter, label
from scipy.spatial import ConvexHull, QhullError

from anystroke.anatomy.regions.grid import ORIGIN, REGION_SHAPE, REGION_SPACING
from anystroke.anatomy.regions.regions import SIDES, load_regions
from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel
from anystroke.tasks.outcome.masks import Lesion

MEASURED = ("size", "side", "shape", "territories", "tract", "regions", "atlas")
"""Groups of features that are measured of one lesion at a time."""
_VOXEL_ML = REGION_SPACING**3 / 1000
_SMALL_ML = 0.1
_COARSE = 4
_COARSE_SHAPE = tuple(-(-n // _COARSE) for n in REGION_SHAPE)


class AtlasRegions(StrictModel):
    """Regions of an atlas that a model was trained with.

    Attributes:
        source: File name.
        sha256: Of the file.
        numbers: Of its regions.
        names: Of these.
    """

    source: str
    sha256: str
    numbers: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Measured:
    """Features of lesions.

    Attributes:
        names: Group -> names of its features.
        values: Group -> float64 (patients, features), on the scale that models use.
        maps: float32 (patients, 23, 28, 23): smoothed shares of voxels of 8 mm.
    """

    names: dict[str, tuple[str, ...]]
    values: dict[str, Array]
    maps: Array

    def rows(self, index: Array) -> "Measured":
        """Return some patients."""
        return Measured(self.names, {k: v[index] for k, v in self.values.items()}, self.maps[index])


def measure_lesions(lesions: Sequence[Lesion], atlas: Atlas | None = None) -> Measured:
    """Measure lesions.

    Volumes and loads become the logarithm of ml + 0.1, so that a load of nothing differs little from one of a
    few voxels, and twice as much is a step of one size anywhere.

    Args:
        lesions: One a patient.
        atlas: Whose regions are a group of their own.

    Example:
        >>> measured = measure_lesions([Lesion(np.array([450_000]), np.array([1.0]))])
        >>> measured.values["size"].round(2).tolist()
        [[-2.23]]
    """
    names: dict[str, tuple[str, ...]] = {
        "size": ("lesion volume",),
        "side": tuple(f"lesion volume {side}" for side in SIDES),
        "shape": _SHAPE_NAMES,
        **_load_names(),
    }
    if atlas is not None:
        numbers = np.unique(atlas.labels.data.numpy())
        names["atlas"] = tuple(atlas.name(int(number)) for number in numbers if number)
    rows: dict[str, list[Array]] = {group: [] for group in names}
    for lesion in lesions:
        for group, values in _measure_one(lesion, atlas).items():
            rows[group].append(values)
    tables = {
        group: np.array(found, dtype=np.float64).reshape(len(lesions), len(names[group]))
        for group, found in rows.items()
    }
    maps = np.stack([coarse_lesion(lesion) for lesion in lesions])
    return Measured(names, tables, maps)


def _measure_one(lesion: Lesion, atlas: Atlas | None) -> dict[str, Array]:
    regions = load_regions()
    side = regions.side[lesion.voxels]
    volumes = np.array([lesion.shares[side == k].sum() for k in (0, 1)], dtype=np.float64) * _VOXEL_ML
    loads = loads_of(lesion)
    found = {
        "size": _logarithm(np.array([lesion.volume_ml])),
        "side": _logarithm(volumes),
        "shape": _shape(lesion, side),
    }
    for group, kept in _groups().items():
        found[group] = _logarithm(loads[kept].reshape(-1))
    if atlas is not None:
        found["atlas"] = _logarithm(_atlas_loads(lesion, atlas))
    return found


def loads_of(lesion: Lesion) -> Array:
    """Measure how much lesion each part of `load_regions` holds.

    Returns:
        float64 (parts, 2), ml, left and right.
    """
    return load_regions().loads(lesion.voxels, lesion.shares) * _VOXEL_ML


def _atlas_loads(lesion: Lesion, atlas: Atlas) -> Array:
    import torch

    numbers = np.unique(atlas.labels.data.numpy())
    numbers = numbers[numbers > 0]
    if not len(lesion.voxels):
        return np.zeros(len(numbers))
    place = np.stack(np.unravel_index(lesion.voxels, REGION_SHAPE), axis=1) * REGION_SPACING + np.asarray(
        ORIGIN
    )
    at = atlas.at(torch.from_numpy(place)).numpy()
    counted = np.bincount(np.searchsorted(numbers, at[at > 0]), lesion.shares[at > 0], minlength=len(numbers))
    return counted * _VOXEL_ML


@cache
def _groups() -> dict[str, Array]:
    """Return the parts that belong to each group of loads."""
    names = load_regions().names
    kinds = [
        "territories" if name.startswith("territory") else "regions" if name.startswith("region") else "tract"
        for name in names
    ]
    return {
        group: np.flatnonzero([kind == group for kind in kinds])
        for group in ("territories", "tract", "regions")
    }


def _load_names() -> dict[str, tuple[str, ...]]:
    names = load_regions().names
    return {
        group: tuple(f"{names[k].replace('_', ' ')} {side}" for k in kept for side in SIDES)
        for group, kept in _groups().items()
    }


_SHAPE_NAMES = (
    "pieces", "largest piece", "centre x", "centre y", "centre z", "distance from the middle", "spread x",
    "spread y", "spread z", "touched volume", "hull left", "hull right", "pieces left", "pieces right",
    "reach left", "reach right",
)  # fmt: skip


def _shape(lesion: Lesion, side: Array) -> Array:
    """Describe where a lesion lies, how far it extends and in how many pieces."""
    solid = lesion.shares >= min(0.5, float(lesion.shares.max(initial=0.0)))
    voxel = np.stack(np.unravel_index(lesion.voxels[solid], REGION_SHAPE), axis=1)
    place = voxel * REGION_SPACING + np.asarray(ORIGIN)
    if not len(place):
        centre, spread, away = np.zeros(3), np.zeros(3), 0.0
    else:
        centre, spread, away = place.mean(axis=0), place.std(axis=0), float(np.abs(place[:, 0]).mean())
    pieces, largest = _pieces(voxel)
    sides = [place[side[solid] == k] for k in (0, 1)]
    counts = [_pieces(voxel[side[solid] == k])[0] for k in (0, 1)]
    hulls = _logarithm(np.array([_hull_ml(points) for points in sides]))
    reaches = [
        float(np.prod(2 * points.std(axis=0)) ** (1 / 3)) if len(points) > 4 else 0.0 for points in sides
    ]
    first = [np.log1p(pieces), float(_logarithm(np.array([largest]))[0])]
    touched = float(_logarithm(np.array([len(lesion.voxels) * _VOXEL_ML]))[0])
    return np.array([*first, *centre, away, *spread, touched, *hulls, *np.log1p(counts), *reaches])


def _pieces(voxel: Array) -> tuple[int, float]:
    """Count connected pieces, corners included, and measure the largest [ml]."""
    if not len(voxel):
        return 0, 0.0
    low = voxel.min(axis=0)
    filled = np.zeros(voxel.max(axis=0) - low + 1, dtype=bool)
    filled[tuple((voxel - low).T)] = True
    numbered, count = label(filled, np.ones((3, 3, 3)))
    return int(count), float(np.bincount(numbered.reshape(-1))[1:].max()) * _VOXEL_ML


def _hull_ml(points: Array) -> float:
    """Measure the convex hull of points; that of few or flat ones is the volume of the points."""
    plain = len(points) * _VOXEL_ML
    if len(points) <= 4:
        return plain
    try:
        return max(float(ConvexHull(points).volume) / 1000, plain)
    except QhullError:
        return plain


def coarse_lesion(lesion: Lesion) -> Array:
    """Return float32 (23, 28, 23): the share of lesion in voxels of 8 mm, smoothed by half a voxel."""
    padded = np.zeros([n * _COARSE for n in _COARSE_SHAPE], dtype=np.float32)
    padded[: REGION_SHAPE[0], : REGION_SHAPE[1], : REGION_SHAPE[2]] = lesion.dense()
    x, y, z = _COARSE_SHAPE
    pooled = padded.reshape(x, _COARSE, y, _COARSE, z, _COARSE).mean(axis=(1, 3, 5))
    smooth: Array = gaussian_filter(pooled, 0.5)
    return smooth


def _logarithm(volume: Array) -> Array:
    logarithm: Array = np.log(volume + _SMALL_ML)
    return logarithm
