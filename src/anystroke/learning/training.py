"""The supervised loop: simulated scans in, a network that segments lesions out."""

import csv
import json
import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from anystroke.anatomy.anatomies import Anatomy, build_anatomy, save_anatomies
from anystroke.anatomy.labels import SYNTHSEG
from anystroke.anatomy.lesions import load_masks, save_bank
from anystroke.anatomy.registration import stored_registration
from anystroke.bids import image_stem
from anystroke.config import StrictModel, load_toml
from anystroke.datasets import DatasetError, images_in, is_held_out
from anystroke.files import atomic_path, sha256
from anystroke.inference.prediction import fast_bfloat16
from anystroke.learning.checkpoints import (
    ModelConfig,
    load_model,
    parameter_count,
    read_tensors,
    save_model,
    state_to_tensors,
    write_atomically,
)
from anystroke.learning.losses import deep_supervision, dice_cross_entropy
from anystroke.learning.networks import build_network
from anystroke.learning.sampling import SimulatedCases, case_loader
from anystroke.learning.sheets import predict_lesion, sample_sheet
from anystroke.synthesis import CLASSES, SynthesisSettings
from anystroke.volume import Volume

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class LossError(TrainingError):
    """The loss is not a finite number."""


class DataSettings(StrictModel):
    """Where label maps and lesion masks are, and which are kept from training.

    Attributes:
        anatomies: Folders of label maps in the SynthSeg scheme.
        lesions: Folders of lesion masks in MNI space.
        held_out_anatomies: Stems of label maps that training never sees.
        held_out_lesions: Share of lesion masks, by a hash of the stem, that training never sees.
        split: Name that the hash begins with; another name holds out other masks.
        largest_lesion_ml: Masks above this volume are taken for errors and left out.
    """

    anatomies: tuple[Path, ...]
    lesions: tuple[Path, ...]
    held_out_anatomies: tuple[str, ...] = ()
    held_out_lesions: float = Field(default=0.15, ge=0, lt=1)
    split: str = ""
    largest_lesion_ml: float = Field(default=400.0, gt=0)


class OptimiserSettings(StrictModel):
    """How the network is fitted.

    Attributes:
        steps: Number of optimiser steps.
        batch: Cases per step.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: Of AdamW.
        warm_up: Steps over which the rate rises from zero.
        power: The rate falls as (1 - step / steps) to this power.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are the ones that are kept.
        dice_weights: Weight of each class's Dice, see ``dice_cross_entropy``.
        cross_entropy_weights: Weight of each class's voxels; None weighs all alike.
        precision: ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 where the device computes it fast.
        checkpoint_every: Steps between checkpoints and sheets of samples.
        workers: Processes that simulate.
    """

    steps: int = Field(default=10_000, gt=0)
    batch: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = 0.01
    warm_up: int = 200
    power: float = 0.9
    clip: float = 12.0
    ema: float = Field(default=0.998, ge=0, lt=1)
    dice_weights: tuple[float, ...] = (0.0, 1.0, 1.0, 1.0, 3.0)
    cross_entropy_weights: tuple[float, ...] | None = None
    precision: str = "auto"
    checkpoint_every: int = 250
    workers: int = Field(default=1, ge=0)


class TrainingSettings(StrictModel):
    """A whole recipe.

    Attributes:
        name: Name of the model.
        seed: Seed of weights and cases.
        start_from: Model folder (of the same architecture) whose weights training starts from.
        architecture: A name of ``anystroke.learning.networks.ARCHITECTURES``.
        data: What is learnt from.
        synthesis: What scans look like.
        optimiser: How the network is fitted.
    """

    name: str
    seed: int = 1
    start_from: Path | None = None
    architecture: str = "compact_unet"
    data: DataSettings
    synthesis: SynthesisSettings = SynthesisSettings()
    optimiser: OptimiserSettings = OptimiserSettings()


def load_recipe(path: Path, overrides: list[str] | None = None) -> TrainingSettings:
    """Read a recipe; its relative data folders are relative to the current folder."""
    return load_toml(path, TrainingSettings, overrides)


