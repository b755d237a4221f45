"""Masks of simulated patients whose truth is known: their signs, and whether they fail."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionMask
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.evaluation.metrics.overlap import dice
from anystroke.simulation.cohorts import held_out_pack, load_pack
from anystroke.simulation.generator import Generator
from anystroke.tasks.segmentation.difficulties import draw_patient
from anystroke.tasks.segmentation.kept_rows import add_row, read_rows
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment
from anystroke.tasks.segmentation.risk import LARGEST_FALSE_ML, SMALLEST_DICE
from anystroke.tasks.segmentation.signs import signs_of
from anystroke.tasks.segmentation.trust import WIDE
from anystroke.tasks.segmentation.validate import JudgedPatient

_NEIGHBOURS = np.ones((3, 3, 3))

OnPatient = Callable[[str, int, int], None]
"""Told what was done with how many of how many patients."""


@dataclass(frozen=True)
class Observation:
    """One mask whose truth is known.

    Attributes:
        signs: Of the prediction.
        failed: Whether the mask did.
        reasons: Why not to trust the mask, but for the risk and the width of the interval, which is one of
            the signs.
        groups: Those of the patient.
        dice: Of the visible lesion; None where there is none.
        false_ml: In parts of the mask that meet no lesion.
        volume_ml: Of the mask.
    """

    signs: dict[str, float]
    failed: bool
    reasons: tuple[str, ...]
    groups: dict[str, str]
    dice: float | None
    false_ml: float
    volume_ml: float


@dataclass(frozen=True)
class PatientSet:
    """Which patients are simulated, from easy to hopeless.

    Attributes:
        pack: Data folder of a training run.
        count: How many.
        seed: Of all of them.
        held_out: Take the anatomies and lesions that the training never saw.
    """

    pack: Path
    count: int
    seed: int
    held_out: bool = False

    def load(self) -> tuple[Sequence[Anatomy], Sequence[LesionMask]]:
        """Load what they are made of.

        Raises:
            OSError: A file is missing.
        """
        made_of = held_out_pack(self.pack) if self.held_out else load_pack(self.pack)
        return made_of.anatomies, made_of.masks


def failure(mask: Tensor, patient: JudgedPatient, *, voxel_ml: float) -> tuple[bool, float | None, float]:
    """Tell whether a mask fails.

    Args:
        mask: (X, Y, Z) bool.
        patient: With the truth; a mask is neither right nor wrong where it is ignored.
        voxel_ml: Volume of a voxel [ml].

    Returns:
        Whether Dice is below 0.3 where there is a visible lesion, or 5 ml or more lie in connected parts (26
        neighbours) that meet none; that Dice, None without a lesion; and those millilitres.
    """
    judged = patient.judged(mask)
    truth = patient.truth
    labels, count = ndimage.label(judged.numpy(), structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    right = np.bincount(labels[truth.numpy()], minlength=count + 1)
    false_ml = float(sizes[1:][right[1:] == 0].sum()) * voxel_ml
    overlap = dice(judged, truth) if bool(truth.any()) else None
    return (
        (overlap is not None and overlap < SMALLEST_DICE) or false_ml >= LARGEST_FALSE_ML,
        overlap,
        false_ml,
    )


def observe(model: Model, patient: JudgedPatient) -> Observation:
    """Segment a patient, and note the signs and whether the mask fails."""
    plain = Model(
        model.network,
        model.config.model_copy(update={"risk": None, "part_model": None}),
        model.sha256,
        model.second_network,
    )
    return observation_of(segment(patient.scan, plain, device="cpu", adc=patient.adc), patient)


def observation_of(found: Segmentation, patient: JudgedPatient) -> Observation:
    """Note the signs of a segmentation, and whether the mask fails."""
    failed, overlap, false_ml = failure(found.mask.data[0] > 0, patient, voxel_ml=found.mask.voxel_volume)
    return Observation(
        signs=signs_of(found.prediction, found.model.config, scan=found.scan),
        failed=failed,
        reasons=tuple(reason for reason in found.reasons if not reason.startswith(WIDE)),
        groups=patient.groups,
        dice=overlap,
        false_ml=false_ml,
        volume_ml=found.lesion_volume,
    )


def observe_all(
    model: Model,
    patients: PatientSet,
    *,
    kept: Path | None = None,
    on_patient: OnPatient = lambda what, done, total: None,
) -> list[Observation]:
    """Simulate and segment patients.

    Args:
        model: The network.
        patients: Which.
        kept: A file of JSON lines that every observation is added to at once; those of the same model and
            patients that are there already are not made again.
        on_patient: Told of each patient.

    Returns:
        The observations by number of the patient.

    Raises:
        OSError: A file of the pack is missing, or the observations cannot be written.
        ValueError: The pack is empty.
        KeptRowsError: ``kept`` holds something else.
    """
    anatomies, masks = patients.load()
    depends = _depends(model, patients)
    known = read_rows(kept, depends) if kept is not None else {}
    generators: dict[str, Generator] = {}
    found = []
    for number in range(patients.count):
        if number in known:
            observation = _observation(known[number])
        else:
            patient = draw_patient(
                anatomies,
                masks,
                number=number,
                seed=patients.seed,
                spacing=model.config.spacing,
                generators=generators,
            )
            observation = observe(model, patient)
            if kept is not None:
                add_row(kept, depends, number, asdict(observation))
        found.append(observation)
        on_patient("judged", number + 1, patients.count)
    return found


def _depends(model: Model, patients: PatientSet) -> list[Any]:
    """Return what observations depend on."""
    config = model.config.model_dump_json(
        exclude={"risk", "training", "part_model", "calibrated_alone", "calibrated_together"}
    )
    digest = hashlib.sha256(f"{model.sha256} {config}".encode()).hexdigest()
    return [digest, patients.seed, patients.held_out]


def _observation(row: dict[str, Any]) -> Observation:
    return Observation(**row | {"reasons": tuple(row["reasons"])})
