"""Learn from simulated patients which parts of a mask are lesions."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.errors import AnystrokeError
from anystroke.core.packs import content_sha256
from anystroke.simulation.cohorts import Pack, load_pack
from anystroke.tasks.segmentation.calibrate import CALIBRATION_WEIGHTINGS, OnPatient
from anystroke.tasks.segmentation.kept_rows import add_row, read_rows
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.part_probability import PART_SIGNS, PartModel, find_parts
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import SHOWERS, JudgedPatient, simulated_patients

FEWEST_FOR_PARTS = 50
"""Simulated patients that are needed."""
FEWEST_PARTS = 40
"""Parts that must be lesions, and parts that must not."""
_SHOWER_WEIGHTINGS = ("DWI", "DWI", "DWI", "FLAIR")
_FOLDS = 5
_INVERSE_PENALTY = 0.3
_SMALLEST_SD = 1e-6


class PartFitError(AnystrokeError):
    """A model whose parts cannot be judged; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class ObservedParts:
    """The parts of a mask whose truth is known.

    Attributes:
        signs: (parts, ``PART_SIGNS``).
        right: (parts,) bool, whether a part touches a lesion.
        counted: (parts,) bool, False where at least half is ignored and none is right.
    """

    signs: Array
    right: Array
    counted: Array


def fitting_patients(pack: Pack, count: int, *, seed: int, spacing: float) -> Iterator[JudgedPatient]:
    """Simulate patients to learn from: of five, three with any lesion, one with none, one with emboli.

    Args:
        pack: Anatomies and masks.
        count: How many.
        seed: Of all of them.
        spacing: Voxel size [mm].
    """
    showers, healthy = count // 5, count // 5
    yield from simulated_patients(
        pack,
        count=count - showers - healthy,
        healthy=healthy,
        seed=seed,
        weightings=CALIBRATION_WEIGHTINGS,
        spacing=spacing,
    )
    yield from simulated_patients(
        pack,
        count=showers,
        healthy=0,
        seed=seed + 1,
        weightings=_SHOWER_WEIGHTINGS,
        spacing=spacing,
        options=SHOWERS,
    )


def observe_parts(model: Model, patient: JudgedPatient) -> ObservedParts:
    """Segment a patient, and tell which parts of the mask are lesions.

    Args:
        model: With a second network and classes of the healthy brain.
        patient: With the truth.
    """
    config = model.config.model_copy(update={"part_model": None})
    both = predict(patient.scan, model.network, config, second_network=model.second_network, adc=patient.adc)
    assert both.brain is not None
    assert both.first is not None
    mask = both.mask.data[0] > 0
    found = find_parts(mask, both.probability, both.first, both.brain, patient.scan)

    def voxels(of: Tensor) -> Array:
        counts: Array = np.bincount(found.labels[of.numpy()], minlength=len(found) + 1)[1:]
        return counts

    right = voxels(patient.truth) > 0
    unseen = 0 * right if patient.ignored is None else voxels(patient.ignored)
    return ObservedParts(found.signs, right, right | (2 * unseen < voxels(mask)))


def learn_parts(
    model: Model,
    data: Path,
    *,
    patients: int,
    seed: int,
    kept: Path | None = None,
    on_patient: OnPatient = lambda what, done, total: None,
) -> PartModel:
    """Simulate patients, segment them, and fit how likely the parts of their masks are lesions.

    Args:
        model: With a second network.
        data: Data folder of a training run; its training anatomies and masks are used.
        patients: How many.
        seed: Of the patients.
        kept: A file of JSON lines that what was observed is added to at once; patients of the same model that
            are there already are not segmented again.
        on_patient: Told of each patient.

    Raises:
        PartFitError: The model has no second network or knows no brain; too few patients or parts.
        KeptRowsError: ``kept`` holds something else.
        OSError: A file of the data is missing, or ``kept`` cannot be written.
    """
    if model.second_network is None or not model.config.brain:
        raise PartFitError(
            f"the model {model.config.name} has no second network or no classes of the healthy brain, which "
            "parts are judged with; use a model that has both, such as default"
        )
    if patients < FEWEST_FOR_PARTS:
        raise PartFitError(f"expected at least {FEWEST_FOR_PARTS} patients to learn from, got {patients}")
    depends = _depends(model, data, patients, seed)
    known = read_rows(kept, depends) if kept is not None else {}
    found = []
    members = fitting_patients(load_pack(data), patients, seed=seed, spacing=model.config.spacing)
    for number, patient in enumerate(members):
        if number in known:
            one = _observed(known[number])
        else:
            one = observe_parts(model, patient)
            if kept is not None:
                row = {name: values.tolist() for name, values in vars(one).items()}
                add_row(kept, depends, number, row)
        found.append(one)
        on_patient("observed", len(found), patients)
    return fit_parts(found)


