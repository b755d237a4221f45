"""What is no scan is told by name, sidecar, DICOM's words and voxels; what is one is not."""

import json
import math
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.io.finding import find_scans
from anystroke.io.inputs import Input
from anystroke.io.kinds import reason_by_image_type, reason_by_name, reason_by_voxels
from anystroke.models.model_space import to_model_space
from anystroke.simulation.settings import SynthesisSettings
from anystroke.simulation.simulate import simulate
from anystroke.tasks.segmentation.predict import Model
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
        "probabilities": (lesion * 3.6).clamp(0, 1),
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


@cache
def _stripped(weighting: str) -> torch.Tensor:
    settings = SynthesisSettings(spacing=4.0, shapes=((48, 56, 48),), skull_strip=1.0, cut=0.0)
    return simulate(weighting, seed=3, settings=settings).image.clamp_min(0)


@pytest.mark.parametrize("weighting", ["T1w", "T2w", "FLAIR", "T2starw", "DWI"])
def test_scans_cut_off_at_one_are_scans(weighting: str) -> None:
    image = _stripped(weighting)
    inside = image[image > 0]
    for share in (0.01, 0.03, 0.05, 0.1, 0.15, 0.25, 0.4):
        data = (image / inside.quantile(1 - share)).clamp(0, 1)
        assert reason_by_voxels(Volume(data[None], AFFINE)) is None, share
    low, high = inside.quantile(0.1), inside.quantile(0.7)
    data = ((image - low) / (high - low)).clamp(0, 1)
    assert reason_by_voxels(Volume(data[None], AFFINE)) is None


def test_a_head_whose_fat_alone_is_cut_off_is_a_scan() -> None:
    settings = SynthesisSettings(spacing=4.0, shapes=((48, 56, 48),), skull_strip=0.0, cut=0.0)
    image = simulate("T1w", seed=3, settings=settings).image.clamp_min(0)
    for share in (0.03, 0.08, 0.12):
        data = (image / image[image > 0].quantile(1 - share)).clamp(0, 1) ** 2
        assert reason_by_voxels(Volume(data[None], AFFINE)) is None, share


@pytest.fixture(scope="module")
def classes() -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """A label map with voxels of 4/3 mm."""
    settings = SynthesisSettings(spacing=4.0, shapes=((48, 56, 48),), cut=0.0)
    return np.kron(simulate("T1w", seed=3, settings=settings).target.numpy(), np.ones((3, 3, 3), np.int64))


@pytest.mark.parametrize("tissues", [(1,), (2,), (1, 2), (1, 2, 3)])
def test_tissue_probability_maps_are_no_scans(
    classes: np.ndarray[tuple[int, ...], np.dtype[np.int64]], tissues: tuple[int, ...]
) -> None:
    inside = np.isin(classes, tissues).astype(np.float32)
    maps = {f"blurred by {sd} voxels": ndimage.gaussian_filter(inside, sd) for sd in (0.5, 0.8, 1.2, 2.0)}
    maps["in 256 steps"] = np.round(maps["blurred by 1.2 voxels"] * 255) / 255
    x, y, z = (n // 2 * 2 for n in inside.shape)
    maps["of parts of voxels"] = ndimage.uniform_filter(inside, 2)[1:x:2, 1:y:2, 1:z:2]
    for name, data in maps.items():
        if (data > 0.99).sum() < 0.16 * (data > 1e-3).sum():
            continue  # blurred until hardly anything is certain: names tell such maps
        reason = reason_by_voxels(Volume(torch.from_numpy(np.ascontiguousarray(data))[None], AFFINE))
        assert "probabilities" in (reason or ""), name


def test_the_brain_as_a_network_sees_it_is_no_scan() -> None:
    model = Model.open("small")
    config = model.config
    scan = Volume(_stripped("T1w")[None], AFFINE)
    space = to_model_space(
        scan, spacing=config.spacing, divisor=config.divisor, normalise=config.normalisation
    )
    with torch.inference_mode():
        shares = model.network(space.image[None])[0].softmax(0)
    brain = 1 - shares[config.classes.index("background")]
    assert "probabilities" in (reason_by_voxels(Volume(brain[None], AFFINE)) or "")


def test_a_whole_head_in_noise_cut_off_at_one_is_a_scan() -> None:
    data = _noisy()
    data = (data / data.quantile(0.75)).clamp(0, 1)
    assert reason_by_voxels(Volume(data, AFFINE)) is None


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
