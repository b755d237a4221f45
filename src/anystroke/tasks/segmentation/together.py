"""Several contrasts of one patient: each segmented alone, registered, and their probabilities fused.

The networks take any one contrast, so whatever subset was measured can be used. The contrast with the finest
voxels is the reference; the others are registered to it. Each contrast then gets the mean of all
probabilities on its own grid. A contrast whose registration cannot be believed is left apart, with its own
result.
"""

import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.anatomy.registration.rigid import RigidRegistration, register_rigid
from anystroke.core.errors import OptionError
from anystroke.core.volume import Volume
from anystroke.models.passes import PredictionWarning
from anystroke.tasks.segmentation.mask import mask_of, tally, threshold_said
from anystroke.tasks.segmentation.options import Fusion, SegmentOptions
from anystroke.tasks.segmentation.predict import Model, Segmentation, interval_of, segment
from anystroke.tasks.segmentation.signs import reason_of
from anystroke.tasks.segmentation.trust import reasons_between, reasons_not_to_trust

_SMALLEST_PROBABILITY = 1e-4
# Grids whose voxels lie this close [mm] are one, rounded differently.
_ONE_GRID = 0.1


@dataclass(frozen=True)
class Agreement:
    """How far two contrasts agree when each is segmented alone.

    Attributes:
        first: Number of a contrast, from 0.
        second: Number of another one.
        dice: Overlap of their masks on the grid of ``first``; None where either is apart, 1 if both are
            empty.
        first_ml: Volume of the one's mask [ml].
        second_ml: Volume of the other's [ml].
    """

    first: int
    second: int
    dice: float | None
    first_ml: float
    second_ml: float


@dataclass(frozen=True, eq=False)
class Together:
    """The lesion of one patient in several contrasts.

    Attributes:
        fused: The result of each contrast on its own grid, in the order of the input.
        alone: What each contrast says by itself.
        reference: Number of the contrast that the others were registered to.
        registrations: To the reference; None for the reference, and where none was found.
        apart: Why a contrast was segmented apart, by its number.
        agreement: Of each pair of contrasts.
    """

    fused: list[Segmentation]
    alone: list[Segmentation]
    reference: int
    registrations: list[RigidRegistration | None]
    apart: dict[int, str]
    agreement: list[Agreement]


def segment_together(
    images: Sequence[str | Path | Volume | Any],
    model: str | Path | Model = "default",
    *,
    fusion: Fusion = "probability",
    options: SegmentOptions | None = None,
    **changes: Any,
) -> Together:
    """Find the lesion of one patient in all contrasts that there are.

    Args:
        images: One or more scans of one patient, as for `anystroke.segment`; grids and positions may differ.
        model: As for `anystroke.segment`.
        fusion: ``"probability"``: mean of what the networks say. ``"logit"``: mean of its log-odds, as
            the published ensembles do; one contrast that is sure weighs more.
        options: As for `anystroke.segment`.
        **changes: Fields of the options.

    Returns:
        A result for each contrast, with registrations and agreement.

    Raises:
        VolumeError: An image cannot be used.
        OptionError: There is no image, or an option is out of range.

    Example:
        >>> segment_together(["T1w.nii.gz", "FLAIR.nii.gz"]).fused[1].lesion_volume  # doctest: +SKIP
        12.3
    """
    if not images:
        raise OptionError("expected at least one image to segment, got none")
    if fusion not in get_args(Fusion):
        raise OptionError(f"the fusion is 'probability' or 'logit', got {fusion!r}")
    chosen = SegmentOptions.of(options, changes)
    opened = model if isinstance(model, Model) else Model.open(model)
    alone = [segment(image, opened, chosen) for image in images]
    return fuse(alone, fusion=fusion)


def fuse(
    alone: Sequence[Segmentation],
    *,
    fusion: Fusion = "probability",
    names: Sequence[str] = (),
    frames: Sequence[str] = (),
) -> Together:
    """Register the contrasts of one patient and fuse what each says alone.

    Args:
        alone: One result for each contrast.
        fusion: As for `segment_together`.
        names: What to call the contrasts; by default their numbers.
        frames: Of each contrast, what names its coordinate system; those of one system, and those on one
            grid, are believed to lie where they say.

    Returns:
        As `segment_together`.

    Warns:
        PredictionWarning: A contrast is left apart.
    """
    scans = [result.scan for result in alone]
    names = names or [f"contrast {i + 1}" for i in range(len(alone))]
    reference = min(range(len(scans)), key=lambda i: (max(scans[i].spacing), scans[i].voxel_volume, i))
    registrations: list[RigidRegistration | None] = [None] * len(scans)
    apart: dict[int, str] = {}
    for i, scan in enumerate(scans):
        if i == reference:
            continue
        one_frame = bool(frames) and frames[i] != "" and frames[i] == frames[reference]
        registrations[i], problem = _registered(scan, scans[reference], one_frame=one_frame)
        if problem:
            apart[i] = problem
    for i, reason in apart.items():
        warnings.warn(
            f"{names[i]} does not register to {names[reference]} ({reason}) and is segmented apart; check "
            "that both are of one patient",
            PredictionWarning,
            stacklevel=2,
        )
    worlds = [torch.eye(4, dtype=torch.float64) if found is None else found.affine for found in registrations]
    group = [i for i in range(len(scans)) if i not in apart]
    fused = [
        _fused(i, group, alone, worlds, fusion) if i in group and len(group) > 1 else alone[i]
        for i in range(len(scans))
    ]
    agreement = [
        Agreement(
            i,
            j,
            _dice(alone[i].mask, moved(alone[j].mask, worlds[j], worlds[i]))
            if {i, j} <= set(group)
            else None,
            alone[i].lesion_volume,
            alone[j].lesion_volume,
        )
        for i, j in combinations(range(len(scans)), 2)
    ]
    fused = [
        replace(
            result,
            reasons=(*result.reasons, *reasons_between(i, [astuple(a) for a in agreement], apart, names)),
        )
        for i, result in enumerate(fused)
    ]
    return Together(fused, list(alone), reference, registrations, apart, agreement)


