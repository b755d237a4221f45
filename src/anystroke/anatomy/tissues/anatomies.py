"""Healthy patients to simulate from: their tissues, with their place in MNI space."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from anystroke.anatomy.tissues.cropping import filled_box, shifted
from anystroke.anatomy.tissues.labels import TISSUES, LabelScheme, clean, to_tissues
from anystroke.anatomy.tissues.mixing import LabelField, ShareField, TissueField
from anystroke.core.packs import PackedTensor, PackEntry, read_pack, write_pack
from anystroke.core.volume import Volume

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
PACKED_FOR = ",".join(TISSUES)
"""What an anatomy's numbers mean; a pack for another list of tissues cannot be read."""

_FAT_REACH_MM = 12.0
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

    def place_in_head(self, rng: torch.Generator) -> Tensor:
        """Draw a place (3,) in the box that the head fills, in the patient's RAS+ mm."""
        last = torch.tensor(self.tissues.shape, dtype=torch.float64) - 1
        voxel = last * torch.rand(3, generator=rng, dtype=torch.float64)
        affine = self.tissues.affine
        return affine[:3, :3] @ voxel + affine[:3, 3]

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
    # Fat reaches so far from what it is found by; beyond the head there is nothing to find.
    margin = round(_FAT_REACH_MM / labels.spacing[0])
    head = filled_box(labels.data[0] != 0, margin)
    cleaned = clean(labels.data[0][head].contiguous(), scheme, spacing=labels.spacing[0])
    tissues = to_tissues(cleaned, scheme, spacing=labels.spacing[0])
    box = filled_box(tissues > 0)
    cropped = tissues[box].contiguous()
    start = [outer.start + inner.start for outer, inner in zip(head, box, strict=True)]
    affine = shifted(labels.affine, start)
    return Anatomy(name, LabelField(cropped, affine), to_mni.double())


def pack_anatomy(anatomy: Anatomy, source: str = "") -> PackEntry:
    """Compress an anatomy, shares as multiples of 1/255.

    Args:
        anatomy: The anatomy.
        source: Names the input that it was made from.
    """
    tissues = anatomy.tissues
    hard = not isinstance(tissues, ShareField)
    array = (tissues.shares * 255).round() if isinstance(tissues, ShareField) else tissues.labels
    facts = {"hard": hard, "affine": tissues.affine.tolist(), "to_mni": anatomy.to_mni.tolist()}
    return PackEntry(anatomy.name, PackedTensor.of(array.to(torch.uint8)), facts, source)


def unpack_anatomy(entry: PackEntry) -> Anatomy:
    """Return the anatomy that `pack_anatomy` compressed."""
    affine, to_mni = (torch.tensor(entry.facts[key], dtype=torch.float64) for key in ("affine", "to_mni"))
    array = entry.content.unpack()
    hard = entry.facts["hard"]
    tissues = LabelField(array, affine) if hard else ShareField(array.float().div_(255), affine)
    return Anatomy(entry.name, tissues, to_mni)


def save_anatomies(anatomies: Sequence[Anatomy], path: Path) -> None:
    """Write anatomies to one compressed safetensors file, shares as multiples of 1/255."""
    write_pack([pack_anatomy(a) for a in anatomies], path, kind="anatomies", about=PACKED_FOR)


def load_anatomies(path: Path) -> list[Anatomy]:
    """Read what ``save_anatomies`` wrote.

    Raises:
        PackError: If the file is of another version or was made for other tissues; the message says how to
            pack again.
    """
    return [unpack_anatomy(entry) for entry in read_pack(path, kind="anatomies", about=PACKED_FOR)]
