"""Calibrate a model on simulated patients: its probabilities, its mask and the interval of its volume."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.errors import AnystrokeError
from anystroke.core.volume import Grid, Volume
from anystroke.evaluation.metrics.lesion_wise import match_lesions
from anystroke.evaluation.metrics.overlap import dice
from anystroke.io.labelled import LabelledScan
from anystroke.models.model_space import to_model_space
from anystroke.models.volume_interval import FEWEST, VolumeErrors, expected_volume, fit_volume_errors
from anystroke.simulation.cohorts import load_pack
from anystroke.tasks.segmentation.calibration_curve import CalibrationCurve, LogOddsCounts
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.lesions_found import ComparedPart, volumes_of_parts
from anystroke.tasks.segmentation.mask import keep_certain, predict
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.second_look import is_fine_enough
from anystroke.tasks.segmentation.small_parts import SmallParts, mask_at
from anystroke.tasks.segmentation.validate import (
    JudgedPatient,
    real_patients,
    score_of,
    simulated_patients,
)
from anystroke.tasks.segmentation.views import averaged, logits_of_views

TEMPERATURES = (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0)
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
CERTAINTIES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CALIBRATION_WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI", "ADC")
LEARNT_FROM = "finetuned_on"
"""Key of a configuration's record of the training: names of the scans that were learnt from."""
FEWEST_SCANS = 5
"""Real scans with a lesion that are needed to choose a temperature."""
FEWEST_FOR_MASKS = 20
"""Those that are needed to choose a threshold too."""
_SMALLEST_PROBABILITY = 1e-7
_NEIGHBOURS = np.ones((3, 3, 3))


class CalibrationError(AnystrokeError):
    """Scans that a model cannot be calibrated on; the message says why and what to do."""


OnPatient = Callable[[str, int, int], None]
"""Told what was done with how many of how many patients."""


