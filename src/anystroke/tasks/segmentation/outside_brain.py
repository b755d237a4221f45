"""Lesions that reach out of the head's brain: what networks find in faces, orbits and scalps."""

from functools import cache

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.lesions_found import to_world
from anystroke.tasks.segmentation.mni_places import find_mni_space

_NEIGHBOURS = np.ones((3, 3, 3))
# A network may call brain what is beside a muscle that it takes for a lesion, but on thin bridges.
_DEPTH_MM = 10.0
_MARGIN_MM = 8.0
_OUTSIDE = 0.15
_NEAR_MM = 5.0
_FEWEST = 20
_COARSE = 2
_SAMPLED = 1000
# The template reaches the lowest voxels of its grid.
_PADDED = 8


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
    numbered, count = ndimage.label(lesion.numpy(), structure=_NEIGHBOURS)
    if not count:
        return keep
    hull = _hull_of_core(brain.numpy(), image)
    parts = [
        np.argwhere(numbered[box] == number) + [side.start for side in box]
        for number, box in enumerate(ndimage.find_objects(numbered), start=1)
    ]
    out = [hull is not None and _reaches_out(part, hull, image.affine) for part in parts]
    if not any(out):
        return keep
    whole = brain.clone()
    for part, suspect in zip(parts, out, strict=True):
        whole[tuple(torch.from_numpy(part).T)] |= not suspect
    # A large stroke may reach out too, and the brain without it be too small to register.
    for mask in (whole, brain | lesion):
        space = find_mni_space(image, Volume(mask[None].to(torch.uint8), image.affine))
        if space.affine is not None:
            break
    else:
        return keep
    to_mni = space.affine @ image.affine.double()
    for part in parts:
        away = _from_mni_brain(to_world(part, to_mni))
        few = float((away <= _NEAR_MM).mean()) < 0.5
        keep[tuple(torch.from_numpy(part if few else part[away > _MARGIN_MM]).T)] = False
    return keep


def _hull_of_core(brain: Array, image: Volume) -> Array | None:
    """Return the planes (N, 4) [mm] of the convex hull of what lies deep in the brain, if anything does."""
    every = (slice(None, None, _COARSE),) * 3
    spacing = [_COARSE * side for side in image.spacing]
    numbered, found = ndimage.label(
        ndimage.distance_transform_edt(brain[every], sampling=spacing) > _DEPTH_MM
    )
    if not found:
        return None
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    main = numbered == sizes.argmax()
    border = _COARSE * np.argwhere(main & ~ndimage.binary_erosion(main))
    if len(border) < _FEWEST:
        return None
    try:
        planes: Array = ConvexHull(to_world(border, image.affine)).equations
    except QhullError:
        return None
    return planes


def _reaches_out(part: Array, planes: Array, affine: Tensor) -> bool:
    """Tell whether voxels (N, 3) lie outside of a hull, which the brain exceeds by the depth of its core."""
    seen = to_world(part[:: max(1, len(part) // _SAMPLED)], affine)
    away = (seen @ planes[:, :3].T + planes[:, 3]).max(axis=1)
    return float((away > _DEPTH_MM + _MARGIN_MM).mean()) > _OUTSIDE


@cache
def _mni_distances() -> Array:
    """Return how far each voxel of the padded grid of regions is from the MNI152 brain [mm]."""
    from anystroke.anatomy.regions.grid import REGION_SPACING, tissue

    outside = np.pad(tissue().template <= 0, _PADDED, constant_values=True)
    away: Array = ndimage.distance_transform_edt(outside, sampling=REGION_SPACING)
    return away.astype(np.float32)


def _from_mni_brain(points: Array) -> Array:
    """Return how far points (N, 3) in MNI mm are from the MNI152 brain [mm]; infinitely far off the grid."""
    from anystroke.anatomy.regions.grid import ORIGIN, REGION_SPACING

    away = _mni_distances()
    voxel = np.rint((points - np.asarray(ORIGIN)) / REGION_SPACING).astype(np.int64) + _PADDED
    inside: Array = np.all((voxel >= 0) & (voxel < away.shape), axis=1)
    return np.where(inside, away[tuple(np.where(inside[:, None], voxel, 0).T)], np.inf)
