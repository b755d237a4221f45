import json
import pathlib
import shutil
import socket
import warnings
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from anystroke.anatomy.registration.rigid import RigidRegistration
from anystroke.core.files import sha256
from anystroke.core.tables import GrowingTable, TableError, read_rows
from anystroke.core.volume import Volume, VolumeWarning
from anystroke.io.results import Outcome
from anystroke.tasks.segmentation import files as batch
from anystroke.tasks.segmentation.files import VOLUME_COLUMNS, segment_files, update_table
from anystroke.tasks.segmentation.group import describe_results, write_group
from anystroke.tasks.segmentation.mni_places import MniSpace
from anystroke.tasks.segmentation.options import CohortOptions, SegmentOptions, WriteOptions
from anystroke.tasks.segmentation.predict import Segmentation, segment
from stand_in import axial_affine, phantom, stand_in_model

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)
ENDINGS = (
    "label-L_desc-T2w_lesions.tsv",
    "label-L_desc-T2w_mask.json",
    "label-L_desc-T2w_mask.nii.gz",
    "label-L_desc-T2w_mosaic.png",
    "label-L_desc-T2w_probseg.json",
    "label-L_desc-T2w_probseg.nii.gz",
    "label-L_desc-T2w_report.html",
    "seg-lesions_desc-T2w_dseg.json",
    "seg-lesions_desc-T2w_dseg.nii.gz",
)


@pytest.fixture
def scan(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "in" / "sub-1_T2w.nii.gz"
    path.parent.mkdir()
    phantom(AFFINE, SHAPE).reorient("LIP").save(path)
    return path


def _run(
    inputs: list[pathlib.Path],
    folder: pathlib.Path,
    write: WriteOptions = WriteOptions(),  # noqa: B008  # immutable
    cohort: CohortOptions = CohortOptions(),  # noqa: B008
    **options: Any,
) -> list[Outcome]:
    chosen = SegmentOptions(device="cpu", **options)
    return list(segment_files(inputs, folder, stand_in_model(), chosen, write=write, cohort=cohort))


def test_files_of_one_scan(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = sha256(scan)
    [outcome] = _run([scan], tmp_path / "out", min_volume=0.5)
    stem = "sub-1_space-orig_label-L_desc-T2w"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "logs",
        *(f"sub-1_space-orig_{ending}" for ending in ENDINGS),
        "volumes.tsv",
    ]
    mask, probability = (nib.load(tmp_path / "out" / f"{stem}_{kind}.nii.gz") for kind in ("mask", "probseg"))
    original = nib.load(scan)
    for image in (mask, probability):
        assert image.shape == original.shape
        np.testing.assert_array_equal(image.affine, original.affine)
    assert mask.get_data_dtype() == np.uint8
    assert probability.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj) == 1, np.asanyarray(probability.dataobj) >= 0.5)
    facts = json.loads((tmp_path / "out" / f"{stem}_mask.json").read_text())
    assert facts["Type"] == "Lesion"
    assert facts["SourceSHA256"] == before == sha256(scan)
    of_model = facts["Model"]
    assert (of_model["Name"], of_model["Version"], of_model["SHA256"]) == ("stand-in", "1", "0" * 64)
    assert len(of_model["ConfigSHA256"]) == 64
    assert facts["Threshold"] == 0.5
    assert facts["MinimumLesionVolume"] == 0.5
    millilitres = float(np.asanyarray(mask.dataobj).sum()) * 4.0 * 4.0 * 4.5 / 1000
    assert facts["LesionVolume"] == pytest.approx(millilitres, abs=1e-3)
    [row] = read_rows(tmp_path / "out" / "volumes.tsv")
    assert row["file"] == str(scan)
    assert row["mask"] == f"{stem}_mask.nii.gz"
    assert float(row["volume_ml"]) == pytest.approx(millilitres, abs=1e-3)
    assert row["lesions"] == "1"
    assert (row["status"], outcome.status) == ("ok", "done")


