"""The verb ``train``, and arguments of the verbs that train."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder
from anystroke.commands.options import Debug, with_options

if TYPE_CHECKING:
    from anystroke.learning.run import Devices
    from anystroke.tasks.registry import AnyRecipe


@dataclass(frozen=True)
class RunOptions:
    """How a run goes on, and what it changes of its recipe."""

    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Change a value of the recipe; may be given several times."),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Be done, with everything written, in so long; the learning rate falls with the time left.",
            min=0,
            show_default="the recipe's; 0: all steps",
        ),
    ] = None
    debug: Debug = False

    @property
    def overrides(self) -> list[str]:
        """All changes of the recipe, that of the time among them."""
        time = [] if self.minutes is None else [f"optimiser.minutes={self.minutes}"]
        return [*(self.override or []), *time]


@dataclass(frozen=True)
class ComputeOptions:
    """Where a run computes."""

    accelerator: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="auto: the best there is.")
    ] = "auto"
    devices: Annotated[
        str, typer.Option(metavar="N", help="Processes on this machine; auto: all GPUs, or one on the CPU.")
    ] = "auto"
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines.", show_default="what the launcher says")
    ] = None

    def chosen(self) -> "Devices":
        """Return where to compute.

        Raises:
            ArgumentError: ``devices`` is no number.
        """
        if self.devices != "auto" and not (self.devices.isdigit() and int(self.devices) > 0):
            raise ArgumentError(f"--devices must be 'auto' or a number of processes, got {self.devices!r}")
        from anystroke.learning.run import Devices

        number = self.devices if self.devices == "auto" else int(self.devices)
        return Devices(self.accelerator, number, self.nodes)


@dataclass(frozen=True)
class DataOptions:
    """Data of one's own in place of those that a recipe names."""

    anatomies: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Label maps with FreeSurfer numbers, in any space.",
            show_default="the recipe's",
        ),
    ] = None
    lesions: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Lesion masks in MNI space.", show_default="the recipe's"),
    ] = None
    scans: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DATA",
            help="Scans with masks: a BIDS data set, an nnU-Net raw folder, a folder or a TSV of paths.",
            show_default="the recipe's",
        ),
    ] = None
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Masks of the one folder of --scans, named alike.",
            show_default="beside the scans",
        ),
    ] = None
    maps: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DATA", help="Quantitative maps with lesion masks.", show_default="the recipe's"
        ),
    ] = None


@with_options
def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="NAME|FILE", help="A recipe: its name ('anystroke recipes'), or TOML.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")],
    data: DataOptions,
    run: RunOptions,
    compute: ComputeOptions,
) -> int:
    """Train a network.

    Writes a model folder that 'segment --model' takes ('estimate-qmri --model' for a recipe with
    task = "qmri"), checkpoints, a log, validations, pictures and a report. A run that was killed goes on with
    --resume as if nothing had happened. torchrun and Slurm start it on many devices without a change.

    Where time is limited (a queue, a notebook, a rented GPU), --minutes 9 trains by the clock; a second call
    with --resume --minutes 9 goes on for as long again. On SIGTERM a run writes a checkpoint and stops.

    Example: anystroke train qsynth-small -o run --anatomies my_label_maps --lesions my_lesions_in_mni
    """
    started = time.monotonic()
    check_folder(output)
    devices = compute.chosen()
    from anystroke.learning.own_data import OwnData, own_overrides
    from anystroke.learning.sources.packing import is_judged
    from anystroke.learning.sources.patient_packs import with_held_out_anatomies
    from anystroke.tasks.registry import load_any_recipe

    if data.masks is not None and len(data.scans or ()) != 1:
        raise ArgumentError("--masks are those of one folder of scans; name it with --scans DIR")
    own = OwnData(
        anatomies=tuple(data.anatomies or ()),
        lesions=tuple(data.lesions or ()),
        scans=tuple(data.scans or ()),
        masks=data.masks,
        maps=tuple(data.maps or ()),
    )
    settings = load_any_recipe(recipe, [*own_overrides(recipe, own, output), *run.overrides])
    if is_judged(settings):
        settings = settings.model_copy(update={"data": with_held_out_anatomies(settings.data)})
    return run_recipe(settings, output, run, devices, started)


def run_recipe(
    settings: "AnyRecipe",
    output: Path,
    run: RunOptions,
    devices: "Devices",
    started: float,
    *,
    said: bool = True,
) -> int:
    """Run a recipe and, if it is to be said, say where its model is."""
    from anystroke.core.memory import keep_pages
    from anystroke.learning.run import train as train_network

    keep_pages()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("anystroke").setLevel(logging.INFO)
    model = train_network(settings, output, resume=run.resume, devices=devices, started=started)
    if said and is_first_process():
        typer.echo(f"model: {model}")
    return OK


def is_first_process() -> bool:
    """Tell whether this is the process of a distributed run that writes and speaks."""
    ranks = (os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ)
    return int(next(ranks, "0")) == 0