@dataclass(frozen=True)
class Choices:
    """Values to choose among; one alone is kept, and what is measured is measured with it.

    Attributes:
        temperatures: Beside the model's own, unless there is one alone.
        thresholds: Of the mask.
        certainties: What a part of the mask must reach somewhere.
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    thresholds: tuple[float, ...] = THRESHOLDS
    certainties: tuple[float, ...] = CERTAINTIES


ALL_CHOICES = Choices()


@dataclass(frozen=True)
class Calibration:
    """What was chosen and on what grounds.

    Attributes:
        temperature: With which the log loss is least.
        threshold: With ``certain`` that of the best score, see
            `anystroke.tasks.segmentation.validate.score_of`.
        certain: What a part of the mask must reach somewhere.
        volume_errors: For intervals of the volume; None if they were never measured.
        lesion_errors: For those of single lesions; None if too few were found.
        log_loss: Per voxel, before and after.
        score: Before and after.
        mean_dice: Of patients with a lesion, before and after.
        mean_f1: Lesion-wise, likewise.
        false_volume: Median volume of the masks of patients without a lesion [ml], before and after; None if
            there was none.
        patients: How many there were.
        chosen: What they were enough for; the rest is as it was.
        calibrated_alone: What probabilities of the first network mean; None if patients were too few for it
            and another temperature was chosen.
        calibrated_together: The same after a second look; None without one, too.
    """

    temperature: float
    threshold: float
    certain: float
    volume_errors: VolumeErrors | None
    lesion_errors: VolumeErrors | None
    log_loss: tuple[float, float]
    score: tuple[float, float]
    mean_dice: tuple[float, float]
    mean_f1: tuple[float, float]
    false_volume: tuple[float, float] | None
    patients: int
    chosen: tuple[str, ...] = ("temperature", "thresholds", "intervals")
    calibrated_alone: CalibrationCurve | None = None
    calibrated_together: CalibrationCurve | None = None

    def applied_to(self, config: SegmentationConfig) -> SegmentationConfig:
        """Return the configuration of a model with what was chosen; its risks would be of other masks.

        What was learnt of parts of masks stays where masks stay as they were.
        """
        chosen = (self.temperature, self.threshold, self.certain)
        same_masks = chosen == (config.temperature, config.threshold, config.certain)
        record = {
            "patients": self.patients,
            "log_loss": self.log_loss,
            "score": self.score,
            "mean_dice": self.mean_dice,
            "mean_f1": self.mean_f1,
            "false_volume_ml": self.false_volume,
        }
        return config.model_copy(
            update={
                "temperature": self.temperature,
                "threshold": self.threshold,
                "certain": self.certain,
                "calibrated_alone": self.calibrated_alone,
                "calibrated_together": self.calibrated_together,
                "volume_errors": self.volume_errors,
                "lesion_errors": self.lesion_errors,
                "risk": None,
                "part_model": config.part_model if same_masks else None,
                "training": {**config.training, "calibration": record},
            }
        )


def calibrate(
    model: Model,
    pack: Path,
    *,
    patients: int = 200,
    seed: int = 2027,
    choices: Choices = ALL_CHOICES,
    on_patient: OnPatient = lambda what, done, total: None,
) -> Calibration:
    """Choose temperature, threshold and smallest certainty, and measure what depends on them.

    That is the errors of the volume, and what probabilities mean. A fifth of the patients has no lesion.
    Every fourth patient takes part in choosing the temperature. What is ignored in a patient counts nowhere.

    Args:
        model: What to calibrate.
        pack: Data folder of a training run; its training anatomies and masks are used, so that the ones held
            out stay unseen.
        patients: How many to simulate, 50 or more.
        seed: Of the patients.
        choices: Values to choose among.
        on_patient: Told of each patient.

    Raises:
        OSError: A file of the pack is missing.
        ValueError: Too few patients.

    Source:
        Temperature: Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    if patients < 50:
        raise ValueError(f"expected at least 50 patients to calibrate with, got {patients}")
    healthy = patients // 5
    everyone = []
    for patient in simulated_patients(
        load_pack(pack),
        count=patients - healthy,
        healthy=healthy,
        seed=seed,
        weightings=CALIBRATION_WEIGHTINGS,
        spacing=model.config.spacing,
    ):
        everyone.append(patient)
        on_patient("simulated", len(everyone), patients)
    return chosen_on(model, everyone, everyone[::4], on_patient, choices=choices)


class LabelledPatients(Sequence[JudgedPatient]):
    """Labelled scans, each read when it is asked for.

    Args:
        scans: With masks.
    """

    def __init__(self, scans: Sequence[LabelledScan]) -> None:
        self.scans = scans

    def __len__(self) -> int:
        return len(self.scans)

    @overload
    def __getitem__(self, index: int) -> JudgedPatient: ...

    @overload
    def __getitem__(self, index: slice) -> "LabelledPatients": ...

    def __getitem__(self, index: int | slice) -> "JudgedPatient | LabelledPatients":
        if isinstance(index, slice):
            return LabelledPatients(self.scans[index])
        return next(real_patients([self.scans[index]]))


def calibrate_on_scans(
    model: Model,
    scans: Sequence[LabelledScan],
    *,
    on_patient: OnPatient = lambda what, done, total: None,
) -> Calibration:
    """Choose on labelled scans what they are enough for; the rest stays as it is.

    The temperature can be chosen on a few scans. Threshold and smallest certainty are chosen on
    ``FEWEST_FOR_MASKS`` scans with a lesion or more, and the errors of volumes are measured on 40.

    Args:
        model: What to calibrate.
        scans: Scans with masks that the model has not learnt from.
        on_patient: Told of each scan.

    Raises:
        CalibrationError: There are fewer than ``FEWEST_SCANS`` scans with a lesion, or the model has learnt
            from one of them.
    """
    learnt = set(model.config.training.get(LEARNT_FROM, []))
    if known := [scan.name for scan in scans if scan.name in learnt]:
        raise CalibrationError(
            f"the model has learnt from {len(known)} of these scans, such as {known[0]}, and is too sure of "
            "them; calibrate it on others"
        )
    return chosen_on(model, LabelledPatients(scans), LabelledPatients(scans), on_patient, real=True)


