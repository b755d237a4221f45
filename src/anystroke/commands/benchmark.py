"""The verb ``benchmark``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import (
    FAILED,
    OK,
    ArgumentError,
    check_folder,
    complain,
    compute_on,
    progress_bar,
)
from anystroke.commands.evaluate import MetricOptions, split
from anystroke.commands.options import Debug, Device, Output, Threads, with_options


@dataclass(frozen=True)
class BenchmarkPatients:
    """The simulated patients."""

    patients: Annotated[int, typer.Option(min=1, help="Patients of each anatomy.")] = 3
    sequences: Annotated[
        str, typer.Option("--sequence", metavar="W[,W]...", help="Sequences of each patient.")
    ] = "T1w,T2w,FLAIR,DWI"
    labels: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Label maps to make patients of, beside the package's own brain."),
    ] = None
    seed: Annotated[int, typer.Option(help="Another seed gives other patients.")] = 20260


@dataclass(frozen=True)
class HeldOutOptions:
    """The patients of what a training held out, instead."""

    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Judge on patients of the anatomies and lesions that a training held out: its data folder.",
        ),
    ] = None
    cases: Annotated[int, typer.Option(min=0, help="Held-out scans of each sequence.")] = 80
    healthy: Annotated[int, typer.Option(min=0, help="Held-out scans without lesion.")] = 50
    jobs: Annotated[int, typer.Option(min=1, help="Processes that judge held-out scans.")] = 1


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is printed beside, how it computes, and what may be replaced."""

    published: Annotated[
        list[str] | None, typer.Option(metavar="TABLE", help="A paper's figures to print beside.")
    ] = None
    device: Device = "auto"
    threads: Threads = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what another design gave.")] = False
    debug: Debug = False


@with_options
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
    which: BenchmarkPatients,
    held_out: HeldOutOptions,
    metrics: MetricOptions,
    options: BenchmarkOptions,
) -> int:
    """Judge models on fixed simulated patients that differ in one thing at a time.

    Separates what sequence, resolution, noise, lesion size, stage and skull-stripping cost. Needs no data.
    With --held-out the patients are drawn of the data that a training held out, of five sequences, and differ
    in everything. What was done before is kept.

    Example: anystroke benchmark default threshold -o bench --patients 1
    """
    check_folder(output)
    compute_on(options.device, options.threads)
    if held_out.held_out is not None:
        if _given(which) or _given(metrics) or options.published:
            raise ArgumentError(
                "--held-out has patients and measures of its own; leave out --patients, --sequence, "
                "--labels, --seed, --preset, --set and --published"
            )
        return _judge_held_out(models, held_out.held_out, output, held_out, options)
    if _given(held_out):
        raise ArgumentError("--cases, --healthy and --jobs are of held-out patients; add --held-out DATA")
    from anystroke.acquisition.presets.preset import load_preset
    from anystroke.reports.published import published_table
    from anystroke.studies.benchmark.patients import Design, conditions
    from anystroke.studies.benchmark.run import run_benchmark

    settings = metrics.settings()
    known = load_preset("realistic").weightings
    names = tuple(dict.fromkeys(split([which.sequences])))
    if not names or not set(names) <= set(known):
        raise ArgumentError(f"--sequence must be among {', '.join(known)}, got {which.sequences!r}")
    design = Design(
        patients=which.patients, sequences=names, seed=which.seed, labels=tuple(which.labels or ())
    )
    beside = [published_table(name) for name in options.published or []]
    scans = len(design.sources()) * which.patients * len(conditions(names))
    with progress_bar() as bar:
        task = bar.add_task("benchmark", total=scans * (1 + len(models)))
        made = run_benchmark(
            models,
            output,
            design,
            settings=settings,
            published=beside,
            overwrite=options.overwrite,
            on_step=lambda text: bar.update(task, advance=1, description=text),
        )
    for text in made.failed:
        complain(f"error: {text}")
    for name, mean in made.means.items():
        typer.echo(f"{name}: mean Dice {mean:.3f} of scans with a lesion")
    typer.echo(f"table: {made.table}")
    typer.echo(f"report: {made.page}")
    return FAILED if made.failed else OK


def _given(group: BenchmarkPatients | HeldOutOptions | MetricOptions) -> bool:
    """Tell whether any option of a group is not what it is by default."""
    return any((getattr(group, each.name) or None) != (each.default or None) for each in fields(group))


def _judge_held_out(
    names: list[str], data: Path, output: Path, patients: HeldOutOptions, options: BenchmarkOptions
) -> int:
    """Judge models on held-out patients, and print what came of it."""
    from anystroke.core.memory import keep_pages
    from anystroke.studies.benchmark.run import model_titles
    from anystroke.studies.held_out.judge import HeldOutDesign
    from anystroke.studies.held_out.run import run_held_out
    from anystroke.tasks.segmentation.predict import Model

    keep_pages()
    design = HeldOutDesign(patients.cases, patients.healthy)
    if not design:
        raise ArgumentError("--cases and --healthy are both 0, expected at least one patient")
    models = {title: Model.open(name) for title, name in zip(model_titles(names), names, strict=True)}
    with progress_bar() as bar:
        task = bar.add_task("benchmark", total=len(models) * len(design))
        made = run_held_out(
            models,
            data,
            output,
            design,
            overwrite=options.overwrite,
            jobs=patients.jobs,
            on_step=lambda text: bar.update(task, advance=1, description=text),
        )
    for title, result in made.results.items():
        everyone, false = result["dice"]["all"], result["false_positive_ml_without_lesion"]
        if "median" in everyone:
            typer.echo(
                f"{title}: median Dice {everyone['median']:.3f} of {everyone['n']} scans, "
                f"{everyone['missed']} missed"
            )
        if false:
            typer.echo(f"{title}: median false volume {false['median']:.2f} ml of {false['n']} scans without")
    typer.echo(f"table: {made.table}")
    typer.echo(f"reliability: {made.picture}")
    return OK
