"""The verb ``finetune``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import check_folder
from anystroke.commands.options import with_options
from anystroke.commands.train import ComputeOptions, RunOptions, run_recipe


@dataclass(frozen=True)
class StartOptions:
    """What it starts from, and what it must not forget."""

    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="What to start from: a shipped model, or a model folder.")
    ] = "default"
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated scans for each of yours, so that nothing is forgotten.")
    ] = 1


@with_options
def finetune(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA", help="Scans with masks: a BIDS data set, an nnU-Net raw folder or a TSV of paths."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")],
    start: StartOptions,
    run: RunOptions,
    compute: ComputeOptions,
) -> int:
    """Go on training a model with scans and masks of one's own.

    Example: anystroke finetune my_bids_folder -o my_model --override optimiser.steps=500
    """
    started = time.monotonic()
    check_folder(output)
    devices = compute.chosen()
    from anystroke.tasks.segmentation.finetune import finetuning_recipe

    settings = finetuning_recipe(data, model=start.model, simulated=start.simulated, overrides=run.overrides)
    return run_recipe(settings, output, run, devices, started)
