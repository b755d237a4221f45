"""Simulated patients as an nnU-Net v2 raw data set.

The format is that of nnU-Net's documentation (documentation/dataset_format.md in MIC-DKFZ/nnUNet): a folder
``DatasetXXX_Name`` with ``imagesTr/{case}_{channel:04d}.nii.gz``, ``labelsTr/{case}.nii.gz`` and
``dataset.json``. Beside them lies ``records/{case}.json``, which nnU-Net does not read.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import write_json
from anystroke.core.staging import staged
from anystroke.core.volume import Volume
from anystroke.simulation.generator import CLASSES, Sample
from anystroke.simulation.patient_files import (
    lesion_volume,
    scan_facts,
    scan_targets,
    table_row,
)

DATASET_FILE = "dataset.json"
IMAGES, LABELS, RECORDS = "imagesTr", "labelsTr", "records"
ENDING = ".nii.gz"

_NAME = re.compile(r"Dataset(\d{3})_\w+")


class NnunetError(AnystrokeError):
    """A folder that cannot become an nnU-Net data set; the message says why and what to do."""


def check_dataset_folder(folder: Path) -> None:
    """Make sure that a folder has a name that nnU-Net finds, and a number that no folder beside it has.

    Args:
        folder: It may be missing.

    Raises:
        NnunetError: It has not.

    Example:
        >>> check_dataset_folder(Path("nnUNet_raw/Dataset501_Stroke"))
    """
    name = folder.resolve().name
    found = _NAME.fullmatch(name)
    if not found or found[1] == "000":
        raise NnunetError(
            f"an nnU-Net data set needs a folder named with three digits like Dataset501_Stroke, got {name!r}"
        )
    for other in sorted(folder.resolve().parent.glob(f"Dataset{found[1]}_*")):
        if other.name != name:
            raise NnunetError(
                f"{other} has the number {found[1]} already, and nnU-Net takes each number once; "
                f"give {name} another"
            )


def write_case(
    scans: Sequence[Sample], folder: Path, case: str, *, all_classes: bool = False
) -> list[dict[str, str]]:
    """Write the scans of one patient as one case, in place of an earlier one of its name.

    Args:
        scans: Those of one session, in the order of the channels.
        folder: The data set, an existing folder.
        case: Name of the case.
        all_classes: Whether labels are all of ``CLASSES``, not 1 for lesion alone.

    Returns:
        The row of the table of simulated scans of each channel.

    Raises:
        ValueError: The scans are not of one patient.
        OSError: The folder cannot be written.

    Example:
        >>> write_case([t1w, flair], Path("Dataset501_Stroke"), "sim-0001")  # doctest: +SKIP
    """
    target, affine = scan_targets(scans)[0], scans[0].affine
    labels = target if all_classes else target == CLASSES.index("lesion")
    label_file = f"{LABELS}/{case}{ENDING}"
    images = [f"{IMAGES}/{case}_{channel:04d}{ENDING}" for channel in range(len(scans))]
    lesion_ml = lesion_volume(target, affine)
    with staged(folder) as staging:
        for name in (IMAGES, LABELS, RECORDS):
            (staging / name).mkdir()
        for image, scan in zip(images, scans, strict=True):
            Volume(scan.image[None], affine).save(staging / image)
        Volume(labels[None], affine).save(staging / label_file, dtype=torch.uint8)
        channels = [scan_facts(scan, lesion_ml) for scan in scans]
        write_json(staging / RECORDS / f"{case}.json", {"Channels": channels})
    mask, segmentation = ("n/a", label_file) if all_classes else (label_file, "n/a")
    return [
        table_row(scan, case, image, mask, segmentation, lesion_ml)
        for image, scan in zip(images, scans, strict=True)
    ]


def write_description(
    folder: Path, *, channels: Sequence[str], cases: int, all_classes: bool = False
) -> None:
    """Write ``dataset.json``, in place of an earlier one.

    Args:
        folder: The data set.
        channels: Name of each channel. nnU-Net normalises each image by its mean and SD, except those of
            names like ``"CT"`` or ``"noNorm"``.
        cases: How many there are; nnU-Net demands the exact number.
        all_classes: As in `write_case`.

    Raises:
        OSError: The folder cannot be written.

    Example:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_description(folder, channels=["T1w", "FLAIR"], cases=1)
        >>> json.loads((folder / DATASET_FILE).read_text())["labels"]
        {'background': 0, 'lesion': 1}
    """
    names = CLASSES if all_classes else ("background", "lesion")
    content: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {name: index for index, name in enumerate(names)},
        "numTraining": cases,
        "file_ending": ENDING,
        "name": folder.resolve().name,
        "description": "Simulated scans of patients with stroke; not of persons",
    }
    write_json(folder / DATASET_FILE, content)
