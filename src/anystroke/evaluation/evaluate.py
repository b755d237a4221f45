"""Measure many cases into a folder: one table of cases, one of lesions, one of reliability."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from anystroke.core.files import write_json
from anystroke.core.tables import Cell, write_table
from anystroke.core.volume import Volume, VolumeError
from anystroke.evaluation.cases import Pair, PairsFound, Unpaired
from anystroke.evaluation.masks import (
    LoadedMask,
    MaskError,
    isotropic_grid,
    lesion_of,
    load_probability,
    read_mask,
    resampled_mask,
)
from anystroke.evaluation.metrics.measure import METRICS, Measurement, MetricSettings, load_settings, measure
from anystroke.io.formats import as_volume
from anystroke.io.results import generated_by

CASES, LESION_TABLE, RELIABILITY_TABLE, METRICS_FILE = (
    "metrics.tsv",
    "lesions.tsv",
    "reliability.tsv",
    "metrics.json",
)
FILES = ("prediction", "truth", "probability", "scan")
_LESION_COLUMNS = (
    "id", "kind", "number", "volume_ml", "matched", "counted", "overlap_ml", "dice", "partners",
    "x", "y", "z",
)  # fmt: skip
_RELIABILITY_COLUMNS = ("id", "low", "high", "voxels", "probability_sum", "lesion_voxels")


@dataclass(frozen=True)
class Reading:
    """How masks are read.

    Attributes:
        prediction_label: Number or name of the lesion in predictions.
        truth_label: Number or name of the lesion in truths.
        threshold: Cut what holds probabilities instead of a mask.
        missing: A truth without a prediction is a ``"failed"`` case, or counts as an ``"empty"`` prediction.
    """

    prediction_label: str | None = None
    truth_label: str | None = None
    threshold: float | None = None
    missing: Literal["failed", "empty"] = "failed"


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What became of a case.

    Attributes:
        case: The case.
        measurement: Its metrics; None if it failed.
        message: Why it failed, or what there is to say.
        affine: (4, 4) of the grid that lesions' centres are in.
    """

    case: Pair
    measurement: Measurement | None
    message: str = ""
    affine: torch.Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))

    @property
    def status(self) -> str:
        """``"ok"`` or ``"failed"``."""
        return "failed" if self.measurement is None else "ok"


def evaluate_pairs(
    cases: Sequence[Pair], *, settings: MetricSettings | None = None, reading: Reading | None = None
) -> Iterator[Evaluated]:
    """Measure cases one after the other; one that cannot be measured does not stop the others.

    Args:
        cases: What to measure.
        settings: What metrics mean.
        reading: How masks are read.

    Yields:
        What became of each.

    Example:
        >>> list(evaluate_pairs([]))
        []
    """
    settings, reading = settings or load_settings(), reading or Reading()
    for case in cases:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                done = evaluate_pair(case, settings, reading)
        except (ValueError, OSError, VolumeError) as error:
            text = " ".join(str(error).split())
            named = any(path is not None and str(path) in text for path in (case.prediction, case.truth))
            yield Evaluated(case, None, text if named else f"{case.id}: {text}")
            continue
        said = [" ".join(str(warning.message).split()) for warning in caught]
        message = "; ".join([part for part in (done.message, *said) if part])
        yield Evaluated(case, done.measurement, message, done.affine)


