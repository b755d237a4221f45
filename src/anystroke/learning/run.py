"""A recipe from its data to its model, whatever the task."""

import errno
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import write_json
from anystroke.learning.clock import Clock
from anystroke.learning.loop import Loop
from anystroke.learning.sources.packing import pack_showing_progress
from anystroke.learning.supply import Supply
from anystroke.learning.task import Recipe
from anystroke.learning.trainer import StartError, Trainer, TrainingError, check_shapes, make_fabric
from anystroke.models.checkpoints import model_facts

log = logging.getLogger(__name__)
# Slurm jobs in which a person types: one process, whatever the allocation.
_BY_HAND = ("bash", "interactive")


class SharedPatientError(AnystrokeError):
    """A run would be judged on patients that it has learnt from."""


@dataclass(frozen=True)
class Devices:
    """Where a run computes.

    Attributes:
        accelerator: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        devices: How many on this machine, or ``"auto"``: as many as the launcher (torchrun, Slurm) started
            processes, otherwise all GPUs or one CPU.
        nodes: Machines; None is what the launcher says, otherwise 1.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: int | None = None

    def fabric(self, settings: Recipe) -> Fabric:
        """Return what runs the training there."""
        devices, nodes = self.devices, self.nodes
        environment = os.environ
        if "LOCAL_WORLD_SIZE" in environment and "GROUP_RANK" in environment:
            here = int(environment["LOCAL_WORLD_SIZE"])
            devices = here if devices == "auto" else devices
            nodes = nodes or int(environment["WORLD_SIZE"]) // here
        elif "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in _BY_HAND:
            nodes = nodes or int(environment.get("SLURM_NNODES", "1"))
            devices = int(environment["SLURM_NTASKS"]) // nodes if devices == "auto" else devices
        return make_fabric(
            settings.optimiser.precision, accelerator=self.accelerator, devices=devices, nodes=nodes or 1
        )


def train(
    settings: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    devices: Devices | None = None,
    started: float | None = None,
) -> Path:
    """Run a recipe to its last step, or as long as its ``optimiser.minutes`` say.

    A run that was broken off goes on with ``resume`` as if nothing had happened: on the same kind of device,
    and with as many of them, every loss is the same to the bit. With a buffer the cases go on where the
    checkpoint was written, and the buffer fills anew. By the clock each call has all of its minutes: the
    learning rate rises and falls again. SIGTERM ends a run after the step that is being done.

    Args:
        settings: The recipe.
        folder: Run folder.
        resume: Go on from the folder's last checkpoint instead of refusing to touch it.
        devices: Where to compute; by default all GPUs of this machine, or its CPU.
        started: What ``time.monotonic`` gave when the minutes began; now if None.

    Returns:
        The model folder.

    Raises:
        StartError: The folder already holds a run and ``resume`` is False, or the recipe does not fit.
        TrainingError: The loss is not finite, no step was done in time, or SIGTERM came.
        DatasetError: The data cannot be used.
        CheckpointError: A model or the checkpoint is damaged.
    """
    minutes = settings.optimiser.minutes
    clock = Clock(60 * minutes, started=started) if minutes else None
    state = folder / "state.safetensors"
    fabric = (devices or Devices()).fabric(settings)
    if fabric.is_global_zero and state.exists() and not resume:
        raise StartError(f"{folder} already holds a run; pass --resume to go on with it, or another folder")
    fabric.launch()
    try:
        _run(settings, folder, fabric, resume=resume, clock=clock)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(
            f"no space is left on the disk of {folder}: free some and use --resume, the checkpoint is whole"
        ) from error
    return folder / "model"


def _run(settings: Recipe, folder: Path, fabric: Fabric, *, resume: bool, clock: Clock | None) -> None:
    if fabric.is_global_zero:
        check_shapes(settings, settings.open_task().network().divisor)
        folder.mkdir(parents=True, exist_ok=True)
        split = pack_showing_progress(settings, folder / "data")
        check_held_out(settings, split)
        write_json(folder / "split.json", split)
    fabric.barrier()
    trainer = Trainer(settings, folder, fabric)
    if resume and (folder / "state.safetensors").exists():
        trainer.resume()
    if fabric.is_global_zero:
        write_json(folder / "recipe.json", settings.model_dump(mode="json"))
    _loop(trainer, clock)
    fabric.barrier()


def check_held_out(settings: Recipe, split: Mapping[str, Sequence[str]]) -> None:
    """Refuse to judge a run on patients that the model which it starts from has learnt from.

    What the run learns from itself is held out of nothing, such as where there is one anatomy alone.

    Args:
        settings: The recipe.
        split: Names of the anatomies and of those that are held out.

    Raises:
        HeldOutError: There is one, as far as the model's configuration says.
    """
    if settings.start_from is None:
        return
    learnt = set(model_facts(settings.start_from)["training"].get("anatomies", []))
    unseen = set(split.get("held_out_anatomies", [])) - set(split.get("anatomies", []))
    if shared := sorted(learnt & unseen):
        raise SharedPatientError(
            f"expected to hold out patients that {settings.start_from} has not learnt from, but "
            f"{shared[0]} is one of them; name the held_out_anatomies of its recipe"
        )


def _loop(trainer: Trainer, clock: Clock | None) -> None:
    settings, fabric = trainer.settings, trainer.fabric
    data = trainer.folder / "data"
    supply = Supply(settings, data, fabric, step=trainer.step, made=trainer.made, clock=clock)
    validate = trainer.task.validation(data, trainer.module.divisor) if fabric.is_global_zero else None
    Loop(trainer, supply, validate=validate, criterion=trainer.task.criterion, clock=clock).run()
