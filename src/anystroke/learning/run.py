"""The supervised loop: cases in, a network that segments lesions or estimates maps out."""

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric

from anystroke.anatomy.lesions.bank import load_bank
from anystroke.anatomy.tissues.anatomies import load_anatomies
from anystroke.io.labelled import find_labelled_scans
from anystroke.learning.clock import Clock
from anystroke.learning.loop import Loop, write_json
from anystroke.learning.recipe import SimulatedPart, TrainingSettings
from anystroke.learning.run_log import RunLog
from anystroke.learning.sources.packing import pack_showing_progress
from anystroke.learning.sources.simulated import Pack
from anystroke.learning.supply import Supply
from anystroke.learning.trainer import Trainer, TrainingError, make_fabric
from anystroke.models.checkpoints import EstimatorConfig, ModelConfig
from anystroke.tasks.qmri.recipe import EstimatorSettings, Recipe
from anystroke.tasks.qmri.validate import CRITERION, Head, judge_estimator, simulated_heads
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import (
    SCORE,
    Patient,
    append_rows,
    judge,
    real_patients,
    simulated_patients,
    summarise,
)

log = logging.getLogger(__name__)
VALIDATION_SEED = 786
# Slurm jobs in which a person types: one process, whatever the allocation.
_BY_HAND = ("bash", "interactive")


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
        TrainingError: The folder already holds a run and ``resume`` is False, the loss is not finite, no step
            was done in time, or SIGTERM came.
        DatasetError: The data cannot be used.
        CheckpointError: A model or the checkpoint is damaged.
    """
    minutes = settings.optimiser.minutes
    clock = Clock(60 * minutes, started=started) if minutes else None
    state = folder / "state.safetensors"
    fabric = (devices or Devices()).fabric(settings)
    if fabric.is_global_zero and state.exists() and not resume:
        raise TrainingError(
            f"{folder} already holds a run; pass --resume to go on with it, or another folder"
        )
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
        folder.mkdir(parents=True, exist_ok=True)
        split = pack_showing_progress(settings, folder / "data")
        write_json(folder / "split.json", split)
    fabric.barrier()
    trainer = Trainer(settings, folder, fabric)
    if resume and (folder / "state.safetensors").exists():
        trainer.resume()
    if fabric.is_global_zero:
        write_json(folder / "recipe.json", settings.model_dump(mode="json"))
    _loop(trainer, clock)
    fabric.barrier()


def _loop(trainer: Trainer, clock: Clock | None) -> None:
    settings, fabric = trainer.settings, trainer.fabric
    data = trainer.folder / "data"
    supply = Supply(settings, data, fabric, step=trainer.step, made=trainer.made, clock=clock)
    validate = _validation(trainer) if fabric.is_global_zero else None
    criterion = CRITERION if isinstance(settings, EstimatorSettings) else SCORE
    Loop(trainer, supply, validate=validate, criterion=criterion, clock=clock).run()


def _validation(trainer: Trainer) -> Callable[[Trainer, RunLog], None] | None:
    """Make the patients that a run is judged on, and return what judges; None if the recipe wants none."""
    settings, folder = trainer.settings, trainer.folder / "data"
    wanted = settings.validation
    if not wanted.patients + getattr(wanted, "healthy", 0):
        return None
    held_out = Pack(
        load_anatomies(folder / "held_out_anatomies.safetensors"),
        load_bank(folder / "held_out_lesions.safetensors"),
    )
    if isinstance(settings, EstimatorSettings):
        heads = list(_validation_heads(settings, held_out, trainer.module.divisor))
        return partial(_validate_estimator, heads)
    return partial(_validate, _validation_patients(settings, held_out))


def _validation_heads(settings: EstimatorSettings, held_out: Pack, divisor: int) -> Iterator[Head]:
    looks = next(part.synthesis for part in settings.sources if isinstance(part, SimulatedPart))
    return simulated_heads(
        held_out,
        looks.model_copy(update={"spacing": settings.grid.spacing}),
        names=settings.maps,
        target=settings.target,
        count=settings.validation.patients,
        seed=VALIDATION_SEED,
        divisor=divisor,
    )


def _validate_estimator(heads: Sequence[Head], trainer: Trainer, record: RunLog) -> None:
    config = trainer.model_config()
    assert isinstance(config, EstimatorConfig)
    rows = judge_estimator(trainer.averaged(), config, heads)
    append_rows(trainer.folder / "validation.csv", trainer.step, rows)
    if record.validated(trainer.step, rows):
        trainer.export(trainer.folder / "best", validation=rows[0])


def _validation_patients(settings: TrainingSettings, held_out: Pack) -> list[Patient]:
    wanted = settings.validation
    return list(
        simulated_patients(
            held_out.anatomies,
            held_out.masks,
            count=wanted.patients,
            healthy=wanted.healthy,
            seed=VALIDATION_SEED,
            weightings=wanted.weightings,
            preset=wanted.preset,
            spacing=settings.grid.spacing,
        )
    )


def _validate(patients: list[Patient], trainer: Trainer, record: RunLog) -> None:
    """Judge the averaged network; keep it apart if none before it was as good on the simulated patients."""
    config = trainer.model_config()
    assert isinstance(config, ModelConfig)
    assert isinstance(trainer.settings, TrainingSettings)
    model = Model(trainer.averaged(), config, sha256="")
    rows = summarise(judge(model, patients))
    if sources := trainer.settings.validation.scans:
        scans = [scan for source in sources for scan in find_labelled_scans(source)]
        rows += summarise(judge(model, real_patients(scans)))
    append_rows(trainer.folder / "validation.csv", trainer.step, rows)
    if record.validated(trainer.step, rows):
        trainer.export(trainer.folder / "best", validation=rows[0])
