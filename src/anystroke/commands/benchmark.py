"""The verb ``benchmark``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import FAILED, OK, ArgumentError, check_folder, complain, progress_bar
from anystroke.commands.evaluate import MetricOptions, split
from anystroke.commands.options import Debug, Output, Threads, with_options


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
class BenchmarkOptions:
    """What is printed beside, how it computes, and what may be replaced."""

    published: Annotated[
        list[str] | None, typer.Option(metavar="TABLE", help="A paper's figures to print beside.")
    ] = None
    threads: Threads = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scans of another design.")] = False
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
    metrics: MetricOptions,
    options: BenchmarkOptions,
) -> int:
    """Judge models on fixed simulated patients that differ in one thing at a time.

    Separates what sequence, resolution, noise, lesion size, stage and skull-stripping cost. Needs no data.

    Example: anystroke benchmark default threshold -o bench --patients 1
    """
    check_folder(output)
    import torch

    from anystroke.acquisition.presets.preset import load_preset
    from anystroke.reports.published import published_table
    from anystroke.studies.benchmark.patients import Design, conditions
    from anystroke.studies.benchmark.run import run_benchmark

    settings = metrics.settings()
    known = load_preset("realistic").weightings
    names = tuple(dict.fromkeys(split([which.sequences])))
    if not names or not set(names) <= set(known):
        raise ArgumentError(f"--sequence must be among {', '.join(known)}, got {which.sequences!r}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
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
