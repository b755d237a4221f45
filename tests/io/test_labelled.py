import json
from pathlib import Path

import pytest
import torch

from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import TableError
from anystroke.core.volume import Grid, Volume
from anystroke.io.labelled import (
    LabelledScan,
    LabelledScanError,
    LabelledScanWarning,
    check_names,
    find_labelled_scans,
)
from anystroke.simulation.files import Request, simulate_files
from anystroke.simulation.settings import SynthesisSettings

SHAPE = (6, 7, 8)
AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def write(path: Path, values: float | torch.Tensor = 0.0, *, shift: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = AFFINE.clone()
    affine[0, 3] = shift
    data = values if isinstance(values, torch.Tensor) else torch.full((1, *SHAPE), values)
    Volume(data, affine).save(path)
    return path


def lesion(*values: int) -> torch.Tensor:
    data = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    for index, value in enumerate(values):
        data[0, index, 3, 3] = value
    return data


def names(source: Path) -> list[tuple[str, str]]:
    return [(scan.name, scan.mask.name) for scan in find_labelled_scans(source)]


@pytest.mark.parametrize(
    ("mask", "folder"),
    [
        ("sub-1_ses-2_label-L_mask", "sub-1/ses-2/anat"),
        ("sub-1_ses-2_space-orig_label-L_desc-T2w_mask", "sub-1/ses-2/anat"),
        ("sub-1_ses-2_T2w_label-lesion_roi", "sub-1/ses-2/anat"),
        ("sub-1_ses-2_run-4_T2w_desc-lesion_mask", "derivatives/lesion_masks/sub-1/ses-2/anat"),
        ("sub-1_ses-2_msk", "derivatives/sub-1/ses-2"),
        ("sub-1_ses-2_label-lesion_mask", "derivatives/x/sub-1/ses-2/dwi"),
    ],
)
def test_ways_to_name_a_mask(tmp_path: Path, mask: str, folder: str) -> None:
    write(tmp_path / "sub-1/ses-2/anat/sub-1_ses-2_run-4_T2w.nii.gz", 1.0)
    write(tmp_path / folder / f"{mask}.nii.gz", lesion(1))
    assert names(tmp_path) == [("sub-1_ses-2_run-4_T2w", f"{mask}.nii.gz")]


def test_a_mask_serves_its_session_on_its_grid(tmp_path: Path) -> None:
    anat = tmp_path / "sub-1/anat"
    for suffix in ("T1w", "T2w", "FLAIR"):
        write(anat / f"sub-1_{suffix}.nii.gz", 1.0, shift=0.0 if suffix != "FLAIR" else 5.0)
    write(tmp_path / "sub-1/dwi/sub-1_dwi.nii.gz", torch.ones(6, *SHAPE))
    write(tmp_path / "sub-2/anat/sub-2_T1w.nii", 1.0)
    write(anat / "sub-1_label-L_mask.nii.gz", lesion(1))
    write(tmp_path / "derivatives/x/sub-1/sub-1_desc-brain_mask.nii.gz", lesion(1, 1))
    with pytest.warns(LabelledScanWarning, match="3 of 5 images") as caught:
        found = find_labelled_scans(tmp_path)
    assert [scan.name for scan in found] == ["sub-1_T1w", "sub-1_T2w"]
    assert all(scan.brain is not None and scan.brain.name == "sub-1_desc-brain_mask.nii.gz" for scan in found)
    text = str(caught[0].message)
    assert "sub-1_FLAIR (no lesion mask on its grid)" in text
    assert "sub-1_dwi (it holds 6 volumes)" in text
    assert "sub-2_T1w (no lesion mask of its session)" in text


def test_the_mask_that_names_the_scan_is_taken(tmp_path: Path) -> None:
    anat = tmp_path / "sub-1/anat"
    for suffix in ("T1w", "T2w", "FLAIR"):
        write(anat / f"sub-1_{suffix}.nii.gz", 1.0)
    for suffix in ("T2w", "FLAIR"):
        write(tmp_path / f"derivatives/a/sub-1/sub-1_label-L_desc-{suffix}_mask.nii.gz", lesion(1))
    with pytest.warns(LabelledScanWarning, match=r"sub-1_T1w \(2 lesion masks may be meant"):
        found = names(tmp_path)
    assert found == [(f"sub-1_{s}", f"sub-1_label-L_desc-{s}_mask.nii.gz") for s in ("FLAIR", "T2w")]


def test_a_mask_on_another_grid_is_an_error_where_it_names_the_scan(tmp_path: Path) -> None:
    write(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz", 1.0)
    write(tmp_path / "sub-1/anat/sub-1_label-L_desc-T1lesion_mask.nii.gz", lesion(1), shift=0.02)
    with pytest.raises(LabelledScanError, match=r"different grids \(voxels up to 0\.02 mm apart\)"):
        find_labelled_scans(tmp_path)


@pytest.mark.parametrize("layout", ["bids", "nnunet"])
def test_simulated_scans_are_found(tmp_path: Path, layout: str) -> None:
    request = Request(
        weightings=("T1w", "FLAIR"),
        synthesis=SynthesisSettings(shapes=((32, 32, 32),), spacing=6.0),
        format="nnunet" if layout == "nnunet" else "bids",
        all_classes=layout == "nnunet",
    )
    folder = tmp_path / "Dataset501_Stroke"
    list(simulate_files(request, folder))
    found = find_labelled_scans(folder)
    assert len(found) == 2
    for scan in found:
        image, mask, brain = scan.load()
        assert image.shape == mask.shape == (32, 32, 32)
        assert brain is None
        assert float(mask.data.max()) <= 1
    assert {scan.lesion_label for scan in found} == {4 if layout == "nnunet" else 1}


def write_nnunet(folder: Path, labels: dict[str, object], *, channels: int = 1) -> None:
    for channel in range(channels):
        write(folder / f"imagesTr/case_{channel:04d}.nii.gz", 1.0)
    write(folder / "labelsTr/case.nii.gz", lesion(1, 2))
    names = {str(channel): "T1w" for channel in range(channels)}
    content = {"labels": labels, "channel_names": names, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_each_channel_of_nnunet_is_a_scan_and_the_lesion_is_found_by_name(tmp_path: Path) -> None:
    write_nnunet(tmp_path, {"background": 0, "brain": 1, "stroke lesion": 2}, channels=2)
    first, second = find_labelled_scans(tmp_path)
    assert (first.name, second.name) == ("case_0000", "case_0001")
    assert first.lesion_label == 2
    assert first.load()[1].data.sum() == 1
    write(tmp_path / "imagesTr/other_0000.nii.gz", 1.0)
    with pytest.warns(LabelledScanWarning, match=r"other_0000 \(no label map\)"):
        assert len(find_labelled_scans(tmp_path)) == 2
    (tmp_path / "imagesTr/case_0001.nii.gz").unlink()
    with pytest.raises(LabelledScanError, match="has 1 of 2 images"):
        find_labelled_scans(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "class_1": 1, "class_2": 2},
        {"background": 0, "acute lesion": 1, "old lesion": 2},
        {"background": 0, "lesion": [1, 2]},
    ],
)
def test_the_number_of_the_lesion_is_never_guessed(tmp_path: Path, labels: dict[str, object]) -> None:
    write_nnunet(tmp_path, labels)
    with pytest.raises(LabelledScanError, match="expected one label with a name like 'lesion'"):
        find_labelled_scans(tmp_path)


def test_labels_that_the_description_does_not_name(tmp_path: Path) -> None:
    write_nnunet(tmp_path, {"0": "background", "1": "lesion"})
    [scan] = find_labelled_scans(tmp_path)
    with pytest.raises(LabelledScanError, match=r"case\.nii\.gz holds the values 0, 1, 2, expected 0, 1"):
        scan.load()


def test_tables(tmp_path: Path) -> None:
    write(tmp_path / "scans/a.nii.gz", 1.0)
    write(tmp_path / "scans/b.nii.gz", 1.0)
    write(tmp_path / "m.nii.gz", lesion(1, 3))
    (tmp_path / "t.csv").write_text(
        "name,image,mask,brain,label,kept\n"
        "first,scans/a.nii.gz,m.nii.gz,m.nii.gz,3,yes\n"
        "n/a,scans/b.nii.gz,n/a,,,\n"
        "third,scans/b.nii.gz,m.nii.gz,n/a,,no\n"
    )
    with pytest.warns(LabelledScanWarning, match=r"1 of 2 images.*b \(no mask in the table\)"):
        [scan] = find_labelled_scans(tmp_path / "t.csv")
    image, mask, brain = scan.load()
    assert scan.name == "first"
    assert brain is not None
    assert (int(mask.data.sum()), int(brain.data.sum()), image.grid.count) == (1, 2, 1)


def test_all_that_is_wrong_with_a_table_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", 1.0)
    write(tmp_path / "b.nii.gz", lesion(1), shift=3.0)
    table = tmp_path / "t.tsv"
    table.write_text(
        "image\tmask\tlabel\na.nii.gz\tgone.nii.gz\t\na.nii.gz\tb.nii.gz\t\na.nii.gz\tb.nii.gz\tx\n"
    )
    with pytest.raises(LabelledScanError) as caught:
        find_labelled_scans(table)
    text = str(caught.value)
    assert "3 pairs or files" in text
    assert "gone.nii.gz does not exist" in text
    assert "voxels up to 3 mm apart" in text
    assert "line 4 has the label 'x'" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\tmask\n", "but there are none"),
        ("picture\tmask\n", "no column image"),
        ("image\tmask\na.nii\ta.nii\na.nii\ta.nii\n", "two scans are called 'a'"),
        ("image\tmask\tname\na.nii\ta.nii\t../a\n", "cannot be that of a file"),
        ("image\tmask\na.nii\t\n", r"left out are a \(no mask in the table\)"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a.nii", 1.0)
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(AnystrokeError, match=message):
        find_labelled_scans(tmp_path / "t.tsv")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(LabelledScanError, match="no data set of a known kind"):
        find_labelled_scans(tmp_path)
    with pytest.raises(LabelledScanError, match="there is none; check the path"):
        find_labelled_scans(tmp_path / "gone")
    (tmp_path / "sub-1").mkdir()
    with pytest.raises(LabelledScanError, match="there are none"):
        find_labelled_scans(tmp_path)
    (tmp_path / "t.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="not a table of text"):
        find_labelled_scans(tmp_path / "t.tsv")


def test_voxels_that_are_refused(tmp_path: Path) -> None:
    image = torch.ones(1, *SHAPE)
    image[0, 1, 2, 3] = float("nan")
    mask = write(tmp_path / "mask.nii.gz", lesion(1))
    with pytest.raises(LabelledScanError, match=r"x: .*1 voxels that are NaN or infinite"):
        LabelledScan("x", write(tmp_path / "nan.nii.gz", image), mask).load()
    good = write(tmp_path / "good.nii.gz", 1.0)
    with pytest.raises(LabelledScanError, match="not whole numbers"):
        LabelledScan("x", good, write(tmp_path / "soft.nii.gz", 0.4)).load()
    with pytest.raises(LabelledScanError, match="holds the values 0, 255"):
        LabelledScan("x", good, write(tmp_path / "255.nii.gz", lesion(255))).load()
    with pytest.raises(LabelledScanError, match="different grids"):
        LabelledScan("x", good, write(tmp_path / "far.nii.gz", lesion(1), shift=1.0)).load()
    empty = LabelledScan("x", good, write(tmp_path / "empty.nii.gz", 0.0)).load()[1]
    assert not empty.data.any()
    nearly = LabelledScan("x", good, write(tmp_path / "nearly.nii.gz", lesion(1) * 0.9999)).load()[1]
    assert int(nearly.data.sum()) == 1


def test_names_differ_in_more_than_their_case() -> None:
    scans = [LabelledScan(name, Path(name), Path("m")) for name in ("a", "A")]
    with pytest.raises(LabelledScanError, match="two scans are called 'A'"):
        check_names(scans)


def test_grids_are_read_from_headers(tmp_path: Path) -> None:
    grid = Grid.of_file(write(tmp_path / "a.nii.gz", torch.ones(3, *SHAPE), shift=1.0))
    assert (grid.shape, grid.count) == (SHAPE, 3)
    assert grid.difference(Grid(SHAPE, AFFINE)) == "voxels up to 1 mm apart"
    assert grid.difference(Grid(SHAPE, grid.affine)) is None
