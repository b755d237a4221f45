"""Simulated patients as a BIDS data set: scans as raw data, what is known of them as derivatives."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from anystroke.core.files import atomic_path, write_json, write_text
from anystroke.core.tables import write_table
from anystroke.io.results import BIDS_VERSION, describe_dataset, generated_by
from anystroke.simulation.generator import Sample

TRUTH = "derivatives/anystroke-truth"
"""Folder of lesion masks, tissue classes and maps."""
BIDS_IGNORED = ("samples.tsv", "simulation.json", "*_ADC.*")
"""Files of a data set that BIDS has no place for: the tables of the run, and ADC maps among raw data."""

_DIFFUSION = ("dwi", "ADC")
_README = """Simulated scans of patients with stroke
=======================================

The scans in this data set are not of people. anystroke made them from label maps and lesion masks by
the signal equations of MR sequences. The lesion mask and the tissue classes of each patient are in
derivatives/anystroke-truth; sidecars say with which protocol a scan was made, and samples.tsv which
files belong together.
"""
_COLUMNS = {
    "lesion_ml": {"Description": "Volume of the lesion in the first scan", "Units": "mL"},
    "stage": {"Description": "Age of the lesion: acute, subacute or chronic"},
    "anatomy": {"Description": "Label map that the patient was made of"},
}


def place_of(name: str) -> str:
    """Return where a file of a patient belongs in a data set.

    Args:
        name: Of the file, such as ``sub-0001_T1w.nii.gz``.

    Example:
        >>> place_of("sub-0001_T1w.json")
        'sub-0001/anat/sub-0001_T1w.json'
        >>> place_of("sub-0001_label-L_mask.nii.gz")
        'derivatives/anystroke-truth/sub-0001/anat/sub-0001_label-L_mask.nii.gz'
    """
    stem = name.partition(".")[0]
    subject, _, suffix = stem.partition("_")[0], *stem.rpartition("_")[1:]
    if suffix in _DIFFUSION:
        return f"{subject}/dwi/{name}"
    if suffix in ("mask", "dseg", "MTsat") or suffix.endswith("map"):
        return f"{TRUTH}/{subject}/anat/{name}"
    return f"{subject}/anat/{name}"


def describe_simulated(folder: Path, rows: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Write what says of a folder that it is a data set, and who its participants are.

    Args:
        folder: Of the data set.
        rows: Patient -> the rows of the scans in the table of samples.

    Raises:
        OSError: The folder cannot be written.
    """
    content = {
        "Name": "Simulated scans of patients with stroke",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "Authors": ["anystroke"],
        "GeneratedBy": generated_by(),
    }
    if not (folder / "dataset_description.json").exists():
        write_json(folder / "dataset_description.json", content)
        write_text(folder / "README", _README)
        write_text(folder / ".bidsignore", "\n".join(BIDS_IGNORED) + "\n")
        write_json(folder / "participants.json", _COLUMNS)
        (folder / TRUTH).mkdir(parents=True, exist_ok=True)
        describe_dataset(folder / TRUTH, name="Truth of simulated scans")
    participants = [
        {"participant_id": name, **{key: of[0][key] for key in _COLUMNS}} for name, of in sorted(rows.items())
    ]
    write_table(folder / "participants.tsv", ("participant_id", *_COLUMNS), participants)


def clear_patient(folder: Path, name: str) -> None:
    """Delete the files of a patient."""
    for place in (folder, folder / TRUTH):
        shutil.rmtree(place / name, ignore_errors=True)


def finish_image(path: Path, scan: Sample) -> None:
    """Make a trace-weighted image the series of one volume that BIDS wants, with its b-value.

    Args:
        path: File of the scan, such as ``sub-0001_dwi.nii.gz``; others are left as they are.
        scan: The scan.
    """
    stem = path.name.partition(".")[0]
    if not stem.endswith("_dwi"):
        return
    image = nib.load(path)
    series = nib.Nifti1Image(np.asanyarray(image.dataobj)[..., None], image.affine, image.header)
    with atomic_path(path, overwrite=True) as part:
        nib.save(series, part)
    # A mean over directions has none.
    write_text(path.with_name(f"{stem}.bval"), f"{scan.protocol.to_dict()['b_value']:g}\n")
    write_text(path.with_name(f"{stem}.bvec"), "0\n0\n0\n")