def evaluate(
    prediction: Any,
    truth: Any,
    *,
    affine: Any = None,
    preset: str = "anystroke",
    label: str | None = None,
    threshold: float | None = None,
) -> Measurement:
    """Measure one predicted mask against the truth.

    Args:
        prediction: A path, a `Volume`, a nibabel image, or an array (X, Y, Z); another grid than that of the
            truth is resampled to it.
        truth: Likewise.
        affine: Of arrays: (4, 4), voxel indices to RAS+ mm.
        preset: What metrics mean, see `load_settings`.
        label: Number or name of the lesion's label in both; None for masks.
        threshold: Cut a prediction that is a map of probabilities.

    Returns:
        ``values`` by name of the metric, and every lesion.

    Raises:
        MaskError: What is given holds no usable mask, or the two do not overlap.
        VolumeError: It cannot be read.

    Example:
        >>> import numpy as np
        >>> truth = np.zeros((8, 8, 8), dtype=bool)
        >>> truth[2:5, 2:5, 2:5] = True
        >>> found = evaluate(np.roll(truth, 1, axis=0), truth, affine=np.diag([2, 1, 1, 1]))
        >>> round(found.values["dice"], 3)
        0.667
    """
    settings = load_settings(preset)
    masks = []
    for name, given in (("truth", truth), ("prediction", prediction)):
        volume = Volume.load(given) if isinstance(given, str | Path) else as_volume(given, affine)
        path = Path(given) if isinstance(given, str | Path) else Path(f"the {name}")
        values = replace(volume, data=volume.data.float())
        cut = threshold if name == "prediction" else None
        masks.append(lesion_of(values, path, label=label, threshold=cut).mask)
    grid = masks[0].affine, masks[0].shape
    if settings.resample_to is not None:
        grid = isotropic_grid(masks[0], settings.resample_to)
    true, found = (resampled_mask(mask, *grid)[0].data[0] for mask in masks)
    return measure(found, true, affine=grid[0], settings=settings)


def evaluate_pair(case: Pair, settings: MetricSettings, reading: Reading) -> Evaluated:
    """Measure one case.

    Args:
        case: What to measure.
        settings: What metrics mean.
        reading: How masks are read.

    Raises:
        MaskError: A file holds no usable mask, or there is no prediction.
        VolumeError: A file cannot be read.
        ValueError: The masks cannot be measured.
    """
    notes: list[str] = []
    truth = read_mask(case.truth, label=reading.truth_label, threshold=reading.threshold)
    notes += [f"the truth {note}" for note in truth.notes]
    grid = truth.mask.affine, truth.mask.shape
    if settings.resample_to is not None:
        grid = isotropic_grid(truth.mask, settings.resample_to)
    true, note = resampled_mask(truth.mask, *grid)
    notes += [f"the truth was {note}"] if note else []
    predicted = _prediction(case, truth.mask, reading)
    notes += [f"the prediction {note}" for note in predicted.notes]
    try:
        found, note = resampled_mask(predicted.mask, *grid)
    except MaskError as error:
        raise MaskError(f"{case.prediction}: {error}") from error
    notes += [f"the prediction was {note}"] if note else []
    probability = None
    if case.probability is not None:
        probability = resampled_mask(load_probability(case.probability), *grid)[0].data[0]
    measurement = measure(
        found.data[0], true.data[0], affine=grid[0], settings=settings, probability=probability
    )
    return Evaluated(case, measurement, "; ".join(notes), grid[0])


def _prediction(case: Pair, truth: Volume, reading: Reading) -> LoadedMask:
    if case.prediction is not None:
        return read_mask(case.prediction, label=reading.prediction_label, threshold=reading.threshold)
    if reading.missing == "failed":
        raise MaskError(f"{case.truth} has no prediction; name files alike, or count it as empty")
    return LoadedMask(Volume(torch.zeros_like(truth.data), truth.affine), ("is missing and counts as empty",))


