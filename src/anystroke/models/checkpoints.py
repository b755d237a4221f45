"""Networks on disk: ``config.json`` + ``model.safetensors`` + a model card. Nothing is ever unpickled."""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anystroke.core.config import ConfigError, StrictModel, validate
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.volume_interval import VolumeErrors
from anystroke.qmri.estimated_maps import Curve, check_maps

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


class CheckpointError(AnystrokeError):
    """A model that cannot be loaded; the message says why and what to do."""


class ModelConfig(StrictModel):
    """What is needed to use a network, beside its weights.

    Attributes:
        name: Short name of the model.
        version: Version of the weights.
        architecture: A name of ``anystroke.models.architectures.catalogue.ARCHITECTURES``.
        classes: Names of the output classes in order; one of them is ``lesion``.
        brain: Those of the classes that make up the healthy brain; lesions elsewhere are discarded. Empty to
            keep all.
        spacing: Voxel size of the network's input in mm.
        divisor: Sides of the input are multiples of this.
        normalisation: How its intensities are standardised, see ``normalise_intensity``.
        threshold: Lesion probability from which a voxel belongs to the mask.
        certain: Probability that a connected part of the mask must reach somewhere; 0 for none.
        temperature: Logits are divided by it before the softmax.
        volume_errors: What intervals of the volume are made of; None gives none.
        lesion_errors: Likewise of the volumes of single lesions.
        image_range: Feature of ``image_features`` -> 0.5 and 99.5 % quantiles over images of the training;
            empty if they were not measured.
        training: Facts about the training, for the record.
    """

    name: str
    version: str = "1"
    architecture: str
    classes: tuple[str, ...]
    brain: tuple[str, ...] = ()
    spacing: float = Field(gt=0)
    divisor: int = Field(gt=0)
    normalisation: Literal["foreground", "log_tail", "whole", "percentiles"] = "foreground"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    certain: float = Field(default=0.0, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    volume_errors: VolumeErrors | None = None
    lesion_errors: VolumeErrors | None = None
    image_range: dict[str, tuple[float, float]] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


class EstimatorConfig(StrictModel):
    """What is needed to estimate quantitative maps with a network, beside its weights.

    Attributes:
        task: Tells it from a model that segments.
        name: Short name of the model.
        version: Version of the weights.
        architecture: A name of ``anystroke.models.architectures.catalogue.ARCHITECTURES``.
        maps: Names of the output channels, of ``anystroke.qmri.estimated_maps.MAP_OUTPUTS``.
        outputs: Unit, activation, clamp of the exponent and ceiling of each, for the record.
        field_strength: Static field that the rates belong to, T; None for that of the scan.
        spacing: Voxel size of the network's input in mm.
        divisor: Sides of the input are multiples of this.
        normalisation: How its intensities are standardised, see ``normalise_intensity``.
        brain_only: Whether the network learnt nothing outside the brain, so that its maps end there.
        perceptual: The network of the perceptual loss: source, kind and hash; empty if there was none.
        curves: Map -> points (estimate, median truth) along which estimates are corrected, both rising; empty
            where they are not.
        training: Facts about the training, for the record.
    """

    task: Literal["qmri"] = "qmri"
    name: str
    version: str = "1"
    architecture: str
    maps: tuple[str, ...] = Field(min_length=1)
    outputs: dict[str, Any] = Field(default_factory=dict)
    field_strength: float | None = Field(default=3.0, gt=0)
    spacing: float = Field(gt=0)
    divisor: int = Field(gt=0)
    normalisation: Literal["foreground", "log_tail", "whole", "percentiles"] = "percentiles"
    brain_only: bool = False
    perceptual: dict[str, Any] = Field(default_factory=dict)
    curves: dict[str, Curve] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)

    @field_validator("curves")
    @classmethod
    def _rising(cls, curves: dict[str, Curve]) -> dict[str, Curve]:
        for name, curve in curves.items():
            for (x, y), (next_x, next_y) in pairwise(((0.0, 0.0), *curve)):
                if not (x < next_x < math.inf and y <= next_y < math.inf):
                    raise ValueError(f"the curve of {name} does not rise from zero at {(next_x, next_y)}")
        return curves


def write_atomically(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors; an interruption leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path, overwrite=True) as part:
        save_file(ready, part, metadata=dict(metadata or {}))
        part.chmod(0o644)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata of a safetensors file.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"expected weights at {path}, but there are none") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy it again") from None


