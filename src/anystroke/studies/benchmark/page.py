"""The page of the benchmark: sequence, the cost of each change, examples."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from anystroke.evaluation.results import CaseResult, Results
from anystroke.reports import theme
from anystroke.reports.failures import PicturedCase, case_mosaics
from anystroke.reports.published import PublishedTable
from anystroke.reports.tables import figure, plain_table
from anystroke.studies.benchmark.effects import Effect
from anystroke.studies.benchmark.patients import Design
from anystroke.studies.benchmark.plots import effects_plot

BENCHMARK_PAGE = "benchmark.html"
_EXAMPLES = 8


def mean_score(cases: Iterable[CaseResult], metric: str) -> float:
    """Return the mean of a metric over the cases with a lesion in which it is defined; NaN without any."""
    values = [case.values.get(metric, math.nan) for case in cases if case.values.get("truth_ml", 0) > 0]
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _sequence_table(results: Sequence[Results]) -> str:
    """Write standard scans by model and sequence: sequence is the one thing that differs."""
    sequences = list(dict.fromkeys(c.facts["sequence"] for one in results for c in one.cases.values()))
    rows = []
    for one in results:
        cells = [one.name]
        for sequence in sequences:
            chosen = [
                case
                for case in one.cases.values()
                if (case.facts["sequence"], case.facts["factor"]) == (sequence, "standard")
            ]
            dice, distance = (mean_score(chosen, metric) for metric in ("dice", "hausdorff95"))
            cells.append(f"{figure(dice, 'dice')} / {figure(distance, 'hausdorff95')} mm")
        rows.append(cells)
    return plain_table(["model", *(f"{s}: Dice / HD95" for s in sequences)], rows, "html")


def _effect_tables(effects: Sequence[Effect]) -> Iterator[tuple[str, str]]:
    """Write what each change costs, a row a change and a column a model."""
    models = list(dict.fromkeys(effect.model for effect in effects))
    sequences = list(dict.fromkeys(effect.sequence for effect in effects))
    for sequence in sequences:
        cells = {(e.factor, e.level, e.model): e for e in effects if e.sequence == sequence}
        rows = [
            [factor, level, str(cells[factor, level, models[0]].pairs)]
            + [_effect_text(cells[factor, level, model]) for model in models]
            for factor, level in dict.fromkeys((factor, level) for factor, level, _ in cells)
        ]
        yield sequence, plain_table(["factor", "changed to", "pairs", *models], rows, "html")


def _effect_text(effect: Effect) -> str:
    if effect.metric == "predicted_ml":
        return f"{effect.changed:.2f} ml predicted"
    interval = "" if math.isnan(effect.low) else f" ({effect.low:+.2f} to {effect.high:+.2f})"
    return f"{effect.changed:.3f}, {effect.difference:+.3f}{interval}"


def write_benchmark_page(
    folder: Path,
    results: Sequence[Results],
    effects: Sequence[Effect],
    design: Design,
    published: Sequence[PublishedTable],
    failed: Sequence[str],
) -> None:
    """Write the page of a benchmark.

    Args:
        folder: Of the benchmark.
        results: Of each model.
        effects: Of each model.
        design: The patients.
        published: Published figures to print beside.
        failed: Sentences about scans without result.

    Raises:
        OSError: The folder cannot be written.
    """
    effects_plot(effects, folder / "effects.png")
    pictures = [("What each change costs", theme.embed(folder / "effects.png"))]
    for one in results:
        path = folder / f"examples_{one.name}.png"
        case_mosaics(_examples(one), path)
        if path.exists():
            pictures.append((f"{one.name}: the first patient's scans", theme.embed(path)))
    theme.write_page(
        folder / BENCHMARK_PAGE,
        "benchmark.html",
        names=[one.name for one in results],
        scans=len(results[0].cases),
        design=design,
        anatomies=len(design.sources()),
        convention=results[0].convention,
        sequences=_sequence_table(results),
        effects=list(_effect_tables(effects)),
        pictures=pictures,
        published=[(one.title, one.note, one.table("html")) for one in published],
        failed=failed,
    )


def _examples(results: Results) -> list[PicturedCase]:
    """Choose what to picture: the first patient's standard, thick and noisy scans."""
    cases = list(results.cases.values())
    shown = [
        case
        for case in cases
        if case.facts["patient"] == cases[0].facts["patient"]
        and case.facts["factor"] in ("standard", "resolution", "noise")
    ]
    return [
        PicturedCase(
            f"{case.id}: Dice {figure(case.values.get('dice', math.nan), 'dice')}",
            case.files.get("prediction"),
            case.files["truth"],
            case.files.get("scan"),
        )
        for case in shown[:_EXAMPLES]
    ]
