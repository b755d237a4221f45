"""Labelled scans on the grid that they are trained on, each in a file of its own."""

import difflib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.fields import GridShape
from anystroke.core.files import atomic_path, sha256
from anystroke.core.grids import keep_volume
from anystroke.core.packs import pack_facts
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.labelled import LabelledScan, LabelledScanError, check_names
from anystroke.models.model_space import check_scan, to_model_space

_ENDING = ".safetensors"
_FORMAT = "1"
_FACTS = {"spacing", "sources", "lesion_ml"}
# Share of a lesion's voxels that may lie outside of the box around the head.
_LARGEST_LOSS = 0.02


class ScanError(AnystrokeError):
    """Scans that cannot be packed or used; the message says which, why and what to do."""


@dataclass(frozen=True, eq=False)
class PackedScan:
    """A labelled scan on the grid that it is trained on.

    Attributes:
        name: Its name in the data set.
        image: (X, Y, Z) float32, from zero, not normalised; right, front and top of the head come last.
        lesion: (X, Y, Z) uint8, 1 in the lesion.
        brain: (X, Y, Z) uint8, 1 in the brain, where the data set has a mask of it.
        affine: (4, 4) voxel -> RAS+ mm.
        lesion_ml: Volume of the lesion as it was drawn.
    """

    name: str
    image: Tensor
    lesion: Tensor
    brain: Tensor | None
    affine: Tensor
    lesion_ml: float


