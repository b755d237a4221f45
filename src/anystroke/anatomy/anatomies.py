"""Healthy patients to simulate from: tissue fractions on a coarse grid, with their place in MNI space."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from anystroke.anatomy.labels import (
    TISSUES,
    LabelScheme,
    clean,
    coarse_affine,
    one_hot_fractions,
    to_tissues,
)
from anystroke.files import atomic_path
from anystroke.volume import Volume

BRAIN_TISSUES = (
    "cortical_grey_matter",
    "grey_white_partial_volume",
    "white_matter",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
)
SKULL_TISSUES = ("cortical_bone", "bone_marrow", "fat", "muscle", "skin")
_MNI_BRAIN_CENTRE = torch.tensor([0.0, -18.0, 8.0], dtype=torch.float64)


@dataclass(frozen=True)
class Anatomy:
    """One healthy anatomy.

    Attributes:
        name: Identifier, the label file's stem.
        fractions: (T, X, Y, Z) float32, share of each tissue of ``TISSUES[1:]``; the rest is background.
        affine: (4, 4) voxel -> the patient's RAS+ mm.
        to_mni: (4, 4) the patient's RAS+ mm -> MNI RAS+ mm.
    """

    name: str
    fractions: Tensor
    affine: Tensor
    to_mni: Tensor

    @property
    def centre(self) -> Tensor:
        """(3,) middle of the brain in the patient's RAS+ mm."""
        return self.from_mni(_MNI_BRAIN_CENTRE)

    def from_mni(self, point: Tensor) -> Tensor:
        """Return where a point (3,) in MNI RAS+ mm lies in the patient's RAS+ mm."""
        inverse: Tensor = torch.linalg.inv(self.to_mni)
        return inverse[:3, :3] @ point + inverse[:3, 3]

    @cached_property
    def has_head(self) -> bool:
        """Whether skull and scalp are there, not the brain alone."""
        rows = [TISSUES.index(name) - 1 for name in SKULL_TISSUES]
        return float(self.fractions[rows].sum()) > 1000


def build_anatomy(
    labels: Volume, scheme: LabelScheme, to_mni: Tensor, *, name: str, spacing: float = 2.0
) -> Anatomy:
    """Make an anatomy from a label map.

    Args:
        labels: Label map, one channel, isotropic voxels that divide ``spacing``.
        scheme: Meaning of its numbers.
        to_mni: (4, 4) RAS+ mm -> MNI RAS+ mm.
        name: Identifier.
        spacing: Voxel size of the fractions in mm.

    Raises:
        ValueError: If ``spacing`` is not a multiple of the label map's voxel size, or labels are unknown.
    """
    labels = labels.reorient("RAS")
    factor = round(spacing / labels.spacing[0])
    if any(abs(factor * voxel - spacing) > 0.01 for voxel in labels.spacing):
        raise ValueError(
            f"expected a label map with isotropic voxels that divide {spacing} mm, but {name} has "
            f"{tuple(round(v, 3) for v in labels.spacing)} mm; resample it with nearest neighbours"
        )
    cleaned = clean(labels.data[0], scheme, spacing=labels.spacing[0])
    fractions = one_hot_fractions(to_tissues(cleaned, scheme, spacing=labels.spacing[0]), factor)[1:]
    affine = coarse_affine(labels.affine, factor)
    filled = torch.nonzero(fractions.sum(0) > 0)
    low, high = filled.amin(0), filled.amax(0) + 1
    affine[:3, 3] = (affine @ torch.cat([low.double(), torch.ones(1, dtype=torch.float64)]))[:3]
    cropped = fractions[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]].contiguous()
    return Anatomy(name, cropped, affine, to_mni.double())


def save_anatomies(anatomies: Sequence[Anatomy], path: Path) -> None:
    """Write anatomies to one safetensors file, fractions as multiples of 1/255."""
    tensors: dict[str, Tensor] = {}
    for k, anatomy in enumerate(anatomies):
        tensors[f"{k}.fractions"] = (anatomy.fractions * 255).round().to(torch.uint8)
        tensors[f"{k}.affine"] = anatomy.affine
        tensors[f"{k}.to_mni"] = anatomy.to_mni
    metadata = {"names": json.dumps([a.name for a in anatomies]), "tissues": json.dumps(TISSUES)}
    with atomic_path(path, overwrite=True) as part:
        save_file(tensors, part, metadata=metadata)


def load_anatomies(path: Path) -> list[Anatomy]:
    """Read what ``save_anatomies`` wrote.

    Raises:
        ValueError: If the file was made for other tissues.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if tuple(json.loads(metadata["tissues"])) != TISSUES:
            raise ValueError(f"{path} was packed for another list of tissues; delete it and pack again")
        return [
            Anatomy(
                name,
                file.get_tensor(f"{k}.fractions").float().div_(255),
                file.get_tensor(f"{k}.affine"),
                file.get_tensor(f"{k}.to_mni"),
            )
            for k, name in enumerate(json.loads(metadata["names"]))
        ]
