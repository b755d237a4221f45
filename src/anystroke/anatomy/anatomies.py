"""Healthy patients to simulate from: their tissues, with their place in MNI space."""

import json
from collections.abc import Iterable, Sequence
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
    to_tissues,
)
from anystroke.anatomy.mixing import LabelField, ShareField, TissueField
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
        tissues: Hard or soft labels, indices into ``TISSUES``.
        to_mni: (4, 4) the patient's RAS+ mm -> MNI RAS+ mm.
    """

    name: str
    tissues: TissueField
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
        voxel = abs(float(torch.linalg.det(self.tissues.affine[:3, :3])))
        return self.tissues.amount([TISSUES.index(name) for name in SKULL_TISSUES]) * voxel > 8000


def anatomy_called(name: str, anatomies: Iterable[Anatomy]) -> Anatomy:
    """Return the one anatomy of a name.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [anatomy for anatomy in anatomies if anatomy.name == name]
    if len(found) != 1:
        raise ValueError(f"expected one anatomy called {name!r}, got {len(found)}")
    return found[0]


def build_anatomy(labels: Volume, scheme: LabelScheme, to_mni: Tensor, *, name: str) -> Anatomy:
    """Make an anatomy from a label map, at the label map's own resolution.

    Args:
        labels: Label map, one channel, isotropic voxels.
        scheme: Meaning of its numbers.
        to_mni: (4, 4) RAS+ mm -> MNI RAS+ mm.
        name: Identifier.

    Raises:
        ValueError: If voxels are not isotropic, or labels are unknown.
    """
    labels = labels.reorient("RAS")
    if max(labels.spacing) - min(labels.spacing) > 0.01 * labels.spacing[0]:
        raise ValueError(
            f"expected a label map with isotropic voxels, but {name} has "
            f"{tuple(round(v, 3) for v in labels.spacing)} mm; resample it with nearest neighbours"
        )
    cleaned = clean(labels.data[0], scheme, spacing=labels.spacing[0])
    tissues = to_tissues(cleaned, scheme, spacing=labels.spacing[0]).to(torch.uint8)
    filled = torch.nonzero(tissues)
    low, high = filled.amin(0), filled.amax(0) + 1
    affine = labels.affine.clone()
    affine[:3, 3] = (affine @ torch.cat([low.double(), torch.ones(1, dtype=torch.float64)]))[:3]
    cropped = tissues[low[0] : high[0], low[1] : high[1], low[2] : high[2]].contiguous()
    return Anatomy(name, LabelField(cropped, affine), to_mni.double())


def save_anatomies(anatomies: Sequence[Anatomy], path: Path) -> None:
    """Write anatomies to one safetensors file, shares as multiples of 1/255."""
    tensors: dict[str, Tensor] = {}
    for k, anatomy in enumerate(anatomies):
        field = anatomy.tissues
        if isinstance(field, LabelField):
            tensors[f"{k}.labels"] = field.labels
        else:
            tensors[f"{k}.shares"] = (field.shares * 255).round().to(torch.uint8)
        tensors[f"{k}.affine"] = field.affine
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
        present = set(file.keys())
        anatomies = []
        for k, name in enumerate(json.loads(metadata["names"])):
            affine = file.get_tensor(f"{k}.affine")
            tissues: TissueField
            if f"{k}.labels" in present:
                tissues = LabelField(file.get_tensor(f"{k}.labels"), affine)
            else:
                tissues = ShareField(file.get_tensor(f"{k}.shares").float().div_(255), affine)
            anatomies.append(Anatomy(name, tissues, file.get_tensor(f"{k}.to_mni")))
        return anatomies
