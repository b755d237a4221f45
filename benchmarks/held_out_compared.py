"""Models beside each other on the same held-out patients, by contrast, size and contrast-to-noise.

What `recipes_compared.py --held-out` uses. Each model is calibrated by the same rule before it is judged.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import TaskID

from anystroke.commands.common import progress_bar
from anystroke.core.files import atomic_path
from anystroke.core.rng import stream
from anystroke.evaluation.statistics import bootstrap_interval
from anystroke.simulation.cohorts import held_out_pack
from anystroke.simulation.generator import Sample
from anystroke.studies.held_out.judge import HeldOutDesign, PatientRow, held_out_cohort, judge_sample
from anystroke.studies.held_out.summary import (
    CONTRASTS_TO_NOISE,
    SIZE_BANDS,
    VISIBLE,
    Keep,
    among,
    band,
    both,
    summary,
    within,
)
from anystroke.tasks.segmentation.calibrate import CALIBRATION_WEIGHTINGS, calibrate
from anystroke.tasks.segmentation.predict import Model

SEED = 2031
_FEWEST_FOR_INTERVAL = 8


@dataclass(frozen=True)
class Patients:
    """Which patients models are judged on, and calibrated with before.

    Attributes:
        cases: Scans with a lesion of 1 ml or more, of each weighting.
        healthy: Scans without a lesion.
        calibration: Patients of the training's anatomies and lesions that choose temperature, threshold and
            smallest certainty; 0 leaves those of the model that training started from.
    """

    cases: int
    healthy: int
    calibration: int

    def simulated(self, pack: Path) -> list[Sample]:
        """Simulate the held-out patients; kept is what judging needs."""
        cohort = held_out_cohort(held_out_pack(pack), HeldOutDesign(self.cases, self.healthy))
        return [
            replace(sample, maps={}, unseen=None, change=None)
            for sample in _shown(cohort, "simulating held-out patients", len(cohort))
        ]


@dataclass(frozen=True)
class Measure:
    """A line of the table: the mean of a score over some of the rows.

    Attributes:
        name: What stands in front of the line.
        value: Of one row.
        among: Which rows count.
    """

    name: str
    value: Callable[[PatientRow], float]
    among: Callable[[PatientRow], bool]

    def of(self, rows: Sequence[PatientRow]) -> list[float]:
        """Return the score of each row that counts."""
        return [self.value(row) for row in rows if self.among(row)]


def measures() -> list[Measure]:
    """Return the lines of the table."""

    def ill(row: PatientRow) -> bool:
        return row["dice"] is not None

    def of_ill(key: str, low: float, high: float) -> Keep:
        return both(ill, within(key, low, high))

    def dice(row: PatientRow) -> float:
        return float(row["dice"])

    def f1(row: PatientRow) -> float:
        return float(row["lesion_f1"])

    def missed(row: PatientRow) -> float:
        return float(row["dice"] == 0)

    def marked(row: PatientRow) -> float:
        return float(row["predicted_ml"])

    seen = both(ill, VISIBLE)
    lines = [Measure("Dice", dice, ill)]
    for w in CALIBRATION_WEIGHTINGS:
        lines.append(Measure(f"Dice, {w}", dice, both(ill, among(weighting=w))))
    for low, high in SIZE_BANDS:
        lines.append(Measure(f"Dice, {band(low, high)} ml", dice, of_ill("truth_ml", low, high)))
    for low, high in CONTRASTS_TO_NOISE:
        name = f"Dice, contrast to noise {band(low, high)}"
        lines.append(Measure(name, dice, of_ill("contrast_to_noise", low, high)))
    return [
        *lines,
        Measure("Dice, visible", dice, seen),
        Measure("lesion-wise F1", f1, ill),
        Measure("lesion-wise F1, visible", f1, seen),
        Measure("share missed", missed, ill),
        Measure("share missed, visible", missed, seen),
        Measure("false ml without a lesion", marked, lambda row: not ill(row)),
    ]


def judged(
    folder: Path, model: Model, patients: Patients, samples: Callable[[], Sequence[Sample]]
) -> dict[str, Any]:
    """Calibrate a model and judge it, or read what was found before.

    Args:
        folder: Run folder with the packed data; gets ``held_out.json``.
        model: Of the run.
        patients: Which patients.
        samples: Gives them; called if they are needed.

    Returns:
        ``"calibration"``, ``"summary"``, ``"false_ml"`` and the ``"rows"`` of all patients.
    """
    path = folder / "held_out.json"
    key = {"patients": vars(patients), "model": model.identity}
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    if patients.calibration:
        model = _calibrated(model, folder / "data", patients.calibration)
    rows = [judge_sample(model, sample)[0] for sample in _shown(samples(), f"judging {folder.name}", None)]
    config = model.config
    found = {
        "key": key,
        "calibration": {
            "temperature": config.temperature,
            "threshold": config.threshold,
            "certain": config.certain,
        },
        "summary": summary([row for row in rows if row["dice"] is not None]),
        "false_ml": _false_volumes([row["predicted_ml"] for row in rows if row["dice"] is None]),
        "rows": rows,
    }
    with atomic_path(path, overwrite=True) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _false_volumes(volumes: Sequence[float]) -> dict[str, float]:
    low_to_high = sorted(volumes)
    return {
        "n": len(volumes),
        "median": statistics.median(low_to_high) if volumes else math.nan,
        "q3": low_to_high[3 * len(volumes) // 4] if volumes else math.nan,
    }


def _calibrated(model: Model, pack: Path, patients: int) -> Model:
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"calibrating: {what}", total=total)
            bar.update(tasks[what], completed=done)

        found = calibrate(model, pack, patients=patients, on_patient=show)
    return replace(model, config=found.applied_to(model.config))


def compared(
    rows: Sequence[PatientRow], reference: Sequence[PatientRow], *, name: str
) -> dict[str, dict[str, Any]]:
    """Compare a model with the reference, patient by patient.

    Args:
        rows: Of the model.
        reference: Of the reference, the same patients in the same order.
        name: Of the model; decides the draws of the bootstrap.

    Returns:
        Measure -> number of patients, mean, mean difference to the reference and its 95 % interval.

    Raises:
        ValueError: The patients are not the same.
    """
    if [row["truth_ml"] for row in rows] != [row["truth_ml"] for row in reference]:
        raise ValueError(
            f"expected {name} to be judged on the same patients as the reference, but they are others; "
            "remove held_out.json from the run folders"
        )
    result: dict[str, dict[str, Any]] = {}
    for each in measures():
        own, others = each.of(rows), each.of(reference)
        if not own:
            continue
        differences = [one - other for one, other in zip(own, others, strict=True)]
        low, high = bootstrap_interval(
            differences, rng=stream(SEED, "recipes", name, each.name), centre="mean"
        )
        result[each.name] = {
            "n": len(own),
            "mean": statistics.fmean(own),
            "difference": statistics.fmean(differences),
            "interval": None if len(own) < _FEWEST_FOR_INTERVAL else [low, high],
        }
    return result


def table(results: dict[str, dict[str, Any]], reference: str) -> str:
    """Return the table as Markdown: a line for each measure, a column for each recipe.

    Args:
        results: Recipe -> its steps and batch, what `judged` says, and as ``"measures"`` what `compared`
            gives.
        reference: The recipe that the others are compared with.
    """
    others = [name for name in results if name != reference]
    first = results[reference]["measures"]
    lines = [
        f"| | n | `{reference}` | " + " | ".join(f"`{name}`" for name in others) + " |",
        "|---" * (3 + len(others)) + "|",
    ]
    for name, found in first.items():
        cells = [_cell(results[each]["measures"][name]) for each in others]
        lines.append(f"| {name} | {found['n']} | {found['mean']:.3f} | " + " | ".join(cells) + " |")
    sums = [results[each]["summary"]["all"] for each in (reference, *others)]
    medians = [f"{found.get('median', math.nan):.3f}" for found in sums]
    lines.append(f"| median Dice (no difference) | {first['Dice']['n']} | {' | '.join(medians)} |")
    quartiles = [results[each]["false_ml"] for each in (reference, *others)]
    shown = " | ".join(f"{each['median']:.2f}, {each['q3']:.2f}" for each in quartiles)
    lines.append(f"| false ml, median and upper quartile (no difference) | {quartiles[0]['n']} | {shown} |")
    return "\n".join(lines) + "\n\n" + _notes(results, reference)


def _cell(found: dict[str, Any]) -> str:
    text = f"{found['difference']:+.3f}"
    if found["interval"] is None:
        return text
    low, high = found["interval"]
    text = f"{text} ({low:+.3f} to {high:+.3f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _notes(results: dict[str, dict[str, Any]], reference: str) -> str:
    chosen = ", ".join(
        f"`{name}` {found['calibration']['temperature']:g} / {found['calibration']['threshold']:g} / "
        f"{found['calibration']['certain']:g}"
        for name, found in results.items()
    )
    return (
        f"Column `{reference}`: means over patients. Others: mean difference to it, patient by patient, with "
        "the 95 % bootstrap interval over patients, bold where it leaves out 0; of twenty such intervals one "
        "does by chance. They say how sure a difference is for other patients, not what another training of "
        "the same recipe would give; a column of the same recipe with another seed shows that. All patients "
        "are of the full simulator, lesions that nobody could see included, so a model that was taught "
        "without something meets it here for the first time.\n\n"
        f"{results[reference]['steps']} steps, batches of {results[reference]['batch']}. Temperature / "
        f"threshold / smallest certainty: {chosen}.\n"
    )


def _shown(samples: Iterable[Sample], what: str, total: int | None) -> Iterator[Sample]:
    with progress_bar() as bar:
        yield from bar.track(samples, description=what, total=total)