def test_results_are_not_overwritten_unless_asked(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    _run([scan], out)
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    [again] = _run([scan], out, threshold=0.6)
    assert again.status == "failed"
    assert "--overwrite" in again.message
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    [replaced] = _run([scan], out, cohort=CohortOptions(overwrite=True), threshold=0.9)
    assert replaced.status == "done"
    assert (out / replaced.files[0]).read_bytes() != before[replaced.files[0]]
    assert len(read_rows(out / "volumes.tsv")) == 1


def test_one_bad_input_does_not_stop_the_others(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.write_text("not an image")
    other = tmp_path / "in" / "other.nii.gz"
    shutil.copy(scan, other)
    outcomes = _run([scan, bad, other], tmp_path / "out")
    assert [o.status for o in outcomes] == ["done", "failed", "done"]
    assert str(bad) in outcomes[1].message
    rows = read_rows(tmp_path / "out" / "volumes.tsv")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["mask"] == rows[1]["volume_ml"] == "n/a"
    assert not list((tmp_path / "out").glob("bad*"))


def test_same_names_do_not_collide_silently(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    twin = tmp_path / "twin" / scan.name
    twin.parent.mkdir()
    shutil.copy(scan, twin)
    first, second = _run([scan, twin], tmp_path / "out")
    assert first.status == "done"
    assert second.status == "failed"
    assert str(scan) in second.message
    assert str(twin) in second.message


def test_table_keeps_earlier_runs_and_replaces_a_failure(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    late = tmp_path / "in" / "late.nii.gz"
    _run([late], out)
    assert read_rows(out / "volumes.tsv")[0]["status"] == "failed"
    shutil.copy(scan, late)
    _run([scan], out)
    _run([late], out)
    rows = read_rows(out / "volumes.tsv")
    assert [(row["file"], row["status"]) for row in rows] == [(str(scan), "ok"), (str(late), "ok")]


def test_failure_while_writing_leaves_nothing(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anystroke.reports.mosaic.mosaic", full)
    [outcome] = _run([scan], tmp_path / "out")
    assert "No space left" in outcome.message
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["logs", "volumes.tsv"]


def test_unexpected_failure_is_told_as_one_sentence_with_its_traceback(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("some\nthing")

    monkeypatch.setattr(batch, "segment", broken)
    [outcome] = _run([scan], tmp_path / "out")
    assert "\n" not in outcome.message
    assert "KeyError" in outcome.message
    assert "Traceback" in outcome.traceback


def test_geometry_warning_reaches_table_and_sidecar(tmp_path: pathlib.Path) -> None:
    image = nib.Nifti1Image(phantom(AFFINE, SHAPE).data[0].numpy(), AFFINE.numpy())
    image.set_sform(AFFINE.numpy(), 1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ AFFINE.numpy(), 1)
    nib.save(image, tmp_path / "a.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error", VolumeWarning)
        [outcome] = _run([tmp_path / "a.nii.gz"], tmp_path / "out")
    assert outcome.status == "done"
    assert "sform" in outcome.message
    assert (
        "sform"
        in json.loads((tmp_path / "out" / "a_space-orig_label-L_mask.json").read_text())["Warnings"][0]
    )


def test_foreign_table_is_left_alone(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    table = tmp_path / "volumes.tsv"
    table.write_text("a\tb\n1\t2\n")
    with pytest.raises(TableError, match="not a table of anystroke"):
        _run([scan], tmp_path)
    assert table.read_text() == "a\tb\n1\t2\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "volumes.tsv"]


def test_cells_hold_no_tabs_or_line_ends(tmp_path: pathlib.Path) -> None:
    table = GrowingTable(tmp_path / "volumes.tsv", VOLUME_COLUMNS)
    update_table(table, Outcome("a\tb.nii", "failed", messages=("one\ntwo\tthree",)))
    [row] = read_rows(tmp_path / "volumes.tsv")
    assert row["file"] == "a b.nii"
    assert row["message"] == "one two three"


def test_mgz_input(tmp_path: pathlib.Path) -> None:
    Volume(phantom(AFFINE, SHAPE).data.to(torch.float32), AFFINE).save(tmp_path / "T1.mgz")
    [outcome] = _run([tmp_path / "T1.mgz"], tmp_path / "out")
    assert outcome.status == "done"
    np.testing.assert_allclose(
        nib.load(tmp_path / "out" / outcome.files[0]).affine, nib.load(tmp_path / "T1.mgz").affine, atol=1e-4
    )


def test_a_run_that_was_cut_short_goes_on(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "in" / "other.nii.gz"
    shutil.copy(scan, other)
    out = tmp_path / "out"
    _run([scan], out)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("sub-1*")}
    (out / "volumes.tsv").unlink()  # killed between the files and the row
    left = out / f".anystroke-{socket.gethostname()}-{2**22 + 7}-x"
    left.mkdir()
    segmented = []

    def counted(*arguments: Any, **options: Any) -> Segmentation:
        segmented.append(1)
        return segment(*arguments, **options)

    monkeypatch.setattr(batch, "segment", counted)
    first, second = _run([scan, other], out)
    assert (first.status, second.status) == ("kept", "done")
    assert len(segmented) == 1
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("sub-1*")} == before
    assert [row["status"] for row in read_rows(out / "volumes.tsv")] == ["ok", "ok"]
    assert not left.exists()


@pytest.mark.parametrize("lost", ["probseg.nii.gz", "mask.json"])
def test_half_a_result_is_not_taken_for_a_whole_one(
    lost: str, scan: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out"
    _run([scan], out)
    (out / f"sub-1_space-orig_label-L_desc-T2w_{lost}").unlink()
    [again] = _run([scan], out)
    assert again.status == "failed"
    assert "--overwrite" in again.message


def test_what_a_killed_run_had_not_published_is_done_again(
    scan: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out"
    _run([scan], out)
    for ending in ("mask.json", "mask.nii.gz"):
        (out / f"sub-1_space-orig_label-L_desc-T2w_{ending}").unlink()
    [again] = _run([scan], out)
    assert again.status == "done"


def test_another_scan_under_the_same_name_is_not_kept(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _run([scan], tmp_path / "out")
    phantom(AFFINE, SHAPE).save(scan, overwrite=True)
    [again] = _run([scan], tmp_path / "out")
    assert again.status == "failed"
    assert "another scan" in again.message


def test_more_is_written_on_request(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write = WriteOptions(report=False, uncertainty=True, write_fmriprep_roi=True)
    [outcome] = _run([scan], tmp_path / "out", write=write)
    assert outcome.status == "done"
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "sub-1_label-lesion_desc-T2w_roi.nii.gz" in names
    spread = Volume.load(tmp_path / "out" / "sub-1_space-orig_label-L_desc-T2w_spread.nii.gz")
    assert 0 <= float(spread.data.min()) <= float(spread.data.max()) < 0.5
    assert not any(name.endswith((".html", ".png")) for name in names)


def test_lesions_are_numbered_and_measured(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _run([scan], tmp_path / "out")
    text = (tmp_path / "out" / "sub-1_space-orig_label-L_desc-T2w_lesions.tsv").read_text()
    header, row = (line.split("\t") for line in text.splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["hemisphere"] == "left"
    place = [float(cells[name]) for name in ("x_mm", "y_mm", "z_mm")]
    np.testing.assert_allclose(place, [-25, 25, 10], atol=1.5)
    assert float(cells["diameter_mm"]) == pytest.approx(52, abs=6)


def test_contrasts_of_a_patient_together(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flair = tmp_path / "in" / "sub-1_FLAIR.nii.gz"
    phantom(AFFINE, SHAPE).save(flair)
    found = RigidRegistration(torch.eye(4, dtype=torch.float64), 0.0, 0.0, 0.0, 0.0, 1.0, "")
    monkeypatch.setattr("anystroke.tasks.segmentation.together.register_rigid", lambda *_: found)
    outcomes = _run([scan, flair], tmp_path / "out", cohort=CohortOptions(together=True))
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert (tmp_path / "out" / "sub-1_space-orig_label-L_desc-FLAIRFused_mask.nii.gz").exists()
    [table] = (tmp_path / "out").glob("*_agreement.tsv")
    first, second, dice, *_ = table.read_text().splitlines()[1].split("\t")
    assert (first, second) == ("sub-1_T2w", "sub-1_FLAIR")
    assert float(dice) > 0.95
    again = _run([scan, flair], tmp_path / "out", cohort=CohortOptions(together=True))
    assert [outcome.status for outcome in again] == ["kept", "kept"]
    [apart] = _run([scan], tmp_path / "out", cohort=CohortOptions(together=True))
    assert apart.status == "done"


def test_bad_files_among_good_ones(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    inputs = []
    for i in range(6):
        path = tmp_path / "in" / f"scan{i}.nii.gz"
        path.write_text("no") if i % 3 == 2 else shutil.copy(scan, path)
        inputs.append(path)
    outcomes = _run(inputs, tmp_path / "out")
    assert [o.name for o in outcomes] == [str(path) for path in inputs]
    assert [o.status for o in outcomes] == ["done", "done", "failed"] * 2
    [log] = (tmp_path / "out" / "logs").iterdir()
    manifest = json.loads(log.read_text())
    assert len(manifest["Scans"]) == 6
    assert manifest["PeakMemoryMB"] > 10


def test_group_table_and_page(scan: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    _run([scan], out)
    assert write_group(out) == 1
    describe_results(out, source=tmp_path / "in")
    header, row = (line.split("\t") for line in (out / "group.tsv").read_text().splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["participant_id"] == "sub-1"
    assert float(cells["volume_low_ml"]) <= float(cells["volume_ml"]) <= float(cells["volume_high_ml"])
    assert float(cells["left_ml"]) == pytest.approx(float(cells["volume_ml"]), abs=0.5)
    page = (out / "group.html").read_text()
    assert "sub-1_T2w</a>" in page
    assert "http://" not in page
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "anystroke"


def test_places_in_mni_space(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = MniSpace(torch.eye(4, dtype=torch.float64), 0.93)
    monkeypatch.setattr("anystroke.tasks.segmentation.results.find_mni_space", lambda *_: space)
    halves = Volume(torch.ones(1, 160, 200, 150, dtype=torch.int64), torch.eye(4, dtype=torch.float64))
    halves.affine[:3, 3] = torch.tensor([-80.0, -110, -70])
    halves.data[:, 80:] = 2
    halves.save(tmp_path / "halves.nii.gz", dtype=torch.int16)
    (tmp_path / "halves.tsv").write_text("index\tname\n1\tleft half\n2\tright half\n")
    atlas = WriteOptions(atlas=tmp_path / "halves.nii.gz")
    other = tmp_path / "in" / "sub-2_T2w.nii.gz"
    shutil.copy(scan, other)
    out = tmp_path / "out"
    assert [o.status for o in _run([scan, other], out, atlas)] == ["done", "done"]
    stem = "sub-1_space-orig_label-L_desc-T2w"
    header, row = (line.split("\t") for line in (out / f"{stem}_lesions.tsv").read_text().splitlines())
    cells = dict(zip(header, row, strict=True))
    assert [cells[f"mni_{axis}_mm"] for axis in "xyz"] == [cells[f"{axis}_mm"] for axis in "xyz"]
    assert (cells["territory"], cells["territory_share"]) == ("left half", "1.000")
    facts = json.loads((out / f"{stem}_mask.json").read_text())
    assert facts["TerritoryVolumes"] == {"left half": facts["LesionVolume"]}
    assert facts["MNI"]["BrainOverlap"] == 0.93
    coarse = Volume.load(out / facts["MNI"]["Lesion"])
    assert float(coarse.data.sum()) * coarse.voxel_volume == pytest.approx(facts["LesionVolume"], rel=0.05)
    assert "on a glass brain" in (out / f"{stem}_report.html").read_text()
    assert write_group(out) == 2
    assert "Overlap of the lesions on a glass brain" in (out / "group.html").read_text()
    assert "left half" in (out / "group.tsv").read_text()
    people = {"sub-1": {"age": "67", "lesions": "two"}, "sub-9": {"site": "B"}}
    assert write_group(out, participants=people) == 2
    rows = read_rows(out / "group.tsv")
    assert [(row["participant_id"], row["age"]) for row in rows][:1] == [("sub-1", "67")]
    assert "two" not in {row["lesions"] for row in rows}
    assert "site" not in rows[0]
    assert "<th>age</th>" in (out / "group.html").read_text()
    assert [o.status for o in _run([scan, other], out, atlas)] == ["kept", "kept"]
    [without] = _run([scan], out)
    assert "of another setting" in without.message


def test_no_report_saves_the_registration(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(*_: object) -> MniSpace:
        asked.append(1)
        return MniSpace()

    monkeypatch.setattr("anystroke.tasks.segmentation.results.find_mni_space", counted)
    _run([scan], tmp_path / "out", write=WriteOptions(report=False))
    assert asked == []
    _run([scan], tmp_path / "with")
    assert asked == [1]


def test_a_scan_that_does_not_register_has_no_places_and_a_good_mask(
    scan: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = MniSpace(overlap=0.4, problem="the registration to MNI space failed: the brains overlap by 0.40")
    monkeypatch.setattr("anystroke.tasks.segmentation.results.find_mni_space", lambda *_: space)
    [outcome] = _run([scan], tmp_path / "out")
    assert outcome.status == "done"
    assert outcome.details["reasons"] == ()
    [table] = (tmp_path / "out").glob("*_lesions.tsv")
    assert table.read_text().splitlines()[1].split("\t")[-5:] == ["n/a"] * 5
    facts = json.loads(next((tmp_path / "out").glob("*_mask.json")).read_text())
    assert not facts["DoNotTrust"]
    assert facts["Notes"] == [f"no places in MNI space are given: {space.problem}"]
    assert space.problem in next((tmp_path / "out").glob("*_report.html")).read_text()
    assert facts["MNI"] == {"Template": "MNI152NLin2009aSym", "BrainOverlap": 0.4}


def test_the_type_on_disk_does_not_matter(tmp_path: pathlib.Path) -> None:
    head = phantom(AFFINE, SHAPE).data[0].numpy()
    whole = np.round(head * 255 / head.max())
    stored: dict[str, tuple[Any, tuple[float, float]]] = {
        "uint8": (np.uint8, (1.0, 0.0)),
        "int16": (np.int16, (1.0, 0.0)),
        "bigendian": (np.dtype(">i2"), (1.0, 0.0)),
        "slope": (np.int16, (0.25, 3.0)),
        "float64": (np.float64, (1.0, 0.0)),
        "bigfloat": (np.dtype(">f4"), (1.0, 0.0)),
    }
    for name, (kind, scaling) in stored.items():
        order = np.dtype(kind).byteorder
        header = nib.Nifti1Header(endianness=">" if order == ">" else "<")
        header.set_data_dtype(kind)
        header.set_slope_inter(*scaling)
        image = nib.Nifti1Image(whole * scaling[0] + scaling[1], AFFINE.numpy(), header)
        nib.save(image, tmp_path / f"{name}.nii")
        saved = nib.load(tmp_path / f"{name}.nii")
        assert saved.get_data_dtype().itemsize == np.dtype(kind).itemsize
        assert saved.header.endianness == header.endianness
    outcomes = _run([tmp_path / f"{name}.nii" for name in stored], tmp_path / "out")
    assert [outcome.message for outcome in outcomes] == [""] * len(stored)
    masks = [np.asanyarray(nib.load(tmp_path / "out" / o.files[0]).dataobj) for o in outcomes]
    assert masks[0].any()
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