def chosen_on(
    model: Model,
    everyone: Sequence[JudgedPatient],
    scored: Sequence[JudgedPatient],
    on_patient: OnPatient,
    *,
    choices: Choices = ALL_CHOICES,
    real: bool = False,
) -> Calibration:
    """Choose temperature, threshold and smallest certainty on patients, and measure the errors of the volume.

    All three are the first network's, and chosen without a second look. What is measured with them is what
    the model makes of a scan, its second look included.

    Args:
        model: What to calibrate.
        everyone: The patients.
        scored: Those of them that take part in choosing the temperature.
        on_patient: Told of each patient.
        choices: Values to choose among.
        real: Keep what the patients are too few for.
    """
    thresholds, certainties = choices.thresholds, choices.certainties
    temperature, log_loss = _choose_temperature(model, scored, choices.temperatures, on_patient)
    plain = model.config.model_copy(update={"temperature": temperature, "certain": 0.0, "part_model": None})
    as_used = model.config.model_copy(update={"temperature": temperature, "part_model": None})
    before, alone, together, expected, true = [], [], [], [], []
    parts: list[list[ComparedPart]] = [[] for _ in thresholds]
    counts_alone, counts_together = LogOddsCounts(), LogOddsCounts()
    small_parts, least_alone = model.config.small_parts, model.config.certain_alone
    for number, patient in enumerate(everyone, start=1):
        ml = patient.scan.voxel_volume
        looked_at = partial(predict, patient.scan, model.network, adc=patient.adc)
        said = looked_at(model.config, second_network=model.second_network)
        before.append(_judged(said.mask.data[0] > 0, patient, ml))
        if temperature != model.config.temperature:
            said = looked_at(as_used, second_network=model.second_network)
        (counts_alone if said.first is None else counts_together).add(
            said.probability.data[0], patient.truth, patient.ignored
        )
        if said.first is not None:
            counts_alone.add(said.first.data[0], patient.truth, patient.ignored)
        probability = first = looked_at(plain).probability
        alone.append(_judged_masks(probability.data[0], patient, ml, small_parts, choices))
        together.append(alone[-1])
        least = 0.0
        if model.second_network is not None and is_fine_enough(patient.scan.spacing, model.config.spacing):
            probability = looked_at(plain, second_network=model.second_network).probability
            least = model.config.certain_together
            together[-1] = _judged_masks(
                probability.data[0], patient, ml, small_parts, choices, least, (first.data[0], least_alone)
            )
        if patient.ignored is not None:
            probability = replace(probability, data=probability.data.masked_fill(patient.ignored, 0))
        for found, threshold in zip(parts, thresholds, strict=True):
            marked = mask_at(probability.data[0], threshold, small_parts, voxel_ml=ml)
            kept = keep_certain(patient.judged(marked)[None], probability.data, least)
            if least:
                kept = keep_certain(kept, first.data, least_alone)
            found += volumes_of_parts(Volume(kept, probability.affine), probability, patient.truth)
        expected.append(expected_volume(probability))
        true.append(float(patient.truth.sum()) * ml)
        on_patient("segmented", number, len(everyone))
    # Axes: patients, thresholds, certainties; Dice, F1, volume and sureness.
    without, judged = np.array(alone), np.array(together)
    ill = np.array(true) > 0
    scores = [
        [_score(without[:, i, j], ill) for j in range(len(certainties))] for i in range(len(thresholds))
    ]
    i, j = np.unravel_index(int(np.argmax(scores)), (len(thresholds), len(certainties)))
    both = (np.array(before), judged[:, i, j, :3])
    central = [marked or faint for marked, faint in zip(judged[:, i, j, 2].tolist(), expected, strict=True)]
    enough = len(true) >= FEWEST
    measured = model.config
    if temperature != measured.temperature:
        measured = measured.model_copy(update={"calibrated_alone": None, "calibrated_together": None})
    chosen = Calibration(
        temperature=temperature,
        threshold=thresholds[i],
        certain=certainties[j],
        volume_errors=fit_volume_errors(central, true, judged[:, i, j, 3].tolist())
        if enough
        else model.config.volume_errors,
        lesion_errors=_lesion_errors(parts[i], certainties[j]),
        log_loss=log_loss,
        score=_twice(both, lambda each: _score(each, ill)),
        mean_dice=_twice(both, lambda each: float(each[ill, 0].mean())),
        mean_f1=_twice(both, lambda each: float(each[ill, 1].mean())),
        false_volume=_twice(both, lambda each: float(np.median(each[~ill, 2]))) if not ill.all() else None,
        patients=len(everyone),
        calibrated_alone=(counts_alone.curve() if enough else None) or measured.calibrated_alone,
        calibrated_together=(counts_together.curve() if enough else None) or measured.calibrated_together,
    )
    return _enough(chosen, model, int(ill.sum()), both[0], ill) if real else chosen