def write_measurements(
    folder: Path,
    evaluated: Sequence[Evaluated],
    found: PairsFound,
    *,
    settings: MetricSettings,
    name: str = "",
) -> list[dict[str, Cell]]:
    """Write the tables of an evaluation.

    Args:
        folder: Made if missing.
        evaluated: What became of the cases.
        found: Where they came from; its problems become rows without numbers.
        settings: What metrics mean.
        name: What was evaluated, such as the model; the folder's name if empty.

    Returns:
        The rows of the table of cases.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = list(dict.fromkeys(key for one in evaluated for key in one.case.facts))
    measured = [
        key for key in METRICS if any(one.measurement and key in one.measurement.values for one in evaluated)
    ]
    rows = [_row(one, folder) for one in evaluated]
    rows += [
        {"id": each.id, "status": "failed", "message": each.message, **_files(each, folder)}
        for each in found.problems
    ]
    columns = ("id", "status", *facts, *measured, "undefined", "message", *FILES)
    write_table(folder / CASES, columns, rows)
    write_table(
        folder / LESION_TABLE, _LESION_COLUMNS, (row for one in evaluated for row in _lesion_rows(one))
    )
    sums = [row for one in evaluated for row in _reliability_rows(one)]
    if sums:
        write_table(folder / RELIABILITY_TABLE, _RELIABILITY_COLUMNS, sums)
    else:
        (folder / RELIABILITY_TABLE).unlink(missing_ok=True)
    description = {
        "Name": name or folder.resolve().name,
        "GeneratedBy": generated_by(),
        "Date": datetime.now(UTC).isoformat(timespec="seconds"),
        "Settings": settings.model_dump(mode="json"),
        "Convention": settings.describe(),
        "Cases": len(rows),
        "Failed": sum(row["status"] == "failed" for row in rows),
        "Undefined": undefined_counts(evaluated),
        "Notes": list(found.notes),
        "Columns": {key: _column(key) for key in measured},
    }
    write_json(folder / METRICS_FILE, description)
    return rows


def undefined_counts(evaluated: Sequence[Evaluated]) -> dict[str, int]:
    """Count for each metric the cases in which it has no value; metrics that always have one are left out."""
    counts: dict[str, int] = {}
    for one in evaluated:
        for name in one.measurement.undefined if one.measurement else ():
            counts[name] = counts.get(name, 0) + 1
    return counts


def _column(name: str) -> dict[str, str]:
    metric = METRICS[name]
    described = {"LongName": metric.title, "Description": metric.meaning}
    return {**described, "Units": metric.unit} if metric.unit else described


def _row(one: Evaluated, folder: Path) -> dict[str, Cell]:
    case = one.case
    row: dict[str, Cell] = {"id": case.id, "status": one.status, **case.facts}
    if one.measurement is not None:
        row |= one.measurement.values
        row["undefined"] = ",".join(one.measurement.undefined)
    return row | {"message": one.message} | _files(case, folder)


def _files(of: Pair | Unpaired, folder: Path) -> dict[str, Cell]:
    """Return the files as seen from the folder of the table."""
    paths = {name: getattr(of, name, None) for name in FILES}
    return {name: os.path.relpath(path, folder) if path is not None else None for name, path in paths.items()}


def _lesion_rows(one: Evaluated) -> Iterator[Mapping[str, Cell]]:
    for lesion in one.measurement.lesions if one.measurement else ():
        point = one.affine @ torch.tensor([*lesion.centre, 1.0], dtype=torch.float64)
        x, y, z = (round(float(value), 3) for value in point[:3])
        yield {
            "id": one.case.id,
            "kind": lesion.kind,
            "number": lesion.number,
            "volume_ml": lesion.volume,
            "matched": lesion.matched,
            "counted": lesion.counted,
            "overlap_ml": lesion.overlap,
            "dice": lesion.dice,
            "partners": ",".join(map(str, lesion.partners)),
            "x": x,
            "y": y,
            "z": z,
        }


def _reliability_rows(one: Evaluated) -> Iterator[Mapping[str, Cell]]:
    sums = one.measurement.reliability if one.measurement else None
    if sums is None:
        return
    bins = len(sums.count)
    for k in range(bins):
        yield {
            "id": one.case.id,
            "low": k / bins,
            "high": (k + 1) / bins,
            "voxels": int(sums.count[k]),
            "probability_sum": float(sums.predicted[k]),
            "lesion_voxels": int(sums.true[k]),
        }
