"""Maps and lesion masks: found by name, left out with a reason."""

import json
import logging
from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.qmri.map_files import MapDataError, find_map_subjects

MAPS = ("PDmap", "R1map", "R2starmap", "MTsat")


def _touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Volume(torch.zeros(1, 2, 2, 2), torch.eye(4)).save(folder / f"{name}.nii.gz")


def _subject(folder: Path, stem: str, *more: str) -> None:
    _touch(folder, *(f"{stem}_{suffix}" for suffix in MAPS), *(f"{stem}_{suffix}" for suffix in more))


def test_names_of_bids_and_of_simulations(tmp_path: Path) -> None:
    _subject(tmp_path / "sub-01" / "anat", "sub-01", "R2map", "T1w", "space-orig_label-L_desc-T1w_probseg")
    _touch(
        tmp_path / "derivatives" / "sub-01",
        "sub-01_space-orig_label-L_desc-T1w_mask",
        "sub-01_desc-brain_mask",
        "sub-01_label-LGM_mask",
    )
    _subject(tmp_path, "sub-02_acq-x", "label-lesion_roi")
    _subject(tmp_path, "sim-0001", "label-L_mask", "ADC", "dseg")
    (tmp_path / "sim-0001_R1map.json").write_text(json.dumps({"MagneticFieldStrength": 1.5}))
    subjects = {subject.name: subject for subject in find_map_subjects(tmp_path)}
    assert list(subjects) == ["sim-0001", "sub-01", "sub-02"]
    first = subjects["sub-01"]
    assert list(first.maps) == ["proton_density", "r1", "r2", "r2star", "mt_saturation"]
    assert first.lesion.name == "sub-01_space-orig_label-L_desc-T1w_mask.nii.gz"
    assert first.brain is not None
    assert first.brain.name == "sub-01_desc-brain_mask.nii.gz"
    assert subjects["sub-02"].lesion.name == "sub-02_acq-x_label-lesion_roi.nii.gz"
    assert subjects["sub-02"].brain is None
    assert [subject.field_strength for subject in subjects.values()] == [1.5, 3.0, 3.0]
    assert "adc" not in subjects["sim-0001"].maps


def test_sessions_are_apart_and_share_what_has_none(tmp_path: Path) -> None:
    _subject(tmp_path, "sub-1_ses-a")
    _subject(tmp_path, "sub-1_ses-b")
    _touch(tmp_path, "sub-1_label-L_mask")
    subjects = find_map_subjects(tmp_path)
    assert [subject.name for subject in subjects] == ["sub-1_ses-a", "sub-1_ses-b"]
    assert subjects[0].lesion == subjects[1].lesion
    assert subjects[1].maps["r1"].name == "sub-1_ses-b_R1map.nii.gz"


def test_what_cannot_be_used_is_named_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _subject(tmp_path, "sub-1", "label-L_mask")
    _subject(tmp_path, "sub-2")
    _touch(tmp_path, "sub-3_R1map", "sub-3_PDmap", "sub-3_label-L_mask", "sub-4_T1w")
    _subject(tmp_path, "sub-5", "label-L_mask", "label-lesion_mask")
    _subject(tmp_path, "sub-6", "label-L_mask")
    (tmp_path / "sub-6_R1map.json").write_text("{")
    _subject(tmp_path, "sub-7", "label-L_mask")
    (tmp_path / "sub-7_R1map.json").write_text('{"MagneticFieldStrength": -3}')
    with caplog.at_level(logging.WARNING):
        assert [subject.name for subject in find_map_subjects(tmp_path)] == ["sub-1"]
    [record] = caplog.records
    text = record.getMessage()
    for part in (
        "sub-2 (no lesion mask, such as sub-01_label-L_mask.nii.gz)",
        "sub-3 (no map of r2star, mt_saturation)",
        "sub-5 (expected one lesion mask, got sub-5_label-L_mask.nii.gz, sub-5_label-lesion_mask.nii.gz",
        "sub-6 (sub-6_R1map.json is not valid JSON",
        "sub-7 (sub-7_R1map.json: expected a MagneticFieldStrength above 0 T, got -3)",
    ):
        assert part in text
    assert "sub-4" not in text


def test_a_folder_without_subjects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MapDataError, match="but there is none; check the path"):
        find_map_subjects(tmp_path / "nowhere")
    with pytest.raises(MapDataError, match="but found no map"):
        find_map_subjects(tmp_path)
    _subject(tmp_path, "sub-2")
    with pytest.raises(MapDataError, match=r"but left out sub-2 \(no lesion mask"):
        find_map_subjects(tmp_path)
