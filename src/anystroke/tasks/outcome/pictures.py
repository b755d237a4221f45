"""Pictures of the patients of a cohort, and where their pixels lie in the brain."""

from pathlib import Path

import numpy as np
import torch

from anystroke.anatomy.regions.grid import REGION_SHAPE, affine, tissue
from anystroke.core.arrays import Array
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.formats import read_scan
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.masks import scan_in_mni
from anystroke.tasks.outcome.representations import (
    Symbols,
    canvas,
    halved,
    stitched,
    symbol_square,
    uncanvas,
    unstitched,
    with_symbols,
)
from anystroke.tasks.outcome.table import OutcomeError

_LARGEST_ML = 300.0
_SEVERITY = ("severity", "initial_severity", "nihss", "baseline_nihss", "nihss_admission")
_TIME = ("time", "recovery_time", "days", "wab_days", "years", "time_since_stroke")


def pictures_of(cohort: OutcomeCohort, picture: str, *, scans: bool, shrink: int = 1) -> Array:
    """Draw what a network sees.

    Args:
        cohort: Patients with lesions or scans.
        picture: One of `models.PICTURES`.
        scans: Draw scans; lesions otherwise.
        shrink: The means of so many pixels along each axis become one.

    Returns:
        float32 (patients, 1, 256, 256), or (patients, 1, 45, 54, 45) of volumes; from 0 to 1. Sizes are
        divided by ``shrink``.
    """
    drawn = []
    for k in range(len(cohort.ids)):
        volume = scan_on_grid(cohort.images[k]) if scans else cohort.lesions[k].dense()
        drawn.append(shrunken(one_picture(volume, picture, symbols_of(cohort, k)), shrink))
    return np.stack(drawn)[:, None]


def shrunken(picture: Array, by: int) -> Array:
    """Average pixels.

    Args:
        picture: (256, 256), or a volume.
        by: How many along each axis become one; what is left at the ends is cut.

    Example:
        >>> shrunken(np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 5.0]]), 2).tolist()
        [[1.5]]
    """
    if by == 1:
        return picture
    found = picture
    for axis in range(picture.ndim):
        count = found.shape[axis] // by
        cut = np.moveaxis(found, axis, 0)[: count * by]
        found = np.moveaxis(cut.reshape(count, by, *cut.shape[1:]).mean(axis=1), 0, axis)
    return found


def one_picture(volume: Array, picture: str, symbols: Symbols) -> Array:
    """Draw one volume of the grid of MNI space."""
    if picture == "volume":
        return halved(volume)
    on_canvas = picture.endswith("canvas")
    drawn = canvas(volume) if on_canvas else stitched(volume)
    return with_symbols(drawn, symbols, on_canvas=on_canvas) if picture.startswith("hybrid") else drawn


def to_grid(values: Array, picture: str, *, shrink: int = 1) -> Array:
    """Map values of the pixels of a picture back to the grid of MNI space.

    Args:
        values: One a pixel.
        picture: One of `models.PICTURES`.
        shrink: As for `pictures_of`.

    Returns:
        float32 (91, 109, 91); 0 where the picture shows nothing of the brain, or symbols.
    """
    for axis in range(values.ndim):
        values = values.repeat(shrink, axis=axis)
    if picture == "volume":
        whole = np.zeros(REGION_SHAPE, dtype=np.float32)
        large = values.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        x, y, z = large.shape
        whole[:x, :y, :z] = large
        return whole
    on_canvas = picture.endswith("canvas")
    if picture.startswith("hybrid"):
        values = values.copy()
        values[symbol_square(on_canvas=on_canvas)] = 0
    return uncanvas(values) if on_canvas else unstitched(values)


def symbols_of(cohort: OutcomeCohort, patient: int) -> Symbols:
    """Read from a cohort what symbols show; severity and time from columns of such names, scaled to 0..1."""
    lower = [name.lower() for name in cohort.column_names]

    def scaled(names: tuple[str, ...]) -> float | None:
        place = next((lower.index(name) for name in names if name in lower), None)
        if place is None or np.isnan(cohort.columns[patient, place]):
            return None
        value = float(cohort.columns[patient, place])
        # Scales that the symbol is for, so that a picture depends on its own patient alone.
        most = {"nihss": 42.0, "years": 5.0, "days": 1825.0}
        limit = next(
            (top for word, top in most.items() if word in lower[place]),
            7.0 if "sever" in lower[place] else 5.0,
        )
        return value / limit

    size = cohort.lesions[patient].volume_ml if cohort.lesions else 0.0
    return Symbols(scaled(_SEVERITY), float(np.log1p(size) / np.log1p(_LARGEST_ML)), scaled(_TIME))


def scan_on_grid(path: Path) -> Array:
    """Read a scan, take it to MNI space and keep the brain, float32 (91, 109, 91) from 0 to 1.

    Raises:
        OutcomeError: It cannot be read or registered.
    """
    try:
        scan = read_scan(path)
        moved = Volume(scan.data, scan_in_mni(path).affine @ scan.affine)
        x, y, z = REGION_SHAPE
        data = moved.resample_to(torch.from_numpy(affine()), (x, y, z), antialias=True).data[0].numpy()
    except VolumeError as error:
        raise OutcomeError(f"{path} cannot be taken to MNI space: {error}") from None
    brain = tissue().template > 0
    values = data[brain]
    low, high = np.percentile(values, [1, 99])
    if not high > low:
        raise OutcomeError(f"{path} shows nothing where the brain is in MNI space, expected a scan; check it")
    shown: Array = np.where(brain, np.clip((data - low) / (high - low), 0, 1), 0).astype(np.float32)
    return shown
