"""Lesion masks of patients: found by id, taken to MNI space, kept as shares of voxels of 2 mm."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from anystroke.anatomy.regions.grid import ORIGIN, REGION_SHAPE, REGION_SPACING, tissue
from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.anatomy.registration.mni import (
    SMALLEST_BRAIN_OVERLAP,
    ScanRegistration,
    lesion_in_mni,
    register_scan,
)
from anystroke.core.arrays import Array
from anystroke.core.text import readable
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.folders import walk
from anystroke.io.formats import SCAN_SUFFIXES, read_scan
from anystroke.io.names import image_stem
from anystroke.models.checkpoints import CheckpointError
from anystroke.tasks.outcome.table import OutcomeError
from anystroke.tasks.segmentation.mni_places import with_lesion
from anystroke.tasks.segmentation.predict import Model, segment

# All of a grid that is in MNI space lies in this box, margins of the templates included [mm].
_BOX = ((-101.0, 101.0), (-140.0, 105.0), (-96.0, 126.0))
_SMALLEST_INSIDE = 0.5
# What the network calls a brain is believed from here on [ml]; the smallest of adults have 900.
_SMALLEST_BRAIN_ML = 500.0
_NOT_A_MASK = re.compile(r"probseg|_prob|spread|entropy|brain|tissue|dseg|report", re.IGNORECASE)
_MASK_WORDS = re.compile(r"lesion|label-l|mask|stroke|roi", re.IGNORECASE)
# One thread registers a file, and others that need it wait.
_REGISTERING: defaultdict[Path, Lock] = defaultdict(Lock)
_MNI_WORDS = re.compile(r"space-(mni|icbm|talairach)|(^|_)(w|mni)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Lesion:
    """What of the brain is damaged, on the grid of `anatomy.regions.grid`.

    Attributes:
        voxels: int32 flat numbers of voxels with lesion, rising.
        shares: float32 share of each that is lesion, above 0 and at most 1.
    """

    voxels: Array
    shares: Array

    @property
    def volume_ml(self) -> float:
        """Volume in MNI space."""
        return float(self.shares.sum()) * REGION_SPACING**3 / 1000

    def dense(self) -> Array:
        """Return float32 (91, 109, 91)."""
        whole = np.zeros(REGION_SHAPE[0] * REGION_SHAPE[1] * REGION_SHAPE[2], dtype=np.float32)
        whole[self.voxels] = self.shares
        return whole.reshape(REGION_SHAPE)

    def mirrored(self) -> "Lesion":
        """Return the lesion with left and right exchanged."""
        x, y, z = np.unravel_index(self.voxels, REGION_SHAPE)
        voxels = np.ravel_multi_index((REGION_SHAPE[0] - 1 - x, y, z), REGION_SHAPE)
        order = voxels.argsort()
        return Lesion(voxels[order].astype(np.int32), self.shares[order])


@dataclass(frozen=True)
class FoundFiles:
    """The images of patients.

    Attributes:
        files: Id -> file.
        reasons: Id -> why its file cannot be used, of those that have one.
        notes: Sentences about folders that cannot be read.
    """

    files: dict[str, Path] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_files(folder: Path, ids: Sequence[str], *, masks: bool) -> FoundFiles:
    """Find the image of each id in a folder or below it.

    A file is of an id if its name begins with it (``sub-01_lesion.nii.gz``, ``sub-01.nii``), or a folder of
    it is called so (``sub-01/anat/...``); the id may lack ``sub-`` in either.

    Args:
        folder: Searched with all below it, as `io.folders.walk` does.
        ids: Of patients.
        masks: Whether lesion masks are wanted; of several files of an id the one in MNI space, or named as a
            mask, is taken.

    Returns:
        What was found, and why the rest was not.

    Raises:
        OutcomeError: The folder is missing, or an id has several files and none stands out.
    """
    if not folder.is_dir():
        raise OutcomeError(f"expected a folder of images at {folder}, but there is none; check the path")
    found = FoundFiles()

    def complain(error: OSError) -> None:
        place = readable(error.filename or folder)
        found.notes.append(f"{place} cannot be read ({error.strerror or error}) and is passed over")

    of: dict[str, list[Path]] = {}
    for path in walk(folder, on_error=complain):
        if path.name.lower().endswith(SCAN_SUFFIXES):
            for name in _names(path, folder):
                of.setdefault(name, []).append(path)
    for each in ids:
        candidates = of.get(each.lower().removeprefix("sub-"), [])
        if not candidates:
            continue
        path = _one_of(candidates, each, folder, masks)
        if reason := _unusable(path):
            found.reasons[each] = f"{readable(path.relative_to(folder))} {reason}"
        else:
            found.files[each] = path
    return found


def _unusable(path: Path) -> str:
    """Say why a file cannot be opened; '' if it can."""
    if path.is_symlink() and not path.exists():
        return f"is a link whose target is missing ({readable(path.readlink())})"
    if not path.is_file():
        return "is no file"
    if not os.access(path, os.R_OK):
        return "cannot be read (permission denied)"
    return "is empty" if path.stat().st_size == 0 else ""


def _names(path: Path, folder: Path) -> set[str]:
    """Return the ids that a file may be of."""
    stem = readable(image_stem(path)).lower().removeprefix("sub-")
    pieces = stem.split("_")
    names = {"_".join(pieces[:k]) for k in range(1, len(pieces) + 1)} | {re.split(r"[_.\s]", stem)[0]}
    return names | {
        readable(part).lower().removeprefix("sub-") for part in path.relative_to(folder).parts[:-1]
    }


def _one_of(paths: Sequence[Path], name: str, folder: Path, masks: bool) -> Path:
    """Choose among the files of an id."""
    kept = [path for path in paths if not _NOT_A_MASK.search(path.name)] if masks else list(paths)
    if not masks:
        kept = [path for path in kept if not re.search(r"mask|lesion|probseg|dseg|label-", path.name.lower())]
    exact = [path for path in kept if _is_of(path, name)]
    kept = exact or kept
    for words in (_MASK_WORDS, _MNI_WORDS) if masks else ():
        better = [path for path in kept if words.search(path.name)]
        kept = better or kept
    if len(kept) != 1:
        several = ", ".join(readable(path.relative_to(folder)) for path in (kept or list(paths))[:4])
        raise OutcomeError(
            f"expected one {'mask' if masks else 'image'} of {name} in {folder}, got {len(kept)} of "
            f"{several}; "
            "leave one in the folder"
        )
    return kept[0]


def _is_of(path: Path, name: str) -> bool:
    stem, wanted = readable(image_stem(path)).lower().removeprefix("sub-"), name.lower().removeprefix("sub-")
    return stem == wanted or stem.startswith(wanted + "_")


def load_lesion(path: Path, image: Path | None = None) -> Lesion:
    """Read a mask and take it to MNI space.

    Args:
        path: Mask, not zero inside (a probability counts from 0.5 on); in MNI space on any grid, or on
        that of
            ``image``.
        image: The scan it was drawn on, which is registered to MNI space if the mask is not there.

    Raises:
        OutcomeError: The mask is not readable, holds no mask, or lies in another space.
    """
    try:
        mask = read_scan(path)
    except (VolumeError, OSError) as error:
        raise OutcomeError(f"the mask cannot be read: {error}") from None
    values = mask.data[0]
    if float(values.min()) < 0 or not bool(torch.isfinite(values).all()):
        raise OutcomeError(
            f"{path} is no mask, expected 0 outside the lesion and 1 inside, got {values.min():g}"
        )
    most = float(values.max())
    # Probabilities, and shares of resampled masks, count from a half, or from the most of a tiny lesion.
    inside = (values >= min(0.5, most)) & (values > 0)
    mask = Volume(inside[None].float(), mask.affine, mask.space_code)
    moved = _needs_scan(mask, path, image)
    if moved:
        mask = _registered(mask, path, image)
    lesion = on_grid(mask)
    _check_place(lesion, mask, path, image if moved else None)
    return lesion


def _needs_scan(mask: Volume, path: Path, image: Path | None) -> bool:
    """Tell whether a mask is to be taken to MNI space by its scan."""
    if "space-mni" in path.name.lower():
        return False
    if not _in_mni_box(mask) or image is None:
        return not _in_mni_box(mask)
    return "space-orig" in path.name.lower() or not _is_identity(scan_in_mni(image))


def _is_identity(found: ScanRegistration) -> bool:
    return bool((found.affine == torch.eye(4, dtype=torch.float64)).all())


def on_grid(mask: Volume) -> Lesion:
    """Bring a mask in MNI space to the grid of 2 mm.

    Args:
        mask: float (1, X, Y, Z), 1 inside.

    Returns:
        The lesion; its volume is that of the mask but for what is off the grid.

    Example:
        >>> import torch
        >>> round(on_grid(Volume(torch.ones(1, 10, 10, 10), torch.eye(4))).volume_ml, 3)
        1.0
    """
    mask = mask.reorient("RAS")
    data = mask.data[0].numpy()
    found = np.nonzero(data)
    if not len(found[0]):
        return Lesion(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in found)
    shares = data[box].astype(np.float64)
    for axis in range(3):
        overlap = _overlap(mask, axis)[:, box[axis]]
        shares = np.moveaxis(np.tensordot(overlap, shares, axes=(1, axis)), 0, axis)
    flat = shares.reshape(-1)
    voxels = np.flatnonzero(flat > 1e-6)
    return Lesion(voxels.astype(np.int32), np.minimum(flat[voxels], 1.0).astype(np.float32))


def _overlap(mask: Volume, axis: int) -> Array:
    """Return which share of each voxel of the grid each voxel of the mask covers along an axis."""
    step, start = float(mask.affine[axis, axis]), float(mask.affine[axis, 3])
    low = (start + step * (np.arange(mask.shape[axis]) - 0.5) - ORIGIN[axis]) / REGION_SPACING
    edges = np.arange(REGION_SHAPE[axis]) - 0.5
    upper = np.minimum(edges[:, None] + 1, low + step / REGION_SPACING)
    covered: Array = np.clip(upper - np.maximum(edges[:, None], low), 0, None)
    return covered


def _in_mni_box(volume: Volume) -> bool:
    """Tell whether a grid may be one of MNI space: along its axes, and hardly larger than a brain."""
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in volume.shape))
    points = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = torch.tensor(_BOX, dtype=torch.float64).unbind(1)
    along = (volume.affine[:3, :3].abs() > 1e-3 * max(volume.spacing)).sum() == 3
    return bool(along) and bool(((points >= low) & (points <= high)).all())


def scan_in_mni(path: Path) -> ScanRegistration:
    """Find where a scan lies in MNI space; each file is registered once per process, whatever links to it.

    The brain that is registered is that which the default network finds, so that a skull is not taken for its
    outline.

    Returns:
        The registration; the identity, with an overlap of 1, for a scan that is there already.

    Raises:
        OutcomeError: The scan cannot be read or registered.
    """
    try:
        with _REGISTERING[path.resolve()]:
            return _scan_in_mni(path.resolve(), path.stat().st_mtime_ns)
    except (RegistrationError, VolumeError, CheckpointError, OSError) as error:
        raise OutcomeError(f"{readable(path)} cannot be taken to MNI space: {error}") from None


@lru_cache(maxsize=4096)
def _scan_in_mni(path: Path, _changed: int) -> ScanRegistration:
    scan = read_scan(path)
    there = ScanRegistration(torch.eye(4, dtype=torch.float64), 1.0)
    inside = _in_mni_box(scan)
    if inside and scan.space_code in (3, 4):
        return there
    found = register_scan(scan, brain=_brain_of(scan))
    away = found.affine - there.affine
    near = bool(away[:3, :3].abs().max() < 0.06) and bool(away[:3, 3].norm() < 8)
    if inside and near:
        return there
    if found.overlap < SMALLEST_BRAIN_OVERLAP:
        raise RegistrationError(
            f"the brains overlap by {found.overlap:.2f}, expected at least {SMALLEST_BRAIN_OVERLAP:g}; check "
            "that the scan shows the whole brain"
        )
    return found


@cache
def _network() -> Model:
    return Model.open("default")


def _brain_of(scan: Volume) -> Volume | None:
    """Return the brain in a scan; None where the network finds too little of one to be believed."""
    found = segment(scan, _network())
    brain = with_lesion(found.brain, found.mask)
    if brain is None or float((brain.data > 0).sum()) * brain.voxel_volume < _SMALLEST_BRAIN_ML:
        return None
    return brain


def _registered(mask: Volume, path: Path, image: Path | None) -> Volume:
    if image is None:
        raise OutcomeError(
            f"{path} is not in MNI space ({' x '.join(map(str, mask.shape))} voxels, its first at "
            f"{', '.join(f'{x:.0f}' for x in mask.affine[:3, 3].tolist())} mm); give the scans that the "
            "masks "
            "were drawn on with --images"
        )
    try:
        scan = read_scan(image)
        difference = mask.grid.difference(scan.grid, tolerance=1.0)
        if difference:
            raise OutcomeError(
                f"{path} is not on the grid of {image.name} ({difference}); give the mask of that scan"
            )
        moved = lesion_in_mni(mask, scan, registration=scan_in_mni(image))
        return Volume(moved.data.float(), moved.affine, 4)
    except (RegistrationError, VolumeError) as error:
        raise OutcomeError(f"{path} cannot be taken to MNI space: {error}") from None


def _check_place(lesion: Lesion, mask: Volume, path: Path, image: Path | None) -> None:
    """Refuse a lesion that does not lie where the brain is in MNI space, or in its own scan."""
    total = float(mask.data.sum()) * mask.voxel_volume
    if total == 0:
        return
    inside = float(lesion.shares[_near_brain()[lesion.voxels]].sum()) * REGION_SPACING**3 / 1000 / total
    if inside < _SMALLEST_INSIDE and image is not None:
        raise OutcomeError(
            f"{path} marks what is no brain in {image.name}: {100 * inside:.0f} % of the lesion lies in or "
            f"at the brain, expected at least {100 * _SMALLEST_INSIDE:.0f} %; look at the mask on its scan, "
            "and mend it or leave the patient out"
        )
    if inside < _SMALLEST_INSIDE:
        raise OutcomeError(
            f"{path} is in another space: {100 * inside:.0f} % of the lesion lies in or at the MNI152 "
            "brain, expected at "
            f"least {100 * _SMALLEST_INSIDE:.0f} %; give masks in MNI space, or scans with --images"
        )


@cache
def _near_brain() -> Array:
    """Mark the MNI152 brain and 6 mm around it, for lesions of the surface and imperfect registrations."""
    grown: Array = binary_dilation(tissue().template > 0, iterations=3).reshape(-1)
    return grown


def check_sides(lesions: Mapping[str, Lesion], said: Mapping[str, str]) -> list[str]:
    """Find masks that lie on the other side than the table says.

    Args:
        lesions: By id.
        said: Side by id: left, right, L or R; other texts are not judged.

    Returns:
        Ids whose lesion is for more than 90 % on the other side.
    """
    wrong = []
    for name, lesion in lesions.items():
        text = said.get(name, "").strip().lower()[:1]
        if text not in ("l", "r") or not len(lesion.voxels):
            continue
        x = np.unravel_index(lesion.voxels, REGION_SHAPE)[0] * REGION_SPACING + ORIGIN[0]
        left = float(lesion.shares[x < 0].sum()) / max(float(lesion.shares[x != 0].sum()), 1e-9)
        if (left < 0.1 and text == "l") or (left > 0.9 and text == "r"):
            wrong.append(name)
    return wrong