def _enough(found: Calibration, model: Model, ill: int, before: Array, is_ill: Array) -> Calibration:
    """Keep what so few real patients with a lesion are not enough to choose."""
    config = model.config
    if ill < FEWEST_SCANS:
        raise CalibrationError(
            f"expected at least {FEWEST_SCANS} scans with a lesion to calibrate with, got {ill}; label more"
        )
    if found.lesion_errors is None:
        found = replace(found, lesion_errors=config.lesion_errors)
    enough = {"temperature": True, "thresholds": ill >= FEWEST_FOR_MASKS, "intervals": len(is_ill) >= FEWEST}
    found = replace(found, chosen=tuple(name for name, is_chosen in enough.items() if is_chosen))
    if ill >= FEWEST_FOR_MASKS:
        return found
    same = (before, before)
    return replace(
        found,
        threshold=config.threshold,
        certain=config.certain,
        score=_twice(same, lambda each: _score(each, is_ill)),
        mean_dice=_twice(same, lambda each: float(each[is_ill, 0].mean())),
        mean_f1=_twice(same, lambda each: float(each[is_ill, 1].mean())),
        false_volume=None if found.false_volume is None else (found.false_volume[0], found.false_volume[0]),
    )


def _score(judged: Array, ill: Array) -> float:
    """Return the score of some masks: (patients, 3) Dice, F1 and volume, and (patients,) with a lesion."""
    return score_of(judged[ill, 0].tolist(), judged[ill, 1].tolist(), judged[~ill, 2].tolist())


def _twice(both: tuple[Array, Array], of: Callable[[Array], float]) -> tuple[float, float]:
    return round(of(both[0]), 4), round(of(both[1]), 4)


@torch.inference_mode()
def _choose_temperature(
    model: Model,
    patients: Sequence[JudgedPatient],
    temperatures: Sequence[float],
    on_patient: OnPatient,
) -> tuple[float, tuple[float, float]]:
    """Return the temperature of the least log loss, and the loss at the model's own and at this one.

    Of one temperature alone only the losses are found.
    """
    config = model.config
    tried, lesion = sorted({*temperatures, config.temperature}), config.classes.index("lesion")
    losses = []
    for number, patient in enumerate(patients, start=1):
        space = to_model_space(
            patient.scan, spacing=config.spacing, divisor=config.divisor, normalise=config.normalisation
        )
        x, y, z = space.image.shape[1:]
        logits = logits_of_views(patient.scan, space, model.network, config)
        row = []
        for temperature in tried:
            lesions = [
                replace(each, data=(each.data / temperature).softmax(0)[lesion][None]) for each in logits
            ]
            both = averaged(lesions, Grid((x, y, z), space.affine))
            row.append(_log_loss(space.to_native(both).data[0], patient))
        losses.append(row)
        on_patient("scored", number, len(patients))
    mean = [statistics.fmean(column) for column in zip(*losses, strict=True)]
    chosen = tried[mean.index(min(mean))] if len(temperatures) > 1 else temperatures[0]
    own, least = (mean[tried.index(each)] for each in (config.temperature, chosen))
    return chosen, (round(own, 6), round(least, 6))


