"""The grid of 2 mm of MNI space, symmetric about the middle plane, on which regions and lesions meet."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from anystroke.core.arrays import Array

REGION_SHAPE = (91, 109, 91)
REGION_SPACING = 2.0
ORIGIN = (-90.0, -126.0, -72.0)
"""Centre of the first voxel, MNI mm; axes run to the right, to the front and up."""


@dataclass(frozen=True)
class Tissue:
    """What the MNI152 brain is made of, float32 (91, 109, 91) each.

    Attributes:
        template: T1 contrast, 0 to 1; 0 outside of the brain.
        grey: Share of grey matter.
        white: Share of white matter.
    """

    template: Array
    grey: Array
    white: Array


def affine() -> Array:
    """Return the affine of the grid, float64 (4, 4), voxels -> MNI mm.

    Example:
        >>> affine()[0].tolist()
        [2.0, 0.0, 0.0, -90.0]
    """
    matrix = np.diag([REGION_SPACING, REGION_SPACING, REGION_SPACING, 1.0])
    matrix[:3, 3] = ORIGIN
    return matrix


def positions() -> Array:
    """Return the centres of all voxels, float32 (91 * 109 * 91, 3), MNI mm."""
    axes = [start + REGION_SPACING * np.arange(n) for start, n in zip(ORIGIN, REGION_SHAPE, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)


def index_of(points: Array) -> tuple[Array, Array]:
    """Find the voxels in which points lie.

    Args:
        points: (N, 3), MNI mm.

    Returns:
        int64 (N,) flat numbers, and bool (N,) whether the point is on the grid; others have the number 0.

    Example:
        >>> number, inside = index_of(np.array([[-90.0, -126.0, -72.0], [0.0, 0.0, 500.0]]))
        >>> number.tolist(), inside.tolist()
        ([0, 0], [True, False])
    """
    voxel = np.rint((points - np.asarray(ORIGIN)) / REGION_SPACING).astype(np.int64)
    inside = ((voxel >= 0) & (voxel < np.asarray(REGION_SHAPE))).all(axis=1)
    voxel = np.where(inside[:, None], voxel, 0)
    return np.ravel_multi_index(tuple(voxel.T), REGION_SHAPE), inside


@cache
def tissue() -> Tissue:
    """Read the template in nilearn's wheel (ICBM 2009a symmetric, Fonov et al., NeuroImage 54:313, 2011)."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("regions of MNI space need the package nilearn; install it with pip")
    folder = Path(spec.origin).parent / "datasets" / "data"
    found = []
    for kind in ("t1", "gm", "wm"):
        image = nib.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        data = np.asarray(image.dataobj, dtype=np.float32)
        to_voxel = np.linalg.inv(image.affine)
        voxel = np.rint(positions() @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(np.int64)
        inside = ((voxel >= 0) & (voxel < np.asarray(data.shape))).all(axis=1)
        values = np.where(inside, data[tuple(np.where(inside[:, None], voxel, 0).T)], 0)
        found.append((values / data.max()).reshape(REGION_SHAPE).astype(np.float32))
    return Tissue(*found)
