"""The verb ``evaluate``, and arguments of the verbs that judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from anystroke.commands.common import (
    FAILED,
    OK,
    ArgumentError,
    check_folder,
    check_new,
    complain,
    progress_bar,
)
from anystroke.commands.options import Debug, Output, with_options

if TYPE_CHECKING:
    from anystroke.evaluation.metrics.settings import MetricSettings


_LISTED = 5


@dataclass(frozen=True)
class ReadOptions:
    """How masks are read."""

    label: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|NAME", help="The lesion's label in both.", show_default="any but 0"),
    ] = None
    prediction_label: Annotated[
        str | None, typer.Option(metavar="NUMBER|NAME", help="The lesion's label in PRED.")
    ] = None
    truth_label: Annotated[
        str | None, typer.Option(metavar="NUMBER|NAME", help="The lesion's label in TRUTH.")
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="Cut predictions that are probabilities.", show_default="refuse them")
    ] = None
    missing: Annotated[
        Literal["failed", "empty"], typer.Option(help="What a truth without a prediction is.")
    ] = "failed"
    scans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where else to look for the scans, for pictures.")
    ] = None


@dataclass(frozen=True)
class MetricOptions:
    """What is measured."""

    preset: Annotated[
        str, typer.Option(metavar="NAME", help="anystroke, qsynth, synthstroke, isles22, atlas or brats.")
    ] = "anystroke"
    define: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a part of the preset, such as connectivity=6; repeatable.",
        ),
    ] = None

    def settings(self) -> "MetricSettings":
        """Return the settings of the metrics.

        Raises:
            ConfigError: There is no such preset, or no such part of it.
            ArgumentError: A change is no KEY=VALUE.
        """
        import tomllib

        from anystroke.evaluation.metrics.settings import load_settings

        changes: dict[str, Any] = {}
        for text in self.define or []:
            key, equals, value = text.partition("=")
            if not equals:
                raise ArgumentError(f"--set needs KEY=VALUE, got {text!r}")
            try:
                changes[key.strip()] = tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError:
                changes[key.strip()] = value
        return load_settings(self.preset, **changes)


@dataclass(frozen=True)
class EvaluateOptions:
    """What the results are called, and what may be replaced."""

    name: Annotated[
        str, typer.Option(help="Name of what is evaluated, for tables.", show_default="the output's name")
    ] = ""
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")] = False
    debug: Debug = False


@with_options
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(metavar="PRED", help="A mask, a folder of masks, or a TSV of pairs.")
    ],
    output: Output,
    truths: Annotated[
        Path | None, typer.Argument(metavar="[TRUTH]", help="A mask or a folder of masks; none with a TSV.")
    ] = None,
    *,
    read: ReadOptions,
    metrics: MetricOptions,
    options: EvaluateOptions,
) -> int:
    """Measure predicted lesion masks against the truth.

    Writes metrics.tsv with one row a case, lesions.tsv with one row a lesion, and what the numbers mean.

    Example: anystroke evaluate results truth -o scores --preset isles22
    """
    check_folder(output)
    if read.threshold is not None and not 0.0 < read.threshold < 1.0:
        raise ArgumentError(
            f"--threshold is a probability above 0 and below 1, got {read.threshold:g}; try 0.5"
        )
    from anystroke.evaluation.cases import find_pairs
    from anystroke.evaluation.evaluate import (
        CASES,
        Reading,
        evaluate_pairs,
        undefined_counts,
        write_measurements,
    )

    settings = metrics.settings()
    check_new(output / CASES, options.overwrite)
    found = find_pairs(predictions, truths, scans=read.scans)
    reading = Reading(
        read.prediction_label or read.label, read.truth_label or read.label, read.threshold, read.missing
    )
    evaluated = []
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=len(found.cases))
        for one in evaluate_pairs(found.cases, settings=settings, reading=reading):
            bar.advance(task)
            evaluated.append(one)
            if one.status == "failed":
                complain(f"error: {one.message}")
            elif one.message:
                complain(f"note: {one.case.id}: {one.message}")
    for problem in found.problems:
        complain(f"error: {problem.message}")
    for text in found.notes:
        complain(f"note: {text}")
    rows = write_measurements(output, evaluated, found, settings=settings, name=options.name)
    failed = sum(row["status"] == "failed" for row in rows)
    typer.echo(settings.describe())
    for line in _means(evaluated):
        typer.echo(line)
    if lowest := _lowest(evaluated):
        typer.echo(lowest)
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
                f"median {statistics.median(values):.4g}{unit}, n = {len(values)}; {_lowered(metric.meaning)}"
            )
    return lines


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _lowest(evaluated: Any) -> str:
    """Name the cases of the lowest Dice; nothing where all are shown by one number."""
    import math

    measured = [(one.measurement.values["dice"], one.case.id) for one in evaluated if one.measurement]
    ordered = sorted(pair for pair in measured if not math.isnan(pair[0]))
    listed = ", ".join(f"{name} ({value:.2f})" for value, name in ordered[:_LISTED])
    return f"lowest Dice: {listed}" if len(ordered) > 1 else ""
