"""What every program that writes a folder of results must do; a new program is a line in `PROGRAMS`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.core.tables import read_rows
from anystroke.io.results import Outcome, ResultError
from anystroke.simulation import files as simulation
from anystroke.simulation.files import Request, simulate_files
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.files import segment_files
from anystroke.tasks.segmentation.options import SegmentOptions, WriteOptions
from anystroke.tasks.segmentation.pseudo_labels import pseudo_label
from phantoms import ellipsoid_anatomy
from stand_in import axial_affine, phantom, stand_in_model

SHAPE = (48, 56, 40)
SETTINGS = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), cut=0.0, lesions=LesionSettings(absent=0.0))

Program = Callable[[Path, Path, bool], list[Outcome]]
"""Takes a scan, the folder of results, and whether to be asked for something else."""


def _segment(scan: Path, folder: Path, other: bool) -> list[Outcome]:
    options = SegmentOptions(device="cpu", threshold=0.4 if other else None)
    write = WriteOptions(report=False)
    return list(segment_files([scan], folder, stand_in_model(), options, write=write))


def _pseudo_label(scan: Path, folder: Path, other: bool) -> list[Outcome]:
    if other:
        phantom(axial_affine(4.0, 4.0, 4.0, shape=SHAPE), SHAPE).save(scan, overwrite=True)
    return list(pseudo_label([scan], folder, model=stand_in_model(), device="cpu"))


def _simulate(_scan: Path, folder: Path, other: bool) -> list[Outcome]:
    return list(simulate_files(Request(synthesis=SETTINGS, seed=2 if other else 1), folder))


PROGRAMS: dict[str, tuple[Program, str]] = {
    "segment": (_segment, "volumes.tsv"),
    "pseudo-label": (_pseudo_label, "pairs.tsv"),
    "simulate": (_simulate, "samples.tsv"),
}
WHOLE_RUNS = ("simulate",)
"""Programs whose folder is of one run, so that another is refused as a whole."""
REPLACES = ("pseudo-label",)
"""Programs that replace results of other inputs, as their tables say which to use."""


@pytest.fixture(autouse=True)
def _small_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "mni_anatomy", lambda: ellipsoid_anatomy(head=False))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "sub-1_T2w.nii.gz"
    path.parent.mkdir()
    phantom(axial_affine(4.0, 4.0, 4.5, shape=SHAPE), SHAPE).save(path)
    return path


def _times(folder: Path) -> dict[str, int]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs")
    return {path.name: path.stat().st_mtime_ns for path in paths if path.suffix in (".gz", ".json")}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_there_is_kept(name: str, scan: Path, tmp_path: Path) -> None:
    program, table = PROGRAMS[name]
    out = tmp_path / "out"
    [first] = program(scan, out, False)
    assert (first.status, first.traceback) == ("done", "")
    assert all((out / file).is_file() for file in first.files)
    assert len(read_rows(out / table)) == 1
    before = _times(out)
    [second] = program(scan, out, False)
    assert (second.status, second.files[0]) == ("kept", first.files[0])
    assert _times(out) == before
    assert len(read_rows(out / table)) == 1
    assert not list(out.rglob(".anystroke-*"))
    for sidecar in out.glob("*.json"):
        assert isinstance(json.loads(sidecar.read_text()), dict)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_asked_for_otherwise_is_not_mixed_up(name: str, scan: Path, tmp_path: Path) -> None:
    program, _ = PROGRAMS[name]
    out = tmp_path / "out"
    program(scan, out, False)
    before = _times(out)
    if name in REPLACES:
        assert [outcome.status for outcome in program(scan, out, True)] == ["done"]
        return
    if name in WHOLE_RUNS:
        with pytest.raises(ResultError, match="--overwrite"):
            program(scan, out, True)
    else:
        [outcome] = program(scan, out, True)
        assert (outcome.status, "--overwrite" in outcome.message) == ("failed", True)
    assert _times(out) == before
