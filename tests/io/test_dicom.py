from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.io.finding import find_scans
from anystroke.io.inputs import Found
from anystroke.tasks.segmentation.files import segment_files
from anystroke.tasks.segmentation.options import SegmentOptions, WriteOptions
from dicom_phantom import write_enhanced, write_series
from stand_in import axial_affine, dice, lesion_truth, phantom, rotation, stand_in_model

ON_CPU = SegmentOptions(device="cpu")

pytest.importorskip("dcm2niix")

SHAPE = (40, 48, 36)
AFFINE = axial_affine(4.0, 4.0, 5.0, shape=SHAPE)


def _found(tmp_path: Path, *, allow_ct: bool = False) -> Found:
    return find_scans([tmp_path / "export"], tmp_path / "work", allow_ct=allow_ct)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "PIR", "SAL"])
def test_round_trip(orientation: str, tmp_path: Path) -> None:
    head = phantom(rotation(8.0, -12.0) @ AFFINE, SHAPE).reorient(orientation)
    written = write_series(tmp_path / "export" / "deep", head)
    [scan] = _found(tmp_path).scans
    read = scan.load().reorient(orientation)
    torch.testing.assert_close(read.affine, written.affine, atol=2e-3, rtol=0)
    torch.testing.assert_close(read.data, written.data)
    assert scan.series
    assert scan.path.name.startswith("export_series-003_T2-TSE")
    assert scan.sidecar["EchoTime"] == 0.09


@pytest.mark.parametrize("orientation", ["LPS", "PIR"])
def test_round_trip_of_enhanced_dicom(orientation: str, tmp_path: Path) -> None:
    head = phantom(rotation(8.0, -12.0) @ AFFINE, SHAPE).reorient(orientation)
    written = write_enhanced(tmp_path / "export", head)
    found = _found(tmp_path)
    assert (found.problems, found.skipped) == ([], [])
    [scan] = found.scans
    read = scan.load().reorient(orientation)
    torch.testing.assert_close(read.affine, written.affine, atol=2e-3, rtol=0)
    torch.testing.assert_close(read.data, written.data)
    assert scan.sidecar["EchoTime"] == 0.09


def test_enhanced_dicom_with_missing_frames_is_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "export", phantom(AFFINE, SHAPE), leave_out=(10, 11))
    [(_, problem)] = _found(tmp_path).problems
    assert "misses 2 slices: one gap is 15.0 mm, the others 5.0 mm" in problem


def test_localisers_derived_series_and_reports_are_left_out_with_a_word(tmp_path: Path) -> None:
    head = phantom(AFFINE, SHAPE)
    export = tmp_path / "export"
    write_series(export, head)
    write_series(export, head, number=1, description="AAHead_Scout")
    write_series(export, head, number=4, image_type=("DERIVED", "SECONDARY", "MPR"))
    write_series(export, head, number=5, modality="SR")
    write_series(export, head, number=6, image_type=("ORIGINAL", "PRIMARY", "P", "ND"))
    write_series(export, head, number=7, leave_out=tuple(range(3, 36)))
    found = _found(tmp_path)
    assert len(found.scans) == 1
    assert found.problems == []
    words = ["localiser", "derived", "SR", "phase", "3 slices"]
    assert len(found.skipped) == len(words)
    for text, word in zip(found.skipped, words, strict=True):
        assert "is left out" in text
        assert word in text


def test_two_patients_are_refused(tmp_path: Path) -> None:
    head = phantom(AFFINE, SHAPE)
    write_series(tmp_path / "export", head)
    write_series(tmp_path / "export" / "b", head, patient="P2")
    found = _found(tmp_path)
    assert found.scans == []
    [(_, problem)] = found.problems
    assert "2 patients, expected one" in problem
    assert "P2" not in problem


def test_missing_slices_are_refused_and_the_other_series_taken(tmp_path: Path) -> None:
    head = phantom(AFFINE, SHAPE)
    write_series(tmp_path / "export", head, leave_out=(10, 11, 20))
    write_series(tmp_path / "export", head, number=8, description="FLAIR")
    found = _found(tmp_path)
    assert [scan.path.name.split("_")[-1] for scan in found.scans] == ["FLAIR.nii"]
    [(_, problem)] = found.problems
    assert "misses 3 slices: one gap is 15.0 mm, the others 5.0 mm" in problem


def test_ct_is_refused_unless_allowed(tmp_path: Path) -> None:
    write_series(tmp_path / "export", phantom(AFFINE, SHAPE), modality="CT")
    [(_, problem)] = _found(tmp_path).problems
    assert "--allow-ct" in problem
    assert len(_found(tmp_path, allow_ct=True).scans) == 1


def test_folder_without_a_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "export", phantom(AFFINE, SHAPE), description="localizer")
    [(_, problem)] = _found(tmp_path).problems
    assert "holds no scan" in problem
    assert "localiser" in problem


def test_from_dicom_to_a_mask(tmp_path: Path) -> None:
    head = phantom(AFFINE, SHAPE)
    write_series(tmp_path / "export", head)
    outcomes = []
    for run in ("first", "second"):
        found = find_scans([tmp_path / "export"], tmp_path / run)
        outcomes += list(segment_files(found.scans, tmp_path / "out", stand_in_model(), ON_CPU))
    first, second = outcomes
    assert (first.status, second.status) == ("done", "kept")
    assert first.name == f"{tmp_path / 'export'}: export_series-003_T2-TSE"
    assert len((tmp_path / "out" / "volumes.tsv").read_text().splitlines()) == 2
    mask = Volume.load(tmp_path / "out" / first.files[0]).reorient("RAS")
    torch.testing.assert_close(mask.affine, AFFINE, atol=2e-3, rtol=0)
    assert dice(mask.data, lesion_truth(AFFINE, SHAPE)) > 0.9


def test_results_inside_the_dicom_folder_are_no_input(tmp_path: Path) -> None:
    export = tmp_path / "export"
    write_series(export, phantom(AFFINE, SHAPE))
    for status in ("done", "kept"):
        found = find_scans([export], export / "out" / "work")
        assert (len(found.scans), found.problems) == (1, [])
        [outcome] = segment_files(found.scans, export / "out", stand_in_model(), ON_CPU)
        assert outcome.status == status


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dicom_segmentation_on_request(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    write_series(tmp_path / "export", phantom(AFFINE, SHAPE))
    found = find_scans([tmp_path / "export"], tmp_path / "work")
    write = WriteOptions(dicom_seg=True)
    [outcome] = segment_files(found.scans, tmp_path / "out", stand_in_model(), ON_CPU, write=write)
    assert outcome.status == "done", outcome.message
    path = tmp_path / "out" / outcome.files[0].replace("_mask.nii.gz", "_seg.dcm")
    voxels = highdicom.seg.segread(path).pixel_array.sum()
    assert voxels == Volume.load(tmp_path / "out" / outcome.files[0]).data.sum()
