"""The verbs that train networks."""

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder, progress_bar

if TYPE_CHECKING:
    from rich.progress import TaskID

    from anystroke.learning.run import Devices
    from anystroke.tasks.registry import Recipe

_Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
_Override = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Change a value of the recipe; may be given several times."),
]
_Minutes = Annotated[
    float | None,
    typer.Option(
        help="Be done, with everything written, in so long; the learning rate falls with the time left.",
        min=0,
        show_default="the recipe's; 0: all steps",
    ),
]
_Accelerator = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the best there is.")]
_Devices = Annotated[
    str, typer.Option(metavar="N", help="Processes on this machine; auto: all GPUs, or one on the CPU.")
]
_Nodes = Annotated[int | None, typer.Option(min=1, help="Machines.", show_default="what the launcher says")]
_Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]
_ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe (TOML).")],
    output: _Output,
    resume: _Resume = False,
    override: _Override = None,
    minutes: _Minutes = None,
    accelerator: _Accelerator = "auto",
    devices: _Devices = "auto",
    nodes: _Nodes = None,
    _debug: _Debug = False,
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
    chosen = _chosen_devices(accelerator, devices, nodes)
    from anystroke.core.config import ConfigError
    from anystroke.tasks.registry import load_any_recipe

    try:
        settings = load_any_recipe(recipe, _with_minutes(override, minutes))
    except ConfigError as error:
        raise ArgumentError(str(error)) from error
    return _run(settings, output, resume=resume, devices=chosen, started=started)


def finetune(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA", help="Scans with masks: a BIDS data set, an nnU-Net raw folder or a TSV of paths."
        ),
    ],
    output: _Output,
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="What to start from: a shipped model, or a model folder.")
    ] = "default",
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated scans for each of yours, so that nothing is forgotten.")
    ] = 1,
    resume: _Resume = False,
    override: _Override = None,
    minutes: _Minutes = None,
    accelerator: _Accelerator = "auto",
    devices: _Devices = "auto",
    nodes: _Nodes = None,
    _debug: _Debug = False,
) -> int:
    """Go on training a model with scans and masks of one's own.

    Example: anystroke finetune my_bids_folder -o my_model --override optimiser.steps=500
    """
    started = time.monotonic()
    check_folder(output)
    chosen = _chosen_devices(accelerator, devices, nodes)
    from anystroke.core.config import ConfigError
    from anystroke.models.checkpoints import CheckpointError
    from anystroke.tasks.segmentation.finetune import finetuning_recipe

    try:
        settings = finetuning_recipe(
            data, model=model, simulated=simulated, overrides=_with_minutes(override, minutes)
        )
    except (ConfigError, CheckpointError) as error:
        raise ArgumentError(str(error)) from error
    return _run(settings, output, resume=resume, devices=chosen, started=started)


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="DIR", help="A model folder; its config.json is replaced.")
    ],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The folder 'data' of a training run with label maps and lesions."),
    ],
    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Simulated patients.", show_default="200; 12 for an estimator"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the patients.")] = 2027,
    _debug: _Debug = False,
) -> int:
    """Choose a model's temperature, threshold and smallest certainty, and measure its volumes' errors.

    Simulated patients made of the training's anatomies and lesions decide; those held out stay unseen. Of an
    estimator of maps, the mean bias of each map is taken out.

    Example: anystroke calibrate run/model --data run/data
    """
    from anystroke.core.memory import keep_pages
    from anystroke.models.checkpoints import CheckpointError, save_config, task_of_model
    from anystroke.tasks.segmentation.calibrate import calibrate as choose
    from anystroke.tasks.segmentation.predict import Model

    for name in ("anatomies", "lesions"):
        if not (data / f"{name}.safetensors").is_file():
            raise ArgumentError(
                f"expected {name}.safetensors in {data}, but there is none; give the 'data' folder of a run "
                "that trains on simulated patients"
            )
    keep_pages()
    try:
        if task_of_model(model) == "qmri":
            return _calibrate_estimator(model, data, patients or 12, seed)
        if patients is not None and patients < 50:
            raise ArgumentError(f"--patients: expected at least 50 to calibrate with, got {patients}")
        opened = Model.open(model)
    except CheckpointError as error:
        raise ArgumentError(str(error)) from error
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        found = choose(opened, data, patients=patients or 200, seed=seed, on_patient=show)
    save_config(model, found.applied_to(opened.config))
    typer.echo(
        f"temperature {found.temperature:g}, threshold {found.threshold:g}, smallest certainty "
        f"{found.certain:g}; log loss {found.log_loss[0]:.5f} -> {found.log_loss[1]:.5f}, mean Dice "
        f"{found.mean_dice[0]:.3f} -> {found.mean_dice[1]:.3f}, lesion-wise F1 {found.mean_f1[0]:.3f} -> "
        f"{found.mean_f1[1]:.3f}, false volume {found.false_volume[0]:.2f} -> "
        f"{found.false_volume[1]:.2f} ml"
    )
    return OK


def _calibrate_estimator(model: Path, data: Path, heads: int, seed: int) -> int:
    """Replace an estimator's values by the median truth behind them."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.qmri.calibrate import calibrate_estimator
    from anystroke.tasks.qmri.predict import Estimator

    opened = Estimator.open(model)
    with progress_bar() as bar:
        task = bar.add_task("heads", total=heads)
        found = calibrate_estimator(
            opened, data, heads=heads, seed=seed, on_head=lambda done: bar.update(task, completed=done)
        )
    save_config(model, found.applied_to(opened.config))
    for name, curve in found.curves.items():
        bias = ", ".join(
            f"{tissue.replace('_', ' ')} {100 * b:+.1f} %" for tissue, b in found.bias[name].items()
        )
        typer.echo(f"{name}: a curve of {len(curve)} points (bias before: {bias})")
    return OK


def _with_minutes(override: list[str] | None, minutes: float | None) -> list[str]:
    return [*(override or []), *([] if minutes is None else [f"optimiser.minutes={minutes}"])]


def _run(settings: "Recipe", output: Path, *, resume: bool, devices: "Devices", started: float) -> int:
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


def _chosen_devices(accelerator: str, devices: str, nodes: int | None) -> "Devices":
    if accelerator not in _ACCELERATORS:
        raise ArgumentError(f"--accelerator must be one of {', '.join(_ACCELERATORS)}, got {accelerator!r}")
    if devices != "auto" and not (devices.isdigit() and int(devices) > 0):
        raise ArgumentError(f"--devices must be 'auto' or a number of processes, got {devices!r}")
    from anystroke.learning.run import Devices

    return Devices(accelerator, devices if devices == "auto" else int(devices), nodes)
