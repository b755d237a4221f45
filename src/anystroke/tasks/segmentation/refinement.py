"""Look again at small lesions, and at what may be one, at a finer grid than that of the whole head.

A second network sees the surroundings of each small lesion that the first one found or takes to be possible;
the log-odds of both are averaged, towards the border of what was looked at with less and less weight of the
second. What the first was unsure of is a lesion where both together are certain. In a scan that is no finer
than the first network's grid the second one sees no more than the first, and may not take lesions away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.models.architectures.catalogue import inputs_of
from anystroke.models.model_space import normalise_intensity
from anystroke.models.passes import fast_bfloat16
from anystroke.tasks.segmentation.config import SegmentationConfig

LARGEST_ML = 20.0
"""Larger lesions are left as the whole head's network found them."""
DOUBTFUL = 0.2
"""Parts that the first network finds at least as probable somewhere are looked at again."""
CERTAIN_TOGETHER = 0.7
"""Probability that both networks together must reach in a part that the first alone is not sure enough of."""
CERTAIN_TOGETHER_IF_COARSE = 0.9
"""The same in a scan that is no finer than the first network's grid."""
MARGIN = 16.0
"""Of a lesion, to each side [mm]."""
_BORDER = 8.0
# Distance from a small lesion [mm] up to which the second network counts fully, and from which not at all.
_FULLY, _REACH = 6.0, 12.0
_LARGEST_GROWTH, _SMALLEST_GROWTH_ML = 2.0, 1.0
_SMALLEST_LEFT = 0.5
_SMALLEST_SIDE = 64
_MOST = 8
_SHARE = 0.35
_SMALLEST_PROBABILITY = 1e-4
_SMALLEST_SEEN, _LOG_ODDS = 1e-3, 3.0  # what the second network sees of the first's log-odds is about 1
_NEIGHBOURS = np.ones((3, 3, 3))


@dataclass(frozen=True)
class Refiner:
    """The second network.

    Attributes:
        network: Maps (1, 1, X, Y, Z) to logits (1, classes, X, Y, Z).
        config: What is needed to use it.
    """

    network: nn.Module
    config: SegmentationConfig


@dataclass(frozen=True)
class RefinementBox:
    """A grid along the world's axes.

    Attributes:
        affine: float64 (4, 4), voxels to RAS+ mm.
        shape: Its voxels.
    """

    affine: Tensor
    shape: tuple[int, int, int]


def is_fine(spacing: Sequence[float], coarse: float) -> bool:
    """Tell whether a scan shows more than a coarse grid does: along two of its axes at least.

    Example:
        >>> is_fine((0.9, 0.9, 5.0), 2.0), is_fine((2.0, 2.0, 2.0), 2.0)
        (True, False)
    """
    return _within_slices(spacing) <= 0.75 * coarse


def can_be_refined(spacing: Sequence[float], coarse: float) -> bool:
    """Tell whether a scan is fine enough for a second look: at most a quarter coarser than the coarse grid.

    Example:
        >>> can_be_refined((2.0, 2.0, 5.0), 2.0), can_be_refined((3.0, 3.0, 3.0), 2.0)
        (True, False)
    """
    return _within_slices(spacing) <= 1.25 * coarse


def _within_slices(spacing: Sequence[float]) -> float:
    return sorted(spacing)[1]