def _registered(scan: Volume, reference: Volume, *, one_frame: bool) -> tuple[RigidRegistration | None, str]:
    """Find where a contrast lies, and say why not to believe it."""
    if scan.grid.difference(reference.grid, tolerance=_ONE_GRID) is None:
        return RigidRegistration.identity(), ""
    try:
        found = register_rigid(scan, reference)
    except RegistrationError as error:
        return (RigidRegistration.identity(), "") if one_frame else (None, str(error))
    return (RigidRegistration.identity(), "") if found.problem and one_frame else (found, found.problem)


def moved(volume: Volume, world: Tensor, target_world: Tensor) -> Volume:
    """Carry a volume from its own world to that of another contrast; no voxel changes.

    Args:
        volume: Any volume.
        world: (4, 4) from its world to the reference's.
        target_world: (4, 4) from the other contrast's world to the reference's.
    """
    return replace(volume, affine=torch.linalg.inv(target_world) @ world @ volume.affine)


def _fused(
    i: int,
    group: Sequence[int],
    alone: Sequence[Segmentation],
    worlds: Sequence[Tensor],
    fusion: Fusion,
) -> Segmentation:
    """Fuse all contrasts on the grid of one: the mean over those whose field of view holds the voxel.

    What that means as a probability is known where it is the same for all of them.
    """
    own = alone[i]
    total = _scale(own.prediction.probability.data, fusion)
    weight = torch.ones_like(total)
    for j in group:
        if j == i:
            continue
        other = moved(alone[j].prediction.probability, worlds[j], worlds[i])
        seen = replace(other, data=torch.ones_like(other.data)).resample_to(own.scan.affine, own.scan.shape)
        values = other.resample_to(own.scan.affine, own.scan.shape, antialias=True).data.clamp(0, 1)
        inside = seen.data > 0.5
        total += torch.where(inside, _scale(values, fusion), 0.0)
        weight += inside.float()
    mean = total / weight
    data = torch.sigmoid(mean) if fusion == "logit" else mean
    data = torch.where(data < 2 * _SMALLEST_PROBABILITY, 0.0, data) if fusion == "logit" else data
    probability = replace(own.prediction.probability, data=data)
    curve = own.prediction.curve
    if any(alone[j].prediction.curve != curve for j in group):
        curve = None
    threshold = threshold_said(own.model.config, own.options, curve)
    mask = mask_of(probability, own.model.config, threshold, own.options.min_volume)
    volume, _ = tally(mask)
    interval = interval_of(probability, mask, own.model.config, threshold)
    reasons = reasons_not_to_trust(scan=own.scan, volume_ml=volume, interval=interval, brain=own.brain)
    # What is said of the image alone stays true; what is said of the volume is said anew. The risk was
    # measured for masks of one contrast.
    of_mask = reason_of(own.risk) if own.risk is not None else ""
    kept = tuple(
        reason for reason in own.reasons if "volume is uncertain" not in reason and reason != of_mask
    )
    return replace(
        own,
        prediction=replace(
            own.prediction,
            probability=probability,
            mask=mask,
            threshold=threshold,
            first=None,
            parts=None,
            curve=curve,
        ),
        interval=interval,
        reasons=tuple(dict.fromkeys((*kept, *reasons))),
        risk=None,
    )


def _scale(probability: Tensor, fusion: Fusion) -> Tensor:
    if fusion == "probability":
        return probability.clone()
    return torch.logit(probability.clamp(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY))


def _dice(mask: Volume, other: Volume) -> float:
    """Compute the overlap of two masks on the grid of the first."""
    share = replace(other, data=other.data.float()).resample_to(mask.affine, mask.shape, antialias=True).data
    first, second = mask.data > 0, share >= 0.5
    both = float((first & second).sum())
    total = float(first.sum() + second.sum())
    return 2 * both / total if total else 1.0
