"""Quantitative maps with lesion masks, packed for training: one voxel size, known units, read in part."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from anystroke.anatomy.tissues.deformation import Box
from anystroke.core.files import atomic_path, sha256, write_json
from anystroke.core.packs import pack_facts
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.qmri.map_files import MapDataError, MapSubject
from anystroke.qmri.measured_maps import MeasuredMaps, load_images, mask_on_maps
from anystroke.qmri.mixture import Mixture, fit_mixture

log = logging.getLogger(__name__)

INDEX = "maps.json"
MASKS = ("head", "brain", "lesion")

_FORMAT = 1
_MOST_LESION_VOXELS = 1000
_MARGIN = 1


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """What became of the subjects of a data set.

    Attributes:
        names: Those that were packed.
        skipped: Those that were not -> why.
        notes: What was done to the maps of a subject, such as R2 estimated from R2*.
    """

    names: tuple[str, ...]
    skipped: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]


def pack_maps(
    subjects: Iterable[MapSubject],
    folder: str | Path,
    *,
    spacing: float = 1.0,
    on_subject: Callable[[str], None] | None = None,
) -> PackReport:
    """Bring subjects to RAS, one voxel size and known units; write one file each, and an index.

    A subject that was packed before from the same files is kept, so a run that was cut short goes on. One
    that cannot be used does not stop the others.

    Args:
        subjects: What `find_map_subjects` found; their names must differ.
        folder: Where to write; made if missing.
        spacing: Voxel size in mm.
        on_subject: Told one sentence about each subject when it is done.

    Returns:
        What was packed, and what was not.

    Raises:
        MapDataError: If no subject could be packed, two have the same name, or the spacing is not positive.
        OSError: If the folder cannot be written.
    """
    subjects, folder = list(subjects), Path(folder)
    if not spacing > 0:
        raise MapDataError(f"expected a spacing above 0 mm, got {spacing}")
    names = [subject.name for subject in subjects]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise MapDataError(f"expected subjects with different names, got {doubles[0]} twice; rename one")
    folder.mkdir(parents=True, exist_ok=True)
    packed: list[str] = []
    skipped: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for subject in subjects:
        path = folder / f"{subject.name}.safetensors"
        try:
            identity = _identity(subject, spacing)
            kept = pack_facts(path).get("identity") == identity
            content = None if kept else _pack(subject, spacing)
        except (ValueError, OSError) as error:
            skipped[subject.name] = " ".join(str(error).split())
            log.warning("%s was left out: %s", subject.name, skipped[subject.name])
            _tell(on_subject, f"{subject.name} was left out: {skipped[subject.name]}")
            continue
        if content is not None:
            tensors, metadata, notes[subject.name] = content
            with atomic_path(path, overwrite=True) as part:
                save_file(tensors, part, metadata={**metadata, "identity": identity})
        packed.append(subject.name)
        _tell(on_subject, f"{subject.name} was {'kept' if kept else 'packed'}")
    if not packed:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items()) or "there is none"
        raise MapDataError(f"expected at least one subject whose maps can be used, but {reasons}")
    write_json(folder / INDEX, {"subjects": packed, "skipped": skipped, "spacing": spacing})
    return PackReport(names=tuple(packed), skipped=skipped, notes=notes)


def _tell(on_subject: Callable[[str], None] | None, text: str) -> None:
    if on_subject is not None:
        on_subject(text)


def _identity(subject: MapSubject, spacing: float) -> str:
    files = [*subject.maps.values(), subject.lesion, *([subject.brain] if subject.brain else [])]
    hashes = {path.name: sha256(path) for path in files}
    return json.dumps([_FORMAT, spacing, subject.field_strength, hashes], sort_keys=True)


def _pack(subject: MapSubject, spacing: float) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """Return the tensors and metadata of a subject's file, and notes about its maps."""
    images = load_images(subject.maps)
    values = torch.stack(list(images.values.values()))
    positive = (images.values["proton_density"] > 0) & (images.values["r1"] > 0)
    head = torch.isfinite(values).all(0) & positive
    if not bool(head.any()):
        raise MapDataError(f"{subject.name}: no voxel has a value in every map; check the files")
    grid = Volume(torch.empty(1, *head.shape), images.affine)
    brain = head if subject.brain is None else mask_on_maps(subject.brain, grid) & head
    if not bool(brain.any()):
        raise MapDataError(f"{subject.brain} does not lie on the maps of {subject.name}; check its geometry")
    lesion = _lesion_on(grid, subject)
    maps = MeasuredMaps(
        images.values,
        head,
        # Units are told by values of the brain, which is what lies deepest in a head.
        brain=_deep_part(head) if subject.brain is None else brain,
        field_strength=subject.field_strength,
        stated=images.stated,
    )
    names = [name for name in maps if name in subject.maps]
    layers = torch.stack([*(maps[name] for name in names), head.float(), brain.float(), lesion.float()])
    packed = _resampled(Volume(layers, images.affine), spacing)
    data = packed.data
    count = len(names)
    inside = data[count] > 0.5
    # What is resampled across the border of the head is the mean over the part within.
    data[:count] = torch.where(inside, data[:count] / data[count].clamp(min=0.5), 0.0)
    masks = data[count:] > 0.5
    mixture = fit_mixture(data[:count, masks[1] & inside], rng=stream(0, "mixture", subject.name))
    places = torch.nonzero(masks[2])
    steps = min(len(places), _MOST_LESION_VOXELS)
    chosen = torch.linspace(0, max(len(places) - 1, 0), steps, dtype=torch.float64).round().long()
    tensors = {
        "maps": data[:count].half().contiguous(),
        "masks": masks.to(torch.uint8).contiguous(),
        "lesion_voxels": places[chosen].to(torch.int16).contiguous(),
        "affine": packed.affine,
        **{f"mixture.{name}": tensor.contiguous() for name, tensor in asdict(mixture).items()},
    }
    metadata = {
        "names": json.dumps(names),
        "has_brain": json.dumps(subject.brain is not None),
        "field_strength": json.dumps(subject.field_strength),
    }
    return tensors, metadata, (*images.notes, *maps.notes)


