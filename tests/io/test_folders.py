"""Folders as people have them: links, junk, depth; no image is lost without a word."""

import os
from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.io.bids_input import find_bids_scans
from anystroke.io.finding import find_scans, prepared
from anystroke.io.folders import folders_in, walk
from anystroke.io.labelled import LabelledScanError, LabelledScanWarning, find_labelled_scans
from stand_in import axial_affine, lesion_truth, phantom

SHAPE = (24, 28, 20)
AFFINE = axial_affine(8.0, 8.0, 9.0, shape=SHAPE)


def _scan(path: Path, affine: torch.Tensor = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    Volume(phantom(AFFINE, SHAPE).data + noise, affine).save(path)
    return path


def _mask(path: Path, affine: torch.Tensor = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume(lesion_truth(AFFINE, SHAPE), affine).save(path)
    return path


def test_links_are_followed_once_and_loops_are_left(tmp_path: Path) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "deep" / "a.nii").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "first").symlink_to(tmp_path / "store")
    (root / "second").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "deep" / "up").symlink_to(root)
    (root / "gone.nii").symlink_to("nowhere")
    (root / "self").symlink_to(root / "self")
    found = [str(path.relative_to(root)) for path in walk(root)]
    assert [name for name in found if name.endswith("a.nii")] == ["first/deep/a.nii", "second/deep/a.nii"]
    assert "gone.nii" in found
    assert [path.name for path in folders_in(root)] == ["first", "second"]


