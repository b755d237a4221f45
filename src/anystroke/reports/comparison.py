"""Compare the results of models: tables, tests, plots and failures, in files and on one page."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from anystroke.core.files import atomic_path
from anystroke.core.tables import Cell, write_table
from anystroke.evaluation.metrics.calibration import Reliability
from anystroke.evaluation.metrics.measure import METRICS
from anystroke.evaluation.results import Results, ResultsError, check_comparable
from anystroke.evaluation.statistics import Centre, stars
from anystroke.evaluation.summaries import (
    MAIN_METRICS,
    Difference,
    Judged,
    Summary,
    all_cases,
    compare_models,
    group_runs,
    independent_units,
    spread_of_seeds,
    strata,
    summarise_groups,
    worst_cases,
)
from anystroke.reports.failures import PicturedCase, case_mosaics, title_of
from anystroke.reports.plots import bland_altman, box_plot, reliability_plot, size_plot
from anystroke.reports.published import PublishedTable
from anystroke.reports.tables import Interval, TableLook, figure, paper_table, plain_table
from anystroke.reports.theme import embed, write_page

COMPARISON_PAGE = "report.html"
_SUMMARY = (
    "by", "stratum", "model", "metric", "cases", "count", "undefined", "failed", "infinite", "mean", "median",
    "sd", "q1", "q3", "t_low", "t_high", "bootstrap_low", "bootstrap_high",
)  # fmt: skip
_TESTS = (
    "by", "stratum", "metric", "first", "second", "pairs", "mean_difference", "median_difference", "low",
    "high", "wilcoxon", "holm", "stars", "permutation",
)  # fmt: skip


@dataclass(frozen=True)
class CompareSettings:
    """What a comparison shows.

    Attributes:
        metrics: Names, in the order of columns.
        by: Facts to stratify by, beside lesion size; the sequence where it is known, if None.
        unit: Fact whose values are independent; cases that share one count as one in tests and bootstrap.
        centre: Median or mean.
        interval: Which interval tables print.
        seed: Of bootstrap and permutations.
        worst: How many failures are pictured.
    """

    metrics: tuple[str, ...] = MAIN_METRICS
    by: tuple[str, ...] | None = None
    unit: str = "patient"
    centre: Centre = "median"
    interval: Interval = "t"
    seed: int = 1
    worst: int = 10


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison made.

    Attributes:
        page: The report.
        table: The table of all cases, in Markdown.
        notes: Sentences about what is missing.
    """

    page: Path
    table: str
    notes: tuple[str, ...]


def compare_results(
    results: Sequence[Results],
    folder: Path,
    settings: CompareSettings | None = None,
    *,
    published: Sequence[PublishedTable] = (),
) -> Comparison:
    """Compare evaluations and write tables, tests, plots, pictures of failures, and a page with all of it.

    Evaluations of one name are runs of one model, such as with several seeds.

    Args:
        results: What to compare.
        folder: Made if missing.
        settings: What to show.
        published: Published figures to print beside.

    Raises:
        ResultsError: There is nothing to compare, numbers mean different things, or a name is unknown.
        OSError: The folder cannot be written.
    """
    settings = settings or CompareSettings()
    if not results:
        raise ResultsError("expected results to compare, got none; name the folders of evaluations")
    if unknown := [name for name in settings.metrics if name not in METRICS]:
        raise ResultsError(f"expected metrics among {', '.join(METRICS)}, got {unknown[0]!r}")
    notes = check_comparable(results)
    models = group_runs(results)
    by = settings.by
    if by is None:
        by = (
            ("sequence",)
            if any(c.facts.get("sequence", "n/a") != "n/a" for c in all_cases(models).values())
            else ()
        )
    groups = strata(models, by)
    folder.mkdir(parents=True, exist_ok=True)
    units = independent_units(models, settings.unit)
    if units is not None:
        count = len(set(units.values()))
        notes.append(f"independent in tests and bootstrap: {count} by {settings.unit}, of {len(units)} cases")
    summaries = summarise_groups(
        models, groups, settings.metrics, centre=settings.centre, seed=settings.seed, units=units
    )
    tests = compare_models(models, groups, settings.metrics, seed=settings.seed, units=units)
    write_table(folder / "summary.tsv", _SUMMARY, map(_summary_row, summaries))
    write_table(folder / "tests.tsv", _TESTS, map(_test_row, tests))
    tables = _write_tables(folder, summaries, settings)
    pictures = _plots(folder, models, tests, settings)
    worst, problems = _failures(folder, models, settings)
    notes += problems
    failed = [
        f"{run.folder}: {case.id} failed: {case.message}"
        for model in models
        for run in model.runs
        for case in run.cases.values()
        if case.failed
    ]
    first = models[0].runs[0]
    write_page(
        folder / COMPARISON_PAGE,
        "comparison.html",
        names=[model.name for model in models],
        cases=len(all_cases(models)),
        convention=first.convention,
        differences=first.settings.get("differences", []),
        settings=settings,
        meanings=[METRICS[name] for name in settings.metrics],
        tables=tables,
        tests=_test_tables(tests),
        seeds=_seed_table(models, settings),
        pictures=pictures,
        worst=worst,
        notes=[*notes, *failed],
        published=[(one.title, one.note, one.table("html")) for one in published],
    )
    return Comparison(
        folder / COMPARISON_PAGE,
        paper_table(_of_kind(summaries, "all"), "markdown", _look(settings)),
        tuple(notes),
    )


