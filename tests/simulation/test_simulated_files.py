import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch

from anystroke.acquisition.catalogue import from_dict
from anystroke.anatomy.lesions.bank import LesionSettings, load_masks
from anystroke.anatomy.lesions.made_up import random_blob
from anystroke.anatomy.registration import affine as registration
from anystroke.anatomy.registration.affine import Registration, RegistrationError
from anystroke.core.rng import stream
from anystroke.core.tables import TableError
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.bids_input import find_bids_scans
from anystroke.io.datasets import DatasetError
from anystroke.io.labelled import find_labelled_scans
from anystroke.io.results import Outcome, ResultError
from anystroke.qmri.map_files import find_map_subjects
from anystroke.simulation import files as simulation
from anystroke.simulation import patient_files
from anystroke.simulation.bids_dataset import TRUTH, place_of
from anystroke.simulation.files import Format, Request, SimulationError, simulate_files
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.nnunet import NnunetError
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), cut=0.0, lesions=LesionSettings(absent=0.0))
REQUEST = Request(synthesis=SETTINGS, count=2)
SESSION = Request(synthesis=SETTINGS, weightings=("T1w", "FLAIR", "DWI"))


@pytest.fixture(autouse=True)
def _small_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "mni_anatomy", lambda: ellipsoid_anatomy(head=False))


def _run(request: Request, folder: Path, *, overwrite: bool = False) -> list[Outcome]:
    return list(simulate_files(request, folder, overwrite=overwrite))


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _sidecar(folder: Path, row: Mapping[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / row["image"].replace(".nii.gz", ".json")).read_text())
    return content


