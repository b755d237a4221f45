"""State of one training run, and the one step that changes it."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.packs import content_sha256
from anystroke.core.rng import stream
from anystroke.learning.clock import rate_by_time
from anystroke.learning.precision import small_in_float32
from anystroke.learning.recipe import OptimiserSettings, Precision
from anystroke.learning.run_log import RunLog, append_rows
from anystroke.learning.stream import Batch
from anystroke.learning.task import AnyTask, LossContext, Recipe, Verdict
from anystroke.models.architectures.catalogue import DivisibleUNet
from anystroke.models.architectures.twins import encoder_parts
from anystroke.models.checkpoints import (
    NetworkConfig,
    find_model,
    load_config,
    model_facts,
    open_network,
    parameter_count,
    read_tensors,
    save_model,
    state_to_tensors,
    write_atomically,
)
from anystroke.models.encoders import (
    EncoderError,
    check_encoder,
    encoder_tensors,
    name_in_architecture,
)
from anystroke.models.passes import fast_bfloat16
from anystroke.models.widening import widen

log = logging.getLogger(__name__)

# Activations and last layers fit networks of any width.
_FEWEST_FIT = 0.01


class StartError(AnystrokeError):
    """A training cannot begin as it was asked for; the message says why and what to do."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class LossError(TrainingError):
    """The loss or its gradient is not a finite number."""


