"""Reasons not to trust a result, each in one sentence; none is a reason to hide it."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from anystroke.core.volume import Volume
from anystroke.models.image_features import outside_range
from anystroke.models.volume_interval import VolumeInterval

# Brains of adults, with fluid, have about 1.0 to 1.9 l; the network's may be off by a third.
_BRAIN_ML = (700.0, 2600.0)
# The brain stem and the cord leave the field of view below; they have less than 20 cm^2.
_LARGEST_CUT = 25.0
_SMALLEST_CERTAINTY = 0.6
_WIDEST_SPACING = 8.0
_SMALLEST_DICE = 0.3
_WIDEST_INTERVAL = 4.0
_LEAST_ML = 15.0
_LARGE_ENOUGH = 1.0
_NOTHING_ML = 0.1
WIDE = "the volume is uncertain"
"""How the reason begins that the interval of the volume is too wide."""


def cut_area(brain: Volume, scan: Volume) -> float:
    """Compute the area [cm^2] over which the brain runs out of the field of view.

    Args:
        brain: Mask of the healthy brain on any grid.
        scan: Whose field of view it is.

    Example:
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.eye(4))
        >>> cut_area(Volume(torch.ones(1, 40, 40, 40), torch.eye(4)), scan)  # all six faces
        91.3
    """
    mask = brain.data[0] > 0
    if not bool(mask.any()):
        return 0.0
    index = mask.nonzero().double()
    points = torch.cat([index, torch.ones(len(index), 1, dtype=torch.float64)], dim=1)
    place = (points @ (torch.linalg.inv(scan.affine) @ brain.affine).T)[:, :3]
    # A voxel is at a face if the next voxel of the mask's grid would be out of the field of view.
    step = torch.tensor(brain.spacing, dtype=torch.float64).max() / torch.tensor(scan.spacing).double()
    last = torch.tensor(scan.shape, dtype=torch.float64) - 0.5
    at_face = ((place < -0.5 + step) | (place > last - step)).any(dim=1)
    return round(float(at_face.sum()) * brain.spacing[0] ** 2 / 100, 1)


def reasons_not_to_trust(
    *,
    scan: Volume,
    volume_ml: float,
    interval: VolumeInterval | None,
    brain: Volume | None = None,
    certainty: float | None = None,
    features: Mapping[str, float] | None = None,
    image_range: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[str, ...]:
    """Judge the result of one scan.

    Args:
        scan: The scan.
        volume_ml: Volume of the mask [ml].
        interval: The volume's interval, if it is known.
        brain: The healthy brain that the network found, on any grid; None if the model does not tell.
        certainty: Mean probability of the most probable class over brain and lesion.
        features: Of the image that the network saw, see ``image_features``.
        image_range: Those of the training's images.

    Returns:
        One sentence for each reason; none if there is no reason.

    Example:
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.eye(4))
        >>> reasons_not_to_trust(scan=scan, volume_ml=1.0, interval=VolumeInterval(0.5, 1.5))
        ()
    """
    reasons = []
    if max(scan.spacing) > _WIDEST_SPACING:
        reasons.append(
            f"the scan is far from the training range: its voxels are {max(scan.spacing):.1f} mm long, those "
            f"of the training at most {_WIDEST_SPACING:g} mm"
        )
    if brain is not None:
        millilitres = float((brain.data > 0).sum()) * brain.voxel_volume + volume_ml
        if not _BRAIN_ML[0] <= millilitres <= _BRAIN_ML[1]:
            reasons.append(
                f"the scan is far from the training range: the network sees {millilitres:.0f} ml of brain, "
                f"expected {_BRAIN_ML[0]:.0f} to {_BRAIN_ML[1]:.0f} ml"
            )
        area = cut_area(brain, scan)
        if area > _LARGEST_CUT:
            reasons.append(
                f"the brain is cut off: {area:.0f} cm2 of it lie at the border of the field of view"
            )
    if certainty is not None and certainty < _SMALLEST_CERTAINTY:
        reasons.append(
            "the scan is far from the training range: the network is unsure of the tissues (mean "
            f"probability {certainty:.2f}, expected at least {_SMALLEST_CERTAINTY:g})"
        )
    if words := outside_range(features or {}, image_range or {}):
        reasons.append(f"the image is outside the training range: {', '.join(words)}")
    if interval is not None and is_wide(volume_ml, interval):
        reasons.append(f"{WIDE}: {volume_in_words(volume_ml, interval)}")
    return tuple(reasons)


def is_wide(volume_ml: float, interval: VolumeInterval) -> bool:
    """Tell whether an interval is too wide to use the volume: by more than four times it, and than 60 ml.

    Args:
        volume_ml: Of the mask [ml].
        interval: Of that volume.
    """
    return interval.high - interval.low > _WIDEST_INTERVAL * max(volume_ml, _LEAST_ML)


def volume_in_words(volume_ml: float, interval: VolumeInterval) -> str:
    """Say what an interval means.

    Args:
        volume_ml: Of the mask [ml].
        interval: Of that volume.

    Example:
        >>> volume_in_words(12.0, VolumeInterval(0.6, 160.0, 0.9))
        'the mask has 12.0 ml, the lesion may have anything from 0.6 to 160.0 ml: too wide to use the volume'
        >>> volume_in_words(0.0, VolumeInterval(0.0, 3.2, 0.9))
        'nothing was found, a lesion of up to 3.2 ml may be there'
    """
    ends = f"{interval.low:.1f} to {interval.high:.1f} ml"
    if is_wide(volume_ml, interval):
        return (
            f"the mask has {volume_ml:.1f} ml, the lesion may have anything from {ends}: too wide to use the "
            "volume"
        )
    if volume_ml == 0:
        return f"nothing was found, a lesion of up to {interval.high:.1f} ml may be there"
    if interval.low < _NOTHING_ML:
        return f"the lesion may have up to {interval.high:.1f} ml, or there may be none"
    return f"the lesion has probably {ends}"


def reasons_between(
    number: int,
    agreements: Sequence[tuple[int, int, float | None, float, float]],
    apart: dict[int, str],
    names: Sequence[str],
) -> tuple[str, ...]:
    """Judge one contrast of several.

    Args:
        number: The contrast.
        agreements: First and second contrast, Dice, and both volumes [ml].
        apart: Why contrasts are apart, by number.
        names: What to call the contrasts.

    Returns:
        One sentence for each reason.

    Example:
        >>> reasons_between(0, [(0, 1, 0.1, 20.0, 2.0)], {}, ["T1w", "FLAIR"])
        ('contrasts disagree: T1w shows 20.0 ml and FLAIR 2.0 ml (Dice 0.10)',)
    """
    reasons = []
    if number in apart:
        reasons.append(f"the registration failed: {apart[number]}")
    for first, second, dice, first_ml, second_ml in agreements:
        large = max(first_ml, second_ml) >= _LARGE_ENOUGH
        if number in (first, second) and dice is not None and dice < _SMALLEST_DICE and large:
            reasons.append(
                f"contrasts disagree: {names[first]} shows {first_ml:.1f} ml and {names[second]} "
                f"{second_ml:.1f} ml (Dice {dice:.2f})"
            )
    return tuple(reasons)


def mean_certainty(lesion: Tensor, brain: Tensor) -> float | None:
    """Average the probability of the most probable class over brain and lesion.

    Args:
        lesion: (X, Y, Z).
        brain: (K, X, Y, Z), the classes of the healthy brain.

    Returns:
        A mean from 0 to 1, None where there is neither brain nor lesion.

    Example:
        >>> mean_certainty(torch.zeros(2, 2, 2), torch.full((2, 2, 2, 2), 0.5))
        0.5
    """
    inside = lesion + brain.sum(0) >= 0.5
    # The surface is uncertain in every scan: partial volume.
    deep = max_pool3d((~inside)[None, None].float(), 3, stride=1, padding=1)[0, 0] == 0
    inside = inside & deep if bool((inside & deep).any()) else inside
    if not bool(inside.any()):
        return None
    best = torch.maximum(lesion, brain.amax(0))[inside]
    value = float(best.mean())
    return value if math.isfinite(value) else None
