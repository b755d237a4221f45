"""How much darker each region of a scan is than its mirror image: what shows of a lesion without a mask."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from anystroke.anatomy.regions.grid import REGION_SPACING, tissue
from anystroke.anatomy.regions.regions import SIDES, load_regions, region_labels, region_names
from anystroke.core.arrays import Array
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.pictures import scan_on_grid

SIDED_REGIONS = tuple(f"{name.replace('_', ' ')} {side}" for name in region_names() for side in SIDES)
"""Regions with their sides, the columns of `asymmetries`."""

_SMOOTHING_MM = 4.0
_LOWEST = 5.0


def asymmetries(cohort: OutcomeCohort) -> Array:
    """Measure the scans of a cohort; a file is measured once per process.

    Returns:
        float64 (patients, regions), in interquartile ranges of the brain, see `asymmetry_of`.

    Raises:
        OutcomeError: A scan cannot be read or registered.
    """
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(_of_file, cohort.images)))


def _of_file(path: Path) -> Array:
    return _measured(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _measured(path: Path, _changed: int) -> Array:
    return asymmetry_of(scan_on_grid(path))


def asymmetry_of(volume: Array) -> Array:
    """Measure by how much the darkest parts of each region are darker than their mirror images.

    What is darker on one side is brighter on the other, so that the two sides of a region together say where
    a scan is dark and where it is bright, as lesions are by its contrast. Not from a publication.

    Args:
        volume: float32 (91, 109, 91) on the grid of MNI space, 0 outside of the brain.

    Returns:
        float64 (regions,): the 5th percentile of the difference to the mirror image, smoothed by a Gaussian
        with an SD of 4 mm, in interquartile ranges of the brain.

    Example:
        >>> from anystroke.anatomy.regions.grid import tissue
        >>> float(asymmetry_of(tissue().template).round(3).min())
        -0.0
    """
    brain, around = _brain()
    low, middle, high = np.percentile(volume[brain], [25, 50, 75])
    scaled = np.where(brain, (volume - middle) / max(float(high - low), 1e-6), 0)
    smooth = gaussian_filter(scaled, _SMOOTHING_MM / REGION_SPACING) / around
    difference = (smooth - smooth[::-1]).reshape(-1)
    return np.array([np.percentile(difference[voxels], _LOWEST) for voxels in _voxels()])


@cache
def _brain() -> tuple[Array, Array]:
    """Return the brain, which is symmetric, and how much of it is around each voxel."""
    inside = tissue().template > 0
    around = gaussian_filter(inside.astype(np.float32), _SMOOTHING_MM / REGION_SPACING)
    return inside, np.maximum(around, 1e-3)


@cache
def _voxels() -> tuple[Array, ...]:
    """Return the flat numbers of the voxels of each region."""
    labels, side = region_labels().reshape(-1), load_regions().side
    numbers = range(1, len(region_names()) + 1)
    return tuple(np.flatnonzero((labels == k) & (side == s)) for k in numbers for s in range(len(SIDES)))
