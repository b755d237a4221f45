import gzip
import math
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from anystroke.commands.main import main
from anystroke.tasks.segmentation.predict import Model
from stand_in import axial_affine, phantom, stand_in_model

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "open", lambda _name="default": stand_in_model())


@pytest.fixture
def good(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "good.nii.gz"
    phantom(AFFINE, SHAPE).save(path)
    return path


def _head() -> np.ndarray[Any, Any]:
    return np.asarray(phantom(AFFINE, SHAPE).data[0].numpy())


def _save(
    path: pathlib.Path, array: np.ndarray[Any, Any], *, sform: np.ndarray[Any, Any] | None = None
) -> None:
    image = nib.Nifti1Image(array, AFFINE.numpy())
    if sform is not None:
        image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = sform[:3]
        image._affine = None
    nib.save(image, path)


def _without_affine(path: pathlib.Path) -> None:
    image = nib.Nifti1Image(_head(), AFFINE.numpy())
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, path)


def _truncated(path: pathlib.Path) -> None:
    noisy = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    _save(path, noisy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _truncated_plain(path: pathlib.Path) -> None:
    plain = path.with_name("plain.nii")
    _save(plain, _head())
    path.write_bytes(gzip.compress(plain.read_bytes()[:-1000]))
    plain.unlink()


def _spoiled(value: float) -> Callable[[pathlib.Path], None]:
    def make(path: pathlib.Path) -> None:
        head = _head().copy()
        head[20, 20, 20] = value
        _save(path, head)

    return make


BAD: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "missing": (lambda _: None, "does not exist"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "not an image": (lambda p: p.write_text("hello"), "not a readable image"),
    "empty": (lambda p: p.touch(), "is empty"),
    "truncated": (_truncated, "truncated"),
    "truncated inside": (_truncated_plain, "truncated"),
    "several volumes": (lambda p: _save(p, np.stack([_head()] * 3, axis=-1)), "holds 3 volumes"),
    "colour": (lambda p: _save(p, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "RGB"),
    "complex": (lambda p: _save(p, _head().astype(np.complex64)), "complex"),
    "zeros": (lambda p: _save(p, np.zeros(SHAPE, np.float32)), "all zeros"),
    "constant": (lambda p: _save(p, np.full(SHAPE, 7, np.int16)), "constant"),
    "mask": (lambda p: _save(p, (_head() > 50).astype(np.uint8)), "no scan to segment"),
    "nan": (_spoiled(math.nan), "NaN or infinite"),
    "infinite": (_spoiled(-math.inf), "NaN or infinite"),
    "singular affine": (lambda p: _save(p, _head(), sform=AFFINE.numpy() * [[1], [1], [0], [1]]), "singular"),
    "absent affine": (_without_affine, "says nothing about orientation"),
    "small": (lambda p: _save(p, _head()[:, :, :13]), "too small"),
    "flat": (lambda p: _save(p, _head()[:, :, 20]), "expected a 3-D image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = BAD[kind]
    path = tmp_path / "bad.nii.gz"
    make(path)
    assert main(["segment", str(path), "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("error: ")
    assert "bad.nii.gz" in line
    assert words in line
    assert ";" in line  # the cure
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["logs", "volumes.tsv"]


def test_the_others_are_finished(
    good: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.touch()
    assert main(["segment", str(bad), str(good), "-o", str(tmp_path / "out"), "--threads", "1"]) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "good.nii.gz: " in printed.out
    assert "ml, 1 lesion" in printed.out
    assert (tmp_path / "out" / "good_space-orig_label-L_mask.nii.gz").exists()


def test_success_overwriting_and_debug(
    good: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["segment", str(good), "-o", str(tmp_path / "deep" / "out")]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    capsys.readouterr()
    assert main(arguments) == 0
    assert "was there" in capsys.readouterr().out
    assert main([*arguments, "--min-volume", "2"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--min-volume", "2", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--flip", "--min-volume", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment"], "INPUT"),
        (["segment", "a.nii"], "--output"),
        (["segment", "a.nii", "-o", "OUT", "--treshold", "1"], "--treshold"),
        (["segment", "a.nii", "-o", "OUT", "--threshold", "1.5"], "1.5"),
        (["segment", "a.nii", "-o", "OUT", "--threshold", "nan"], "nan"),
        (["segment", "a.nii", "-o", "OUT", "--min-volume", "-2"], "-2"),
        (["segment", "a.nii", "-o", "OUT", "--threads", "0"], "--threads"),
        (["segment", "a.nii", "-o", "FILE"], "is a file"),
        (["segment", "a.nii", "-o", "OUT", "--preset", "fast"], "'fast'"),
        (["segment", "a.nii", "-o", "OUT", "--together", "--fusion", "max"], "'max'"),
        (["segment", "a.nii", "-o", "FILE/out"], "cannot be written"),
        (["segment", "a.nii", "-o", "OUT", "--atlas", "nowhere.nii"], "the atlas cannot be read"),
        (["segment", "a.nii", "-o", "OUT", "--atlas-names", "names.txt"], "without --atlas"),
        (["segment", "HERE", "-o", "HERE"], "folder of the scans"),
        (["segmnt"], "segmnt"),
    ],
)
def test_wrong_usage(
    arguments: list[str], words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").touch()
    places = {name: str(tmp_path / name) for name in ("FILE", "FILE/out")}
    places |= {"OUT": str(tmp_path / "out"), "HERE": str(tmp_path)}
    assert main([places.get(a, a) for a in arguments]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_without_permission(
    good: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by its mode: root may write everywhere.
    monkeypatch.setattr("anystroke.commands.segment.tempfile.TemporaryFile", denied)
    assert main(["segment", str(good), "-o", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot be written (Permission denied); name another folder" in line


def test_output_inside_the_folder_of_scans(good: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["segment", str(good.parent), "-o", str(good.parent / "out")]
    assert main(arguments) == 0
    before = capsys.readouterr().out.splitlines()
    assert main(arguments) == 0
    again = capsys.readouterr().out.splitlines()
    assert len(before) == len(again) == 1
    assert "was there" in again[0]


def test_unknown_model(
    good: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert main(["segment", str(good), "-o", str(tmp_path / "out"), "--model", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interruption(
    good: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anystroke.tasks.segmentation.files.segment", interrupt)
    assert main(["segment", str(good), "-o", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("anystroke ")
    assert main(["--help"]) == 0
    assert "segment" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["segment", "--help"]) == 0


def test_help_is_quick_because_it_imports_little() -> None:
    code = (
        "import sys; from anystroke.commands.main import main; main(['segment', '--help']);"
        "sys.exit(bool({'torch', 'monai', 'nibabel', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anystroke", "segment"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "INPUT" in done.stderr


def test_bids_app_with_and_without_its_verb(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = tmp_path / "study", tmp_path / "study" / "derivatives" / "anystroke"
    for subject in ("1", "2", "3"):
        folder = study / f"sub-{subject}" / "anat"
        folder.mkdir(parents=True)
        phantom(AFFINE, SHAPE).save(folder / f"sub-{subject}_T2w.nii.gz")
    call = [str(study), str(out), "participant", "--participant-label", "1", "sub-3"]
    assert main(call) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (out / "sub-3" / "anat" / "sub-3_space-orig_label-L_desc-T2w_mask.nii.gz").exists()
    assert main(["bids", str(study), str(out), "participant", "--participant-label", "2"]) == 0
    facts = (out / "sub-2" / "anat" / "sub-2_space-orig_label-L_desc-T2w_mask.json").read_text()
    assert '"bids:raw:sub-2/anat/sub-2_T2w.nii.gz"' in facts
    capsys.readouterr()
    assert main([*call[:3], "--participant-label", "9"]) == 2
    assert "sub-9" in capsys.readouterr().err
    assert main([str(study), str(out), "group"]) == 0
    assert len((out / "group.tsv").read_text().splitlines()) == 4
    assert (out / "group.html").exists()
    people = study / "participants.tsv"
    people.write_text("participant_id\tage\nsub-2\t67\n")
    assert main([str(study), str(out), "group"]) == 0
    assert [line.split("\t")[-1] for line in (out / "group.tsv").read_text().splitlines()] == [
        "age",
        "n/a",
        "67",
        "n/a",
    ]
    people.write_text("participant_id\tage\nsub-2\t67\nsub-2\t68\n")
    capsys.readouterr()
    assert main([str(study), str(out), "group"]) == 0
    assert "two rows of sub-2" in capsys.readouterr().err
    assert "age" not in (out / "group.tsv").read_text()
    assert main(["bids", str(study), str(tmp_path / "none"), "group"]) == 2
    assert main(["bids", str(study), str(out), "session"]) == 2
    assert main(["bids", str(study), str(study), "participant"]) == 2
