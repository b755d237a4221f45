"""Pictures of the patients of a cohort, and where their pixels lie in the brain."""

import numpy as np
import torch

from anystroke.anatomy.regions.grid import REGION_SHAPE, affine, tissue
from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.anatomy.registration.mni import SMALLEST_BRAIN_OVERLAP, register_scan
from anystroke.core.arrays import Array
from anystroke.core.volume import Volume, VolumeError
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.masks import in_mni_space
from anystroke.tasks.outcome.representations import (
    Symbols,
    canvas,
    halved,
    stitched,
    uncanvas,
    unstitched,
    with_symbols,
)
from anystroke.tasks.outcome.table import OutcomeError

_LARGEST_ML = 300.0
_SEVERITY = ("severity", "initial_severity", "nihss", "baseline_nihss", "nihss_admission")
_TIME = ("time", "recovery_time", "days", "wab_days", "years", "time_since_stroke")


def pictures_of(cohort: OutcomeCohort, picture: str, *, scans: bool) -> Array:
    """Draw what a network sees.

    Args:
        cohort: Patients with lesions or scans.
        picture: One of `models.PICTURES`.
        scans: Draw scans; lesions otherwise.

    Returns:
        float32 (patients, 1, 256, 256), or (patients, 1, 45, 54, 45) of volumes; from 0 to 1.
    """
    drawn = []
    for k in range(len(cohort.ids)):
        volume = scan_on_grid(cohort, k) if scans else cohort.lesions[k].dense()
        drawn.append(one_picture(volume, picture, symbols_of(cohort, k)))
    return np.stack(drawn)[:, None]


def one_picture(volume: Array, picture: str, symbols: Symbols) -> Array:
    """Draw one volume of the grid of MNI space."""
    if picture == "volume":
        return halved(volume)
    on_canvas = picture.endswith("canvas")
    drawn = canvas(volume) if on_canvas else stitched(volume)
    return with_symbols(drawn, symbols, on_canvas=on_canvas) if picture.startswith("hybrid") else drawn


def to_grid(values: Array, picture: str) -> Array:
    """Map values of the pixels of a picture back to the grid of MNI space, float32 (91, 109, 91)."""
    if picture == "volume":
        whole = np.zeros(REGION_SHAPE, dtype=np.float32)
        whole[:90, :108, :90] = values.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        return whole
    return uncanvas(values) if picture.endswith("canvas") else unstitched(values)


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


def scan_on_grid(cohort: OutcomeCohort, patient: int) -> Array:
    """Read a scan, take it to MNI space and keep the brain, float32 (91, 109, 91) from 0 to 1.

    Raises:
        OutcomeError: It cannot be read or registered.
    """
    path = cohort.images[patient]
    try:
        scan = Volume.load(path)
        moved = scan
        if not in_mni_space(scan):
            found = register_scan(scan)
            if found.overlap < SMALLEST_BRAIN_OVERLAP:
                raise RegistrationError(f"the brains overlap by {found.overlap:.2f}")
            moved = Volume(scan.data, found.affine @ scan.affine)
        x, y, z = REGION_SHAPE
        data = moved.resample_to(torch.from_numpy(affine()), (x, y, z), antialias=True).data[0].numpy()
    except (RegistrationError, VolumeError) as error:
        raise OutcomeError(f"{path} cannot be taken to MNI space: {error}") from None
    brain = tissue().template > 0
    values = data[brain]
    low, high = np.percentile(values, [1, 99])
    if not high > low:
        raise OutcomeError(f"{path} shows nothing where the brain is in MNI space, expected a scan; check it")
    shown: Array = np.where(brain, np.clip((data - low) / (high - low), 0, 1), 0).astype(np.float32)
    return shown
