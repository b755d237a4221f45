"""What a network is judged on while it learns: simulated patients, and apart from them real scans."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.anatomy.lesions.stages import Stage
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.lesion_wise import match_lesions
from anystroke.evaluation.metrics.overlap import dice
from anystroke.io.labelled import LabelledScan
from anystroke.learning.task import ValidationRow, Verdict
from anystroke.simulation.cohorts import Cohort, Member, Pack, drawn_masks, no_masks, visible_lesion
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.predict import Model, segment

JUDGED_STAGES: tuple[Stage, ...] = ("acute", "subacute", "chronic")
SMALLEST_ML = 1.0
SCORE = "score"
"""Column of `summarise_scores` that the best model has most of."""

_FALSE_WEIGHT = 0.5
_FALSE_HALF_ML = 1.0
_NEIGHBOURS = np.ones((3, 3, 3))
_HEAD_MM = (192.0, 224.0, 192.0)


@dataclass(frozen=True)
class JudgedPatient:
    """One scan with its truth.

    Attributes:
        scan: The image.
        truth: (X, Y, Z) bool, the lesion.
        groups: What results are summed up by, such as ``weighting`` -> ``"FLAIR"``.
        ignored: (X, Y, Z) bool, lesions that nobody could see, no part of ``truth``; None for nowhere. A
            mask is neither right nor wrong there.
    """

    scan: Volume
    truth: Tensor
    groups: dict[str, str]
    ignored: Tensor | None = None

    @property
    def adc(self) -> bool:
        """Whether the scan is known to be an ADC map, as files are by their names."""
        return self.groups.get("weighting") == "ADC"

    def judged(self, mask: Tensor) -> Tensor:
        """Return the part of a mask that is right or wrong.

        That is all but what is ignored. A connected part (26 neighbours) of which at least half is ignored
        and none is right is left out as a whole: its rim is no false lesion.

        Args:
            mask: (X, Y, Z) bool.
        """
        if self.ignored is None or not bool((mask & self.ignored).any()):
            return mask
        ignored = self.ignored.numpy()
        labels, count = ndimage.label(mask.numpy(), structure=_NEIGHBOURS)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        unseen = np.bincount(labels[ignored], minlength=count + 1)
        right = np.bincount(labels[self.truth.numpy()], minlength=count + 1)
        kept = (2 * unseen < sizes) | (right > 0)
        kept[0] = False
        return torch.from_numpy(kept[labels] & ~ignored)


@dataclass(frozen=True)
class Score:
    """How one scan was segmented.

    Attributes:
        groups: Those of the patient.
        dice: Of the lesion; NaN without one.
        f1: Lesion-wise F1 (26 neighbours, any overlap); NaN without a lesion.
        volume: Of the mask [ml].
        truth: Of the lesion [ml].
    """

    groups: dict[str, str]
    dice: float
    f1: float
    volume: float
    truth: float


@dataclass(frozen=True)
class PatientOptions:
    """What simulated patients and their scans are drawn from.

    Attributes:
        preset: Protocols.
        priors: Tissue properties.
        lesions: Which lesions patients with one have.
        stages: How old these are.
        smallest_ml: How much of them can be seen at least [ml].
    """

    preset: str = "realistic"
    priors: str = "literature"
    lesions: LesionSettings = field(default_factory=lambda: LesionSettings(absent=0.0))
    stages: tuple[Stage, ...] = JUDGED_STAGES
    smallest_ml: float = SMALLEST_ML


ANY_PATIENTS = PatientOptions()
SHOWERS = PatientOptions(lesions=LesionSettings(absent=0.0, emboli=1.0), stages=("acute",), smallest_ml=0.1)
"""Showers of small emboli on acute scans."""


def simulated_patients(
    pack: Pack,
    *,
    count: int,
    healthy: int,
    seed: int,
    weightings: Sequence[str],
    spacing: float = 2.0,
    options: PatientOptions = ANY_PATIENTS,
) -> Iterator[JudgedPatient]:
    """Simulate a fixed set of patients, each with the whole head in the field of view.

    One after the other takes the next contrast; all contrasts done, the next stage; all stages done, skull
    instead of none. So does the count of patients that shows every combination once: contrasts x stages x 2.

    Args:
        pack: Anatomies, of which each patient is one, in turn, and lesion masks.
        count: Patients with a lesion that can be seen; what cannot is ignored.
        healthy: Patients without.
        seed: Decides all that is random.
        weightings: Contrasts.
        spacing: Voxel size in mm.
        options: What they are drawn from.

    Raises:
        ValueError: There is no anatomy, or no mask gives a lesion that large.
    """
    if not pack.anatomies or (count and not pack.masks):
        raise ValueError(
            f"expected anatomies and lesion masks to validate with, got {len(pack.anatomies)} and "
            f"{len(pack.masks)}; hold some out with data.held_out_anatomies and data.held_out_lesions"
        )
    x, y, z = (16 * math.ceil(side / spacing / 16) for side in _HEAD_MM)
    plain = SynthesisSettings(
        preset=options.preset,
        priors=options.priors,
        spacing=spacing,
        shapes=((x, y, z),),
        lesions=options.lesions,
        cut=0.0,
    )
    generators = {
        stripped: Generator(plain.model_copy(update={"skull_strip": float(stripped)}), pack.masks)
        for stripped in (False, True)
    }
    combinations = [
        (weighting, stage, stripped)
        for stripped in (False, True)
        for stage in options.stages
        for weighting in weightings
    ]
    members, groups = [], []
    for number in range(count + healthy):
        weighting, stage, stripped = combinations[number % len(combinations)]
        ill = number < count
        members.append(
            Member(
                partial(generators[stripped].generate, stage=stage, weighting=weighting),
                ("validation", number),
                lesions=drawn_masks(pack.masks, plain.lesions, weighting=weighting) if ill else no_masks,
                anatomy=number % len(pack.anatomies),
                smallest_ml=options.smallest_ml if ill else 0.0,
                visible=True,
            )
        )
        groups.append(
            {
                "set": "simulated" if ill else "healthy",
                "weighting": weighting,
                "stage": stage if ill else "none",
                "skull": "no" if stripped else "yes",
            }
        )
    for sample, group in zip(Cohort(pack.anatomies, members, seed), groups, strict=True):
        yield JudgedPatient(
            Volume(sample.image[None], sample.affine), visible_lesion(sample), group, sample.unseen
        )


def real_patients(scans: Sequence[LabelledScan]) -> Iterator[JudgedPatient]:
    """Load labelled scans, one after the other.

    Raises:
        VolumeError: A scan cannot be used.
    """
    for scan in scans:
        image, mask, _ = scan.load()
        yield JudgedPatient(image, mask.data[0] > 0, {"set": "real", "scan": scan.name})


def judge(model: Model, patients: Sequence[JudgedPatient] | Iterator[JudgedPatient]) -> list[Score]:
    """Segment each scan and compare.

    Args:
        model: The network with its configuration.
        patients: Scans with their truth.
    """
    return [
        score_mask(segment(patient.scan, model, adc=patient.adc).mask.data[0] > 0, patient)
        for patient in patients
    ]


def score_mask(mask: Tensor, patient: JudgedPatient) -> Score:
    """Compare a mask with the truth, where it counts.

    Args:
        mask: Boolean (X, Y, Z), on the grid of the patient's scan.
        patient: With the truth.
    """
    mask = patient.judged(mask)
    truth = float(patient.truth.sum()) * patient.scan.voxel_volume
    volume = float(mask.sum()) * patient.scan.voxel_volume
    overlap = match = math.nan
    if truth > 0:
        overlap = dice(mask, patient.truth)
        match = match_lesions(mask, patient.truth, voxel_ml=patient.scan.voxel_volume).f1()
    return Score(patient.groups, overlap, match, volume, truth)


def score_of(dice: Sequence[float], f1: Sequence[float], false: Sequence[float]) -> float:
    r"""Return by which models and thresholds are chosen: lesions found, and nothing where there is none.

    That is the mean of mean Dice and mean lesion-wise F1, less
    :math:`0.5\,\mathrm{mean}(v / (v + 1\,\mathrm{ml}))`. So large masks in all patients without a lesion cost
    as much as half of the lesions: a clinic scans many people who have none.

    Args:
        dice: Of patients with a lesion.
        f1: Lesion-wise, of the same.
        false: Volumes :math:`v` of the masks of patients without a lesion [ml].

    Example:
        >>> round(score_of([0.8, 0.4], [1.0, 0.0], [0.0, 1.0]), 3)
        0.425
    """
    penalty = _FALSE_WEIGHT * _mean([ml / (ml + _FALSE_HALF_ML) for ml in false]) if false else 0.0
    return (_mean(dice) + _mean(f1)) / 2 - penalty


def summarise_scores(scores: Sequence[Score]) -> Verdict:
    """Return one row per group: its number of scans, Dice, F1, missed lesions, volume and score.

    Without a lesion the volume is false positive; with one it is the difference to the truth. For the score
    see `score_of`; false volumes of all patients of the set ``"healthy"`` count in it for simulated ones.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        of = score.groups["set"]
        groups.setdefault((of, "all"), []).append(score)
        for name, value in score.groups.items():
            if name != "set":
                groups.setdefault((of, f"{name} {value}"), []).append(score)
    rows: Verdict = []
    false = [score.volume for score in groups.get(("healthy", "all"), [])]
    order = sorted(groups, key=lambda key: (key[0] == "healthy", key[0], key[1] != "all", key[1]))
    for of, group in order:
        members = groups[of, group]
        lesions = [score for score in members if score.truth > 0]
        difference = [abs(score.volume - score.truth) for score in members]
        row: ValidationRow = {"set": of, "group": group, "scans": len(members)}
        overlap, match = [score.dice for score in lesions], [score.f1 for score in lesions]
        row["median_dice"], row["mean_dice"], row["mean_f1"] = _middle(overlap), _mean(overlap), _mean(match)
        row["missed"] = sum(score.dice == 0 for score in lesions)
        row["median_volume_error_ml"] = _middle(difference)
        row[SCORE] = score_of(overlap, match, false if of == "simulated" else [])
        rows.append(row)
    return rows


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
