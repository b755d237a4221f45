"""The supervised loop: cases in, a network that segments lesions or estimates maps out."""

import errno
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anystroke.anatomy.anatomies import load_anatomies
from anystroke.anatomy.lesions import load_bank
from anystroke.files import atomic_path
from anystroke.inference.image_features import image_features, image_range
from anystroke.inference.segmentation import Model
from anystroke.labelled_scans import find_labelled_scans
from anystroke.learning.case_stream import Batch, CaseStream, StreamSettings, stream_loader
from anystroke.learning.checkpoints import EstimatorConfig, ModelConfig, load_config, save_config
from anystroke.learning.estimated_maps import activate
from anystroke.learning.estimation_validation import CRITERION, Head, judge_estimator, simulated_heads
from anystroke.learning.estimator_recipes import EstimatorSettings, Recipe
from anystroke.learning.recipes import SimulatedPart, TrainingSettings
from anystroke.learning.run_log import RunLog, write_report
from anystroke.learning.sheets import map_sheet, predict_lesion, sample_sheet
from anystroke.learning.simulated import Pack
from anystroke.learning.sources import pack_showing_progress, sources_of
from anystroke.learning.tasks import Segmentation
from anystroke.learning.trainer import LossError, Trainer, TrainingError, make_fabric
from anystroke.learning.validation import (
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
RANGE_CASES = 200
"""Cases whose images tell what those of a training are like."""
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


def train(settings: Recipe, folder: Path, *, resume: bool = False, devices: Devices | None = None) -> Path:
    """Run a recipe to its last step.

    A run that was broken off goes on with ``resume`` as if nothing had happened: on the same kind of device,
    and with as many of them, every loss is the same to the bit.

    Args:
        settings: The recipe.
        folder: Run folder.
        resume: Go on from the folder's last checkpoint instead of refusing to touch it.
        devices: Where to compute; by default all GPUs of this machine, or its CPU.

    Returns:
        The model folder.

    Raises:
        TrainingError: The folder already holds a run and ``resume`` is False, or the loss is not finite.
        DatasetError: The data cannot be used.
        CheckpointError: A model or the checkpoint is damaged.
    """
    state = folder / "state.safetensors"
    fabric = (devices or Devices()).fabric(settings)
    if fabric.is_global_zero and state.exists() and not resume:
        raise TrainingError(
            f"{folder} already holds a run; pass --resume to go on with it, or another folder"
        )
    fabric.launch()
    try:
        _run(settings, folder, fabric, resume=resume)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise TrainingError(
            f"no space is left on the disk of {folder}: free some and use --resume, the checkpoint is whole"
        ) from error
    return folder / "model"


def _run(settings: Recipe, folder: Path, fabric: Fabric, *, resume: bool) -> None:
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        split = pack_showing_progress(settings, folder / "data")
        _write_json(folder / "split.json", split)
    fabric.barrier()
    trainer = Trainer(settings, folder, fabric)
    if resume and (folder / "state.safetensors").exists():
        trainer.resume()
    if fabric.is_global_zero:
        _write_json(folder / "recipe.json", settings.model_dump(mode="json"))
    _loop(trainer)
    fabric.barrier()


def _loop(trainer: Trainer) -> None:
    settings, fabric = trainer.settings, trainer.fabric
    options = settings.optimiser
    cases = CaseStream(
        sources_of(settings, trainer.folder / "data"),
        stream_settings(settings),
        first=trainer.step * options.accumulate,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    loader = stream_loader(cases, workers=options.workers, pin_memory=fabric.device.type == "cuda")
    batches: Iterator[Batch] = iter(loader)
    validate = _validation(trainer) if fabric.is_global_zero else None
    criterion = CRITERION if isinstance(settings, EstimatorSettings) else SCORE
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.2f} steps/s, left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with (
        RunLog(trainer.folder, trainer.step, active=fabric.is_global_zero, criterion=criterion) as record,
        Progress(*columns, console=console, disable=not fabric.is_global_zero) as progress,
    ):
        task = progress.add_task("training", total=options.steps, completed=trainer.step, rate=0.0)
        while trainer.step < options.steps:
            started = time.perf_counter()
            taken = list(itertools.islice(batches, options.accumulate))
            waited = time.perf_counter() - started
            rate = trainer.learning_rate
            try:
                loss = trainer.train_step(*taken)
            except LossError as error:
                raise LossError(
                    f"{error}; {_keep_records(trainer, cases)} says what it was made of"
                ) from error
            record.step(trainer.step, loss, rate, waited, time.perf_counter() - started)
            progress.update(
                task, completed=trainer.step, description=f"loss {record.recent:.3f}", rate=record.rate
            )
            last = trainer.step == options.steps
            if fabric.is_global_zero and (last or trainer.step % options.checkpoint_every == 0):
                trainer.save()
                record.sheet(trainer.step, _sheet(trainer, taken[-1]))
            if validate and (last or trainer.step % settings.validation.every == 0):
                validate(trainer, record)
            if last or trainer.step % settings.validation.every == 0:
                fabric.barrier()
    if fabric.is_global_zero:
        if isinstance(settings, TrainingSettings):
            _keep_image_range(trainer, batches)
        write_report(trainer.folder, settings, criterion=criterion)


def _keep_image_range(trainer: Trainer, batches: Iterator[Batch]) -> None:
    """Measure what further images of the training are like, and keep that with its models."""
    options = trainer.settings.optimiser
    count = min(RANGE_CASES, options.steps * options.accumulate * options.batch)
    taken = itertools.islice(batches, math.ceil(count / options.batch))
    spacing = trainer.settings.grid.spacing
    usual = image_range(image_features(image[0], spacing=spacing) for batch in taken for image in batch[0])
    for folder in (trainer.folder / "model", trainer.folder / "best"):
        if folder.is_dir():
            save_config(folder, load_config(folder).model_copy(update={"image_range": usual}))


def stream_settings(settings: Recipe) -> StreamSettings:
    """Return what decides the cases of a recipe."""
    cells = Segmentation(settings).cells() if isinstance(settings, TrainingSettings) else None
    return StreamSettings(
        shares=tuple(part.share for part in settings.sources),
        shapes=settings.grid.shapes,
        shape_weights=settings.grid.shape_weights,
        seed=settings.seed,
        batch=settings.optimiser.batch,
        normalisation=settings.grid.normalisation,
        cells=cells,
        contrasts=settings.contrasts if isinstance(settings, TrainingSettings) else 1,
    )


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


def _keep_records(trainer: Trainer, cases: CaseStream) -> Path:
    """Write what the cases of the current step were made of, as ``regenerate`` takes it."""
    each = trainer.settings.optimiser.accumulate
    numbers = range(trainer.step * each, (trainer.step + 1) * each)
    records = [record for number in numbers for record in cases.records(number)]
    path = trainer.folder / f"step_{trainer.step:06d}_cases_{trainer.fabric.global_rank}.json"
    _write_json(path, records)
    return path


def _sheet(trainer: Trainer, batch: Batch) -> Path:
    image, target = batch.image, batch.target
    path = trainer.folder / "samples" / f"step_{trainer.step:06d}.png"
    if isinstance(trainer.settings, EstimatorSettings):
        _map_sheet(trainer, trainer.settings, batch, path)
        return path
    probability = predict_lesion(trainer.module, image.to(trainer.fabric.device))
    last = trainer.task.outputs - 1
    lesion = target[:, last] > 0.5 if target.is_floating_point() else target == last
    cases = [
        (image[k, 0], lesion[k], probability[k], f"step {trainer.step}: image, target, lesion probability")
        for k in range(len(image))
    ]
    sample_sheet(cases, path)
    return path


def _map_sheet(trainer: Trainer, settings: EstimatorSettings, batch: Batch, path: Path) -> None:
    image, target = batch[0][:1], batch[1][0]
    trainer.module.eval()
    with torch.no_grad():
        output = trainer.module(image.to(trainer.fabric.device)).float().cpu()
    trainer.module.train()
    found = activate(output, settings.maps)[0]
    map_sheet(image[0, 0], target[:-1], found, settings.maps, path, title=f"step {trainer.step}: true, found")


def _write_json(path: Path, content: object) -> None:
    with atomic_path(path, overwrite=True) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
