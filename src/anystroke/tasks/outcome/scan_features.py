"""What is predicted from scans without masks: asymmetry of regions, and features of the default network."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy.ndimage import gaussian_filter

from anystroke.anatomy.regions.grid import REGION_SPACING, tissue
from anystroke.anatomy.regions.regions import SIDES, load_regions, region_labels, region_names
from anystroke.core.arrays import Array
from anystroke.core.text import readable
from anystroke.core.volume import VolumeError
from anystroke.io.formats import read_scan
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.pictures import scan_on_grid
from anystroke.tasks.outcome.table import OutcomeError
from anystroke.tasks.pretraining.predict import FeatureModel

SIDED_REGIONS = tuple(f"{name.replace('_', ' ')} {side}" for name in region_names() for side in SIDES)
"""Regions with their sides."""

_SMOOTHING_MM = 4.0
_LOWEST = 5.0


ScanGroup = Literal["asymmetry", "encoder"]
SCAN_GROUPS: tuple[ScanGroup, ...] = get_args(ScanGroup)


def measure_scans(cohort: OutcomeCohort, group: str) -> Array:
    """Measure the scans of a cohort; a file is measured once per process.

    Args:
        cohort: Patients with scans.
        group: One of ``SCAN_GROUPS``: ``"asymmetry"``, see `asymmetry_of`, or ``"encoder"``, the pooled
            features of the default network.

    Returns:
        float64 (patients, features).

    Raises:
        OutcomeError: A scan cannot be read or registered.
    """
    measure = {"asymmetry": _asymmetry, "encoder": _encoded}[group]
    with ThreadPoolExecutor(2) as pool:
        files = [(path.resolve(), path.stat().st_mtime_ns) for path in cohort.images]
        return np.stack(list(pool.map(lambda file: measure(*file), files)))


def scan_feature_names(group: str) -> list[str]:
    """Return the names of the columns of `measure_scans`."""
    if group == "asymmetry":
        return [f"asymmetry {region}" for region in SIDED_REGIONS]
    return [f"encoder feature {k + 1}" for k in range(_encoder().width)]


@lru_cache(maxsize=4096)
def _asymmetry(path: Path, _changed: int) -> Array:
    return asymmetry_of(scan_on_grid(path))


@lru_cache(maxsize=4096)
def _encoded(path: Path, _changed: int) -> Array:
    try:
        features: Array = _encoder().of_scan(read_scan(path)).double().numpy()
    except (VolumeError, OSError) as error:
        raise OutcomeError(f"{readable(path)} cannot be seen by the network: {error}") from None
    return features


@cache
def _encoder() -> FeatureModel:
    return FeatureModel.load("default")


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
        >>> bool(np.abs(asymmetry_of(tissue().template)).max() < 1e-4)
        True
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
