"""What is missing from a scan: the skull, the face, the ends of the field of view."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from anystroke.core.fields import GridShape, apply_separable, linear_matrix, smooth, smooth_noise
from anystroke.corruption.limits import check_positive, check_same_shape, check_within

HeadBox = tuple[slice, slice, slice]


def brain_of_fractions(
    brain: Tensor,
    *,
    spacing: float,
    smoothing: float,
    margin: float = 0.0,
    unevenness: float = 0.0,
    control_points: GridShape = (8, 8, 8),
    rng: torch.Generator,
) -> Tensor:
    """Draw the mask of an imperfect skull stripping.

    The membership is smoothed, and the mask ends where the smoothed membership has the value it would have
    ``margin`` mm outside a flat boundary. Random local margins make it generous here and bite into the brain
    there. A perfect mask is ``brain > 0.5``.

    Args:
        brain: (X, Y, Z) membership, 0 to 1.
        spacing: Voxel size in mm.
        smoothing: Standard deviation in mm of the smoothing, which rounds gyri off.
        margin: How far the mask reaches beyond the brain in mm; negative cuts brain away.
        unevenness: Largest change of the margin from place to place in mm, 0 or more. It and the size of the
            margin may together be three times the smoothing at most.
        control_points: Of the smooth field of local margins, per axis, each at least 4.
        rng: Random stream.

    Returns:
        (X, Y, Z) bool.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_positive("a voxel size", spacing, "mm")
    check_positive("a smoothing", smoothing, "mm")
    check_within("an unevenness", unevenness, 0.0, 3 * smoothing, "mm")
    reach = 3 * smoothing - unevenness
    check_within("a margin", margin, -reach, reach, "mm")
    factor = max(1, min(int(smoothing / spacing), 3))
    level = _coarse(brain, factor)
    level = smooth(level, smoothing / (spacing * factor))
    x, y, z = level.shape
    local = smooth_noise((x, y, z), control_points, rng=rng, device=brain.device)[0]
    local.tanh_().mul_(unevenness).add_(margin)
    level -= torch.special.ndtr(local.mul_(-1 / smoothing))
    if factor > 1:
        matrices = [linear_matrix(n, m, factor) for n, m in zip(brain.shape, level.shape, strict=True)]
        level = apply_separable(level, (matrices[0], matrices[1], matrices[2]))
    return level > 0


def apply_mask(image: Tensor, mask: Tensor) -> Tensor:
    """Return an image (..., X, Y, Z) that is zero outside a mask (X, Y, Z).

    Raises:
        ValueError: If their grids differ.
    """
    check_same_shape("a mask", mask, image.shape[-3:])
    return image * mask


def face_region(
    brain: Tensor,
    *,
    spacing: float,
    angle: float = 40.0,
    margin: float = 5.0,
    depth: float | None = None,
    head: Tensor | None = None,
) -> Tensor:
    """Find the face: what lies in front of and below a plane that just misses the brain.

    Arrays are RAS+: the second axis points to the front, the third up.

    Args:
        brain: (X, Y, Z) membership, 0 to 1.
        spacing: Voxel size in mm.
        angle: Where the plane faces, in degrees from the front (0) down (90).
        margin: Distance of the plane from the brain in mm, 0 or more.
        depth: Keep what is further behind the front of the brain than this many mm, which makes the region a
            wedge and spares neck and throat; None keeps nothing.
        head: (X, Y, Z) membership; restricts the region to the head, so that noise in air stays.

    Returns:
        (X, Y, Z) bool.

    Raises:
        ValueError: If the grid holds no brain, or an argument is out of its range.

    Source: N. Schimke and J. Hale, Quickshear defacing for neuroimages, HealthSec (2011).
    """
    check_positive("a voxel size", spacing, "mm")
    check_within("an angle", angle, 0.0, 90.0, "degrees")
    check_within("a margin", margin, 0.0, 1e3, "mm")
    silhouette = brain.amax(0) > 0.5
    if not bool(silhouette.any()):
        raise ValueError("expected brain on the grid, but its membership is above 0.5 nowhere")
    y, z = (torch.arange(n, device=brain.device, dtype=torch.float32) * spacing for n in silhouette.shape)
    turn = torch.deg2rad(torch.tensor(angle))
    forward = y[:, None] * float(turn.cos()) - z * float(turn.sin())
    region = forward > forward[silhouette].max() + margin
    if depth is not None:
        check_within("a depth", depth, 0.0, 1e3, "mm")
        front = y[silhouette.any(1)].max()
        region &= (y > front - depth)[:, None]
    if head is None:
        return region.expand(brain.shape)
    check_same_shape("a head membership", head, brain.shape)
    return (head > 0.5).logical_and_(region)


def deface(image: Tensor, face: Tensor) -> Tensor:
    """Return an image (..., X, Y, Z) that is zero in a face region (X, Y, Z).

    Raises:
        ValueError: If their grids differ.
    """
    check_same_shape("a face region", face, image.shape[-3:])
    return image.masked_fill(face, 0)


def blur_face(image: Tensor, face: Tensor, *, spacing: float, smoothing: float) -> Tensor:
    """Return an image whose face is smoothed beyond recognition.

    Args:
        image: (X, Y, Z).
        face: (X, Y, Z) bool.
        spacing: Voxel size in mm.
        smoothing: Standard deviation in mm; 0 changes nothing.

    Raises:
        ValueError: If their grids differ or an argument is out of its range.
    """
    check_same_shape("a face region", face, image.shape)
    check_positive("a voxel size", spacing, "mm")
    check_within("a smoothing", smoothing, 0.0, 1e3, "mm")
    result = image.clone()
    if smoothing == 0 or not bool(face.any()):
        return result
    box = _bounding_box(face)
    blurred = smooth(image[box], smoothing / spacing)
    result[box] = torch.where(face[box], blurred, image[box])
    return result


def cut_field_of_view(
    image: Tensor,
    *,
    left: int = 0,
    right: int = 0,
    back: int = 0,
    front: int = 0,
    bottom: int = 0,
    top: int = 0,
) -> tuple[Tensor, HeadBox]:
    """Set slabs at the ends of the field of view to zero.

    Args:
        image: (..., X, Y, Z) in RAS+ order.
        left: Voxels to lose at the start of X.
        right: Voxels to lose at its end.
        back: Voxels to lose at the start of Y.
        front: Voxels to lose at its end.
        bottom: Voxels to lose at the start of Z.
        top: Voxels to lose at its end.

    Returns:
        The image and the box of voxels that are left.

    Raises:
        ValueError: If a number is negative or nothing is left.
    """
    spans = []
    for n, start, end in zip(image.shape[-3:], (left, back, bottom), (right, front, top), strict=True):
        if start < 0 or end < 0 or start + end >= n:
            raise ValueError(
                f"expected to cut 0 or more voxels at each end, fewer than {n} in all, got {start} and {end}"
            )
        spans.append(slice(start, n - end))
    box = (spans[0], spans[1], spans[2])
    result = torch.zeros_like(image)
    result[(..., *box)] = image[(..., *box)]
    return result, box


def _coarse(brain: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return brain
    pooled: Tensor = avg_pool3d(brain[None], factor, ceil_mode=True, count_include_pad=False)[0]
    return pooled


def _bounding_box(mask: Tensor) -> HeadBox:
    spans = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        present = mask.amax(others).nonzero()
        spans.append(slice(int(present[0]), int(present[-1]) + 1))
    return spans[0], spans[1], spans[2]
