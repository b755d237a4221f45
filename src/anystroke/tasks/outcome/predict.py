"""Predictions of patients, as rows of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.core.tables import Cell
from anystroke.tasks.outcome.cohort import Files, OutcomeCohort, gather
from anystroke.tasks.outcome.config import OutcomeConfig
from anystroke.tasks.outcome.files import OutcomeModel
from anystroke.tasks.outcome.scores import chances
from anystroke.tasks.outcome.table import OutcomeError, PatientTable, apply_target


def read_patients(
    config: OutcomeConfig, table: PatientTable, files: Files, notes: list[str], progress: Any = lambda: None
) -> OutcomeCohort:
    """Read what a model needs of patients.

    Args:
        config: Of the model.
        table: Of patients; the target may be missing.
        files: Where masks and scans are.
        notes: Sentences about what was left out are added.
        progress: Called after each patient with a mask or scan.

    Raises:
        OutcomeError: Something that the model needs is missing.
    """
    for needed, given, word in (
        (config.masks, files.masks, "lesion masks; give their folder with --masks"),
        (config.images, files.images, "scans; give their folder with --images"),
    ):
        if needed and given is None:
            raise OutcomeError(f"the model {config.name} was trained with {word}")
    if config.atlas is not None and (files.atlas is None or files.atlas.sha256 != config.atlas.sha256):
        raise OutcomeError(
            f"the model {config.name} was trained with the atlas {config.atlas.source}; give it with --atlas"
        )
    files = Files(
        files.masks if config.masks else None,
        files.images if config.masks or config.images else None,
        files.atlas,
        files.skip_missing,
    )
    return gather(
        table,
        config.columns,
        lambda rows: apply_target(rows, config.target),
        files,
        sees_scans=config.images,
        notes=notes,
        progress=progress,
    )


def prediction_columns(config: OutcomeConfig) -> tuple[str, ...]:
    """Return the columns of a table of predictions."""
    if config.target.kind == "number":
        return ("participant_id", "prediction", "interval_low", "interval_high")
    if config.target.kind == "two_classes":
        return ("participant_id", "prediction", "probability")
    return ("participant_id", "prediction", "expected", "probability", *_class_columns(config))


def _class_columns(config: OutcomeConfig) -> tuple[str, ...]:
    return tuple(f"probability_{name}" for name in config.target.classes)


def predict_rows(model: OutcomeModel, cohort: OutcomeCohort) -> list[dict[str, Cell]]:
    """Predict patients.

    Returns:
        Rows with the columns of `prediction_columns`. Of two classes ``probability`` is that of the
        second; of
        grades that of the predicted one, ``prediction`` is the median grade and ``expected`` the mean one.
    """
    config = model.config
    raw = model.fitted.raw(cohort)
    if config.target.kind == "number":
        predicted = raw[:, 0]
        low, high = config.conformal.interval(predicted) if config.conformal else (predicted, predicted)
        return [
            {
                "participant_id": name,
                "prediction": float(p),
                "interval_low": float(a),
                "interval_high": float(b),
            }
            for name, p, a, b in zip(cohort.ids, predicted, low, high, strict=True)
        ]
    probabilities = chances(raw / config.temperature)
    names = config.target.classes
    if config.target.kind == "two_classes":
        return [
            {"participant_id": name, "prediction": names[int(p > 0.5)], "probability": float(p)}
            for name, p in zip(cohort.ids, probabilities[:, 1], strict=True)
        ]
    return _grades(cohort.ids, probabilities, config)


def _grades(ids: Sequence[str], probabilities: Array, config: OutcomeConfig) -> list[dict[str, Cell]]:
    names = config.target.classes
    values = np.array([float(name) for name in names])
    median = np.minimum((probabilities.cumsum(axis=1) < 0.5).sum(axis=1), len(names) - 1)
    rows: list[dict[str, Cell]] = []
    for name, row, k in zip(ids, probabilities, median, strict=True):
        rows.append(
            {
                "participant_id": name,
                "prediction": names[k],
                "expected": float(row @ values),
                "probability": float(row[k]),
                **dict(zip(_class_columns(config), row.tolist(), strict=True)),
            }
        )
    return rows
