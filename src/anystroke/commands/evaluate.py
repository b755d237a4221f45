"""The verbs that judge: evaluate, compare, benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anystroke.commands.common import FAILED, OK, ArgumentError, check_folder, complain, progress_bar

if TYPE_CHECKING:
    from anystroke.evaluation.metrics.settings import MetricSettings

Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")]
Preset = Annotated[
    str, typer.Option(metavar="NAME", help="anystroke, qsynth, synthstroke, isles22, atlas or brats.")
]
Define = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a part of the preset, such as connectivity=6; repeatable."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(metavar="PRED", help="A mask, a folder of masks, or a TSV of pairs.")
    ],
    output: Output,
    truths: Annotated[
        Path | None, typer.Argument(metavar="[TRUTH]", help="A mask or a folder of masks; none with a TSV.")
    ] = None,
    preset: Preset = "anystroke",
    define: Define = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|NAME", help="The lesion's label in both.", show_default="any but 0"),
    ] = None,
    prediction_label: Annotated[
        str | None, typer.Option(metavar="NUMBER|NAME", help="The lesion's label in PRED.")
    ] = None,
    truth_label: Annotated[
        str | None, typer.Option(metavar="NUMBER|NAME", help="The lesion's label in TRUTH.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Cut predictions that are probabilities.", show_default="refuse them")
    ] = None,
    missing: Annotated[
        str, typer.Option(metavar="failed|empty", help="What a truth without a prediction is.")
    ] = "failed",
    scans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where else to look for the scans, for pictures.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of what is evaluated, for tables.", show_default="the output's name")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")] = False,
    _debug: Debug = False,
) -> int:
    """Measure predicted lesion masks against the truth.

    Writes metrics.tsv with one row a case, lesions.tsv with one row a lesion, and what the numbers mean.

    Example: anystroke evaluate results truth -o scores --preset isles22
    """
    check_folder(output)
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise ArgumentError(f"--threshold is a probability above 0 and below 1, got {threshold:g}; try 0.5")
    if missing not in ("failed", "empty"):
        raise ArgumentError(f"--missing must be failed or empty, got {missing!r}")
    from anystroke.core.tables import TableError
    from anystroke.evaluation.cases import CaseError, find_cases
    from anystroke.evaluation.evaluate import (
        CASES,
        Reading,
        evaluate_cases,
        undefined_counts,
        write_results,
    )

    settings = _settings(preset, define)
    if (output / CASES).exists() and not overwrite:
        raise ArgumentError(f"{output / CASES} exists already; name another folder or use --overwrite")
    try:
        found = find_cases(predictions, truths, scans=scans)
    except (CaseError, TableError) as error:
        raise ArgumentError(str(error)) from error
    reading = Reading(
        prediction_label or label,
        truth_label or label,
        threshold,
        "empty" if missing == "empty" else "failed",
    )
    evaluated = []
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=len(found.cases))
        for one in evaluate_cases(found.cases, settings=settings, reading=reading):
            bar.advance(task)
            evaluated.append(one)
            if one.status == "failed":
                complain(f"error: {one.message}")
            elif one.message:
                complain(f"note: {one.case.id}: {one.message}")
    for text in found.problems:
        complain(f"error: {text}")
    for text in found.notes:
        complain(f"note: {text}")
    rows = write_results(output, evaluated, found, settings=settings, name=name)
    failed = sum(row["status"] == "failed" for row in rows)
    typer.echo(settings.describe())
    for line in _means(evaluated):
        typer.echo(line)
    undefined = undefined_counts(evaluated)
    listed = ", ".join(f"{key} in {count}" for key, count in undefined.items()) or "none"
    typer.echo(f"{len(rows) - failed} cases measured, {failed} failed; undefined: {listed}")
    typer.echo(f"table: {output / CASES}")
    return FAILED if failed else OK


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Folders of evaluate, one a model or run."),
    ],
    output: Output,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]...",
            help="Columns of the tables.",
            show_default="dice, hausdorff95, volume_difference, lesion_count_difference, lesion_f1",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]...",
            help="Columns of metrics.tsv to sort cases by, beside lesion size.",
            show_default="sequence",
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option(metavar="COLUMN", help="What is independent: its cases count as one in tests.")
    ] = "patient",
    centre: Annotated[str, typer.Option(metavar="median|mean", help="What tables show.")] = "median",
    interval: Annotated[
        str,
        typer.Option(metavar="t|bootstrap|none", help="The interval in brackets; t is the qATLAS paper's."),
    ] = "t",
    published: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="A paper's figures to print beside, such as qatlas-atlas."),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, max=40, help="Failures to picture.")] = 10,
    seed: Annotated[int, typer.Option(help="Of bootstrap and permutations.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier comparison.")] = False,
    _debug: Debug = False,
) -> int:
    """Compare evaluations: tables, intervals, tests, plots and the worst cases, on one page.

    Evaluations of one name count as runs of one model, such as with several seeds.

    Example: anystroke compare scores_a scores_b -o comparison
    """
    check_folder(output)
    if centre not in ("median", "mean"):
        raise ArgumentError(f"--centre must be median or mean, got {centre!r}")
    if interval not in ("t", "bootstrap", "none"):
        raise ArgumentError(f"--interval must be t, bootstrap or none, got {interval!r}")
    from anystroke.core.tables import TableError
    from anystroke.evaluation.results import ResultsError, load_results
    from anystroke.evaluation.summaries import MAIN_METRICS
    from anystroke.reports.comparison import PAGE, CompareSettings, compare_results
    from anystroke.reports.published import published_table

    if (output / PAGE).exists() and not overwrite:
        raise ArgumentError(f"{output / PAGE} exists already; name another folder or use --overwrite")
    try:
        beside = [published_table(name) for name in published or []]
    except ValueError as error:
        raise ArgumentError(f"--published: {error}") from error
    settings = CompareSettings(
        metrics=_split(metric) or MAIN_METRICS,
        by=_split(by) if by else None,
        unit=unit,
        centre="mean" if centre == "mean" else "median",
        interval="bootstrap" if interval == "bootstrap" else "none" if interval == "none" else "t",
        seed=seed,
        worst=worst,
    )
    try:
        made = compare_results([load_results(path) for path in results], output, settings, published=beside)
    except (ResultsError, TableError) as error:
        raise ArgumentError(str(error)) from error
    for text in made.notes:
        complain(f"note: {text}")
    typer.echo(made.table)
    typer.echo(f"report: {made.page}")
    return OK


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Shipped models or model folders; +flip averages with the mirrored head; 'threshold' is a "
            "baseline that has learned nothing.",
        ),
    ],
    output: Output,
    patients: Annotated[int, typer.Option(min=1, help="Patients of each anatomy.")] = 3,
    sequences: Annotated[
        str, typer.Option("--sequence", metavar="W[,W]...", help="Sequences of each patient.")
    ] = "T1w,T2w,FLAIR,DWI",
    labels: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Label maps to make patients of, beside the package's own brain."),
    ] = None,
    preset: Preset = "anystroke",
    define: Define = None,
    published: Annotated[
        list[str] | None, typer.Option(metavar="TABLE", help="A paper's figures to print beside.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other patients.")] = 20260,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scans of another design.")] = False,
    _debug: Debug = False,
) -> int:
    """Judge models on fixed simulated patients that differ in one thing at a time.

    Separates what sequence, resolution, noise, lesion size, stage and skull-stripping cost. Needs no data.

    Example: anystroke benchmark default threshold -o bench --patients 1
    """
    check_folder(output)
    import torch

    from anystroke.acquisition.presets.preset import load_preset
    from anystroke.models.checkpoints import CheckpointError
    from anystroke.reports.published import published_table
    from anystroke.studies.benchmark.patients import BenchmarkError, Design, conditions
    from anystroke.studies.benchmark.run import run_benchmark

    settings = _settings(preset, define)
    known = load_preset("realistic").weightings
    names = tuple(dict.fromkeys(_split([sequences])))
    if not names or not set(names) <= set(known):
        raise ArgumentError(f"--sequence must be among {', '.join(known)}, got {sequences!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    design = Design(patients=patients, sequences=names, seed=seed, labels=tuple(labels or ()))
    try:
        beside = [published_table(name) for name in published or []]
    except ValueError as error:
        raise ArgumentError(f"--published: {error}") from error
    try:
        scans = len(design.sources()) * patients * len(conditions(names))
        with progress_bar() as bar:
            task = bar.add_task("benchmark", total=scans * (1 + len(models)))
            made = run_benchmark(
                models,
                output,
                design,
                settings=settings,
                published=beside,
                overwrite=overwrite,
                on_step=lambda text: bar.update(task, advance=1, description=text),
            )
    except (BenchmarkError, CheckpointError) as error:
        raise ArgumentError(str(error)) from error
    for text in made.failed:
        complain(f"error: {text}")
    for name, mean in made.means.items():
        typer.echo(f"{name}: mean Dice {mean:.3f} of scans with a lesion")
    typer.echo(f"table: {made.table}")
    typer.echo(f"report: {made.page}")
    return FAILED if made.failed else OK


def _split(names: list[str] | None) -> tuple[str, ...]:
    return tuple(name.strip() for text in names or [] for name in text.split(",") if name.strip())


def _means(evaluated: Any) -> list[str]:
    """Return a line for each metric: mean and median over the cases in which it is defined."""
    import math
    import statistics

    from anystroke.evaluation.metrics.measure import METRICS

    measured = [one.measurement.values for one in evaluated if one.measurement]
    lines = []
    for key, metric in METRICS.items():
        values = [values[key] for values in measured if key in values and not math.isnan(values[key])]
        if values:
            unit = f" {metric.unit}" if metric.unit else ""
            lines.append(
                f"{metric.title:>17}: mean {statistics.fmean(values):.4g}{unit}, "
                f"median {statistics.median(values):.4g}{unit}, n = {len(values)}"
            )
    return lines


def _settings(preset: str, define: list[str] | None) -> "MetricSettings":
    import tomllib

    from anystroke.core.config import ConfigError
    from anystroke.evaluation.metrics.settings import load_settings

    changes: dict[str, Any] = {}
    for text in define or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise ArgumentError(f"--set needs KEY=VALUE, got {text!r}")
        try:
            changes[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key.strip()] = value
    try:
        return load_settings(preset, **changes)
    except ConfigError as error:
        raise ArgumentError(f"--preset: {error}") from error


VERBS = (evaluate, compare, benchmark)
