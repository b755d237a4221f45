"""Networks on disk: ``config.json`` + ``model.safetensors`` + a model card. Nothing is ever unpickled."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anystroke.core.config import ConfigError, StrictModel, validate
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path, sha256
from anystroke.models.architectures.catalogue import build_network

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


class CheckpointError(AnystrokeError):
    """A model that cannot be loaded; the message says why and what to do."""


class NetworkConfig(StrictModel):
    """What is needed to use any network, beside its weights.

    Attributes:
        task: What the network was trained for; the name of a folder of ``anystroke.tasks``.
        name: Short name of the model.
        version: Version of the weights.
        architecture: A name of ``anystroke.models.architectures.catalogue.ARCHITECTURES``.
        spacing: Voxel size of the network's input in mm.
        divisor: Sides of the input are multiples of this.
        normalisation: How its intensities are standardised, see ``normalise_intensity``.
        training: Facts about the training, for the record.
    """

    task: str
    name: str
    version: str = "1"
    architecture: str
    spacing: float = Field(gt=0)
    divisor: int = Field(gt=0)
    normalisation: Literal["foreground", "log_tail", "whole", "percentiles"] = "foreground"
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """Names of the network's output channels."""

    def build(self) -> nn.Module:
        """Build the network, with weights that are to be replaced.

        Raises:
            ValueError: The architecture is unknown.
        """
        return build_network(self.architecture, len(self.output_names), seed=0)


class ClassesConfig(NetworkConfig):
    """What is needed to use a network whose outputs are classes.

    Attributes:
        classes: Names of the outputs, in order.
    """

    classes: tuple[str, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes


Config = TypeVar("Config", bound=NetworkConfig)


@dataclass(frozen=True, eq=False)
class TrainedNetwork(Generic[Config]):
    """A network that is ready for use.

    Attributes:
        network: In evaluation mode, float32.
        config: What is needed to use it.
        sha256: Hash of its weights file; nothing of a network that comes from none.
    """

    network: nn.Module
    config: Config
    sha256: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and hashes, as records of results keep them."""
        return {
            "Name": self.config.name,
            "Version": self.config.version,
            "SHA256": self.sha256,
            "ConfigSHA256": self.config_sha256,
        }

    @property
    def config_sha256(self) -> str:
        """Hash of all of the configuration but how the network was trained."""
        return hashlib.sha256(
            self.config.model_dump_json(exclude={"training"}, exclude_none=True).encode()
        ).hexdigest()


def write_atomically(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors; an interruption leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        # MONAI's DynUNet lists its blocks under two names each, and safetensors refuses shared memory.
        ready[name] = plain.clone() if plain.untyped_storage().data_ptr() in stored else plain
        stored.add(plain.untyped_storage().data_ptr())
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


def save_model(folder: Path, network: nn.Module, config: NetworkConfig, *, half: bool = True) -> None:
    """Write a network that `open_network` reads.

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


def save_config(folder: Path, config: NetworkConfig) -> None:
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
        task: Of the models; None for all.
    """
    found = {path.parent.name: _task_of(path) for path in WEIGHTS.glob("*/config.json")}
    return sorted(name for name, of in found.items() if task in (None, of))


def task_of_model(name: str | Path) -> str:
    """Tell what a model was trained for.

    Raises:
        CheckpointError: If there is no such model.
    """
    return _task_of(find_model(name) / "config.json")


def model_facts(name: str | Path) -> dict[str, Any]:
    """Read what lies beside the weights of a model of any task, unchecked.

    Raises:
        CheckpointError: If there is no such model, or its configuration is no table.
    """
    return {"version": "1", "training": {}} | _read_config(find_model(name) / "config.json")


class TaskNetwork(TrainedNetwork[Config]):
    """A network of one task, which loads by its name.

    Attributes:
        config_kind: The configuration of the task's models.
    """

    config_kind: ClassVar[type[NetworkConfig]]

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Load a shipped model by its name, or one from a folder.

        Raises:
            CheckpointError: There is no such model, it is of another task, or it is damaged.
        """
        opened = open_network(name, cls.config_kind)
        return cls(opened.network, cast(Config, opened.config), opened.sha256)


def load_config(name: str | Path, kind: type[Config]) -> Config:
    """Read the configuration of a model.

    Args:
        name: A shipped model's name or a checkpoint folder.
        kind: The configuration of the task that the model should be of.

    Raises:
        CheckpointError: If there is no such model, it is of another task, or its configuration is damaged.
    """
    path = find_model(name) / "config.json"
    data = _read_config(path)
    wanted = kind.model_fields["task"].default
    if _task(data) != wanted:
        raise CheckpointError(
            f"expected a model of the task {wanted}, but that in {path.parent} is of the task {_task(data)}; "
            "name another, or use the command that is for it"
        )
    try:
        return validate(data, kind, source=str(path))
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"the model in {path.parent} cannot be used: {error}") from None


def open_network(name: str | Path, kind: type[Config]) -> TrainedNetwork[Config]:
    """Load a network for inference.

    Args:
        name: A shipped model's name or a checkpoint folder.
        kind: The configuration of the task that the model should be of.

    Raises:
        CheckpointError: If files are missing, damaged, of another task, or do not fit together.
    """
    folder = find_model(name)
    config = load_config(folder, kind)
    network = _load_network(folder, config)
    return TrainedNetwork(network, config, sha256(folder / "model.safetensors"))


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


def _load_network(folder: Path, config: NetworkConfig) -> nn.Module:
    try:
        network = config.build()
    except ValueError as error:
        raise CheckpointError(f"the model in {folder} cannot be used: {error}") from None
    tensors, _ = read_tensors(folder / "model.safetensors")
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        differing = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        raise CheckpointError(
            f"the weights in {folder} do not fit the architecture {config.architecture!r}: "
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
