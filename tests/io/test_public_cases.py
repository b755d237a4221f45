"""Inputs after public reports, built by the script beside the development data: what becomes of each."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.anatomy.tissues.labels import to_tissues
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume, VolumeError
from anystroke.evaluation.cases import find_pairs
from anystroke.evaluation.evaluate import Reading, evaluate_pairs
from anystroke.io.finding import find_scans
from anystroke.io.inputs import Found
from anystroke.io.labelled import LabelledScanWarning, find_labelled_scans

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="session")
def cases(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = data_dir.parent / "cases" / "make_cases.py"
    if not script.is_file():
        pytest.skip(f"the script of the cases is not at {script}")
    folder = tmp_path_factory.mktemp("cases")
    environment = {"ANYSTROKE_DATA": str(data_dir), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    return folder


def _found(path: Path, tmp_path: Path) -> Found:
    return find_scans([path], tmp_path / "work")


def _read(found: Found) -> tuple[list[Volume], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scans = [scan.load() for scan in found.scans]
    return scans, [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("place", "count", "spacing"),
    [
        ("linked_folders/study", 1, (2, 2, 2)),
        ("phase_parts/study", 1, (2, 2, 2)),
        ("scan_beside_dicom/export", 2, (2, 2, 2)),
        ("magnitude_and_phase/export", 1, (2, 2, 5)),
        ("latin1_name/scans", 3, (2, 2, 2)),
        ("mac_files/study", 1, (2, 2, 2)),
        ("long_quaternion/patient_T2w.nii", 1, (2, 2, 2)),
        ("plain_as_gz/patient_T2w.nii.gz", 1, (2, 2, 2)),
        ("metres/patient_T2w.nii.gz", 1, (2, 2, 2)),
        ("nan_outside/patient_T2w.nii.gz", 1, (2, 2, 2)),
        ("dicom_without_preamble/export", 1, (2, 2, 5)),
        ("patient_cd/cd", 1, (2, 2, 5)),
        ("jittering_orientation/export", 1, (2, 2, 5)),
        ("semicolon_table/scans.csv", 1, (2, 2, 2)),
        ("forms_in_conflict/study", 1, (2, 2, 2)),
    ],
)
def test_what_can_be_used_is_used(
    place: str, count: int, spacing: tuple[float, float, float], cases: Path, tmp_path: Path
) -> None:
    found = _found(cases / place, tmp_path)
    assert found.problems == []
    scans, _ = _read(found)
    assert len(scans) == count
    np.testing.assert_allclose(scans[0].spacing, spacing, rtol=1e-3)
    assert all(bool(torch.isfinite(scan.data).all()) for scan in scans)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("sform_against_pixdim/patient_T2w.nii", ("1 x 1 x 1 mm", "1 x 1 x 2 mm")),
        ("padded_scan/padded_T2w.nii.gz", ("padding", "-32768")),
        ("mp2rage_background/sub-01_UNIT1.nii.gz", ("noise", "MP2RAGE")),
        ("nan_outside/patient_T2w.nii.gz", ("57159", "NaN")),
        ("metres/patient_T2w.nii.gz", ("metres",)),
        ("plain_as_gz/patient_T2w.nii.gz", ("not compressed",)),
        ("forms_in_conflict/study", ("sform", "qform")),
    ],
)
def test_doubts_are_said_once(place: str, words: tuple[str, ...], cases: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # finding says nothing that reading says
        found = _found(cases / place, tmp_path)
    _, [said] = _read(found)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("place", "word"),
    [("phase_parts/study", "phase"), ("magnitude_and_phase/export", "phase"), ("trace_with_b0/export", "b0")],
)
def test_what_is_left_out_is_named(place: str, word: str, cases: Path, tmp_path: Path) -> None:
    assert any(word in text for text in _found(cases / place, tmp_path).skipped)


def test_no_orientation_is_no_orientation(cases: Path, tmp_path: Path) -> None:
    [scan] = _found(cases / "nrrd_without_space/patient_T2w.nrrd", tmp_path).scans
    with pytest.raises(VolumeError, match="nothing about orientation"):
        scan.load()


def test_a_link_without_content_fails_and_its_neighbour_does_not(cases: Path, tmp_path: Path) -> None:
    found = _found(cases / "dropped_content/folder", tmp_path)
    assert [scan.path.name for scan in found.scans] == ["b_T2w.nii.gz"]
    [(name, problem)] = found.problems
    assert name.endswith("a_T2w.nii.gz")
    assert "datalad get" in problem


def test_sheared_slices_lie_in_their_places(cases: Path, tmp_path: Path) -> None:
    [scan], _ = _read(_found(cases / "sheared_series/export", tmp_path))
    step = scan.reorient("RAS").affine[:3, 2].tolist()
    np.testing.assert_allclose(step, (0, -1.5, 5), atol=0.2)  # the scan itself is a little oblique
    assert scan.voxel_volume == pytest.approx(0.02, rel=0.01)


def test_padding_is_no_tissue(cases: Path, tmp_path: Path) -> None:
    [padded, reference], _ = _read(_found(cases / "padded_scan", tmp_path))
    assert torch.equal(padded.data, reference.data)


def test_noise_around_the_head_is_blanked(cases: Path, tmp_path: Path) -> None:
    [scan], _ = _read(_found(cases / "mp2rage_background/sub-01_UNIT1.nii.gz", tmp_path))
    head = float((scan.data > scan.data.min()).sum()) * scan.voxel_volume
    assert 2000 < head < 4500


def test_a_trace_is_told_from_its_b0(cases: Path, tmp_path: Path) -> None:
    found = _found(cases / "trace_with_b0/export", tmp_path)
    assert [scan.path.name.rsplit("_", 1)[1] for scan in found.scans] == ["trace.nii.gz", "b0.nii.gz"]
    assert found.problems == []


def test_phase_is_nothing_to_train_on(cases: Path) -> None:
    with pytest.warns(LabelledScanWarning, match="phase"):
        [scan] = find_labelled_scans(cases / "phase_parts/study")
    assert "part-mag" in scan.name


@pytest.mark.parametrize(
    ("prediction", "truth", "dice"),
    [
        ("linked_folders/prediction", "linked_folders/truth", 0.585),
        ("almost_ones/prediction.nii.gz", "almost_ones/truth.nii.gz", 0.917),
        ("semicolon_table/pairs.csv", None, 0.917),
    ],
)
def test_evaluation_counts_all_cases(prediction: str, truth: str | None, dice: float, cases: Path) -> None:
    found = find_pairs(cases / prediction, cases / truth if truth else None)
    assert found.problems == ()
    measured = list(evaluate_pairs(found.cases, reading=Reading(threshold=0.5)))
    assert [each.status for each in measured] == ["ok"] * (3 if "linked" in prediction else 1)
    values = [each.measurement.values["dice"] for each in measured if each.measurement]
    assert np.mean(values) == pytest.approx(dice, abs=0.002)


def test_tables_with_semicolons(cases: Path) -> None:
    [row] = read_rows(cases / "semicolon_table/scans.csv")
    assert row == {"participant_id": "P1", "image": "patient_T2w.nii.gz"}


def test_the_corpus_callosum_is_white_matter(cases: Path) -> None:
    labels, scheme = load_label_map(cases / "freesurfer_aseg/aseg.mgz")
    assert int(to_tissues(labels.data[0], scheme).max()) > 0