def fit_parts(observed: Sequence[ObservedParts]) -> PartModel:
    """Fit the probability that a part is a lesion: a logistic regression with a ridge penalty.

    The area under its curve is of the parts of each fifth of the patients, by a fit on the others. Five
    patients in a row, which are of five contrasts, are in one fifth.

    Args:
        observed: Of all patients.

    Raises:
        PartFitError: Too few parts are lesions, or too few are not.
    """
    counted = np.concatenate([one.counted for one in observed])
    signs = np.concatenate([one.signs for one in observed])[counted]
    right = np.concatenate([one.right for one in observed])[counted]
    few = min(int(right.sum()), int((~right).sum()))
    if few < FEWEST_PARTS:
        raise PartFitError(
            f"expected {FEWEST_PARTS} parts that are lesions and as many that are not, got {few} of one "
            "kind; simulate more patients"
        )
    owner = np.repeat(np.arange(len(observed)), [len(one.signs) for one in observed])[counted]
    chances = np.zeros(len(right))
    for fold in range(_FOLDS):
        own = owner // _FOLDS % _FOLDS == fold
        if len(set(right[~own].tolist())) < 2:
            raise PartFitError(
                "expected parts of both kinds in all patients, got few; simulate more patients"
            )
        chances[own] = _logistic(signs[~own], right[~own], len(observed)).probabilities(signs[own])
    return _logistic(signs, right, len(observed)).model_copy(update={"auc": _area(chances, right)})


def _logistic(signs: Array, right: Array, patients: int) -> PartModel:
    from sklearn.linear_model import LogisticRegression

    mean, sd = signs.mean(axis=0), signs.std(axis=0)
    used = np.flatnonzero(sd > _SMALLEST_SD)
    scaled = (signs[:, used] - mean[used]) / sd[used]
    fitted = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000).fit(scaled, right)
    return PartModel(
        signs=tuple(list(PART_SIGNS)[k] for k in used),
        mean=_rounded(mean[used]),
        sd=_rounded(sd[used]),
        weights=_rounded(fitted.coef_[0]),
        intercept=round(float(fitted.intercept_[0]), 4),
        patients=patients,
        parts=len(right),
        right=int(right.sum()),
        auc=0.5,
    )


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _area(chances: Array, right: Array) -> float:
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(right, chances)), 4)


def _depends(model: Model, data: Path, patients: int, seed: int) -> list[Any]:
    """Return what observations depend on."""
    later = {
        "part_model",
        "risk",
        "volume_errors",
        "lesion_errors",
        "calibrated_alone",
        "calibrated_together",
    }
    config = model.config.model_dump_json(exclude=later | {"training", "version"})
    second = model.second_network and model.second_network.config.model_dump_json(exclude={"training"})
    packed = [content_sha256(data / f"{name}.safetensors") for name in ("anatomies", "lesions")]
    of = json.dumps([model.sha256, config, second, packed, list(PART_SIGNS)])
    return [hashlib.sha256(of.encode()).hexdigest(), patients, seed]


def _observed(row: dict[str, Any]) -> ObservedParts:
    return ObservedParts(
        np.array(row["signs"], dtype=float).reshape(-1, len(PART_SIGNS)),
        np.array(row["right"], dtype=bool),
        np.array(row["counted"], dtype=bool),
    )