def save_model(
    folder: Path, network: nn.Module, config: ModelConfig | EstimatorConfig, *, half: bool = True
) -> None:
    """Write a network that ``load_model`` or ``load_estimator`` reads.

    Args:
        folder: Made if missing.
        network: Its weights are stored.
        config: Stored beside them.
        half: Store float16 instead of float32.
    """
    tensors = {
        key: value.half() if half and value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    write_atomically(folder / "model.safetensors", tensors)
    save_config(folder, config)


def save_config(folder: Path, config: ModelConfig | EstimatorConfig) -> None:
    """Write the configuration of a model into its folder."""
    with atomic_path(folder / "config.json", overwrite=True) as part:
        part.write_text(json.dumps(config.model_dump(), indent=2) + "\n", encoding="utf-8")


def find_model(name: str | Path) -> Path:
    """Return the folder of a shipped model's name or of a path.

    Raises:
        CheckpointError: If there is no such model.
    """
    for folder in (Path(name), WEIGHTS / str(name)):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"no model {str(name)!r}: expected a folder with config.json and model.safetensors, "
        f"or one of the shipped names: {', '.join(shipped_models(None)) or 'none'}"
    )


def shipped_models(task: str | None = "segmentation") -> list[str]:
    """Return the names of the models inside the package.

    Args:
        task: ``"segmentation"``, ``"qmri"``, or None for all.
    """
    found = {path.parent.name: _task_of(path) for path in WEIGHTS.glob("*/config.json")}
    return sorted(name for name, of in found.items() if task in (None, of))


def task_of_model(name: str | Path) -> str:
    """Tell what a model does: ``"segmentation"`` or ``"qmri"``.

    Raises:
        CheckpointError: If there is no such model.
    """
    return _task_of(find_model(name) / "config.json")


def load_config(name: str | Path) -> ModelConfig:
    """Read the configuration of a model.

    Args:
        name: A shipped model's name or a checkpoint folder.

    Raises:
        CheckpointError: If there is no such model, or its configuration cannot be used.
    """
    path = find_model(name) / "config.json"
    data = _read_config(path)
    if _task(data) == "qmri":
        raise CheckpointError(
            f"the model in {path.parent} estimates maps and segments nothing; use it with 'estimate-qmri'"
        )
    try:
        return validate(data, ModelConfig, source=str(path))
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"the model in {path.parent} cannot be used: {error}") from None


def load_estimator_config(name: str | Path) -> EstimatorConfig:
    """Read the configuration of an estimator of quantitative maps.

    Args:
        name: A shipped estimator's name or a checkpoint folder.

    Raises:
        CheckpointError: If there is no such model, it segments, or its configuration cannot be used.
    """
    path = find_model(name) / "config.json"
    data = _read_config(path)
    if _task(data) != "qmri":
        raise CheckpointError(
            f"the model in {path.parent} segments and estimates no maps; name a model that was trained with "
            "a recipe such as recipes/estimator.toml"
        )
    try:
        config = validate(data, EstimatorConfig, source=str(path))
        check_maps(config.maps)
        return config
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"the model in {path.parent} cannot be used: {error}") from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"the model in {path.parent} cannot be used: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"the model in {path.parent} cannot be used: {path.name} is no table")
    return data


def _task_of(path: Path) -> str:
    try:
        return _task(_read_config(path))
    except CheckpointError:
        return "segmentation"


def _task(data: Mapping[str, Any]) -> str:
    return str(data.get("task", "segmentation"))


def load_model(name: str | Path = "default") -> tuple[nn.Module, ModelConfig]:
    """Load a network for inference.

    Args:
        name: A shipped model's name or a checkpoint folder.

    Returns:
        The network in evaluation mode, float32 on the CPU, and its configuration.

    Raises:
        CheckpointError: If files are missing, damaged or do not fit together.
    """
    folder = find_model(name)
    config = load_config(folder)
    return _load_network(folder, config.architecture, len(config.classes)), config


def load_estimator(name: str | Path = "estimator") -> tuple[nn.Module, EstimatorConfig]:
    """Load an estimator of quantitative maps for inference.

    Args:
        name: A shipped estimator's name or a checkpoint folder.

    Returns:
        The network in evaluation mode, float32 on the CPU, and its configuration.

    Raises:
        CheckpointError: If files are missing, damaged or do not fit together.
    """
    folder = find_model(name)
    config = load_estimator_config(folder)
    return _load_network(folder, config.architecture, len(config.maps)), config


def _load_network(folder: Path, architecture: str, outputs: int) -> nn.Module:
    try:
        network = build_network(architecture, outputs, seed=0)
    except ValueError as error:
        raise CheckpointError(f"the model in {folder} cannot be used: {error}") from None
    tensors, _ = read_tensors(folder / "model.safetensors")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        differing = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        raise CheckpointError(
            f"the weights in {folder} do not fit the architecture {architecture!r}: "
            f"{len(differing)} tensors differ, the first is {differing[0]!r}"
        )
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    return network.eval().requires_grad_(False)


def parameter_count(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters())


def state_to_tensors(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flatten a nested mapping of tensors and numbers, such as an optimiser's state, to named tensors."""
    flat: dict[str, Tensor] = {}
    for key, value in state.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat.update(state_to_tensors(name, value))
        elif isinstance(value, Tensor):
            flat[name] = value
        elif isinstance(value, int | float):
            flat[name] = torch.tensor(value, dtype=torch.float64)
    return flat
