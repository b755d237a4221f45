import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from anystroke.core.volume import Volume, VolumeError
from anystroke.io.bids_input import find_bids_scans, read_filter
from anystroke.io.finding import find_scans, prepared
from anystroke.io.formats import looks_like_ct, read_scan
from anystroke.io.inputs import Input, IntakeError
from stand_in import axial_affine, phantom, rotation

SHAPE = (24, 28, 20)
AFFINE = axial_affine(8.0, 8.0, 9.0, shape=SHAPE)


def _save(path: Path, data: torch.Tensor | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume(phantom(AFFINE, SHAPE).data if data is None else data, AFFINE).save(path)
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for subject in ("01", "02"):
        for session in ("1", "2"):
            stem = f"sub-{subject}_ses-{session}"
            _save(root / f"sub-{subject}" / f"ses-{session}" / "anat" / f"{stem}_T1w.nii.gz")
            _save(root / f"sub-{subject}" / f"ses-{session}" / "anat" / f"{stem}_run-1_FLAIR.nii.gz")
    _save(root / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_bold.nii.gz")
    _save(root / "derivatives" / "x" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    four = torch.rand(2, *SHAPE)
    _save(root / "sub-02" / "ses-1" / "dwi" / "sub-02_ses-1_dwi.nii.gz", four)
    return root


def test_bids_scans_and_their_places(study: Path) -> None:
    found = find_bids_scans(study)
    assert len(found.scans) == 9
    assert found.skipped == ["sub-01: 1 image in func left out: no structural scans"]
    kept = prepared(found, study / "work")
    assert len(kept.scans) == 8
    [(_, problem)] = kept.problems
    assert "2 volumes" in problem
    assert ".bval" in problem
    first = found.scans[1]
    assert first.path.name == "sub-01_ses-1_run-1_FLAIR.nii.gz"
    assert str(first.folder) == "sub-01/ses-1/anat"
    assert first.patient == "sub-01_ses-1"
    assert first.uri == "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_run-1_FLAIR.nii.gz"


def test_bids_choice(study: Path, tmp_path: Path) -> None:
    assert len(find_bids_scans(study, participants=["sub-02"], sessions=["2"]).scans) == 2
    filters = tmp_path / "filters.json"
    for query, count in (
        ({"suffix": "T1w"}, 4),
        ({"suffix": ["T1w", "FLAIR"], "session": "1"}, 4),
        ({"run": 1}, 4),
        ({"run": None, "datatype": "anat"}, 4),
        ({"run": "*", "subject": "01"}, 2),
        ({"datatype": "dwi"}, 1),
        ({"datatype": "func"}, 0),
    ):
        filters.write_text(json.dumps({"query": query}))
        assert len(find_bids_scans(study, filters=read_filter(filters)).scans) == count, query


@pytest.mark.parametrize(
    ("choice", "words"),
    [({"participants": ["03"]}, "no sub-03"), ({"sessions": ["9"]}, "no session '9'")],
)
def test_bids_labels_that_are_not_there(study: Path, choice: dict[str, list[str]], words: str) -> None:
    with pytest.raises(IntakeError, match=words):
        find_bids_scans(study, **choice)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "no JSON"), ("[1]", "expected a dictionary"), ('{"a": {"contrast": "x"}}', "names 'contrast'")],
)
def test_bad_filters(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "filters.json"
    path.write_text(text)
    with pytest.raises(IntakeError, match=words):
        read_filter(path)


def test_tables_folders_and_one_bad_input(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "scans.tsv"
    table.write_text(
        "participant_id\tsession_id\timage\n"
        "P 1\tn/a\tstudy/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz\n"
        "P2\t2\ta.nii\n"
    )
    (tmp_path / "empty").mkdir()
    found = find_scans(
        [table, study, tmp_path / "empty", study / "sub-01" / "ses-1" / "anat"], tmp_path / "w"
    )
    assert [(str(scan.folder), scan.patient) for scan in found.scans[:2]] == [
        ("P-1", "P 1"),
        ("P2/2", "P2_2"),
    ]
    assert found.scans[0].path.is_file()
    assert len(found.scans) == 2 + 8 + 2
    [(named, problem), (_, series)] = found.problems
    assert named == str(tmp_path / "empty")
    assert "is a folder without images" in problem
    assert "2 volumes" in series


@pytest.mark.parametrize(
    ("text", "words"),
    [("a\tb\n", "no column image"), ("image\n", "no image at all"), ("image\n\n \n", "line")],
)
def test_bad_tables(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(text)
    [(_, problem)] = find_scans([tmp_path / "t.tsv"], tmp_path).problems
    assert words in problem


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_formats_keep_values_and_places(suffix: str, tmp_path: Path) -> None:
    scan = phantom(rotation(10.0, 20.0) @ AFFINE, SHAPE).reorient("PIL")
    scan.save(tmp_path / "a.nii")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii")), str(tmp_path / f"a{suffix}"))
    read = read_scan(tmp_path / f"a{suffix}")
    torch.testing.assert_close(read.affine, scan.affine, atol=1e-4, rtol=0)
    torch.testing.assert_close(read.data, scan.data)
    assert Input.of_file(tmp_path / f"a{suffix}").stem == "a_space-orig_label-L"


def test_bad_itk_files(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("no")
    with pytest.raises(VolumeError, match="not a readable image"):
        read_scan(tmp_path / "a.nrrd")
    with pytest.raises(VolumeError, match="does not exist"):
        read_scan(tmp_path / "b.mha")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4), np.float32)), str(tmp_path / "c.mha"))
    with pytest.raises(VolumeError, match="expected a 3-D image"):
        read_scan(tmp_path / "c.mha")


def test_ct_is_known_by_its_numbers_name_or_sidecar(tmp_path: Path) -> None:
    head = phantom(AFFINE, SHAPE).data
    hounsfield = torch.where(head > 50, head - 60, -1000.0)
    hounsfield[:, 10, 10, 10] = 1200
    assert looks_like_ct(Volume(hounsfield, AFFINE))
    assert not looks_like_ct(Volume(head, AFFINE))
    assert not looks_like_ct(Volume((head - head.mean()) / head.std(), AFFINE))
    source = Input.of_file(_save(tmp_path / "a.nii.gz", hounsfield))
    with pytest.raises(VolumeError, match="--allow-ct"):
        source.load()
    windowed = source.load(allow_ct=True).data
    assert float(windowed.min()) == 0.0
    assert float(windowed.max()) == 80.0
    _save(tmp_path / "b.nii.gz")
    (tmp_path / "b.json").write_text('{"Modality": "CT"}')
    with pytest.raises(VolumeError, match="is CT"):
        Input.of_file(tmp_path / "b.nii.gz").load()
    with pytest.raises(VolumeError, match="is CT"):
        Input.of_file(_save(tmp_path / "sub-1_ct.nii.gz")).load()
