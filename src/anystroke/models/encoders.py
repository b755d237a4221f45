"""Encoders on disk: of models that were pre-trained, and of those that segment."""

from pathlib import Path

from torch import Tensor, nn

from anystroke.core.errors import AnystrokeError
from anystroke.models.architectures.catalogue import build_encoder
from anystroke.models.checkpoints import CheckpointError, find_model, model_facts, read_tensors, task_of_model

PRETRAINING = "pretraining"
"""Task of models that are encoders."""

_OWN = "network.encoder."


class EncoderError(AnystrokeError):
    """The encoder that a recipe starts from is not what the recipe needs."""


def check_encoder(folder: Path, architecture: str) -> None:
    """Refuse a pre-trained encoder of another architecture.

    Args:
        folder: Of a model of any task.
        architecture: That it should be of.

    Raises:
        EncoderError: It is an encoder of another.
    """
    if task_of_model(folder) != PRETRAINING:
        return
    has = model_facts(folder).get("architecture")
    if has != architecture:
        raise EncoderError(
            f"expected start_from to be an encoder of {architecture!r}, but that in {folder} is one of "
            f"{has!r}; name another, or that architecture"
        )


def name_in_architecture(key: str) -> str:
    """Return the name that a weight of a model has in its architecture, which is other if it is an encoder's.

    Example:
        >>> name_in_architecture("network.encoder.model.0.conv.weight")
        'network.model.0.conv.weight'
    """
    return f"network.{key.removeprefix(_OWN)}" if key.startswith(_OWN) else key


def encoder_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a model, with an encoder's under the names that they have in its architecture.

    Args:
        folder: Of a model.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    tensors, _ = read_tensors(folder / "model.safetensors")
    return {name_in_architecture(key): value for key, value in tensors.items()}


def load_encoder(name: str | Path) -> nn.Module:
    """Load the encoder of a model of any task whose architecture has one.

    Args:
        name: A shipped model's name or a checkpoint folder.

    Returns:
        In evaluation mode, float32 on the CPU: features of each level of (B, 1, X, Y, Z), the deepest last.

    Raises:
        CheckpointError: If files are missing, damaged or do not fit together, or the architecture has no
            encoder of its own.
    """
    folder = find_model(name)
    architecture = str(model_facts(folder).get("architecture"))
    try:
        encoder = build_encoder(architecture)
    except ValueError as error:
        raise CheckpointError(f"the model in {folder} cannot be used: {error}") from None
    found, own = encoder_tensors(folder), encoder.state_dict()
    for key, value in own.items():
        if f"network.{key}" not in found or found[f"network.{key}"].shape != value.shape:
            raise CheckpointError(
                f"the weights in {folder} do not fit the encoder of {architecture!r}: {key} differs; copy it"
            )
    encoder.load_state_dict({key: found[f"network.{key}"].float() for key in own})
    return encoder.eval().requires_grad_(False)