def boxes_around(
    probability: Volume, threshold: float, *, certain: float = 0.0, spacing: float, divisor: int
) -> list[RefinementBox]:
    """Lay a grid around each small lesion.

    Args:
        probability: Lesion probability on a grid along the world's axes.
        threshold: Connected voxels (26 neighbours) that reach it are one lesion.
        certain: Lesions that reach it nowhere get no grid.
        spacing: Voxel size of the grids [mm].
        divisor: Their sides are multiples of it, and at least 64.

    Returns:
        At most eight, those of the most probable lesions first. A lesion that an earlier grid shows with half
        the margin gets none of its own.
    """
    data = probability.data[0].numpy()
    labels, count = ndimage.label(data >= threshold, structure=_NEIGHBOURS)
    if not count:
        return []
    numbers = range(1, count + 1)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:] * probability.voxel_volume
    peaks = ndimage.maximum(data, labels, numbers)
    found = ndimage.find_objects(labels)
    low_corner = probability.affine[:3, 3].numpy()
    step = probability.spacing[0]
    boxes: list[RefinementBox] = []
    for i in sorted(range(count), key=lambda i: -peaks[i]):
        if sizes[i] > LARGEST_ML or peaks[i] < certain or len(boxes) == _MOST:
            continue
        low = low_corner + step * (np.array([side.start for side in found[i]]) - 0.5)
        high = low_corner + step * (np.array([side.stop for side in found[i]]) - 0.5)
        if any(_shows(box, low - MARGIN / 2, high + MARGIN / 2) for box in boxes):
            continue
        sides = [
            max(_SMALLEST_SIDE, divisor * math.ceil((b - a + 2 * MARGIN) / spacing / divisor))
            for a, b in zip(low, high, strict=True)
        ]
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] *= spacing
        for axis, side in enumerate(sides):
            first = (low[axis] + high[axis]) / 2 - spacing * (side - 1) / 2
            affine[axis, 3] = spacing * round(first / spacing)  # the same grid for the same head
        boxes.append(RefinementBox(affine, (sides[0], sides[1], sides[2])))
    return boxes


def sizes_of_lesions(probability: Volume, threshold: float) -> Volume:
    """Tell the lesions that are looked at again from those that are left as they are.

    Args:
        probability: Lesion probability.
        threshold: As for `boxes_around`.

    Returns:
        uint8: 1 in lesions of at most `LARGEST_ML`, 2 in larger ones.
    """
    labels, count = ndimage.label(probability.data[0].numpy() >= threshold, structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * probability.voxel_volume
    kinds = np.where(sizes > LARGEST_ML, 2, 1).astype(np.uint8)
    kinds[0] = 0
    return Volume(torch.from_numpy(kinds[labels])[None], probability.affine)


def _shows(box: RefinementBox, low: "np.ndarray[tuple[int], np.dtype[np.float64]]", high: object) -> bool:
    first = box.affine[:3, 3].numpy() - box.affine[0, 0].item() / 2
    last = first + box.affine[0, 0].item() * np.array(box.shape)
    return bool((first <= low).all() and (last >= np.asarray(high)).all())


def refined_difference(
    head: Volume, coarse: Volume, box: RefinementBox, refiner: Refiner, threshold: float
) -> Volume | None:
    """Compute what the second network changes at the small lesions in a box.

    Away from them, and in larger lesions, it changes nothing. Where it would make the small lesions more than
    twice as large, and by more than 1 ml, the two networks contradict each other and the first one is
    believed.

    Args:
        head: The scan from zero, in RAS order.
        coarse: Lesion probability of the first network.
        box: Where to look.
        refiner: The second network.
        threshold: As for `boxes_around`.

    Returns:
        What to add to the lesion probability, on the box's grid, zero at its border; None if the scan is
        constant there, or the networks contradict each other.
    """
    image = head.resample_to(box.affine, box.shape, antialias=True).data
    config = refiner.config
    try:
        image = normalise_intensity(image, config.normalisation)
    except ValueError:
        return None
    if inputs_of(refiner.network) == 2:
        image = with_log_odds(image, coarse, box)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(torch.device("cpu"))):
        logits = refiner.network(image[None])[0]
    fine = (logits.float() / config.temperature).softmax(0)[config.classes.index("lesion")]
    before = coarse.resample_to(box.affine, box.shape).data[0].clamp(0, 1)
    share = _SHARE * _weights(box) * _nearness(sizes_of_lesions(coarse, threshold), box)
    low, high = _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY
    odds = (1 - share) * torch.logit(before.clamp(low, high)) + share * torch.logit(fine.clamp(low, high))
    after = torch.sigmoid(odds)
    grown = int(((after >= threshold) & (share > 0)).sum()) / 1000 * float(box.affine[0, 0]) ** 3
    was = int(((before >= threshold) & (share > 0)).sum()) / 1000 * float(box.affine[0, 0]) ** 3
    if grown > _LARGEST_GROWTH * was + _SMALLEST_GROWTH_ML:
        return None
    change = torch.where(share > 0, after - before.clamp(low, high), 0.0)
    return Volume(change[None], box.affine)


