"""Read the results of evaluations to compare them; what cannot be compared is refused."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import TableError, number, read_rows
from anystroke.evaluation.evaluate import CASES, FILES, METRICS_FILE, RELIABILITY_TABLE
from anystroke.evaluation.metrics.calibration import Reliability
from anystroke.evaluation.metrics.measure import METRICS

_SAME_VOLUME_ML = 1e-3
_FIXED = ("id", "status", "undefined", "message", *FILES)


class ResultsError(AnystrokeError):
    """Results that cannot be compared; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class CaseResult:
    """One case of one evaluation.

    Attributes:
        id: Its name.
        values: By name of a metric; NaN is undefined. Empty if it failed.
        facts: Sequence, site and so on.
        files: Prediction, truth, probability and scan, as far as they are known.
        message: What there was to say.
    """

    id: str
    values: Mapping[str, float]
    facts: Mapping[str, str]
    files: Mapping[str, Path]
    message: str = ""

    @property
    def failed(self) -> bool:
        """Whether it could not be measured."""
        return not self.values


@dataclass(frozen=True, eq=False)
class Results:
    """One evaluation: a run of a model over cases.

    Attributes:
        name: Of the model.
        folder: Where it was read from.
        cases: By id.
        settings: What its numbers mean.
        convention: That in one line.
        reliability: Sums over all cases, if probabilities were measured.
    """

    name: str
    folder: Path
    cases: Mapping[str, CaseResult]
    settings: Mapping[str, Any]
    convention: str
    reliability: Reliability | None


def load_results(path: Path) -> Results:
    """Read what ``anystroke evaluate`` wrote.

    Args:
        path: The folder, or the metrics.tsv in it.

    Raises:
        ResultsError: It is no such folder, or two rows have one id.
        TableError: A table is damaged.
    """
    folder = path.parent if path.name == CASES else path
    rows = read_rows(folder / CASES)
    if not rows or not {"id", "status"} <= set(rows[0]):
        raise ResultsError(f"expected cases in {folder / CASES}, but there are none; evaluate again")
    description = _description(folder / METRICS_FILE)
    cases: dict[str, CaseResult] = {}
    for row in rows:
        if row["id"] in cases:
            raise ResultsError(f"{folder / CASES} has two cases called {row['id']}; evaluate again")
        cases[row["id"]] = _case(row, folder)
    return Results(
        str(description.get("Name") or folder.resolve().name),
        folder,
        cases,
        description.get("Settings", {}),
        str(description.get("Convention", "")),
        _reliability(folder / RELIABILITY_TABLE),
    )


def check_comparable(results: Sequence[Results]) -> list[str]:
    """Refuse results whose numbers mean different things or are of different patients.

    Returns:
        Sentences about cases that not all of them have.

    Raises:
        ResultsError: Settings differ, or one id stands for truths of different volume.
    """
    first = results[0]
    for other in results[1:]:
        keys = sorted(set(first.settings) | set(other.settings))
        changed = [key for key in keys if first.settings.get(key) != other.settings.get(key)]
        if changed:
            raise ResultsError(
                f"{first.folder} and {other.folder} were measured differently ({', '.join(changed)}); "
                "evaluate both with one preset"
            )
    volumes: dict[str, tuple[float, Path]] = {}
    for one in results:
        for case in one.cases.values():
            volume = case.values.get("truth_ml", math.nan)
            known = volumes.setdefault(case.id, (volume, one.folder))
            if abs(known[0] - volume) > _SAME_VOLUME_ML:
                raise ResultsError(
                    f"the case {case.id} has {known[0]:g} ml of lesion in {known[1]} and {volume:g} ml in "
                    f"{one.folder}; are they one patient?"
                )
            if math.isnan(known[0]):
                volumes[case.id] = volume, one.folder
    everything = set(volumes)
    notes = []
    for one in results:
        if lacking := sorted(everything - set(one.cases)):
            shown = ", ".join(lacking[:6]) + (" ..." if len(lacking) > 6 else "")
            notes.append(f"{one.folder} lacks {len(lacking)} of {len(everything)} cases: {shown}")
    return notes


def _case(row: Mapping[str, str], folder: Path) -> CaseResult:
    known = [name for name in METRICS if name in row]
    try:
        values = {name: number(row[name]) for name in known} if row["status"] == "ok" else {}
    except ValueError as error:
        raise TableError(
            f"{folder / CASES}: the case {row['id']} has a cell that is no number ({error})"
        ) from None
    files = {name: folder / row[name] for name in FILES if row.get(name, "n/a") != "n/a"}
    facts = {key: text for key, text in row.items() if key not in known and key not in _FIXED}
    return CaseResult(row["id"], values, facts, files, row.get("message", ""))


def _description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"expected {path}, which says what the numbers mean; evaluate again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is damaged ({error}); evaluate again") from None
    if not isinstance(content, dict):
        raise ResultsError(f"{path} does not describe an evaluation; evaluate again")
    return content


def _reliability(path: Path) -> Reliability | None:
    if not path.exists():
        return None
    sums: dict[float, list[float]] = {}
    for row in read_rows(path):
        entry = sums.setdefault(float(row["low"]), [0.0, 0.0, 0.0])
        for k, column in enumerate(("voxels", "probability_sum", "lesion_voxels")):
            entry[k] += float(row[column])
    count, predicted, true = (np.array([sums[low][k] for low in sorted(sums)]) for k in range(3))
    return Reliability(count.astype(np.int64), predicted, true, math.nan)