class _Heads(torch.nn.Module):
    """A network whose forward pass gives all its heads."""

    def __init__(self, network: DivisibleUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.network.heads(image)


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes, each of which holds a part of what the loss depends on."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


_PRECISIONS: dict[str, Literal["32-true", "64-true", "bf16-mixed"]] = {
    "float32": "32-true",
    "float64": "64-true",
    "bfloat16": "bf16-mixed",
}


def make_fabric(
    precision: Precision = "auto",
    *,
    accelerator: str = "auto",
    devices: int | str = 1,
    nodes: int = 1,
) -> Fabric:
    """Return what runs a training on one device or many.

    Args:
        precision: See ``OptimiserSettings``.
        accelerator: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``: the best there is.
        devices: How many on this machine, or ``"auto"``.
        nodes: Machines.

    Raises:
        StartError: There is no such accelerator, or not so many devices.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device("mps" if accelerator == "mps" else accelerator.replace("gpu", "cuda"))
    if precision == "auto":
        precision = "bfloat16" if fast_bfloat16(device) else "float32"
    if devices == "auto":
        devices = torch.cuda.device_count() if device.type == "cuda" else 1
    many = int(devices) * nodes > 1
    try:
        return Fabric(
            accelerator=device.type,
            devices=int(devices),
            num_nodes=nodes,
            strategy="ddp" if many else "auto",
            precision=_PRECISIONS[precision],
        )
    except (RuntimeError, ValueError) as error:
        # Fabric's own messages; its configuration errors derive from ValueError.
        first = " ".join(str(error).split())
        raise StartError(f"cannot train on {devices} device(s) of kind {device.type!r}: {first}") from None


class Trainer:
    """Network, its running average, optimiser and step of one run.

    Args:
        settings: The recipe.
        folder: Run folder; the checkpoints go there.
        fabric: Where to compute; this process alone if None.

    Attributes:
        step: Steps done.
        made: Cases per process that buffers took, for the next buffer to go on from.
        left: By the clock, the share of the time that is left; None where steps count.
        calls: What was done in each call by the clock or with a buffer, in plain values.

    Raises:
        CheckpointError: The model that training starts from is missing or damaged.
        StartError: Nothing of it fits the architecture, or its channels cannot be taken.
    """

    def __init__(self, settings: Recipe, folder: Path, fabric: Fabric | None = None) -> None:
        self.settings = settings
        self.folder = folder
        self.fabric = fabric or make_fabric(settings.optimiser.precision)
        self.task = settings.open_task()
        self.module = self.task.network()
        check_shapes(settings, self.module.divisor)
        self.task.prepare(self.module)
        if settings.start_from is not None:
            _start(self.module, settings, self.task)
        elif settings.start_from_wider or settings.start_from_narrower:
            flag = "start_from_wider" if settings.start_from_wider else "start_from_narrower"
            raise StartError(f"{flag} needs start_from, the model to take channels of; name one")
        if settings.freeze_encoder:
            _freeze(self.module, settings)
        if self.fabric.device.type == "cuda" and self.fabric.world_size > 1:
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.module)  # type: ignore[no-untyped-call]
        self.module.to(self.fabric.device)
        self.layout = torch.channels_last_3d if self.module.channels_last else torch.contiguous_format
        if self.module.channels_last:
            _channels_last(self.module)
        if self.fabric.device.type == "cpu":
            small_in_float32(self.module)
        if settings.optimiser.compile:
            self.module.network.compile()
        self.average = {key: value.clone() for key, value in self.module.state_dict().items()}
        options = settings.optimiser
        optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.network, self.optimiser = self.fabric.setup(_Heads(self.module), optimiser)
        self.step = 0
        self.made = 0
        self.left: float | None = None
        self.calls: list[dict[str, Any]] = []

    @property
    def learning_rate(self) -> float:
        """The rate of the current step."""
        options = self.settings.optimiser
        if self.left is not None:
            share = rate_by_time(self.left, warm_up=options.warm_up_share, power=options.power)
            return options.learning_rate * share
        remaining = max(1 - self.step / options.steps, 0.0)
        warm = min((self.step + 1) / max(options.warm_up, 1), 1.0)
        return options.learning_rate * warm * math.pow(remaining, options.power)

    def train_step(self, *batches: Batch) -> float:
        """Do one optimiser step.

        Args:
            batches: As many as gradients are accumulated over.

        Returns:
            The mean loss of the batches, those of the other processes included.

        Raises:
            LossError: If loss or gradient is not finite; the weights are left as they were.
        """
        options = self.settings.optimiser
        self.optimiser.zero_grad(set_to_none=True)
        value = 0.0
        for number, batch in enumerate(batches):
            waiting = number < len(batches) - 1
            with self.fabric.no_backward_sync(self.network, enabled=waiting):
                loss = self._loss(*batch, number=number)
                value += float(loss.detach()) / len(batches)
                if not math.isfinite(value):
                    raise LossError(self._trouble("loss", value))
                self.fabric.backward(loss / len(batches))
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), options.clip)
        if not bool(torch.isfinite(norm)):
            raise LossError(self._trouble("gradient", float(norm)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.optimiser.step()
        self.step += 1
        self._average(options)
        return value

    def _trouble(self, what: str, value: float) -> str:
        return (
            f"the {what} of step {self.step} is {value}; resume from the last checkpoint with a lower "
            "optimiser.learning_rate"
        )

    def _loss(self, image: Tensor, target: Tensor, cells: Tensor | None = None, *, number: int) -> Tensor:
        image = image.to(self.fabric.device).contiguous(memory_format=self.layout)
        target = target.to(self.fabric.device)
        with torch.random.fork_rng(devices=self._cuda_devices()):
            # Dropout draws from the global stream: its own number for each step makes resuming exact.
            place = (self.step, number, self.fabric.global_rank)
            torch.manual_seed(stream(self.settings.seed, "dropout", *place).initial_seed())
            heads: Sequence[Tensor] = self.network(image)
        cells = None if cells is None else cells.to(self.fabric.device)
        return self.task.loss(heads, target, LossContext(self.step, self._sum_over_processes, cells))

    def heads_of(self, image: Tensor) -> list[Tensor]:
        """Return what all heads put out for images (B, C, X, Y, Z), on the CPU, without learning of them."""
        was_training = self.module.training
        self.module.eval()
        with torch.no_grad():
            heads = self.module.heads(image.to(self.fabric.device))
        self.module.train(was_training)
        return [head.float().cpu() for head in heads]

    def _cuda_devices(self) -> list[int]:
        device = self.fabric.device
        return [device.index or 0] if device.type == "cuda" else []

    def _sum_over_processes(self, sums: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return sums
        total: Tensor = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        return total

    def _average(self, options: OptimiserSettings) -> None:
        decay = min(options.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, now in self.module.state_dict().items():
                if now.is_floating_point():
                    self.average[key].lerp_(now, 1 - decay)
                else:
                    self.average[key].copy_(now)

    def save(self) -> None:
        """Write the state for resuming, and the averaged network as a model for use."""
        tensors = {f"network.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= state_to_tensors("optimiser", self.optimiser.state_dict()["state"])
        facts = {"step": str(self.step), "recipe": recipe_digest(self.settings)}
        if self.settings.buffer:
            facts["made"] = str(self.made)
        if self.calls:
            facts["calls"] = json.dumps(self.calls)
        write_atomically(self.folder / "state.safetensors", tensors, facts)
        self.export(self.folder / "model")

    def averaged(self) -> DivisibleUNet:
        """Return a network with the averaged weights, ready for inference, on the CPU."""
        network = self.task.network()
        network.load_state_dict(self.average)
        return network.eval().requires_grad_(False)

    def model_config(self, **facts: Any) -> NetworkConfig:
        """Return the configuration of the model that this run makes.

        Args:
            facts: More to say about the training.
        """
        packs = sorted((self.folder / "data").glob("*.safetensors"))
        common = {
            "name": self.settings.name,
            "architecture": self.settings.architecture,
            "spacing": self.settings.grid.spacing,
            "divisor": self.module.divisor,
            "normalisation": self.settings.grid.normalisation,
            "training": {
                "steps": self.step,
                "planned_steps": None if self.settings.optimiser.minutes else self.settings.optimiser.steps,
                **({"calls": self.calls} if self.calls else {}),
                "seed": self.settings.seed,
                "parameters": parameter_count(self.module),
                "start_from": self.settings.start_from,
                **self._learnt_from(),
                "pack_sha256": {
                    path.stem: content_sha256(path) for path in packs if not path.stem.startswith("held_out")
                },
                **facts,
            },
        }
        config: NetworkConfig = self.task.config(common)
        return config

    def _learnt_from(self) -> dict[str, list[str]]:
        """Return the names of the anatomies that were learnt from, where they are known."""
        path = self.folder / "split.json"
        split = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {"anatomies": split["anatomies"]} if "anatomies" in split else {}

    def export(self, folder: Path, **facts: Any) -> None:
        """Write the averaged network as a model folder.

        Args:
            folder: Made if missing.
            facts: More to say about the training.
        """
        save_model(folder, self.averaged(), self.model_config(**facts))

    def judged(self, rows: Verdict, record: RunLog) -> None:
        """Keep a validation, and the model if none before it was as good.

        Args:
            rows: One for each set of patients; the first decides.
            record: Log of the run.
        """
        append_rows(self.folder / "validation.csv", self.step, rows)
        if record.validated(self.step, rows):
            self.export(self.folder / "best", validation=rows[0])

    def resume(self) -> None:
        """Go on from the last checkpoint of the run folder.

        Raises:
            CheckpointError: If the file is damaged.
            StartError: If it belongs to another architecture.
        """
        tensors, metadata = read_tensors(self.folder / "state.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = value
        expected = {key: tuple(value.shape) for key, value in self.average.items()}
        if expected != {key: tuple(value.shape) for key, value in parts["network"].items()}:
            raise StartError(
                f"{self.folder} was trained with another architecture than {self.settings.architecture!r} "
                f"for {self.task.outputs} outputs; use the recipe of that run or another folder"
            )
        if metadata.get("recipe") not in (None, recipe_digest(self.settings)):
            log.warning(
                "the recipe differs from the one that %s was begun with: what follows is not the run that "
                "it would have been",
                self.folder,
            )
        self.module.load_state_dict(parts["network"])
        self.average = {key: parts["average"][key].to(self.fabric.device) for key in self.average}
        state = self.optimiser.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = list(self.module.parameters())
        for key, value in parts["optimiser"].items():
            index, _, name = key.partition(".")
            like = parameters[int(index)]
            if value.shape == like.shape:
                value = torch.empty_like(like, requires_grad=False).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.step = int(metadata["step"])
        options = self.settings.optimiser
        self.made = int(metadata.get("made", self.step * options.accumulate * options.batch))
        self.calls = json.loads(metadata.get("calls", "[]"))


def _channels_last(network: torch.nn.Module) -> None:
    """Lay weights out for fast convolutions, except where the layout says nothing but upsets gradients."""
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for weight in network.parameters():
        if weight.ndim == 5 and (weight.shape[1] == 1 or weight[0, 0].numel() == 1):
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)


def check_shapes(settings: Recipe, divisor: int) -> None:
    """Refuse parts of heads that do not fit a network.

    Args:
        settings: The recipe.
        divisor: What the sides must be multiples of.

    Raises:
        StartError: One does not.
    """
    for shape in settings.grid.shapes:
        if any(side % divisor for side in shape):
            raise StartError(
                f"expected grid.shapes with sides that are multiples of {divisor} for the architecture "
                f"{settings.architecture!r}, but one is {shape}"
            )
        if math.prod(side // divisor for side in shape) < 2:
            raise StartError(
                f"the shape {shape} leaves the architecture {settings.architecture!r} a single voxel at its "
                "deepest level; make grid.shapes larger"
            )


def recipe_digest(settings: Recipe) -> str:
    """Return a fingerprint of a recipe, whatever its workers, its time and the time of its checkpoints."""
    apart = {"workers", "checkpoint_every", "minutes", "warm_up_share", "made_at_once"}
    data = settings.model_dump(mode="json", exclude={"optimiser": apart})
    if settings.buffer is None:
        del data["buffer"]
    if settings.data.share == 1:
        del data["data"]["share"]
    if settings.buffer is not None and settings.buffer.channels == 0:
        del data["buffer"]["channels"]
    for name in ("freeze_encoder", "start_from_narrower"):
        if data.get(name) is False:
            del data[name]
    if settings.optimiser.made_on == "cpu":
        del data["optimiser"]["made_on"]
    return hashlib.sha256(repr(data).encode()).hexdigest()


def _freeze(network: DivisibleUNet, settings: Recipe) -> None:
    """Let the encoder stay as it is."""
    parts = encoder_parts(network.network)
    if not parts or settings.start_from is None:
        lacks = (
            "an architecture with an encoder" if not parts else "start_from, the model whose encoder it is"
        )
        raise EncoderError(f"freeze_encoder needs {lacks}; name one or leave freeze_encoder out")
    for part in parts:
        part.requires_grad_(False)


def _evenly_spaced(wide: Tensor, shape: torch.Size) -> Tensor:
    """Return the part of a tensor that has a shape, of evenly spaced elements along each axis that is longer.

    Source: Z. Xu et al., Initializing models with larger ones, ICLR 2024 (uniform selection). Where all
    layers shrink by the same factor, halves of concatenated channels stay halves.
    """
    if wide.ndim != len(shape) or any(has < wants for has, wants in zip(wide.shape, shape, strict=True)):
        return wide
    for axis, (has, wants) in enumerate(zip(wide.shape, shape, strict=True)):
        if has > wants:
            wide = wide.index_select(axis, torch.arange(wants) * has // wants)
    return wide


def _more_inputs(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the weights of a layer of one input as those of one with several, which count nothing at first.

    Args:
        tensor: (outputs, 1, x, y, z); anything else is returned as it is.
        shape: Of the other layer's weights, (outputs, inputs, x, y, z).
    """
    if tensor.ndim != 5 or tensor.shape != (shape[0], 1, *shape[2:]):
        return tensor
    wide = tensor.new_zeros(shape)
    wide[:, :1] = tensor
    return wide


def _same_outputs(flag: str, source: Path, task: AnyTask) -> None:
    has = load_config(source, task.config_kind).output_names
    if len(has) != task.outputs:
        raise StartError(
            f"{flag} needs a model with the {task.outputs} outputs of this recipe, but that in "
            f"{source} has {len(has)}: {', '.join(has)}; name another"
        )


def _start_narrower(network: DivisibleUNet, source: Path, settings: Recipe, task: AnyTask) -> None:
    """Start as a model with fewer channels."""
    _same_outputs("start_from_narrower", source, task)
    narrow = open_network(source, task.config_kind).network
    assert isinstance(narrow, DivisibleUNet)
    try:
        widen(network, narrow, rng=stream(settings.seed, "widening"))
    except ValueError as error:
        raise StartError(f"start_from_narrower cannot take the model in {source}: {error}") from None
    has, had = parameter_count(network), parameter_count(narrow)
    log.info("%d parameters do what the %d of %s do", has, had, source)


def _start(network: DivisibleUNet, settings: Recipe, task: AnyTask) -> None:
    """Load the weights that fit; say which do not."""
    assert settings.start_from is not None
    source = find_model(settings.start_from)
    if settings.start_from_narrower:
        _start_narrower(network, source, settings, task)
        return
    check_encoder(source, settings.architecture)
    found = encoder_tensors(source)
    own = network.state_dict()
    named = {key: name_in_architecture(key) for key in own}
    tensors = {key: found[name] for key, name in named.items() if name in found}
    if settings.start_from_wider:
        _same_outputs("start_from_wider", source, task)
        tensors = {key: _evenly_spaced(tensors[key], own[key].shape) for key in tensors}
    tensors = {key: _more_inputs(tensors[key], own[key].shape) for key in tensors}
    fitting = {
        key: tensors[key].to(value.dtype)
        for key, value in own.items()
        if key in tensors and tensors[key].shape == value.shape
    }
    fit, all_own = (sum(value.numel() for value in tensors.values()) for tensors in (fitting, own))
    if fit < _FEWEST_FIT * all_own:
        raise StartError(
            f"next to nothing of the model in {source} fits the architecture {settings.architecture!r} "
            f"({fit:,} of {all_own:,} parameters); name the model's own, "
            f"{model_facts(source)['architecture']!r}"
        )
    network.load_state_dict({**own, **fitting})
    missing = [key for key in own if key not in fitting]
    log.info("loaded %d of %d tensors from %s", len(fitting), len(own), source)
    if missing:
        log.warning("%d tensors start anew, the first is %s", len(missing), missing[0])