def _deep_part(head: Tensor) -> Tensor:
    """Return the voxels of a head (X, Y, Z) that are at least half as deep as the deepest."""
    depth = torch.from_numpy(distance_transform_edt(head.numpy()))
    return depth >= 0.5 * depth.max()


def _lesion_on(grid: Volume, subject: MapSubject) -> Tensor:
    lesion = mask_on_maps(subject.lesion, grid)
    if not bool(lesion.any()) and bool((Volume.load(subject.lesion).data > 0.5).any()):
        raise MapDataError(f"{subject.lesion} does not lie on the maps of {subject.name}; check its geometry")
    return lesion


def _resampled(volume: Volume, spacing: float) -> Volume:
    """Bring to RAS and isotropic voxels, and cut to the head, the third layer from the end, with a margin."""
    volume = volume.reorient("RAS")
    sizes = torch.tensor(volume.spacing, dtype=torch.float64)
    if float((sizes / spacing - 1).abs().max()) > 1e-3:
        affine = volume.affine.clone()
        affine[:3, :3] *= spacing / sizes
        start = torch.cat([0.5 * spacing / sizes - 0.5, torch.ones(1, dtype=torch.float64)])
        affine[:3, 3] = (volume.affine @ start)[:3]
        x, y, z = (
            max(math.ceil(n * s / spacing - 1e-3), 1)
            for n, s in zip(volume.shape, sizes.tolist(), strict=True)
        )
        volume = volume.resample_to(affine, (x, y, z), antialias=True)
    filled = torch.nonzero(volume.data[-len(MASKS)] > 0.5)
    if not len(filled):
        raise MapDataError(f"the head is smaller than a voxel of {spacing} mm; choose a smaller spacing")
    low = (filled.amin(0) - _MARGIN).clamp(min=0)
    high = torch.minimum(filled.amax(0) + 1 + _MARGIN, torch.tensor(volume.shape))
    affine = volume.affine.clone()
    affine[:3, 3] = (affine @ torch.cat([low.double(), torch.ones(1, dtype=torch.float64)]))[:3]
    x0, y0, z0, x1, y1, z1 = *low.tolist(), *high.tolist()
    return Volume(volume.data[:, x0:x1, y0:y1, z0:z1].clone(), affine)


class PackedSubject:
    """One subject that `pack_maps` wrote; only what is asked for is read.

    Args:
        path: Its file.

    Attributes:
        name: Of the subject.
        names: Of the maps, in their order.
        field_strength: Static field of the maps, T.
        has_brain: Whether there was a brain mask; else the brain is the head.
        shape: Voxels.
        affine: (4, 4) float64, voxel -> RAS+ mm.
        lesion_voxels: (N, 3) some of the lesion's voxels, spread evenly over it; none if there is no lesion.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name.removesuffix(".safetensors")
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata()
            self.names: tuple[str, ...] = tuple(json.loads(metadata["names"]))
            self.has_brain = bool(json.loads(metadata["has_brain"]))
            self.field_strength = float(json.loads(metadata["field_strength"]))
            x, y, z = file.get_slice("masks").get_shape()[1:]
            self.shape = (int(x), int(y), int(z))
            self.affine: Tensor = file.get_tensor("affine")
            self.lesion_voxels: Tensor = file.get_tensor("lesion_voxels").long()

    @cached_property
    def mixture(self) -> Mixture:
        """The mixture of Gaussians that describes the maps within the brain."""
        with safe_open(self._path, framework="pt") as file:
            return Mixture(
                **{field.name: file.get_tensor(f"mixture.{field.name}") for field in fields(Mixture)}
            )

    def read(self, box: Box) -> tuple[Tensor, Tensor]:
        """Read a part.

        Args:
            box: Voxels, with whole and non-negative bounds.

        Returns:
            ``(maps, masks)``: (C, x, y, z) float32 in the order of ``names``, and (3, x, y, z) float32, 0 or
            1, in the order of ``MASKS``.
        """
        with safe_open(self._path, framework="pt") as file:
            maps, masks = (file.get_slice(name)[(slice(None), *box)] for name in ("maps", "masks"))
        return maps.float(), masks.float()


def open_maps(folder: str | Path) -> list[PackedSubject]:
    """Open the subjects that `pack_maps` packed into a folder.

    Raises:
        MapDataError: If the folder holds no complete pack.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise MapDataError(f"expected packed maps in {folder}, but there is no {INDEX}; pack them first")
    names = json.loads(index.read_text(encoding="utf-8"))["subjects"]
    if missing := [name for name in names if not (index.parent / f"{name}.safetensors").is_file()]:
        raise MapDataError(f"{index} names {missing[0]}, but its file is not there; pack the maps again")
    return [PackedSubject(index.parent / f"{name}.safetensors") for name in names]
