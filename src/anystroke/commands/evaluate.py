"""The verb ``evaluate``, and arguments of the verbs that judge."""

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

    settings = settings_of(preset, define)
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


def split(names: list[str] | None) -> tuple[str, ...]:
    """Return the names in arguments that may hold several, with commas between."""
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


def settings_of(preset: str, define: list[str] | None) -> "MetricSettings":
    """Return the settings of the metrics that the arguments ask for, or raise ArgumentError."""
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
