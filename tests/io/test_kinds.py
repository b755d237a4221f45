"""What is no scan is told by name, sidecar, DICOM's words and voxels; what is one is not."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.io.finding import find_scans
from anystroke.io.inputs import Input
from anystroke.io.kinds import reason_by_image_type, reason_by_name, reason_by_voxels
from stand_in import axial_affine, phantom

SHAPE = (48, 56, 44)
AFFINE = axial_affine(4.0, 4.0, 4.0, shape=SHAPE)


def _noisy() -> torch.Tensor:
    noise = torch.randn(1, *SHAPE, generator=stream(3, "noise"))
    return (phantom(AFFINE, SHAPE).data + 5 * noise).abs()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sub-01_part-phase_T2starw.nii.gz", "phase"),
        ("sub-01_part-real_T2starw.nii", "real part"),
        ("sub-01_part-imag_bold.nii.gz", "imaginary"),
        ("sub-01_phasediff.nii.gz", "phase"),
        ("swi_e1_ph.nii.gz", "phase"),
        ("GRE_phase.nii.gz", "phase"),
        ("gre_e2_real.nii", "real part"),
        ("gre_imaginary.nii", "imaginary"),
        ("sub-01_T1map.nii.gz", "quantitative"),
        ("sub-01_R1map.nii.gz", "quantitative"),
        ("sub-01_PDmap.nii.gz", "quantitative"),
        ("sub-01_Chimap.nii.gz", "quantitative"),
        ("patient_T2map.mgz", "quantitative"),
        ("dti_FA.nii.gz", "quantitative"),
        ("pwi_Tmax.nii", "quantitative"),
        ("sub-01_dseg.nii.gz", "label"),
        ("sub-01_space-orig_label-L_mask.nii.gz", "label"),
        ("sub-01_label-lesion_roi.nii.gz", "label"),
        ("sub-01_ses-1_msk.nii.gz", "label"),
        ("aparc+aseg.mgz", "label"),
        ("patient_lesion.nii.gz", "label"),
        ("sub-01_T1w_seg.nii.gz", "label"),
        ("sub-01_label-GM_probseg.nii.gz", "label"),
        ("sub-01_probseg.nii.gz", "probabilities"),
        ("T1_pve_1.nii.gz", "probabilities"),
        ("sub-01_task-rest_bold.nii.gz", "bold"),
        ("sub-01_sbref.nii.gz", "sbref"),
    ],
)
def test_names_of_what_is_no_scan(name: str, word: str) -> None:
    assert word in (reason_by_name(Path(name)) or "")


@pytest.mark.parametrize(
    "name",
    [
        *("sub-01_T2w.nii.gz", "sub-01_part-mag_T2starw.nii.gz", "sub-01_UNIT1.nii.gz", "sub-01_ADC.nii.gz"),
        *(
            "patient 7.nii",
            "phase 2 trial T2w.nii",
            "real-patient_FLAIR.nii",
            "lesion_study_T1w.mgz",
            "t2.nii",
        ),
        *(
            "T1.mgz",
            "brain.mgz",
            "brainmask.mgz",
            "ADCmap.nii",
            "dwi_trace.nii.gz",
            "sub-01_inv-1_MP2RAGE.nii",
        ),
        *("phase.nii", "im.nii", "mask-patient_T2w.nii.gz", "MD01_T2w.nii", "sub-01_dir-AP_dwi.nii.gz"),
    ],
)
def test_names_of_scans(name: str) -> None:
    assert reason_by_name(Path(name)) is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (["ORIGINAL", "PRIMARY", "P", "ND"], "phase"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "phase"),
        (["ORIGINAL", "PRIMARY", "R_FFE", "R", "FFE"], "real"),
        (["ORIGINAL", "PRIMARY", "I"], "imaginary"),
        (["DERIVED", "PRIMARY", "T1 MAP", "ND"], "quantitative"),
        (["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], None),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"], None),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], None),
    ],
)
def test_image_types(values: list[str], word: str | None) -> None:
    reason = reason_by_image_type(values)
    assert (reason is None) if word is None else (word in (reason or ""))


def _blocks(step: int) -> torch.Tensor:
    x, y, z = torch.meshgrid(*(torch.arange(n) // step for n in SHAPE), indexing="ij")
    return ((x * 7 + y * 5 + z * 3) % 40 * (x > 1)).float()[None]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("labels", "label map"),
        ("large labels", "label map"),
        ("mask", "mask"),
        ("probabilities", "probabilities"),
        ("small probabilities", "probabilities"),
        ("phase", "phase"),
        ("scan", None),
        ("whole numbers", None),
        ("few grey levels", None),
        ("from 0 to 1", None),
        ("standardised", None),
    ],
)
def test_voxels(name: str, word: str | None) -> None:
    scan = _noisy()
    x, y, _ = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    lesion = phantom(AFFINE, SHAPE).data / 300
    data = {
        "labels": _blocks(4),
        "large labels": _blocks(8) * 1000,
        "mask": (lesion > 0.5).float(),
        "probabilities": (lesion * 3).clamp(0, 1),
        "small probabilities": ((lesion - 0.7) / 0.3).clamp(0, 1),
        "phase": torch.remainder(x * 0.4 + y * 0.011, 2 * math.pi)[None] - math.pi,
        "scan": scan,
        "whole numbers": scan.round(),
        "few grey levels": (scan / 4).round(),
        "from 0 to 1": scan / scan.max(),
        "standardised": (scan - scan.mean()) / scan.std(),
    }[name]
    reason = reason_by_voxels(Volume(data, AFFINE))
    assert (reason is None) if word is None else (word in (reason or "")), reason


def test_a_folder_names_what_it_leaves_out(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a_T2w", "a_T2w_ph", "a_R1map", "a_dseg", "b_FLAIR"):
        Volume(_noisy(), AFFINE).save(folder / f"{name}.nii.gz")
    Volume(_noisy(), AFFINE).save(folder / "c.nii.gz")
    (folder / "c.json").write_text(json.dumps({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}))
    (folder / "._a_T2w.nii.gz").write_bytes(bytes(100))
    found = find_scans([folder], tmp_path / "work")
    assert [scan.path.name for scan in found.scans] == ["a_T2w.nii.gz", "b_FLAIR.nii.gz"]
    assert found.problems == []
    words = ["quantitative", "phase", "label", "phase"]
    assert len(found.skipped) == len(words)
    for text, word in zip(found.skipped, words, strict=True):
        assert "is left out" in text
        assert word in text


def test_a_named_file_that_is_no_scan_is_refused_or_warned_of(tmp_path: Path) -> None:
    for name in ("a_phase", "a_dseg", "labels", "a_T1map"):
        data = _blocks(4) if name == "labels" else _noisy()
        Volume(data, AFFINE).save(tmp_path / f"{name}.nii.gz")
    for name, word in (("a_phase", "phase"), ("a_dseg", "label map"), ("labels", "label map")):
        with pytest.raises(VolumeError, match=f"no scan to segment.*{word}"):
            Input.of_file(tmp_path / f"{name}.nii.gz").load()
    with pytest.warns(VolumeWarning, match="quantitative map"):
        Input.of_file(tmp_path / "a_T1map.nii.gz").load()


def test_names_in_other_encodings(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    image = nib.Nifti1Image(_noisy()[0].numpy().astype(np.int16), AFFINE.numpy())
    nib.save(image, folder / "a.nii")
    (folder / "a.nii").rename(folder / "\udcfc.nii")
    found = find_scans([folder], tmp_path / "work")
    [scan] = found.scans
    assert scan.title == f"{folder}/ü.nii"
    assert scan.load().shape == SHAPE
    for text in (scan.title, scan.stem, scan.uri, str(scan.path), str(scan.folder)):
        text.encode("utf-8")
