"""Read a lesion mask whose label is given, never guessed, and bring it to another grid."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import read_cells
from anystroke.core.volume import Volume
from anystroke.io.names import Name

_SAME_PLACE = 0.01  # voxels
_ROUNDED = 1e-3


class MaskError(AnystrokeError):
    """A file that holds no usable mask; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class LoadedMask:
    """A mask and what had to be said about it.

    Attributes:
        mask: One boolean channel.
        notes: Sentences.
    """

    mask: Volume
    notes: tuple[str, ...] = ()


def read_mask(path: Path, *, label: str | None = None, threshold: float | None = None) -> LoadedMask:
    """Read the lesion from a mask or a label map.

    Args:
        path: The file.
        label: Number or name of the lesion's label; a name is looked up in the label table beside the file
            (BIDS ``_dseg.tsv``, or nnU-Net's ``dataset.json``). None for a mask of 0 and one other number.
        threshold: Take voxels of at least this probability, in a map of probabilities.

    Raises:
        MaskError: It holds NaN, several labels and none was named, probabilities and no threshold was given,
            or the label is not in it.
        VolumeError: It cannot be read.
    """
    return lesion_of(Volume.load(path), path, label=label, threshold=threshold)


def lesion_of(
    volume: Volume, path: Path, *, label: str | None = None, threshold: float | None = None
) -> LoadedMask:
    """Take the lesion of a mask or a label map that is in memory; arguments and errors as for `read_mask`.

    Args:
        volume: One channel.
        path: The file, or what messages call it; label tables are looked for beside it.
        label: As for `read_mask`.
        threshold: As for `read_mask`.
    """
    values = volume.data
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise MaskError(f"{path} holds {count} voxels that are NaN or infinite, expected labels; mend it")
    if bool(((values - values.round()).abs() < _ROUNDED).all()):
        values = values.round()  # programs that scale what they store write 0.9999 for 1
    found = torch.unique(values)
    whole = bool((found == found.round()).all())
    if not whole:
        return LoadedMask(*_thresholded(volume, found, path, threshold))
    present = [int(value) for value in found.tolist() if value != 0]
    if label is None:
        if len(present) > 1:
            shown = ", ".join(map(str, present[:8])) + (" ..." if len(present) > 8 else "")
            raise MaskError(f"{path} holds the labels {shown}; say which is the lesion with --label")
        mask = values != 0
    else:
        number = _number_of(label, path)
        if number not in present and present == [1]:
            raise MaskError(
                f"{path} holds the label 1 alone, expected {label}; leave the label out if it is a mask"
            )
        mask = values == number
    notes = () if bool(mask.any()) else ("holds no lesion",)
    return LoadedMask(replace(volume, data=mask), notes)


def load_probability(path: Path) -> Volume:
    """Read a map of lesion probabilities.

    Raises:
        MaskError: A voxel is NaN or not within 0 and 1.
        VolumeError: It cannot be read.
    """
    volume = Volume.load(path)
    low, high = float(volume.data.min()), float(volume.data.max())
    if not bool(torch.isfinite(volume.data).all()) or low < -1e-6 or high > 1 + 1e-6:
        raise MaskError(f"{path} holds values from {low:g} to {high:g}, expected probabilities of 0 to 1")
    return replace(volume, data=volume.data.clamp(0, 1))


def resampled_mask(moving: Volume, affine: Tensor, shape: tuple[int, int, int]) -> tuple[Volume, str]:
    """Bring a mask or map to a grid by nearest neighbour, if it is on another one.

    Args:
        moving: One channel.
        affine: (4, 4) voxel -> mm of the grid.
        shape: Voxels of the grid.

    Returns:
        The volume on the grid, and a sentence that says what was done; empty if nothing was.

    Raises:
        MaskError: The two do not overlap in space.
    """
    if moving.shape == shape and _apart(moving.affine, affine, shape) < _SAME_PLACE:
        return moving, ""
    data = moving.data.to(torch.uint8) if moving.data.dtype == torch.bool else moving.data
    source = replace(moving, data=data)
    inside = replace(moving, data=torch.ones_like(data, dtype=torch.uint8)).resample_to(
        affine, shape, "nearest"
    )
    if not bool(inside.data.any()):
        raise MaskError("its field of view does not overlap with that of the truth; are they one patient?")
    result = source.resample_to(affine, shape, "nearest")
    note = (
        f"resampled by nearest neighbour from {_grid(moving.shape, moving.spacing)} to "
        f"{_grid(shape, result.spacing)}"
    )
    if moving.data.dtype == torch.bool:
        before = float(moving.data.sum()) * moving.voxel_volume
        after = float(result.data.sum()) * result.voxel_volume
        note += f", {before:.2f} ml before and {after:.2f} ml after"
        result = replace(result, data=result.data > 0)
    return result, note


def isotropic_grid(volume: Volume, spacing: float) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the grid of the given voxel size [mm] over a volume's field of view, with its axes."""
    x, y, z = (
        max(1, math.ceil(n * step / spacing - 1e-6))
        for n, step in zip(volume.shape, volume.spacing, strict=True)
    )
    scale = [spacing / step for step in volume.spacing]
    change = torch.diag(torch.tensor([*scale, 1.0], dtype=torch.float64))
    change[:3, 3] = torch.tensor([(step - 1) / 2 for step in scale])
    return volume.affine @ change, (x, y, z)


def _thresholded(
    volume: Volume, found: Tensor, path: Path, threshold: float | None
) -> tuple[Volume, tuple[str, ...]]:
    low, high = float(found[0]), float(found[-1])
    if low < 0 or high > 1:
        raise MaskError(f"{path} holds values from {low:g} to {high:g} that are no labels; give a mask")
    if threshold is None:
        raise MaskError(
            f"{path} holds probabilities ({low:g} to {high:g}), expected a mask; give --threshold to cut them"
        )
    return replace(volume, data=volume.data >= threshold), (f"probabilities cut at {threshold:g}",)


def _number_of(label: str, path: Path) -> int:
    """Find the number of a label."""
    try:
        return int(label)
    except ValueError:
        names = _label_table(path)
    for name, number in names.items():
        if name.lower() == label.lower():
            return number
    known = (
        f"the labels beside it are {', '.join(names)}" if names else "there is no table of labels beside it"
    )
    raise MaskError(f"{path}: expected a label called {label}, but {known}; give its number")


def _label_table(path: Path) -> dict[str, int]:
    table = Name.parse(path).beside(".tsv")
    if not table.exists():
        table = path.parent / "dseg.tsv"
    if table.exists():
        _, rows = read_cells(table)
        return {row["name"]: int(row["index"]) for _, row in rows if row.get("name") and row.get("index")}
    for folder in (path.parent, path.parent.parent):
        description = folder / "dataset.json"
        if description.exists():
            labels = json.loads(description.read_text(encoding="utf-8")).get("labels", {})
            return {str(name): value for name, value in labels.items() if isinstance(value, int)}
    return {}


def _apart(first: Tensor, second: Tensor, shape: tuple[int, int, int]) -> float:
    """Return how far apart two affines put the corners of a grid, in voxels."""
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in shape))
    difference = first - second
    moved = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(moved.norm(dim=1).max() / second[:3, :3].norm(dim=0).min())


def _grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm"
