"""The lesions of a mask one by one: numbered, measured, and on which side of the brain they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.models.volume_interval import VolumeErrors, VolumeInterval, volume_interval
from anystroke.tasks.segmentation.calibration_curve import CalibrationCurve

Hemisphere = Literal["left", "right", "both"]

_NEIGHBOURS = np.ones((3, 3, 3))
# A lesion belongs to a side if this share of it is there.
_ONE_SIDED = 0.8
_DIRECTIONS = 1000


@dataclass(frozen=True)
class LikelyPart:
    """A connected component of a mask, and how likely it is a lesion.

    Attributes:
        voxel: One of its voxels.
        probability: That it is a lesion at all, see `anystroke.tasks.segmentation.part_probability`.
    """

    voxel: tuple[int, int, int]
    probability: float


@dataclass(frozen=True)
class FoundLesion:
    """One connected component of a mask.

    Attributes:
        number: From 1, the largest first; its value in the numbered map.
        volume: [ml].
        centroid: Right, front and up from the scanner's origin [mm].
        hemisphere: Side of the brain's middle plane on which at least 80 % of it lie, or both.
        left_volume: Volume on the left of that plane [ml].
        diameter: Largest distance of two of its voxels' centres [mm].
        mean_probability: Over its voxels.
        highest_probability: Over its voxels.
        interval: How large the lesion that it belongs to may be [ml]; None if errors were not given.
        lesion_probability: That it is a lesion at all; None if that is not known.
    """

    number: int
    volume: float
    centroid: tuple[float, float, float]
    hemisphere: Hemisphere
    left_volume: float
    diameter: float
    mean_probability: float
    highest_probability: float
    interval: VolumeInterval | None = None
    lesion_probability: float | None = None


@dataclass(frozen=True)
class ComparedPart:
    """A connected component of a mask, and the true lesion that it belongs to.

    Attributes:
        highest_probability: In the component.
        mean_probability: In the component.
        volume: Of the component [ml].
        true_volume: Of all components of the truth that it touches [ml], 0 where it is none.
    """

    highest_probability: float
    mean_probability: float
    volume: float
    true_volume: float


def find_lesions(
    mask: Volume,
    probability: Volume,
    inside: Volume,
    errors: VolumeErrors | None = None,
    parts: Sequence[LikelyPart] = (),
    curve: CalibrationCurve | None = None,
) -> tuple[Volume, list[FoundLesion]]:
    """Number and measure the lesions of a mask.

    Args:
        mask: Not zero in lesions.
        probability: On the grid of ``mask``, as the networks say it.
        inside: Mask of the brain, or of the head where the brain is not known, on any grid.
        errors: Of the model's single lesions.
        parts: How likely components of the mask are lesions.
        curve: What ``probability`` means, which is told of each lesion.

    Returns:
        Map of the lesions' numbers, int32, and the lesions, the largest first. Voxels that share a corner are
        connected.

    Example:
        >>> data = torch.zeros(1, 20, 20, 20)
        >>> data[0, 2:5, 4:8, 4:8] = 1
        >>> head = Volume(torch.ones(1, 20, 20, 20), torch.eye(4))
        >>> numbered, [lesion] = find_lesions(Volume(data, head.affine), Volume(data, head.affine), head)
        >>> lesion.volume, lesion.hemisphere
        (0.048, 'left')
    """
    labels, count = ndimage.label((mask.data[0] > 0).numpy(), structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    numbers = np.zeros(count + 1, dtype=np.int32)
    numbers[order + 1] = np.arange(1, count + 1)
    numbered = numbers[labels]
    plane = middle_plane(inside) if count else None
    likely = {int(numbered[part.voxel]): part.probability for part in parts}
    lesions = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        if box is None or plane is None:
            continue
        part = numbered[box] == number
        start = np.array([side.start for side in box])
        points = to_world(np.argwhere(part) + start, mask.affine)
        said = probability.data[0][box][torch.from_numpy(part)]
        values = said if curve is None else curve.calibrated(said)
        left = float((points @ plane[:3] + plane[3] < 0).mean())
        volume = len(points) * mask.voxel_volume
        sure = float(said.mean())
        x, y, z = (float(value) for value in points.mean(axis=0))
        lesions.append(
            FoundLesion(
                number=number,
                volume=volume,
                centroid=(x, y, z),
                hemisphere="left" if left >= _ONE_SIDED else "right" if left <= 1 - _ONE_SIDED else "both",
                left_volume=left * volume,
                diameter=largest_distance(to_world(np.argwhere(_surface(part)) + start, mask.affine)),
                mean_probability=float(values.mean()),
                highest_probability=float(values.max()),
                interval=None if errors is None else volume_interval(volume, volume, errors, sure),
                lesion_probability=likely.get(number),
            )
        )
    return Volume(torch.from_numpy(numbered)[None], mask.affine, mask.space_code), lesions


def volumes_of_parts(mask: Volume, probability: Volume, truth: Tensor) -> list[ComparedPart]:
    """Compare each connected component of a mask with the true lesion that it belongs to.

    Args:
        mask: Not zero in lesions.
        probability: On the grid of ``mask``.
        truth: (X, Y, Z) bool, the true lesion.

    Returns:
        One of each component.

    Example:
        >>> data = torch.zeros(1, 10, 10, 10)
        >>> data[0, 2, 2, 2], data[0, 8, 8, 8] = 1, 1
        >>> truth = torch.zeros(10, 10, 10, dtype=torch.bool)
        >>> truth[2, 2, 2:5] = True
        >>> parts = volumes_of_parts(Volume(data, torch.eye(4)), Volume(data, torch.eye(4)), truth)
        >>> [(part.volume, part.true_volume) for part in parts]
        [(0.001, 0.003), (0.001, 0.0)]
    """
    parts, count = ndimage.label((mask.data[0] > 0).numpy(), structure=_NEIGHBOURS)
    true, lesions = ndimage.label(truth.numpy(), structure=_NEIGHBOURS)
    if not count:
        return []
    numbers = range(1, count + 1)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    true_sizes = np.bincount(true.ravel(), minlength=lesions + 1)
    values = probability.data[0].numpy()
    peaks = ndimage.maximum(values, parts, numbers)
    means = ndimage.mean(values, parts, numbers)
    touching = np.unique(np.stack([parts[truth.numpy()], true[truth.numpy()]]), axis=1)
    ml = mask.voxel_volume
    return [
        ComparedPart(
            highest_probability=float(peaks[k - 1]),
            mean_probability=float(means[k - 1]),
            volume=float(sizes[k]) * ml,
            true_volume=float(true_sizes[touching[1, touching[0] == k]].sum()) * ml,
        )
        for k in numbers
    ]


def middle_plane(inside: Volume) -> Array:
    """Find the plane between left and right: through the middles of all rows from left to right.

    Args:
        inside: Mask of a brain or a head.

    Returns:
        (4,) a, b, c, d such that a x + b y + c z + d is negative on the left; a is 1.

    Example:
        >>> middle_plane(Volume(torch.ones(1, 21, 9, 9), torch.eye(4))).round(6).tolist()
        [1.0, 0.0, 0.0, -10.0]
    """
    volume = inside.reorient("RAS")
    mask = (volume.data[0] > 0).numpy()
    width = mask.sum(axis=0)
    rows = np.argwhere(width > 0)
    if len(rows) < 3:
        return np.array([1.0, 0.0, 0.0, 0.0])
    first = mask.argmax(axis=0)[tuple(rows.T)]
    last = mask.shape[0] - 1 - mask[::-1].argmax(axis=0)[tuple(rows.T)]
    middles = to_world(np.column_stack([(first + last) / 2, rows]), volume.affine)
    weight = width[tuple(rows.T)].astype(float)
    design = np.column_stack([middles[:, 1:], np.ones(len(middles))])
    # Middles far from most belong to a cut or an odd row; they are left out of a second fit.
    for _ in range(2):
        b, c, d = np.linalg.lstsq(design * weight[:, None], middles[:, 0] * weight, rcond=None)[0]
        distance = np.abs(middles[:, 0] - design @ [b, c, d])
        weight = np.where(distance <= 2 * np.median(distance) + 1e-6, weight, 0.0)
    return np.array([1.0, -b, -c, -d])


def largest_distance(points: Array) -> float:
    """Compute the largest distance of two points, to 0.1 %: the longest extent along a thousand directions.

    Args:
        points: (N, 3).

    Example:
        >>> round(largest_distance(np.array([[0.0, 0, 0], [3, 4, 0], [1, 1, 0]])), 2)
        5.0
    """
    i = np.arange(_DIRECTIONS) + 0.5
    height, turn = i / _DIRECTIONS, math.pi * (1 + math.sqrt(5)) * i
    flat = np.sqrt(1 - height**2)
    directions = np.column_stack([flat * np.cos(turn), flat * np.sin(turn), height])
    ends = set()
    for some in np.array_split(directions, 20):
        extent = points @ some.T
        ends |= set(extent.argmin(axis=0).tolist()) | set(extent.argmax(axis=0).tolist())
    outer = points[sorted(ends)]
    return float(np.sqrt(((outer[:, None] - outer[None]) ** 2).sum(axis=-1).max()))


def _surface(part: Array) -> Array:
    inner = ndimage.binary_erosion(part)
    surface: Array = part & ~inner
    return surface


def to_world(index: Array, affine: Tensor) -> Array:
    """Return where voxels (N, 3) lie, float64 (N, 3), mm.

    Example:
        >>> to_world(np.array([[1, 2, 3]]), 2 * torch.eye(4)).tolist()
        [[2.0, 4.0, 6.0]]
    """
    matrix = affine.numpy()
    world: Array = index @ matrix[:3, :3].T + matrix[:3, 3]
    return world
