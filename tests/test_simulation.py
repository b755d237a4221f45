import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anystroke import simulation
from anystroke.acquisition.protocols import from_dict
from anystroke.anatomy import registration
from anystroke.anatomy.lesions import LesionSettings
from anystroke.anatomy.registration import Registration, RegistrationError
from anystroke.datasets import DatasetError
from anystroke.rng import stream
from anystroke.simulation import Outcome, Request, SimulationError, random_blob, simulate_files
from anystroke.synthesis import CLASSES, SynthesisSettings
from anystroke.volume import Volume
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), cut=0.0, lesions=LesionSettings(absent=0.0))
REQUEST = Request(synthesis=SETTINGS, count=2)


@pytest.fixture(autouse=True)
def _small_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "mni_anatomy", lambda: ellipsoid_anatomy(head=False))


def _run(request: Request, folder: Path, *, overwrite: bool = False) -> list[Outcome]:
    return list(simulate_files(request, folder, overwrite=overwrite))


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


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
    assert [(o.name, o.status) for o in outcomes] == [("sim-0001", "written"), ("sim-0002", "written")]
    rows = _table(tmp_path)
    assert rows == [dict(o.row) for o in outcomes]
    for row in rows:
        image = Volume.load(tmp_path / row["image"])
        mask = Volume.load(tmp_path / row["mask"], dtype=torch.uint8)
        classes = Volume.load(tmp_path / row["segmentation"], dtype=torch.uint8)
        assert image.shape == mask.shape == classes.shape == (40, 48, 40)
        assert torch.equal(mask.data == 1, classes.data == CLASSES.index("lesion"))
        assert float(row["lesion_ml"]) == pytest.approx(float(mask.data.sum()) * 0.064, abs=1e-3)
        assert float(row["lesion_ml"]) > 0
        sidecar = json.loads((tmp_path / row["image"].replace(".nii.gz", ".json")).read_text())
        protocol = from_dict(sidecar["Record"]["protocol"])
        assert protocol.weighting == row["weighting"]
        assert sidecar["RepetitionTime"] == sidecar["Record"]["protocol"]["repetition_time"]
        assert sidecar["LesionVolume"] == pytest.approx(float(row["lesion_ml"]), abs=1e-3)
        assert row["anatomy"] == "ellipsoids"
        assert row["stage"] in ("chronic", "acute", "subacute")
    text = (tmp_path / "sim-0001_dseg.tsv").read_text().splitlines()
    assert text[0] == "index\tname\tabbreviation"
    assert [line.split("\t")[1] for line in text[1:]] == list(CLASSES)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_run_that_was_cut_short_is_completed_to_the_bit(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _run(REQUEST, whole)
    assert [o.status for o in _run(replace(REQUEST, count=1), cut)] == ["written"]
    before = (cut / _table(cut)[0]["image"]).stat().st_mtime_ns
    assert [o.status for o in _run(REQUEST, cut)] == ["kept", "written"]
    assert (cut / _table(cut)[0]["image"]).stat().st_mtime_ns == before
    assert _table(cut) == _table(whole)
    for row in _table(whole):
        first, second = (Volume.load(folder / row["image"]) for folder in (whole, cut))
        assert torch.equal(first.data, second.data)
    (cut / _table(cut)[0]["mask"]).unlink()
    assert {o.name: o.status for o in _run(REQUEST, cut)} == {"sim-0001": "written", "sim-0002": "kept"}
    assert (cut / _table(cut)[0]["mask"]).exists()


def test_another_run_is_refused_unless_it_may_overwrite(tmp_path: Path) -> None:
    flair, dwi = (
        replace(REQUEST, count=1, synthesis=SETTINGS.model_copy(update={"weighting": weighting}))
        for weighting in ("FLAIR", "DWI")
    )
    _run(flair, tmp_path)
    with pytest.raises(SimulationError, match=r"another run \(Settings differ\).*--overwrite"):
        _run(dwi, tmp_path)
    with pytest.raises(SimulationError, match="Seed differ"):
        _run(replace(flair, seed=2), tmp_path)
    assert (tmp_path / "sim-0001_FLAIR.nii.gz").exists()
    _run(dwi, tmp_path, overwrite=True)
    assert (tmp_path / "sim-0001_dwi.nii.gz").exists()
    assert not list(tmp_path.glob("*FLAIR*"))
    assert len(_table(tmp_path)) == 1


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    foreign = tmp_path / "sim-0001_T2w.nii.gz"
    foreign.write_text("mine")
    with pytest.raises(SimulationError, match="sim-0001_T2w"):
        _run(REQUEST, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [foreign.name]
    foreign.unlink()
    (tmp_path / "samples.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(SimulationError, match="not a table of simulated scans"):
        _run(REQUEST, tmp_path)


def test_a_sample_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "_class_table", fail)
    with pytest.raises(KeyboardInterrupt):
        _run(REQUEST, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["simulation.json"]


def test_maps_are_written_with_their_units(tmp_path: Path) -> None:
    _run(replace(REQUEST, count=1, maps=True), tmp_path)
    units = {"PDmap": "%", "R1map": "1/s", "R2map": "1/s", "R2starmap": "1/s", "MTsat": "%"}
    for suffix, unit in units.items():
        assert json.loads((tmp_path / f"sim-0001_{suffix}.json").read_text())["Units"] == unit
    r2, r2star = (Volume.load(tmp_path / f"sim-0001_{s}.nii.gz").data for s in ("R2map", "R2starmap"))
    assert bool((r2star >= r2).all())
    assert float(r2.max()) > 5


def test_label_maps_take_turns_and_a_bad_one_stops_nothing(
    tmp_path: Path, registered: Callable[[float], None]
) -> None:
    registered(0.93)
    good, odd = _label_map(tmp_path / "good.nii.gz"), _label_map(tmp_path / "odd.nii.gz", label=1234)
    request = replace(REQUEST, label_maps=(odd, tmp_path / "none.nii.gz", good))
    outcomes = _run(request, tmp_path / "out")
    assert [(o.status, o.samples) for o in outcomes] == [
        ("failed", 2),
        ("failed", 2),
        ("written", 1),
        ("written", 1),
    ]
    assert "odd.nii.gz" in outcomes[0].message
    assert "1234" in outcomes[0].message
    assert "none.nii.gz does not exist" in outcomes[1].message
    assert [o.name for o in outcomes[2:]] == ["sim-0003", "sim-0006"]
    assert {o.row["anatomy"] for o in outcomes[2:]} == {"good"}
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
    assert set(outcome.row["lesions"].split(",")) == {"sphere"}
    assert float(outcome.row["lesion_ml"]) > 1


def test_an_unknown_weighting_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    request = replace(REQUEST, synthesis=SETTINGS.model_copy(update={"weighting": "T3w"}))
    with pytest.raises(ValueError, match=r"'T3w'.*FLAIR"):
        _run(request, tmp_path / "out")
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
    row = outcome.row
    assert (row["lesions"], row["stage"], row["lesion_ml"]) == ("n/a", "n/a", "0.000")
    assert int(Volume.load(tmp_path / row["mask"]).data.sum()) == 0