def with_log_odds(image: Tensor, probability: Volume, box: RefinementBox) -> Tensor:
    """Put what the first network says beside an image.

    Args:
        image: (1, X, Y, Z), standardised, on the box's grid.
        probability: Lesion probability of the first network on its own grid.
        box: The grid.

    Returns:
        (2, X, Y, Z): the image, and a third of the log-odds of probabilities between 0.001 and 0.999.
    """
    there = probability.resample_to(box.affine, box.shape).data
    odds = torch.logit(there.clamp(_SMALLEST_SEEN, 1 - _SMALLEST_SEEN)) / _LOG_ODDS
    return torch.cat([image, odds.to(image.dtype)])


def contradicted_restored(first: Volume, refined: Volume, threshold: float, certain: float) -> Volume:
    """Undo the second look in lesions that it would take away.

    Args:
        first: Lesion probability of the first network.
        refined: That of both, on the same grid.
        threshold: Connected voxels (26 neighbours) of ``first`` that reach it are one lesion.
        certain: Probability that the first network reaches somewhere in what it is certain of.

    Returns:
        ``refined``, but at least as probable as ``first`` in lesions of which the first network is certain
        if both together are not, or if less than half of their voxels reach the threshold in ``refined``.
    """
    before, after = first.data[0].numpy(), refined.data[0].numpy()
    labels, count = ndimage.label(before >= threshold, structure=_NEIGHBOURS)
    inside = labels > 0
    places = labels[inside]

    def voxels(chosen: Array) -> Array:
        return np.bincount(places, weights=chosen[inside], minlength=count + 1)

    sure, still = voxels(before >= certain) > 0, voxels(after >= certain) > 0
    few = voxels(after >= threshold) < _SMALLEST_LEFT * np.bincount(places, minlength=count + 1)
    believed = (sure & (few | ~still))[labels]
    data = np.where(believed, np.maximum(before, after), after)
    return Volume(torch.from_numpy(data)[None], refined.affine)


def _nearness(sizes: Volume, box: RefinementBox) -> Tensor:
    """Return 1 at small lesions, and a fall to 0 away from them and towards larger ones (X, Y, Z)."""
    kinds = sizes.resample_to(box.affine, box.shape, "nearest").data[0].numpy()
    spacing = float(box.affine[0, 0])
    if not (kinds == 1).any():
        return torch.zeros(box.shape)
    away = ndimage.distance_transform_edt(kinds != 1, sampling=spacing)
    near = np.clip((_REACH - away) / (_REACH - _FULLY), 0, 1)
    if (kinds == 2).any():
        near[ndimage.distance_transform_edt(kinds != 2, sampling=spacing) <= away] = 0
    return torch.from_numpy(near.astype(np.float32))


def _weights(box: RefinementBox) -> Tensor:
    """Return 1 inside and a straight fall to 0 over the border (X, Y, Z)."""
    spacing = float(box.affine[0, 0])
    total = torch.ones(box.shape)
    for axis, side in enumerate(box.shape):
        place = torch.arange(side, dtype=torch.float32)
        ramp = (torch.minimum(place, side - 1 - place) * spacing / _BORDER).clamp(max=1)
        total *= ramp.view([-1 if i == axis else 1 for i in range(3)])
    return total
