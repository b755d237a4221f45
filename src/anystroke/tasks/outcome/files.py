"""Models of outcomes on disk: ``config.json``, ``model.safetensors`` and a card, never a pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.arrays import Array
from anystroke.core.config import ConfigError, validate
from anystroke.core.files import write_json, write_text
from anystroke.models.checkpoints import CheckpointError, find_model, read_tensors, write_atomically
from anystroke.tasks.outcome.config import MemberConfig, OutcomeConfig
from anystroke.tasks.outcome.estimators import FittedPart
from anystroke.tasks.outcome.features import AtlasRegions
from anystroke.tasks.outcome.models import EnsembleMember, FittedMember, FittedModel, ModelSpec, Transform
from anystroke.tasks.outcome.network_training import restore_network
from anystroke.tasks.outcome.table import OutcomeError


@dataclass(frozen=True, eq=False)
class OutcomeModel:
    """A model with what is needed to use it."""

    fitted: FittedModel
    config: OutcomeConfig


def describe_atlas(atlas: Atlas) -> AtlasRegions:
    """Return what tells an atlas from another."""
    numbers = tuple(int(n) for n in np.unique(atlas.labels.data.numpy()) if n)
    return AtlasRegions(
        source=atlas.source, sha256=atlas.sha256, numbers=numbers, names=tuple(atlas.name(n) for n in numbers)
    )


def save_outcome(folder: Path, model: OutcomeModel, card: str) -> None:
    """Write a model.

    Args:
        folder: Made if missing.
        model: To write.
        card: Text of its README.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for k, member in enumerate(model.fitted.members):
        for name in ("median", "mean", "scale", "components", "centre"):
            tensors[f"member{k}.{name}"] = _tensor(getattr(member.transform, name))
        for j, part in enumerate(member.parts):
            tensors |= {f"member{k}.part{j}.{name}": _tensor(array) for name, array in part.arrays.items()}
    if model.fitted.network is not None:
        tensors |= model.fitted.network.tensors()
    write_atomically(folder / "model.safetensors", tensors)
    write_text(folder / "README.md", card)
    write_json(folder / "config.json", model.config.model_dump())


def load_outcome(name: str | Path) -> OutcomeModel:
    """Read a model.

    Args:
        name: Its folder, or the name of a shipped one.

    Raises:
        OutcomeError: There is none, it does something else, or it is damaged.
    """
    try:
        folder = find_model(name)
    except CheckpointError:
        raise OutcomeError(
            f"expected a model of 'outcome train' at {name}, but there is none; check the path"
        ) from None
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("task") != "outcome":
            raise OutcomeError(
                f"the model in {folder} predicts no outcome; name one that 'outcome train' made"
            )
        config = validate(data, OutcomeConfig, source=str(folder / "config.json"))
        tensors, _ = read_tensors(folder / "model.safetensors")
        return OutcomeModel(_fitted(config, tensors), config)
    except (ConfigError, CheckpointError, json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise OutcomeError(f"the model in {folder} cannot be used: {error}") from None


def _fitted(config: OutcomeConfig, tensors: Mapping[str, torch.Tensor]) -> FittedModel:
    kind = config.target.kind
    if config.network is not None:
        spec = ModelSpec(config.model, network=config.network.network, picture=config.network.picture)
        network = restore_network(config.network, tensors, config.model)
        return FittedModel(spec, kind, bounds=config.bounds, network=network)
    members = []
    for k, member in enumerate(config.members):
        arrays = {
            name.removeprefix(f"member{k}."): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith(f"member{k}.")
        }
        transform = Transform(
            member.groups,
            member.features,
            *(arrays[name] for name in ("median", "mean", "scale", "components", "centre")),
        )
        parts = tuple(
            FittedPart(
                part,
                {n.removeprefix(f"part{j}."): a for n, a in arrays.items() if n.startswith(f"part{j}.")},
            )
            for j, part in enumerate(member.parts)
        )
        members.append(FittedMember(transform, parts))
    spec = ModelSpec(config.model, tuple(EnsembleMember(m.groups, m.estimator) for m in config.members))
    return FittedModel(spec, kind, tuple(members), config.bounds)


def member_configs(fitted: FittedModel) -> tuple[MemberConfig, ...]:
    """Describe the members of a model."""
    return tuple(
        MemberConfig(
            groups=member.transform.groups,
            estimator=spec.estimator,
            features=member.transform.names,
            parts=tuple(part.kind for part in member.parts),
        )
        for member, spec in zip(fitted.members, fitted.spec.members, strict=True)
    )


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, order="C"))