def _log_loss(probability: Tensor, patient: JudgedPatient) -> float:
    right = torch.where(patient.truth, probability, 1 - probability).clamp_min(_SMALLEST_PROBABILITY)
    if patient.ignored is not None:
        right = right[~patient.ignored]
    return -float(right.log().mean(dtype=torch.float64))


def _judged_masks(
    probability: Tensor,
    patient: JudgedPatient,
    ml: float,
    small_parts: SmallParts | None = None,
    choices: Choices = ALL_CHOICES,
    least: float = 0.0,
    before: tuple[Tensor, float] | None = None,
) -> list[list[tuple[float, ...]]]:
    """Judge the mask of each threshold and smallest certainty, which is ``least`` or more.

    Parts must also reach a probability in another map, (X, Y, Z), where ``before`` names both.
    """
    truth = ndimage.label(patient.truth.numpy(), structure=_NEIGHBOURS)[0]
    counted = np.ones(truth.shape, bool) if patient.ignored is None else ~patient.ignored.numpy()
    true = truth[counted]
    lesions, voxels = len(np.unique(true[true > 0])), int((true > 0).sum())
    result: list[list[tuple[float, ...]]] = []
    for threshold in choices.thresholds:
        mask = mask_at(probability, threshold, small_parts, voxel_ml=ml)
        labels, count = ndimage.label(mask.numpy(), structure=_NEIGHBOURS)
        peaks = np.zeros(count + 1)
        if count:
            peaks[1:] = ndimage.maximum(probability.numpy(), labels, range(1, count + 1))
        if count and before is not None:
            once = ndimage.maximum(before[0].numpy(), labels, range(1, count + 1))
            peaks[1:][np.asarray(once) < before[1]] = 0
        found = labels[counted]
        sizes = np.bincount(found, minlength=count + 1)
        shared = np.bincount(found[true > 0], minlength=count + 1)
        sums = np.bincount(found, weights=probability.numpy()[counted], minlength=count + 1)
        meets = np.unique(np.stack([found, true])[:, (found > 0) & (true > 0)], axis=1)
        result.append([])
        for certain in choices.certainties:
            kept = (peaks >= max(certain, least)) & (peaks > 0) & (sizes > 0)
            marked, hit = int(sizes[kept].sum()), len(np.unique(meets[1, kept[meets[0]]]))
            sure = float(sums[kept].sum()) / marked if marked else 0.0
            if lesions:
                false = int((kept & (shared == 0)).sum())
                overlap = 2 * int(shared[kept].sum()) / (marked + voxels)
                result[-1].append((overlap, 2 * hit / (lesions + hit + false), marked * ml, sure))
            else:
                result[-1].append((float(marked == 0), float(marked == 0), marked * ml, sure))
    return result


def _lesion_errors(parts: Sequence[ComparedPart], certain: float) -> VolumeErrors | None:
    kept = [part for part in parts if part.highest_probability >= certain]
    if len(kept) < FEWEST:
        return None
    return fit_volume_errors(
        [part.volume for part in kept],
        [part.true_volume for part in kept],
        [part.mean_probability for part in kept],
    )


def _judged(mask: Tensor, patient: JudgedPatient, ml: float) -> tuple[float, float, float]:
    """Return Dice, lesion-wise F1, both 1 if there is neither lesion nor mask, and the mask's volume [ml]."""
    mask = patient.judged(mask)
    overlap = dice(mask, patient.truth, empty="perfect")
    if not bool(patient.truth.any()):
        return overlap, overlap, float(mask.sum()) * ml
    f1 = match_lesions(mask, patient.truth, voxel_ml=ml).f1()
    return overlap, f1, float(mask.sum()) * ml