@pytest.mark.parametrize(
    "name",
    ["._a.nii.gz", ".hidden/a.nii", "__MACOSX/a.nii", "@eaDir/a.nii", ".git/annex/a.nii.gz", ".DS_Store"],
)
def test_what_systems_leave_is_passed_over(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x00\x05\x16\x07")
    assert walk(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_folders_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    told: list[OSError] = []
    assert walk(tmp_path, on_error=told.append) == []
    assert len(told) == 1


def test_patients_in_folders_of_their_own(tmp_path: Path) -> None:
    for patient in ("anna", "bert"):
        _scan(tmp_path / "study" / patient / "mr" / "T2w.nii.gz")
    _scan(tmp_path / "study" / "T1w.nii.gz")
    found = find_scans([tmp_path / "study"], tmp_path / "work")
    assert found.problems == []
    assert [(str(scan.folder), scan.patient) for scan in found.scans] == [
        (".", ""),
        ("anna/mr", "anna/mr"),
        ("bert/mr", "bert/mr"),
    ]


def test_results_in_the_folder_are_no_scans(tmp_path: Path) -> None:
    _scan(tmp_path / "study" / "a_T2w.nii.gz")
    _scan(tmp_path / "study" / "results" / "a_T2w_brain.nii.gz")
    (tmp_path / "study" / "results" / "volumes.tsv").write_text("file\n")
    found = find_scans([tmp_path / "study"], tmp_path / "work")
    assert [scan.path.name for scan in found.scans] == ["a_T2w.nii.gz"]
    assert any("1 images below" in text for text in found.skipped)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sub-01/anat/sub-01_T1map.nii.gz", "quantitative"),
        ("sub-01/anat/sub-01_part-phase_T2w.nii.gz", "phase"),
        ("sub-01/anat/sub-01_label-L_mask.nii.gz", "mask"),
        ("sub-01/anat/sub-01_angio.nii.gz", "angio"),
        ("sub-01/anat/sub-01_T2w.mgz", "NIfTI"),
        ("sub-01/other/sub-01_T2w.nii.gz", "other"),
        ("sub-01/func/sub-01_task-rest_bold.nii.gz", "func"),
        ("sub-01/fmap/sub-01_phasediff.nii.gz", "fmap"),
        ("stray_T2w.nii.gz", "stray"),
    ],
)
def test_bids_images_that_are_not_taken_are_named(name: str, word: str, tmp_path: Path) -> None:
    _scan(tmp_path / "study" / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    _scan(tmp_path / "study" / name)
    found = find_bids_scans(tmp_path / "study")
    assert [scan.path.name for scan in found.scans] == ["sub-01_FLAIR.nii.gz"]
    assert found.problems == []
    [text] = found.skipped
    assert word in text


def test_a_participant_with_nothing_is_a_failure(tmp_path: Path) -> None:
    _scan(tmp_path / "study" / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    _scan(tmp_path / "study" / "sub-02" / "func" / "sub-02_bold.nii.gz")
    [(name, problem)] = find_bids_scans(tmp_path / "study").problems
    assert name.endswith("sub-02")
    assert "nothing to segment" in problem


def test_scans_of_subjects_without_data_types_are_taken(tmp_path: Path) -> None:
    _scan(tmp_path / "study" / "sub-01" / "sub-01_T2w.nii.gz")
    assert len(find_bids_scans(tmp_path / "study").scans) == 1


def test_a_diffusion_series_of_a_data_set(tmp_path: Path) -> None:
    signal = phantom(AFFINE, SHAPE).data + 1
    series = torch.cat([signal, *(signal * decay for decay in (0.5, 0.4, 0.45)), signal * 0.05])
    folder = tmp_path / "study" / "sub-01" / "dwi"
    folder.mkdir(parents=True)
    Volume(series, AFFINE).save(folder / "sub-01_dwi.nii.gz")
    (tmp_path / "study" / "dwi.bval").write_text("0 1000 1000 1000 3000\n")  # shared, as BIDS lets it be
    found = prepared(find_bids_scans(tmp_path / "study"), tmp_path / "work")
    assert found.problems == []
    assert [scan.path.name for scan in found.scans] == [
        "sub-01_trace.nii.gz",
        "sub-01_b0.nii.gz",
        "sub-01_ADC.nii.gz",
    ]
    trace, _, adc = (scan.load().data for scan in found.scans)
    inside = signal > 50
    torch.testing.assert_close(
        trace[inside], (0.5 * 0.4 * 0.45) ** (1 / 3) * signal[inside], rtol=1e-3, atol=0
    )
    assert float(adc[inside].mean()) == pytest.approx(800, abs=5)
    assert {scan.fused for scan in found.scans} == {str(folder / "sub-01_dwi.nii.gz")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1000 1000", "holds 3 b-values, expected 2"),
        ("0 x", "no b-values"),
        ("0 0", "no volume is diffusion"),
    ],
)
def test_b_values_that_do_not_fit(text: str, words: str, tmp_path: Path) -> None:
    _scan(tmp_path / "a.nii.gz")
    Volume(torch.rand(2, *SHAPE), AFFINE).save(tmp_path / "dwi.nii.gz")
    (tmp_path / "dwi.bval").write_text(text)
    found = find_scans([tmp_path / "dwi.nii.gz", tmp_path / "a.nii.gz"], tmp_path / "work")
    assert len(found.scans) == 1
    [(name, problem)] = found.problems
    assert name.endswith("dwi.nii.gz")
    assert words in problem


@pytest.mark.parametrize("where", ["outside", "other grid", "wrong subject", "link"])
def test_masks_that_are_not_where_they_should_be(where: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    _scan(study / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    mask = study / "sub-01" / "anat" / "sub-01_label-L_desc-T2w_mask.nii.gz"
    if where == "other grid":
        moved = AFFINE.clone()
        moved[0, 3] += 40
        _mask(mask, moved)
    elif where == "wrong subject":
        _mask(study / "sub-02" / "anat" / "sub-02_label-L_mask.nii.gz")
    elif where == "link":
        mask.symlink_to("gone.nii.gz")
    else:
        _mask(tmp_path / "derivatives" / mask.name)
    with pytest.raises(LabelledScanError, match=r"grids|left out|no lesion mask|target is missing"):
        find_labelled_scans(study)


def test_phase_and_maps_are_nothing_to_train_on(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in ("part-mag_T2starw", "part-phase_T2starw"):
        _scan(study / "sub-01" / "anat" / f"sub-01_{name}.nii.gz")
    _mask(study / "sub-01" / "anat" / "sub-01_label-L_mask.nii.gz")
    with pytest.warns(LabelledScanWarning, match="phase"):
        assert len(find_labelled_scans(study)) == 1
    table = tmp_path / "pairs.csv"
    table.write_text(
        "image;mask\nstudy/sub-01/anat/sub-01_part-mag_T2starw.nii.gz;"
        "study/sub-01/anat/sub-01_label-L_mask.nii.gz\n"
        "study/sub-01/anat/sub-01_part-phase_T2starw.nii.gz;study/sub-01/anat/sub-01_label-L_mask.nii.gz\n"
    )
    with pytest.warns(LabelledScanWarning, match="phase"):
        assert len(find_labelled_scans(table)) == 1