def pack_data(data: DataSettings, folder: Path) -> dict[str, list[str]]:
    """Write the training part of the data as two files, and what is held out as two more.

    Args:
        data: Sources.
        folder: Gets ``anatomies``, ``lesions`` and the ``held_out_`` part of each as safetensors.

    Returns:
        Names of the cases in each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: list[Anatomy] = []
    unseen: list[Anatomy] = []
    for path in [p for source in data.anatomies for p in images_in(source)]:
        name = image_stem(path)
        to_mni = stored_registration(path).affine
        anatomy = build_anatomy(Volume.load(path), SYNTHSEG, to_mni, name=name)
        (unseen if name in data.held_out_anatomies else seen).append(anatomy)
    masks = load_masks([p for source in data.lesions for p in images_in(source)])
    if not seen or not masks:
        raise DatasetError(
            f"expected anatomies and lesion masks to train on, got {len(seen)} and {len(masks)}"
        )
    masks = [m for m in masks if m.volume_ml <= data.largest_lesion_ml]
    held = [m for m in masks if is_held_out(m.name, data.held_out_lesions, data.split)]
    kept = [m for m in masks if not is_held_out(m.name, data.held_out_lesions, data.split)]
    save_anatomies(seen, folder / "anatomies.safetensors")
    save_anatomies(unseen, folder / "held_out_anatomies.safetensors")
    save_bank(held, folder / "held_out_lesions.safetensors")
    save_bank(kept, folder / "lesions.safetensors")
    return {
        "anatomies": [a.name for a in seen],
        "held_out_anatomies": [a.name for a in unseen],
        "lesions": [m.name for m in kept],
        "held_out_lesions": [m.name for m in held],
    }


class Trainer:
    """State of one training run: network, its running average, optimiser, step.

    Args:
        settings: The recipe.
        folder: Run folder; checkpoints, log and pictures go there.
        device: Where to compute.
    """

    def __init__(
        self, settings: TrainingSettings, folder: Path, *, device: torch.device | None = None
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_network(settings.architecture, len(CLASSES), seed=settings.seed)
        if settings.start_from is not None:
            start, _ = load_model(settings.start_from)
            self.network.load_state_dict(start.state_dict())
        self.network.to(self.device)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = {key: value.clone() for key, value in self.network.state_dict().items()}
        options = settings.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )
        wanted = options.precision
        self.half = wanted == "bfloat16" or (wanted == "auto" and fast_bfloat16(self.device))
        self.step = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the current step."""
        options = self.settings.optimiser
        remaining = max(1 - self.step / options.steps, 0.0)
        warm = min((self.step + 1) / max(options.warm_up, 1), 1.0)
        return options.learning_rate * warm * math.pow(remaining, options.power)

    def train_step(self, image: Tensor, target: Tensor) -> float:
        """Do one optimiser step and return its loss.

        Args:
            image: (B, 1, X, Y, Z) float32.
            target: (B, X, Y, Z) int64.

        Raises:
            LossError: If the loss is not finite; the weights are left as they were.
        """
        options = self.settings.optimiser
        image = image.to(self.device, memory_format=torch.channels_last_3d)
        target = target.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            heads = self.network.heads(image)
        loss = deep_supervision(
            heads,
            target,
            partial(
                dice_cross_entropy,
                dice_weights=options.dice_weights,
                cross_entropy_weights=options.cross_entropy_weights,
            ),
        )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LossError(
                f"the loss of step {self.step} is {value}; resume from the last checkpoint with a lower "
                "optimiser.learning_rate"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), options.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(options.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, now in self.network.state_dict().items():
                self.average[key].lerp_(now, 1 - decay)
        return value

    def save(self) -> None:
        """Write the state for resuming, and the averaged network as a model for use."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= state_to_tensors("optimiser", self.optimiser.state_dict()["state"])
        write_atomically(self.folder / "state.safetensors", tensors, {"step": str(self.step)})
        self.export(self.folder / "model")

    def export(self, folder: Path) -> None:
        """Write the averaged network as a model folder."""
        network = build_network(self.settings.architecture, len(CLASSES), seed=self.settings.seed)
        network.load_state_dict(self.average)
        config = ModelConfig(
            name=self.settings.name,
            architecture=self.settings.architecture,
            classes=CLASSES,
            brain=CLASSES[1:4],
            spacing=self.settings.synthesis.spacing,
            divisor=network.divisor,
            training={
                "steps": self.step,
                "planned_steps": self.settings.optimiser.steps,
                "seed": self.settings.seed,
                "parameters": parameter_count(network),
                "pack_sha256": {
                    name: sha256(self.folder / "data" / f"{name}.safetensors")
                    for name in ("anatomies", "lesions")
                },
            },
        )
        save_model(folder, network, config)

    def resume(self) -> None:
        """Go on from the last checkpoint of the run folder.

        Raises:
            CheckpointError: If the file is damaged.
            TrainingError: If it belongs to another architecture.
        """
        tensors, metadata = read_tensors(self.folder / "state.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        expected = {key: tuple(value.shape) for key, value in self.average.items()}
        if expected != {key: tuple(value.shape) for key, value in parts["network"].items()}:
            raise TrainingError(
                f"{self.folder} was trained with another architecture than {self.settings.architecture!r}; "
                "use the recipe of that run or another folder"
            )
        self.network.load_state_dict(parts["network"])
        self.average = {key: parts["average"][key].to(self.device) for key in self.average}
        state = self.optimiser.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.network.parameters())
        for key, value in parts["optimiser"].items():
            index, _, name = key.partition(".")
            like = parameters[int(index)]
            if value.shape == like.shape:
                value = torch.empty_like(like, requires_grad=False).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.step = int(metadata["step"])


def train(settings: TrainingSettings, folder: Path, *, resume: bool = False) -> Path:
    """Run a recipe to its last step.

    Args:
        settings: The recipe.
        folder: Run folder.
        resume: Go on from the folder's last checkpoint instead of refusing to touch it.

    Returns:
        The model folder.

    Raises:
        TrainingError: If the folder already holds a run and ``resume`` is False.
    """
    state = folder / "state.safetensors"
    if state.exists() and not resume:
        raise TrainingError(
            f"{folder} already holds a run; pass --resume to go on with it, or another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data" / "lesions.safetensors").exists():
        log.info("packing label maps and lesion masks")
        split = pack_data(settings.data, folder / "data")
        (folder / "split.json").write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")
    trainer = Trainer(settings, folder)
    if resume and state.exists():
        trainer.resume()
    (folder / "recipe.json").write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _loop(trainer)
    return folder / "model"


def _loop(trainer: Trainer) -> None:
    options = trainer.settings.optimiser
    cases = SimulatedCases(
        trainer.folder / "data",
        trainer.settings.synthesis,
        seed=trainer.settings.seed,
        first=trainer.step * options.batch,
    )
    batches: Iterator[tuple[Tensor, Tensor]] = iter(
        case_loader(cases, batch=options.batch, workers=options.workers)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _LossLog(trainer.folder / "log.csv", trainer.step) as record, Progress(*columns) as progress:
        task = progress.add_task("training", total=options.steps, completed=trainer.step)
        while trainer.step < options.steps:
            started = time.perf_counter()
            image, target = next(batches)
            waited = time.perf_counter() - started
            rate = trainer.learning_rate
            try:
                loss = trainer.train_step(image, target)
            except LossError as error:
                raise LossError(
                    f"{error}; {_keep_records(trainer, cases)} says what it was made of"
                ) from error
            record.write(trainer.step, loss, rate, waited, time.perf_counter() - started)
            progress.update(task, completed=trainer.step, description=f"loss {record.recent:.3f}")
            if trainer.step % options.checkpoint_every == 0 or trainer.step == options.steps:
                trainer.save()
                _sheet(trainer, image, target)


def _keep_records(trainer: Trainer, cases: SimulatedCases) -> Path:
    """Write what the cases of the current step were made of, as ``regenerate`` takes it."""
    batch = trainer.settings.optimiser.batch
    numbers = range(trainer.step * batch, (trainer.step + 1) * batch)
    path = trainer.folder / f"step_{trainer.step:06d}_cases.json"
    with atomic_path(path, overwrite=True) as part:
        part.write_text(json.dumps([cases.record(n) for n in numbers], indent=1) + "\n", encoding="utf-8")
    return path


def _sheet(trainer: Trainer, image: Tensor, target: Tensor) -> None:
    probability = predict_lesion(trainer.network, image.to(trainer.device))
    lesion = target == CLASSES.index("lesion")
    cases = [
        (image[k, 0], lesion[k], probability[k], f"step {trainer.step}: image, target, lesion probability")
        for k in range(len(image))
    ]
    sample_sheet(cases, trainer.folder / "samples" / f"step_{trainer.step:06d}.png")


class _LossLog:
    """One CSV row per step, flushed at once; rows after the step that a run resumes from are dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self.done = done
        self.recent = math.nan

    def __enter__(self) -> "_LossLog":
        rows: list[list[str]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) <= self.done]
        self._file = self.path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["step", "loss", "learning_rate", "seconds_waiting", "seconds"])
        self._writer.writerows(rows)
        self._file.flush()
        return self

    def write(self, step: int, loss: float, rate: float, waited: float, seconds: float) -> None:
        self.recent = loss if math.isnan(self.recent) else 0.98 * self.recent + 0.02 * loss
        self._writer.writerow([step, f"{loss:.6g}", f"{rate:.4g}", f"{waited:.4f}", f"{seconds:.4f}"])
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()
