"""The verb ``benchmark``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import FAILED, OK, ArgumentError, check_folder, complain, progress_bar
from anystroke.commands.evaluate import Debug, Define, Output, Preset, settings_of, split


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

    settings = settings_of(preset, define)
    known = load_preset("realistic").weightings
    names = tuple(dict.fromkeys(split([sequences])))
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
