from pathlib import Path

import pytest

from anystroke.core.tables import read_rows
from anystroke.io.pairing import PairingError, pairs_of_folders, write_pairs


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("p1.nii.gz", "p1.nii.gz"),
        ("p1_T2w.nii.gz", "p1_lesion.nii"),
        ("p1.nii", "p1-lesion-mask.nii"),
        ("sub-01_FLAIR.nii.gz", "sub-01_space-orig_label-L_desc-FLAIR_mask.nii.gz"),
        ("case_0001_0000.nii.gz", "case_0001.nii.gz"),
        ("p1/T2.nii.gz", "p1/lesion.nii.gz"),
        ("Patient 7 T1.nii", "patient_7_t1_roi.nii.gz"),
    ],
)
def test_names_that_people_give(scan: str, mask: str, tmp_path: Path) -> None:
    scans, masks = _touch(tmp_path / "scans", scan, "other.nii.gz"), _touch(tmp_path / "masks", mask)
    found = pairs_of_folders(scans, masks)
    assert found.pairs == [(scans / scan, masks / mask)]
    assert found.without_mask == [scans / "other.nii.gz"]
    assert not found.without_scan
    assert not found.unclear


def test_numbers_are_words_and_one_mask_may_serve_two_scans(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "p1_T2w.nii", "p1_FLAIR.nii", "p1_mask.nii", "p10_T2w.nii", "p2_mask.nii")
    found = pairs_of_folders(folder)
    assert {scan.name: mask.name for scan, mask in found.pairs} == {
        "p1_FLAIR.nii": "p1_mask.nii",
        "p1_T2w.nii": "p1_mask.nii",
    }
    assert [path.name for path in found.without_mask] == ["p10_T2w.nii"]
    assert [path.name for path in found.without_scan] == ["p2_mask.nii"]


def test_two_masks_for_a_scan_are_not_guessed(tmp_path: Path) -> None:
    scans, masks = _touch(tmp_path / "s", "p1.nii"), _touch(tmp_path / "m", "p1_mask.nii", "p1_lesion.nii")
    with pytest.raises(PairingError, match=r"p1\.nii may have 2 masks: p1_lesion\.nii, p1_mask\.nii"):
        write_pairs(pairs_of_folders(scans, masks), tmp_path / "pairs.tsv")
    with pytest.raises(PairingError, match=r"no mask is named like a scan: scans are p1\.nii, masks are"):
        write_pairs(pairs_of_folders(scans, _touch(tmp_path / "n", "x.nii")), tmp_path / "pairs.tsv")
    with pytest.raises(PairingError, match="expected a folder"):
        pairs_of_folders(tmp_path / "nowhere")


def test_the_table_names_what_has_no_partner(tmp_path: Path) -> None:
    scans = _touch(tmp_path / "s", "a/T1.nii", "b/T1.nii", "c/T1.nii")
    masks = _touch(tmp_path / "m", "a/lesion.nii", "b/lesion.nii", "d/lesion.nii")
    [sentence] = write_pairs(pairs_of_folders(scans, masks), tmp_path / "out" / "pairs.tsv")
    assert "no scan is named like it" in sentence
    rows = read_rows(tmp_path / "out" / "pairs.tsv")
    assert [row["name"] for row in rows] == ["a_T1", "b_T1", "T1"]
    assert [row["mask"] == "n/a" for row in rows] == [False, False, True]