def _label_map(path: Path, *, label: int = 2) -> Path:
    """A ball of white matter in fluid; its voxels are 4 mm."""
    index = torch.stack(torch.meshgrid(*(torch.arange(24.0) - 11.5,) * 3, indexing="ij"))
    distance = index.norm(dim=0)
    labels = (24 * (distance < 11)).to(torch.int32)
    labels[distance < 9] = 3
    labels[distance < 7] = label
    affine = torch.diag(torch.tensor([4.0, 4, 4, 1]))
    affine[:3, 3] = -46
    Volume(labels[None], affine).save(path)
    return path


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let no registration be stored, and any new one be the identity with a given Dice."""

    def register(dice: float) -> None:
        def none_stored(file: Path) -> Registration:
            raise RegistrationError(f"none for {file}")

        identity = Registration(torch.eye(4), dice, dice, dice)
        monkeypatch.setattr(registration, "stored_registration", none_stored)
        monkeypatch.setattr(registration, "register_to_mni", lambda _labels, _scheme: identity)

    return register


def test_files_table_and_sidecars_belong_together(tmp_path: Path) -> None:
    outcomes = _run(REQUEST, tmp_path)
    assert [(o.name, o.status) for o in outcomes] == [("sub-0001", "done"), ("sub-0002", "done")]
    rows = _table(tmp_path)
    assert rows == [dict(o.details) for o in outcomes]
    for row in rows:
        image = Volume.load(tmp_path / row["image"])
        mask = Volume.load(tmp_path / row["mask"], dtype=torch.uint8)
        classes = Volume.load(tmp_path / row["segmentation"], dtype=torch.uint8)
        assert image.shape == mask.shape == classes.shape == (40, 48, 40)
        assert torch.equal(mask.data == 1, classes.data == CLASSES.index("lesion"))
        assert float(row["lesion_ml"]) == pytest.approx(float(mask.data.sum()) * 0.064, abs=1e-3)
        assert float(row["lesion_ml"]) > 0
        sidecar = _sidecar(tmp_path, row)
        protocol = from_dict(sidecar["Record"]["protocol"])
        assert protocol.weighting == row["weighting"]
        assert sidecar["RepetitionTime"] == sidecar["Record"]["protocol"]["repetition_time"]
        assert sidecar["SignalToNoiseRatio"] == sidecar["Record"]["scanner"]["snr"]
        assert {"EchoTime", "FlipAngle", "MagneticFieldStrength"} <= set(sidecar)
        assert sidecar["LesionVolume"] == pytest.approx(float(row["lesion_ml"]), abs=1e-3)
        assert row["anatomy"] == "ellipsoids"
        assert row["stage"] in ("chronic", "acute", "subacute")
    text = (tmp_path / place_of("sub-0001_dseg.tsv")).read_text().splitlines()
    assert text[0] == "index\tname\tabbreviation"
    assert [line.split("\t")[1] for line in text[1:]] == list(CLASSES)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".bidsignore"]


def test_a_run_that_was_cut_short_is_completed_to_the_bit(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _run(REQUEST, whole)
    assert [o.status for o in _run(replace(REQUEST, count=1), cut)] == ["done"]
    before = (cut / _table(cut)[0]["image"]).stat().st_mtime_ns
    assert [o.status for o in _run(REQUEST, cut)] == ["kept", "done"]
    assert (cut / _table(cut)[0]["image"]).stat().st_mtime_ns == before
    assert _table(cut) == _table(whole)
    for row in _table(whole):
        first, second = (Volume.load(folder / row["image"]) for folder in (whole, cut))
        assert torch.equal(first.data, second.data)
    (cut / _table(cut)[0]["mask"]).unlink()
    assert {o.name: o.status for o in _run(REQUEST, cut)} == {"sub-0001": "done", "sub-0002": "kept"}
    assert (cut / _table(cut)[0]["mask"]).exists()


def test_another_run_is_refused_unless_it_may_overwrite(tmp_path: Path) -> None:
    flair, dwi = (
        replace(REQUEST, count=1, synthesis=SETTINGS.model_copy(update={"weighting": weighting}))
        for weighting in ("FLAIR", "DWI")
    )
    _run(flair, tmp_path)
    with pytest.raises(ResultError, match=r"another run \(Settings differ\).*--overwrite"):
        _run(dwi, tmp_path)
    with pytest.raises(ResultError, match="Seed differ"):
        _run(replace(flair, seed=2), tmp_path)
    assert (tmp_path / place_of("sub-0001_FLAIR.nii.gz")).exists()
    _run(dwi, tmp_path, overwrite=True)
    assert (tmp_path / place_of("sub-0001_dwi.nii.gz")).exists()
    assert not list(tmp_path.rglob("*FLAIR*"))
    assert len(_table(tmp_path)) == 1


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    foreign = tmp_path / "sub-0001"
    foreign.mkdir()
    with pytest.raises(SimulationError, match="sub-0001"):
        _run(REQUEST, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [foreign.name]
    foreign.rmdir()
    (tmp_path / "samples.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(TableError, match="not a table of anystroke"):
        _run(REQUEST, tmp_path)


def test_a_sample_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(patient_files, "class_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        _run(REQUEST, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["simulation.json"]


def test_several_weightings_show_one_patient(tmp_path: Path) -> None:
    outcomes = _run(replace(SESSION, count=2), tmp_path)
    assert [(o.name, o.details["image"]) for o in outcomes] == [
        (name, place_of(f"{name}_{suffix}.nii.gz"))
        for name in ("sub-0001", "sub-0002")
        for suffix in ("T1w", "FLAIR", "dwi")
    ]
    assert _table(tmp_path) == [dict(o.details) for o in outcomes]
    masks = sorted(path.name for path in tmp_path.rglob("*_mask.nii.gz"))
    assert masks == [
        f"{name}_label-L{desc}_mask.nii.gz" for name in ("sub-0001", "sub-0002") for desc in ("_desc-dwi", "")
    ]
    assert len(list(tmp_path.rglob("*_dseg.nii.gz"))) == 4
    for name in ("sub-0001", "sub-0002"):
        rows = [row for row in _table(tmp_path) if row["sample"] == name]
        same = ("anatomy", "lesions", "stage")
        assert len({tuple(row[key] for key in same) for row in rows}) == 1
        files = ("mask", "segmentation", "lesion_ml")
        assert [rows[0][key] for key in files] == [rows[1][key] for key in files]
        records = [_sidecar(tmp_path, row)["Record"] for row in rows]
        assert len({record["key"] for record in records}) == 1
        assert [record["scan"] for record in records] == [0, 1, 2]
        assert len({record["scanner"]["snr"] for record in records}) == 3
        images = [Volume.load(tmp_path / row["image"]).data for row in rows]
        assert not torch.equal(images[0], images[1])


def test_a_session_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _run(SESSION, whole)
    _run(SESSION, cut)
    (cut / place_of("sub-0001_FLAIR.nii.gz")).unlink()
    assert [o.status for o in _run(SESSION, cut)] == ["done"] * 3
    assert _table(whole) == _table(cut)
    first, second = (Volume.load(folder / place_of("sub-0001_FLAIR.nii.gz")) for folder in (whole, cut))
    assert torch.equal(first.data, second.data)
    assert [o.status for o in _run(SESSION, cut)] == ["kept"] * 3
    with pytest.raises(ResultError, match="Weightings differ"):
        _run(replace(SESSION, weightings=("T1w",)), cut)


def test_the_truth_is_what_at_least_one_scan_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Sample] = []
    session = Generator.session

    def remember(*arguments: Any, **options: Any) -> list[Sample]:
        drawn[:] = session(*arguments, **options)
        return drawn

    monkeypatch.setattr(Generator, "session", remember)
    request = replace(SESSION, synthesis=SETTINGS.model_copy(update={"cut": 1.0}))
    row = _run(request, tmp_path)[0].details
    assert not torch.equal(drawn[0].target, drawn[1].target)
    truth = torch.stack([sample.target for sample in drawn[:2]]).amax(0)
    assert torch.equal(Volume.load(tmp_path / row["segmentation"], dtype=torch.uint8).data[0], truth)


@pytest.mark.parametrize("layout", ["bids", "nnunet"])
def test_a_scan_can_be_made_again_from_its_files(layout: Format, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "Dataset501_Stroke"
    masks.mkdir()
    sphere = sphere_lesion()
    Volume(sphere.mask[None], sphere.affine).save(masks / "sphere.nii.gz")
    rows = [o.details for o in _run(replace(SESSION, lesions=masks, format=layout), out)]
    if layout == "nnunet":
        channels = json.loads((out / "records" / "sim-0001.json").read_text())["Channels"]
        records = [channel["Record"] for channel in channels]
    else:
        records = [_sidecar(out, row)["Record"] for row in rows]
    for row, record in zip(rows, records, strict=True):
        sample = regenerate(record, [ellipsoid_anatomy(head=False)], load_masks([masks / "sphere.nii.gz"]))
        assert torch.equal(Volume.load(out / row["image"]).data[0], sample.image)


def test_an_nnunet_data_set_is_complete_at_any_time(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset501_Stroke"
    request = replace(SESSION, format="nnunet", count=2)
    for number, outcome in enumerate(simulate_files(request, folder)):
        description = json.loads((folder / "dataset.json").read_text())
        assert description["numTraining"] == len(list((folder / "labelsTr").iterdir())) == 1 + number // 3
        assert outcome.details["image"] == f"imagesTr/{outcome.name}_{number % 3:04d}.nii.gz"
    assert description["channel_names"] == {"0": "T1w", "1": "FLAIR", "2": "DWI"}
    assert len(list((folder / "imagesTr").iterdir())) == 6
    (folder / "imagesTr" / "sim-0002_0001.nii.gz").unlink()
    assert [o.status for o in _run(request, folder)] == ["kept"] * 3 + ["done"] * 3
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 2


def test_overwriting_leaves_no_case_of_the_earlier_run(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset501_Stroke"
    request = replace(SESSION, format="nnunet", count=2)
    _run(request, folder)
    other = replace(request, count=1, weightings=("T2w",))
    with pytest.raises(ResultError, match=r"Weightings differ.*--overwrite"):
        _run(other, folder)
    assert len(list((folder / "imagesTr").iterdir())) == 6
    _run(other, folder, overwrite=True)
    assert [p.name for p in (folder / "imagesTr").iterdir()] == ["sim-0001_0000.nii.gz"]
    assert [p.name for p in (folder / "labelsTr").iterdir()] == ["sim-0001.nii.gz"]
    _run(replace(other, format="bids"), folder, overwrite=True)
    assert not any((folder / name).exists() for name in ("imagesTr", "labelsTr", "records", "dataset.json"))


def test_a_data_set_of_others_is_never_mixed_with_ours(tmp_path: Path) -> None:
    request = replace(SESSION, format="nnunet")
    folder = tmp_path / "Dataset501_Stroke"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(SimulationError, match=r"did not make \(dataset.json\)"):
            _run(request, folder, overwrite=overwrite)
    assert [p.name for p in folder.iterdir()] == ["dataset.json"]
    with pytest.raises(NnunetError, match="has the number 501 already"):
        _run(request, tmp_path / "Dataset501_Other")
    assert not (tmp_path / "Dataset501_Other").exists()


@pytest.mark.parametrize("layout", ["bids", "nnunet"])
def test_a_full_disk_leaves_what_was_finished(
    layout: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Dataset501_Stroke"
    request = replace(SESSION, format=layout, count=2)
    _run(replace(request, count=1), folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    save = Volume.save

    def fail(self: Volume, path: Path, *, dtype: torch.dtype | None = None) -> None:
        save(self, path, dtype=dtype)
        if "-0002" in path.name and self.data.dtype == torch.float32:
            raise VolumeError(f"cannot write {path}") from OSError(28, "No space left on device")

    monkeypatch.setattr(Volume, "save", fail)
    with pytest.raises(SimulationError, match=r"cannot write s[a-z]*-0002 .*\(No space left on device\)"):
        _run(request, folder)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    monkeypatch.undo()
    monkeypatch.setattr(simulation, "mni_anatomy", lambda: ellipsoid_anatomy(head=False))
    assert [o.status for o in _run(request, folder)] == ["kept"] * 3 + ["done"] * 3


def test_values_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(SimulationError, match="T1w, FLAIR, T1w"):
        replace(REQUEST, weightings=("T1w", "FLAIR", "T1w"))
    with pytest.raises(SimulationError, match="no place for maps"):
        replace(REQUEST, format="nnunet", maps=True)
    with pytest.raises(SimulationError, match="always written"):
        replace(REQUEST, all_classes=True)


def test_maps_are_written_with_their_units(tmp_path: Path) -> None:
    _run(replace(REQUEST, count=1, maps=True), tmp_path)
    units = {"PDmap": "%", "R1map": "1/s", "R2map": "1/s", "R2starmap": "1/s", "MTsat": "%"}
    for suffix, unit in units.items():
        assert json.loads((tmp_path / place_of(f"sub-0001_{suffix}.json")).read_text())["Units"] == unit
    r2, r2star = (
        Volume.load(tmp_path / place_of(f"sub-0001_{s}.nii.gz")).data for s in ("R2map", "R2starmap")
    )
    assert bool((r2star >= r2).all())
    assert float(r2.max()) > 5


def test_label_maps_take_turns_and_a_bad_one_stops_nothing(
    tmp_path: Path, registered: Callable[[float], None]
) -> None:
    registered(0.93)
    good, odd = _label_map(tmp_path / "good.nii.gz"), _label_map(tmp_path / "odd.nii.gz", label=999)
    request = replace(REQUEST, label_maps=(odd, tmp_path / "none.nii.gz", good))
    outcomes = _run(request, tmp_path / "out")
    assert [(o.status, o.details.get("samples", 1)) for o in outcomes] == [
        ("failed", 2),
        ("failed", 2),
        ("done", 1),
        ("done", 1),
    ]
    assert "odd.nii.gz" in outcomes[0].message
    assert "999" in outcomes[0].message
    assert "none.nii.gz does not exist" in outcomes[1].message
    assert [o.name for o in outcomes[2:]] == ["sub-0003", "sub-0006"]
    assert {o.details["anatomy"] for o in outcomes[2:]} == {"good"}
    assert "registered to MNI space (Dice of the brain 0.93)" in outcomes[2].message
    assert outcomes[3].message == ""


def test_a_poor_registration_is_said(tmp_path: Path, registered: Callable[[float], None]) -> None:
    registered(0.5)
    request = replace(REQUEST, count=1, label_maps=(_label_map(tmp_path / "a.nii.gz"),))
    assert "poor" in _run(request, tmp_path / "out")[0].message


def test_lesion_masks_come_from_a_folder(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    request = replace(REQUEST, count=1, lesions=masks)
    with pytest.raises(DatasetError, match="masks"):
        _run(request, tmp_path / "out")
    masks.mkdir()
    with pytest.raises(DatasetError, match="there are none"):
        _run(replace(request), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sphere = sphere_lesion()
    Volume(torch.zeros(1, 4, 4, 4), torch.eye(4)).save(masks / "empty.nii.gz")
    with pytest.raises(DatasetError, match="none of its 1 images"):
        _run(replace(request), tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    Volume(sphere.mask[None], sphere.affine).save(masks / "sphere.nii.gz")
    [outcome] = _run(replace(request), tmp_path / "out")
    assert set(outcome.details["lesions"].split(",")) == {"sphere"}
    assert float(outcome.details["lesion_ml"]) > 1


def test_an_unknown_weighting_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    request = replace(REQUEST, synthesis=SETTINGS.model_copy(update={"weighting": "T3w"}))
    with pytest.raises(ValueError, match=r"'T3w'.*FLAIR"):
        _run(request, tmp_path / "out")
    with pytest.raises(ValueError, match="'T3w'"):
        _run(replace(SESSION, weightings=("T1w", "T3w")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_made_up_lesions_are_on_both_sides_and_sometimes_absent() -> None:
    settings = LesionSettings(absent=0.3)
    drawn = [random_blob(settings, rng=stream(k, "blob")) for k in range(40)]
    sides = {float(b.centre[0]) > 0 for blobs in drawn for b in blobs}
    assert sides == {False, True}
    assert 4 <= sum(not blobs for blobs in drawn) <= 22
    assert all(0.9 < b.volume_ml < 130 for blobs in drawn for b in blobs)


def test_without_lesion_the_row_says_so(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"lesions": LesionSettings(absent=1.0)})
    [outcome] = _run(replace(REQUEST, count=1, synthesis=settings), tmp_path)
    row = outcome.details
    assert (row["lesions"], row["stage"], row["lesion_ml"]) == ("n/a", "n/a", "0.000")
    assert int(Volume.load(tmp_path / row["mask"]).data.sum()) == 0


def test_the_data_set_is_one_of_bids(tmp_path: Path) -> None:
    _run(replace(SESSION, count=2, maps=True), tmp_path)
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["BIDSVersion"][:2]) == ("raw", "1.")
    truth = tmp_path / TRUTH
    assert json.loads((truth / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    rows = (tmp_path / "participants.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["participant_id", "sub-0001", "sub-0002"]
    raw = {path.name.partition(".")[0].partition("_")[2] for path in (tmp_path / "sub-0001").rglob("*.*")}
    assert raw == {"T1w", "FLAIR", "dwi"}
    assert sorted(path.name for path in truth.iterdir() if path.is_dir()) == ["sub-0001", "sub-0002"]
    dwi = tmp_path / "sub-0001" / "dwi" / "sub-0001_dwi.nii.gz"
    assert nib.load(dwi).shape == (40, 48, 40, 1)
    sidecar = json.loads(dwi.with_name("sub-0001_dwi.json").read_text())
    assert float(dwi.with_name("sub-0001_dwi.bval").read_text()) == sidecar["DiffusionBValue"] > 0
    assert dwi.with_name("sub-0001_dwi.bvec").read_text().split() == ["0"] * 3
    known = {"README", "dataset_description.json", "participants.tsv", "participants.json", ".bidsignore"}
    ignored = set((tmp_path / ".bidsignore").read_text().split())
    beside = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert beside - known <= ignored


def test_other_programs_read_the_data_set(tmp_path: Path) -> None:
    _run(replace(SESSION, maps=True), tmp_path)
    labelled = find_labelled_scans(tmp_path)
    assert [scan.name for scan in labelled] == [f"sub-0001_{name}" for name in ("FLAIR", "T1w", "dwi")]
    assert all(int(scan.load()[1].data.sum()) > 0 for scan in labelled)
    assert len(find_bids_scans(tmp_path).scans) == 3
    [subject] = find_map_subjects(tmp_path)
    assert subject.name == "sub-0001"
    (tmp_path / "samples.tsv").unlink()
    assert {scan.name: scan.mask.name for scan in find_labelled_scans(tmp_path)} == {
        "sub-0001_T1w": "sub-0001_label-L_mask.nii.gz",
        "sub-0001_FLAIR": "sub-0001_label-L_mask.nii.gz",
        "sub-0001_dwi": "sub-0001_label-L_desc-dwi_mask.nii.gz",
    }
