"""The verb ``train``, and arguments of the verbs that train."""

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder

if TYPE_CHECKING:
    from anystroke.learning.run import Devices
    from anystroke.tasks.registry import Recipe

Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Override = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Change a value of the recipe; may be given several times."),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="Be done, with everything written, in so long; the learning rate falls with the time left.",
        min=0,
        show_default="the recipe's; 0: all steps",
    ),
]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the best there is.")]
DeviceCount = Annotated[
    str, typer.Option(metavar="N", help="Processes on this machine; auto: all GPUs, or one on the CPU.")
]
Nodes = Annotated[int | None, typer.Option(min=1, help="Machines.", show_default="what the launcher says")]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]
_ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe (TOML).")],
    output: Output,
    resume: Resume = False,
    override: Override = None,
    minutes: Minutes = None,
    accelerator: Accelerator = "auto",
    devices: DeviceCount = "auto",
    nodes: Nodes = None,
    _debug: Debug = False,
) -> int:
    """Train a network.

    Writes a model folder that 'segment --model' takes ('estimate-qmri --model' for a recipe with
    task = "qmri"), checkpoints, a log, validations, pictures and a report. A run that was killed goes on with
    --resume as if nothing had happened. torchrun and Slurm start it on many devices without a change.

    Where time is limited (a queue, a notebook, a rented GPU), --minutes 9 trains by the clock; a second call
    with --resume --minutes 9 goes on for as long again. On SIGTERM a run writes a checkpoint and stops.

    Example: anystroke train recipes/default.toml -o run --minutes 9
    """
    started = time.monotonic()
    check_folder(output)
    chosen = chosen_devices(accelerator, devices, nodes)
    from anystroke.core.config import ConfigError
    from anystroke.tasks.registry import load_any_recipe

    try:
        settings = load_any_recipe(recipe, with_minutes(override, minutes))
    except ConfigError as error:
        raise ArgumentError(str(error)) from error
    return run(settings, output, resume=resume, devices=chosen, started=started)


def with_minutes(override: list[str] | None, minutes: float | None) -> list[str]:
    """Return the overrides with that of the time, if any."""
    return [*(override or []), *([] if minutes is None else [f"optimiser.minutes={minutes}"])]


def run(settings: "Recipe", output: Path, *, resume: bool, devices: "Devices", started: float) -> int:
    """Run a recipe and say where its model is."""
    from anystroke.core.memory import keep_pages
    from anystroke.learning.run import train as run_recipe

    keep_pages()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("anystroke").setLevel(logging.INFO)
    model = run_recipe(settings, output, resume=resume, devices=devices, started=started)
    ranks = (os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ)
    if int(next(ranks, "0")) == 0:
        typer.echo(f"model: {model}")
    return OK


def chosen_devices(accelerator: str, devices: str, nodes: int | None) -> "Devices":
    """Return where to compute, or raise ArgumentError."""
    if accelerator not in _ACCELERATORS:
        raise ArgumentError(f"--accelerator must be one of {', '.join(_ACCELERATORS)}, got {accelerator!r}")
    if devices != "auto" and not (devices.isdigit() and int(devices) > 0):
        raise ArgumentError(f"--devices must be 'auto' or a number of processes, got {devices!r}")
    from anystroke.learning.run import Devices

    return Devices(accelerator, devices if devices == "auto" else int(devices), nodes)
