"""Lesions that reach out of the head's brain: what networks find in faces, orbits and scalps."""

from functools import cache

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.mni_places import find_mni_space

_NEIGHBOURS = np.ones((3, 3, 3))
# A network may call brain what is beside a muscle that it takes for a lesion, but on thin bridges.
_DEPTH_MM = 10.0
_MARGIN_MM = 8.0
_OUTSIDE = 0.15
_NEAR_MM = 5.0
_FEWEST = 20
_COARSE = 2
_SAMPLED = 4000


def within_mni_brain(lesion: Tensor, brain: Tensor, image: Volume) -> Tensor:
    """Tell lesions where people have a brain from those where they have none.

    If more than 15 % of a connected part lie more than 8 mm outside of the convex hull of the brain, less all
    that hangs on it by bridges of up to 20 mm, the scan is registered to MNI space. There, what is farther
    than 8 mm from the MNI152 brain is no lesion, nor is any part of which less than a half lies within 5 mm.

    Args:
        lesion: Boolean (X, Y, Z).
        brain: Boolean (X, Y, Z), healthy brain and its fluid.
        image: What is registered, on the same grid.

    Returns:
        Boolean (X, Y, Z): False where there is no lesion for sure, True elsewhere; True everywhere if no part
        reaches out, or the scan cannot be registered.
    """
    keep = torch.ones_like(lesion)
    parts, count = ndimage.label(lesion.numpy(), structure=_NEIGHBOURS)
    if not count or not _reaches_out(parts, count, brain.numpy(), image):
        return keep
    space = find_mni_space(image, Volume(brain[None].to(torch.uint8), image.affine))
    if space.affine is None:
        return keep
    voxels = np.argwhere(parts > 0)
    away = _from_mni_brain(voxels, (space.affine @ image.affine.double()).numpy())
    number = parts[tuple(voxels.T)]
    near = np.bincount(number, away <= _NEAR_MM, minlength=count + 1)
    far: Array = near < 0.5 * np.bincount(number, minlength=count + 1)
    gone = (away > _MARGIN_MM) | far[number]
    keep[tuple(torch.from_numpy(voxels[gone]).T)] = False
    return keep


def _reaches_out(parts: Array, count: int, brain: Array, image: Volume) -> bool:
    """Tell whether some part lies outside of the hull of the brain's core."""
    every = (slice(None, None, _COARSE),) * 3
    spacing = [_COARSE * side for side in image.spacing]
    numbered, found = ndimage.label(
        ndimage.distance_transform_edt(brain[every], sampling=spacing) > _DEPTH_MM
    )
    if not found:
        return False
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    main = numbered == sizes.argmax()
    border = _COARSE * np.argwhere(main & ~ndimage.binary_erosion(main))
    if len(border) < _FEWEST:
        return False
    affine = image.affine.double().numpy()
    try:
        planes = ConvexHull(_places(border, affine)).equations
    except QhullError:
        return False
    voxels = np.argwhere(parts > 0)
    voxels = voxels[:: max(1, len(voxels) // _SAMPLED)]
    away = (_places(voxels, affine) @ planes[:, :3].T + planes[:, 3]).max(axis=1) - _DEPTH_MM
    number = parts[tuple(voxels.T)]
    outside = np.bincount(number, away > _MARGIN_MM, minlength=count + 1)
    return bool((outside > _OUTSIDE * np.bincount(number, minlength=count + 1)).any())


def _places(voxels: Array, affine: Array) -> Array:
    """Return where voxels lie, float64 (N, 3), mm."""
    places: Array = voxels @ affine[:3, :3].T + affine[:3, 3]
    return places


@cache
def _mni_distances() -> tuple[Array, Array]:
    """Return how far each voxel of the grid of regions is from the MNI152 brain [mm], and mm -> voxel."""
    from anystroke.anatomy.regions.grid import REGION_SPACING, affine, tissue

    away = ndimage.distance_transform_edt(tissue().template <= 0, sampling=REGION_SPACING)
    return away.astype(np.float32), np.linalg.inv(affine())


def _from_mni_brain(voxels: Array, to_mni: Array) -> Array:
    """Return how far voxels are from the MNI152 brain [mm]; infinitely far outside of the grid."""
    away, to_voxel = _mni_distances()
    nearest = np.rint(_places(_places(voxels, to_mni), to_voxel)).astype(np.int64)
    inside: Array = np.all((nearest >= 0) & (nearest < away.shape), axis=1)
    return np.where(inside, away[tuple(np.where(inside[:, None], nearest, 0).T)], np.inf)