def _summary_row(one: Summary) -> Mapping[str, Cell]:
    return {
        "by": one.stratum.kind,
        "stratum": one.stratum.name,
        "model": one.model,
        "metric": one.metric,
        "cases": len(one.stratum.cases),
        "count": one.count,
        "undefined": one.undefined,
        "failed": one.failed,
        "infinite": one.infinite,
        "mean": one.mean,
        "median": one.median,
        "sd": one.deviation,
        **dict(zip(("q1", "q3"), one.quartiles, strict=True)),
        **dict(zip(("t_low", "t_high"), one.t, strict=True)),
        **dict(zip(("bootstrap_low", "bootstrap_high"), one.bootstrap, strict=True)),
    }


def _test_row(one: Difference) -> Mapping[str, Cell]:
    return {
        "by": one.stratum.kind,
        "stratum": one.stratum.name,
        "metric": one.metric,
        "first": one.first,
        "second": one.second,
        **asdict(one.found),
        "holm": one.corrected,
        "stars": stars(one.corrected),
    }


def _look(settings: CompareSettings) -> TableLook:
    return TableLook(centre=settings.centre, interval=settings.interval)


def _of_kind(summaries: Sequence[Summary], kind: str) -> list[Summary]:
    return [one for one in summaries if one.stratum.kind == kind]


def _write_tables(
    folder: Path, summaries: Sequence[Summary], settings: CompareSettings
) -> list[tuple[str, str]]:
    """Write one table for each kind of strata in three languages; return the HTML ones by kind."""
    kinds = list(dict.fromkeys(one.stratum.kind for one in summaries))
    look = _look(settings)
    for style, ending in (("markdown", "md"), ("latex", "tex")):
        parts = []
        for kind in kinds:
            heading = f"## By {kind}\n\n" if style == "markdown" else f"% by {kind}\n"
            parts.append(heading + paper_table(_of_kind(summaries, kind), style, look))  # type: ignore[arg-type]
        _write(folder / f"tables.{ending}", "\n".join(parts))
    html = [(kind, paper_table(_of_kind(summaries, kind), "html", look)) for kind in kinds]
    names = list(dict.fromkeys(one.model for one in summaries))
    write_page(folder / "tables.html", "comparison_tables.html", names=names, tables=html)
    return html


def _test_tables(tests: Sequence[Difference]) -> str:
    header = (
        "metric",
        "first",
        "second",
        "pairs",
        "difference of means (bootstrap)",
        "Wilcoxon",
        "Holm",
        "",
        "permutation",
    )
    rows = []
    for one in tests:
        if one.stratum.kind != "all":
            continue
        found = one.found
        difference = f"{found.mean_difference:+.3f}"
        if not math.isnan(found.low):
            difference += f" ({found.low:+.3f} to {found.high:+.3f})"
        rows.append((
            METRICS[one.metric].title, one.first, one.second, str(found.pairs),
            difference if math.isfinite(found.mean_difference) else "n/a",
            _p(found.wilcoxon), _p(one.corrected), stars(one.corrected), _p(found.permutation),
        ))  # fmt: skip
    return plain_table(header, rows, "html") if rows else ""


def _p(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.2g}"


def _seed_table(models: Sequence[Judged], settings: CompareSettings) -> str:
    rows = []
    for model in models:
        for metric in settings.metrics if len(model.runs) > 1 else ():
            found = spread_of_seeds(model, metric)
            rows.append((
                model.name, METRICS[metric].title, str(found.runs),
                ", ".join(figure(mean, metric) for mean in found.means),
                figure(found.between_runs, metric), figure(found.within_case, metric),
                figure(found.between_cases, metric),
            ))  # fmt: skip
    header = (
        "model",
        "metric",
        "runs",
        "mean of each",
        "SD between runs",
        "SD within a case",
        "SD between cases",
    )
    return plain_table(header, rows, "html") if rows else ""


def _plots(
    folder: Path, models: Sequence[Judged], tests: Sequence[Difference], settings: CompareSettings
) -> list[tuple[str, str]]:
    made = []
    for metric in settings.metrics:
        name = f"box_{metric}.png"
        box_plot(models, tests, metric, folder / name)
        made.append((f"{METRICS[metric].title} of every case", name))
    bland_altman(models, folder / "bland_altman.png")
    size_plot(models, folder / "dice_size.png")
    made += [
        ("Bland-Altman plot of the volumes", "bland_altman.png"),
        ("Dice over lesion size", "dice_size.png"),
    ]
    sums = {}
    for model in models:
        known = [run.reliability for run in model.runs if run.reliability is not None]
        if known:
            sums[model.name] = _total(known)
    if sums:
        reliability_plot(sums, folder / "reliability.png")
        made.append(("Reliability of the probabilities", "reliability.png"))
    return [(title, embed(folder / name)) for title, name in made]


def _total(parts: Sequence[Reliability]) -> Reliability:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _failures(
    folder: Path, models: Sequence[Judged], settings: CompareSettings
) -> tuple[list[tuple[str, str]], list[str]]:
    made, problems = [], []
    for model in models:
        run = model.runs[0]
        pictured = []
        for name, values in worst_cases(model, settings.worst):
            files = run.cases[name].files
            if "truth" in files:
                pictured.append(
                    PicturedCase(
                        title_of(name, values), files.get("prediction"), files["truth"], files.get("scan")
                    )
                )
        path = folder / f"worst_{re.sub(r'[^A-Za-z0-9.+-]', '-', model.name)}.png"
        problems += case_mosaics(pictured, path)
        if path.exists():
            made.append((model.name, embed(path)))
    return made, problems


def _write(path: Path, text: str) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