class PackedScans:
    """The scans of a folder that `pack_scans` filled; each is read when it is asked for.

    Args:
        folder: The folder.
        names: Those wanted; by default all that are there.

    Raises:
        ScanError: There is no scan, one of those wanted is missing, a file is damaged, or the voxel sizes
            differ.

    Example:
        >>> scans = PackedScans(Path("packed"))  # doctest: +SKIP
        >>> scans["sub-01_T1w"].image.shape  # doctest: +SKIP
        torch.Size([91, 110, 94])
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        self.folder = folder
        found = sorted(path.name.removesuffix(_ENDING) for path in folder.glob(f"[!.]*{_ENDING}"))
        self.names = tuple(found if names is None else sorted(names))
        if missing := [name for name in self.names if name not in set(found)]:
            raise ScanError(f"{folder} lacks {len(missing)} scans, such as {missing[0]}; pack them again")
        if not self.names:
            raise ScanError(f"expected packed scans in {folder}, but there are none; pack some first")
        facts = {name: _read_facts(self._path(name)) for name in self.names}
        sizes = {float(fact["spacing"]) for fact in facts.values()}
        if len(sizes) > 1:
            raise ScanError(
                f"{folder} holds scans of {' and '.join(f'{size:g}' for size in sorted(sizes))} mm, expected "
                f"one voxel size; pack each in a folder of its own"
            )
        self.spacing = sizes.pop()
        self.volumes_ml = {name: float(fact["lesion_ml"]) for name, fact in facts.items()}
        lines = (f"{name} {fact['sources']}\n" for name, fact in sorted(facts.items()))
        self.sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> PackedScan:
        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                brain = file.get_tensor("brain") if "brain" in file.keys() else None  # noqa: SIM118
                image, lesion = file.get_tensor("image"), file.get_tensor("lesion")
                return PackedScan(
                    name, image, lesion, brain, file.get_tensor("affine"), self.volumes_ml[name]
                )
        except (OSError, SafetensorError) as error:
            raise ScanError(f"cannot read {path} ({error}); delete it and pack the scans again") from error

    def without(self, patterns: Sequence[str]) -> "PackedScans":
        """Leave out scans.

        Args:
            patterns: Their names; ``*`` stands for any letters.

        Raises:
            ScanError: A pattern fits no scan, or no scan is left.
        """
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.names):
                near = max(self.names, key=lambda name: difflib.SequenceMatcher(None, pattern, name).ratio())
                raise ScanError(
                    f"no scan is called {pattern!r}, which is to be held out; did you mean {near!r}?"
                )
        kept = [name for name in self.names if not any(fnmatchcase(name, each) for each in patterns)]
        if not kept:
            raise ScanError(f"all {len(self)} scans are held out; leave some to train on")
        return PackedScans(self.folder, kept)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_ENDING}"


def pack_scans(
    scans: Sequence[LabelledScan],
    folder: Path,
    *,
    spacing: float,
    on_scan: Callable[[str], object] | None = None,
) -> PackedScans:
    """Bring labelled scans to the grid of training, each in a file of its own.

    Scans are cut and resampled as for inference (`to_model_space`). What is there already, made of the same
    files, is left alone, so that a run that was cut short goes on where it was.

    Args:
        scans: From `find_labelled_scans`.
        folder: Where to write; made if missing.
        spacing: Voxel size in mm.
        on_scan: Called with each name when its file is there.

    Returns:
        The packed scans, these alone.

    Raises:
        LabelledScanError: There is no scan, or two have the same name.
        ScanError: Some scans cannot be used: all are named, the others are packed; or the folder holds scans
            of another voxel size or cannot be written.

    Example:
        >>> pack_scans(find_labelled_scans("ATLAS"), Path("packed"), spacing=2.0)  # doctest: +SKIP
    """
    if not scans:
        raise LabelledScanError("expected labelled scans to pack, got none")
    check_names(scans)
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    for scan in scans:
        path = folder / f"{scan.name}{_ENDING}"
        try:
            sources = _sources(scan)
            if not _is_current(path, sources, spacing):
                tensors, facts = _pack(scan, spacing)
                _write(path, tensors, facts | {"sources": sources})
        except (LabelledScanError, VolumeError) as error:
            problems.append(str(error))
            continue
        if on_scan is not None:
            on_scan(scan.name)
    if problems:
        raise ScanError(
            f"{len(problems)} of {len(scans)} scans cannot be used (the others are packed in {folder}): "
            + "; ".join(problems)
        )
    return PackedScans(folder, [scan.name for scan in scans])


def _sources(scan: LabelledScan) -> str:
    """Identify what a scan is made of by the content of its files."""
    try:
        hashes = [sha256(path) for path in (scan.image, scan.mask, scan.brain) if path is not None]
    except OSError as error:
        raise LabelledScanError(f"{scan.name}: cannot read {error.filename} ({error.strerror})") from error
    return " ".join([_FORMAT, str(scan.lesion_label), *hashes])


def _is_current(path: Path, sources: str, spacing: float) -> bool:
    """Say whether a file holds a scan made of these sources."""
    facts = pack_facts(path)
    if not set(facts) >= _FACTS:
        return False
    if float(facts["spacing"]) != spacing:
        raise ScanError(
            f"{path.parent} holds scans packed at {float(facts['spacing']):g} mm, asked for are "
            f"{spacing:g} mm; name another folder"
        )
    return facts["sources"] == sources


def _pack(scan: LabelledScan, spacing: float) -> tuple[dict[str, Tensor], dict[str, str]]:
    image, lesion, brain = scan.load()
    check_scan(image, scan.name)
    space = to_model_space(image, spacing=spacing, divisor=1, normalise=None)
    _, x, y, z = space.image.shape
    _check_inside(scan, lesion, space.affine, (x, y, z))
    lesion_ml = float(lesion.data.sum()) * lesion.voxel_volume

    def share(mask: Volume) -> Tensor:
        soft = Volume(mask.data.float(), mask.affine)
        return soft.resample_to(space.affine, (x, y, z), antialias=True).data[0]

    inside = torch.zeros((x, y, z), dtype=torch.bool)
    if lesion_ml > 0:
        inside = keep_volume(share(lesion), lesion_ml * 1000 / spacing**3)
    tensors = {"image": space.image[0].contiguous(), "lesion": inside.to(torch.uint8), "affine": space.affine}
    if brain is not None:
        tensors["brain"] = (share(brain) >= 0.5).to(torch.uint8)
    return tensors, {"spacing": repr(float(spacing)), "lesion_ml": repr(lesion_ml), "name": scan.name}


def _check_inside(scan: LabelledScan, lesion: Volume, affine: Tensor, shape: GridShape) -> None:
    """Refuse a lesion that is not in the box around the head."""
    voxels = lesion.data[0].nonzero().double()
    if not len(voxels):
        return
    to_grid = torch.linalg.inv(affine) @ lesion.affine
    index = voxels @ to_grid[:3, :3].T + to_grid[:3, 3]
    inside = ((index > -0.5) & (index < torch.tensor(shape) - 0.5)).all(1)
    outside = len(voxels) - int(inside.sum())
    if outside > math.ceil(_LARGEST_LOSS * len(voxels)):
        raise LabelledScanError(
            f"{scan.name}: {outside} of {len(voxels)} lesion voxels of {scan.mask} lie outside of the head "
            f"in {scan.image}; check that they belong together"
        )


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    try:
        with atomic_path(path, overwrite=True) as part:
            save_file(tensors, part, metadata=facts)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ScanError(
            f"cannot write {path} ({reason}); what was finished is kept, mend that and run again"
        ) from error


def _read_facts(path: Path) -> dict[str, str]:
    facts = pack_facts(path)
    if not set(facts) >= _FACTS:
        raise ScanError(f"{path} is damaged or no packed scan; delete it and pack the scans again")
    return facts
