"""The verb ``pretrain``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import ArgumentError, check_folder
from anystroke.commands.options import with_options
from anystroke.commands.train import ComputeOptions, RunOptions, run_recipe


@with_options
def pretrain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help='A recipe with task = "pretraining".')],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")],
    run: RunOptions,
    compute: ComputeOptions,
) -> int:
    """Train an encoder to find a patient again, whatever the sequence.

    Writes a model folder that start_from in other recipes takes, with checkpoints, a log, pictures and a
    report as 'train' does. A run that was killed goes on with --resume as if nothing had happened.

    Example: anystroke pretrain pretraining -o encoder
    """
    started = time.monotonic()
    check_folder(output)
    devices = compute.chosen()
    from anystroke.tasks.pretraining.recipe import PretrainingSettings
    from anystroke.tasks.registry import load_any_recipe

    settings = load_any_recipe(recipe, run.overrides)
    if not isinstance(settings, PretrainingSettings):
        raise ArgumentError(f"{recipe} has no task = \"pretraining\"; run it with 'anystroke train'")
    return run_recipe(settings, output, run, devices, started)
