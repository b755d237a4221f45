"""A look at scans with masks before anything is learnt from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.files import sha256
from anystroke.core.image_files import times
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.labelled import LabelledScan, LabelledScanError
from anystroke.io.names import Name

_LEAST_INSIDE = 0.8
_LARGEST_SHARE = 0.5
_MANY_PARTS = 100
_LARGEST_VOXEL_MM = 10.0
_NEIGHBOURS = np.ones((3, 3, 3))
_COARSE_MM = 4.0
_AIR = 0.08


@dataclass(frozen=True)
class CheckedScan:
    """A scan with its mask, and what a look at them showed.

    Attributes:
        scan: The files.
        patient: Whose it is; scans of one patient have the same.
        grid: Voxels, their size and orientation, in words.
        lesions: Connected parts (26 neighbours) of the mask.
        lesion_ml: Their volume.
        notes: What should be looked at, a part of a sentence each.
    """

    scan: LabelledScan
    patient: str
    grid: str
    lesions: int
    lesion_ml: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f"{self.lesions} lesion{'' if self.lesions == 1 else 's'}, {self.lesion_ml:.1f} ml"
        return "; ".join(
            (f"{self.scan.name}: {self.grid}", count if self.lesions else "no lesion", *self.notes)
        )


def check_labelled_scans(
    scans: Sequence[LabelledScan], *, on_scan: Callable[[CheckedScan], None] = lambda _: None
) -> list[CheckedScan]:
    """Read all scans and masks, and make sure that they can be learnt from.

    Args:
        scans: What was found.
        on_scan: Told of each that is right.

    Returns:
        What they are like, in their order.

    Raises:
        LabelledScanError: Of at least one, a file cannot be used, the grids differ, the lesion lies outside
            of the head or covers half of it, or it is a copy of another patient's; all that is wrong is
            listed.

    Example:
        >>> print(check_labelled_scans(find_labelled_scans("my_scans"))[0])  # doctest: +SKIP
        p1_T2w: 256 x 256 x 180 voxels of 1 x 1 x 1 mm, LAS; 2 lesions, 37.9 ml
    """
    found: list[CheckedScan] = []
    problems: list[str] = []
    copies: dict[str, CheckedScan] = {}
    for scan in scans:
        try:
            checked = _check(scan)
            twin = copies.setdefault(sha256(scan.image), checked)
        except (LabelledScanError, VolumeError) as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"{scan.name}: cannot read {error.filename} ({error.strerror})")
            continue
        if twin.patient != checked.patient:
            problems.append(
                f"{scan.name}: {scan.image} is the same image as {twin.scan.image}, another patient's; "
                "leave one out"
            )
            continue
        found.append(checked)
        on_scan(checked)
    if problems:
        raise LabelledScanError(
            f"{len(problems)} of {len(scans)} scans cannot be used: " + "; ".join(problems)
        )
    if not any(each.lesions for each in found):
        raise LabelledScanError(
            f"expected lesions in the masks of {len(scans)} scans, but all are empty; check which number the "
            "lesion has, and name it in the column 'label' of a table"
        )
    return found


def patient_of(scan: LabelledScan) -> str:
    """Tell whose a scan is: the subject in its name, or else all scans that share its mask.

    Example:
        >>> from pathlib import Path
        >>> patient_of(LabelledScan("x", Path("sub-07_ses-2_T1w.nii"), Path("m.nii")))
        'sub-07'
    """
    subject = Name.parse(scan.image).subject
    return f"sub-{subject}" if subject else str(scan.mask.resolve())


def _check(scan: LabelledScan) -> CheckedScan:
    image, lesion, _ = scan.load()
    sides = " x ".join(f"{side:.3g}" for side in image.spacing)
    grid = f"{times(image.shape)} voxels of {sides} mm, {image.orientation}"
    notes = []
    if max(image.spacing) > _LARGEST_VOXEL_MM:
        notes.append(f"voxels of {max(image.spacing):.3g} mm are large")
    mask = lesion.data[0] > 0
    if not bool(mask.any()):
        notes.append("its mask is empty: taken as a scan without a stroke")
        return CheckedScan(scan, patient_of(scan), grid, 0, 0.0, tuple(notes))
    inside, share = _against_head(image, mask)
    if inside < _LEAST_INSIDE:
        raise LabelledScanError(
            f"{scan.name}: {100 * (1 - inside):.0f} % of the lesion in {scan.mask} lie outside of the head "
            f"in {scan.image}; does the mask belong to another scan, or is one of them mirrored?"
        )
    if share > _LARGEST_SHARE:
        raise LabelledScanError(
            f"{scan.name}: {scan.mask} covers {100 * share:.0f} % of the head in {scan.image}; is it a mask "
            "of the brain?"
        )
    parts = int(ndimage.label(mask.numpy(), structure=_NEIGHBOURS)[1])
    if parts > _MANY_PARTS:
        notes.append(f"{parts} separate parts are many: are there specks in the mask?")
    volume = float(mask.sum()) * image.voxel_volume
    return CheckedScan(scan, patient_of(scan), grid, parts, volume, tuple(notes))


def _against_head(image: Volume, mask: Tensor) -> tuple[float, float]:
    """Return the share of a mask within the head, and the share of the head that it covers."""
    steps = [max(1, round(_COARSE_MM / side)) for side in image.spacing]
    every = tuple(slice(None, None, step) for step in steps)
    coarse: Array = image.data[0][every].numpy()
    bright = coarse > coarse.min() + _AIR * (float(np.quantile(coarse, 0.99)) - float(coarse.min()))
    closed = ndimage.binary_dilation(bright, iterations=2)
    head = torch.from_numpy(ndimage.binary_fill_holes(closed))
    voxels = mask.nonzero() // torch.tensor(steps)
    inside = head[tuple(voxels.T)].double().mean()
    size = float(head.sum()) * float(np.prod(steps))
    return float(inside), float(mask.sum()) / max(size, 1.0)
