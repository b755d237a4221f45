"""The verb ``finetune``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import ArgumentError, check_folder
from anystroke.commands.train import (
    Accelerator,
    Debug,
    DeviceCount,
    Minutes,
    Nodes,
    Output,
    Override,
    Resume,
    chosen_devices,
    run,
    with_minutes,
)


def finetune(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA", help="Scans with masks: a BIDS data set, an nnU-Net raw folder or a TSV of paths."
        ),
    ],
    output: Output,
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="What to start from: a shipped model, or a model folder.")
    ] = "default",
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated scans for each of yours, so that nothing is forgotten.")
    ] = 1,
    resume: Resume = False,
    override: Override = None,
    minutes: Minutes = None,
    accelerator: Accelerator = "auto",
    devices: DeviceCount = "auto",
    nodes: Nodes = None,
    _debug: Debug = False,
) -> int:
    """Go on training a model with scans and masks of one's own.

    Example: anystroke finetune my_bids_folder -o my_model --override optimiser.steps=500
    """
    started = time.monotonic()
    check_folder(output)
    chosen = chosen_devices(accelerator, devices, nodes)
    from anystroke.core.config import ConfigError
    from anystroke.models.checkpoints import CheckpointError
    from anystroke.tasks.segmentation.finetune import finetuning_recipe

    try:
        settings = finetuning_recipe(
            data, model=model, simulated=simulated, overrides=with_minutes(override, minutes)
        )
    except (ConfigError, CheckpointError) as error:
        raise ArgumentError(str(error)) from error
    return run(settings, output, resume=resume, devices=chosen, started=started)
