"""The commands simulate, demo, train and doctor: arguments, exit codes, one sentence for each error."""

import json
import re
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from anystroke.acquisition.presets.preset import load_preset
from anystroke.commands.main import main
from anystroke.core.errors import AnystrokeError
from anystroke.core.volume import Volume
from anystroke.io.datasets import DatasetError
from anystroke.learning import run as training
from anystroke.learning.run import Devices
from anystroke.learning.trainer import TrainingError
from anystroke.models import checkpoints
from anystroke.qmri.tissue_priors import load_table, save_table
from anystroke.simulation import files as simulation
from anystroke.studies import demo
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.recipe import TrainingSettings
from phantoms import ellipsoid_anatomy
from stand_in import stand_in_model

RECIPE = """
name = "toy"
[[sources]]
kind = "simulated"
[data]
anatomies = ["maps"]
lesions = ["masks"]
[optimiser]
steps = 5
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (demo, simulation):
        monkeypatch.setattr(module, "mni_anatomy", lambda: ellipsoid_anatomy(head=False))
    monkeypatch.setattr("anystroke.core.memory.keep_pages", lambda: True)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    arguments = ["simulate", "-o", str(out), "--shape", "40,48,40", "--weighting", "flair"]
    assert main([*arguments, "--stage", "chronic"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert str(out / "sub-0001" / "anat" / "sub-0001_FLAIR.nii.gz") in printed.out
    assert main([*arguments, "--stage", "chronic"]) == 0
    assert "(was there)" in capsys.readouterr().out
    assert main([*arguments, "--stage", "acute"]) == 2
    assert "--overwrite" in _error(capsys)
    assert main([*arguments, "--stage", "acute", "--overwrite", "--count", "2"]) == 0
    assert len((out / "samples.tsv").read_text().splitlines()) == 3


def test_simulate_takes_folders_of_label_maps_and_names_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps, out = tmp_path / "maps", tmp_path / "out"
    maps.mkdir()
    (maps / "read_me.txt").touch()
    assert main(["simulate", str(maps), "-o", str(out)]) == 2
    assert "expected label maps in" in _error(capsys)
    assert not out.exists()
    (maps / "one.nii.gz").touch()
    with patch("anystroke.simulation.files.simulate_files", return_value=[]) as made:
        assert main(["simulate", str(maps), "-o", str(out)]) == 0
    assert made.call_args.args[0].label_maps == (maps / "one.nii.gz",)
    assert "are no images: read_me.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "weightings", [["--weighting", "t1w, flair"], ["--weighting", "T1w", "--weighting", "FLAIR"]]
)
def test_simulate_several_weightings(
    weightings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "-o", str(tmp_path), "--shape", "32,32,32", *weightings]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert [Path(line.split(":")[0]).name for line in printed.out.splitlines()] == [
        "sub-0001_T1w.nii.gz",
        "sub-0001_FLAIR.nii.gz",
    ]


def test_simulate_with_another_preset_priors_and_spacing(tmp_path: Path) -> None:
    priors = tmp_path / "mine.toml"
    save_table(load_table("paper"), priors)
    out = tmp_path / "out"
    arguments = ["simulate", "-o", str(out), "--shape", "32,40,32", "--spacing", "3", "--preset", "paper"]
    assert main([*arguments, "--priors", str(priors), "--weighting", "FLAIR"]) == 0
    scan = Volume.load(out / "sub-0001" / "anat" / "sub-0001_FLAIR.nii.gz")
    assert scan.affine.diagonal().tolist() == pytest.approx([3.0, 3.0, 3.0, 1.0])
    record = json.loads((out / "sub-0001" / "anat" / "sub-0001_FLAIR.json").read_text())["Record"]
    assert record["protocol"]["sequence"] == "published_flair"
    # A table of the same name that has changed makes another run.
    save_table(load_table(), priors, overwrite=True)
    assert main([*arguments, "--priors", str(priors), "--weighting", "FLAIR"]) == 2


def test_the_help_of_simulate_names_every_weighting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--help"]) == 0
    assert set(load_preset("realistic").weightings) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_simulate_an_nnunet_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Dataset501_Stroke"
    arguments = ["simulate", "-o", str(out), "--shape", "32,32,32", "--format", "nnunet", "--all-classes"]
    assert main([*arguments, "--weighting", "T1w"]) == 0
    assert str(out / "imagesTr" / "sim-0001_0000.nii.gz") in capsys.readouterr().out
    assert "grey_matter" in (out / "dataset.json").read_text()
    assert main([*arguments, "--weighting", "T2w"]) == 2
    assert "--overwrite" in _error(capsys)
    (out / "simulation.json").unlink()
    assert main([*arguments, "--weighting", "T2w", "--overwrite"]) == 2
    assert "name another folder" in _error(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--output"),
        (["-o", "OUT", "--weighting", "T3w"], "'T3w'"),
        (["-o", "OUT", "--weighting", "T1w,"], "--weighting must be one of"),
        (["-o", "OUT", "--weighting", "T1w,FLAIR,t1W"], "T1w, FLAIR, T1w"),
        (["-o", "OUT", "--format", "nifti"], "'bids', 'nnunet'"),
        (["-o", "OUT", "--format", "nnunet"], "Dataset501_Stroke, got 'out'"),
        (["-o", "OUT", "--format", "nnunet", "--maps"], "no place for maps"),
        (["-o", "OUT", "--all-classes"], "always written"),
        (["-o", "OUT", "--preset", "clinic"], "paper, paper_code, qatlas, realistic"),
        (["-o", "OUT", "--preset", "paper", "--weighting", "DWI"], "one of T1w, T2w, FLAIR, T2starw"),
        (["-o", "OUT", "--priors", "NOWHERE"], "literature, paper"),
        (["-o", "OUT", "--spacing", "0.1"], "--spacing"),
        (["-o", "OUT", "--stage", "old"], "chronic, acute, subacute"),
        (["-o", "OUT", "--shape", "96,112"], "96,112"),
        (["-o", "OUT", "--shape", "96,112,4"], "16 to 320"),
        (["-o", "OUT", "--shape", "a,b,c"], "a,b,c"),
        (["-o", "OUT", "--count", "0"], "--count"),
        (["-o", "OUT", "--lesions", "NOWHERE"], "nowhere"),
        (["-o", "OUT", "--lesions", "EMPTY"], "there are none"),
        (["-o", "FILE"], "is a file"),
    ],
)
def test_wrong_usage_of_simulate(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: str(tmp_path / name.lower()) for name in ("OUT", "FILE", "NOWHERE", "EMPTY")}
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert main(["simulate", *(places.get(a, a) for a in arguments)]) == 2
    assert words in _error(capsys)
    assert not (tmp_path / "out").exists()


def test_simulate_names_the_label_map_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_text("no image")
    assert main(["simulate", str(bad), "-o", str(tmp_path / "out")]) == 1
    assert "bad.nii.gz" in _error(capsys)


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "open", lambda _name: stand_in_model())
    arguments = ["demo", "-o", str(tmp_path / "demo"), "--seed", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"report: {tmp_path / 'demo' / 'report.html'}" in printed.out
    assert "Dice" in printed.out
    assert main(arguments) == 2
    assert "--overwrite" in _error(capsys)


def test_demo_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 2
    assert "no model 'default'" in _error(capsys)
    assert main(["demo", "-o", str(tmp_path / "demo"), "--model", "nowhere"]) == 2
    assert "nowhere" in _error(capsys)
    assert not (tmp_path / "demo").exists()


def test_train_hands_the_recipe_over(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[TrainingSettings, Path, bool]] = []

    def remember(
        settings: TrainingSettings, folder: Path, *, resume: bool, devices: Devices, started: float
    ) -> Path:
        assert started <= time.monotonic()
        assert settings.optimiser.minutes == 9
        assert devices == Devices("cpu", 2, None)
        calls.append((settings, folder, resume))
        return folder / "model"

    monkeypatch.setattr(training, "train", remember)
    out = tmp_path / "run"
    changes = ["--override", "optimiser.steps=7", "--override", 'name="other"']
    assert (
        main(
            [
                "train",
                str(recipe),
                "-o",
                str(out),
                "--resume",
                "--minutes",
                "9",
                "--accelerator",
                "cpu",
                "--devices",
                "2",
                *changes,
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == f"model: {out / 'model'}\n"
    [(settings, folder, resume)] = calls
    assert (settings.optimiser.steps, settings.name, folder, resume) == (7, "other", out, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["NOWHERE", "-o", "OUT"], "nowhere.toml"),
        (["RECIPE"], "--output"),
        (["RECIPE", "-o", "OUT", "--override", "optimiser.stps=7"], "did you mean 'optimiser.steps'"),
        (["RECIPE", "-o", "OUT", "--override", "steps"], "'steps'"),
        (["RECIPE", "-o", "OUT", "--override", "optimiser.steps=-1"], "-1"),
        (["RECIPE", "-o", "RECIPE"], "is a file"),
        (["RECIPE", "-o", "OUT", "--devices", "none"], "'none'"),
        (["RECIPE", "-o", "OUT", "--accelerator", "tpu"], "'tpu'"),
    ],
)
def test_wrong_usage_of_train(
    arguments: list[str], words: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RECIPE": str(recipe), "NOWHERE": str(tmp_path / "nowhere.toml"), "OUT": str(tmp_path / "run")}
    assert main(["train", *(places.get(a, a) for a in arguments)]) == 2
    assert words in _error(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [TrainingError, DatasetError, checkpoints.CheckpointError])
def test_a_training_that_fails(
    kind: type[Exception],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("expected this,\nbut that came; do so")

    monkeypatch.setattr(training, "train", fail)
    code = 2 if issubclass(kind, AnystrokeError) else 1
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == code
    assert _error(capsys) == "error: expected this, but that came; do so"


def test_train_on_folders_that_are_missing(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == 2
    assert "maps" in _error(capsys)


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    assert main(["doctor", "-o", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("anystroke ")
    assert [line for line in lines if line.startswith("problem: ")] == [
        "problem: models: none comes with this installation; install the package again"
    ]


def test_calibrate_replaces_the_configuration_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from anystroke.models.architectures.catalogue import build_network
    from anystroke.models.volume_interval import VolumeErrors
    from anystroke.tasks.segmentation.calibrate import Calibration

    folder, data = tmp_path / "model", tmp_path / "data"
    config = SegmentationConfig(
        name="toy", architecture="tiny_unet", classes=("background", "lesion"), spacing=2.0, divisor=8
    )
    checkpoints.save_model(folder, build_network("tiny_unet", 2, seed=1), config)
    weights = (folder / "model.safetensors").read_bytes()
    assert main(["calibrate", str(folder), "--data", str(data)]) == 2
    assert "expected anatomies.safetensors in" in _error(capsys)
    data.mkdir()
    for name in ("anatomies", "lesions"):
        (data / f"{name}.safetensors").touch()
    errors = VolumeErrors(rate=0.9, edges=(), low=(-1.0,), high=(1.0,), patients=60)
    twice = (0.5, 0.6)
    found = Calibration(1.7, 0.4, 0.8, errors, None, (0.02, 0.01), twice, twice, twice, (3.0, 1.0), 60)
    asked: list[dict[str, object]] = []

    def choose(model: Model, pack: Path, **options: object) -> Calibration:
        asked.append({"name": model.config.name, "pack": pack, **options})
        return found

    monkeypatch.setattr("anystroke.tasks.segmentation.calibrate.calibrate", choose)
    assert (
        main(["calibrate", str(folder), "--data", str(data), "--patients", "60", "--risk-patients", "0"]) == 0
    )
    assert (asked[0]["name"], asked[0]["pack"], asked[0]["patients"]) == ("toy", data, 60)
    again = checkpoints.load_config(folder, SegmentationConfig)
    assert (again.temperature, again.threshold, again.certain) == (1.7, 0.4, 0.8)
    assert again.volume_errors == errors
    assert (folder / "model.safetensors").read_bytes() == weights
    assert again.risk is None
    assert "temperature 1.7, threshold 0.4" in capsys.readouterr().out


def test_calibrate_learns_which_masks_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from anystroke.models.architectures.catalogue import build_network
    from anystroke.tasks.segmentation.observations import Observation, PatientSet
    from anystroke.tasks.segmentation.signs import SIGNS

    folder, data, kept = tmp_path / "model", tmp_path / "data", tmp_path / "kept.jsonl"
    config = SegmentationConfig(
        name="toy",
        architecture="tiny_unet",
        classes=("background", "lesion"),
        spacing=2.0,
        divisor=8,
        threshold=0.3,
    )
    checkpoints.save_model(folder, build_network("tiny_unet", 2, seed=1), config)
    data.mkdir()
    for name in ("anatomies", "lesions"):
        (data / f"{name}.safetensors").touch()

    def observed(model: Model, patients: PatientSet, **options: object) -> list[Observation]:
        assert (patients.count, patients.held_out, options["kept"]) == (80, False, kept)
        signs = [dict.fromkeys(SIGNS, 1.0) | {"peak": float(k % 8), "parts": k % 5} for k in range(80)]
        groups = [{"anatomy": f"head {k % 7}"} for k in range(80)]
        return [
            Observation(s, s["peak"] < 3, (), g, None, 0.0, 0.0) for s, g in zip(signs, groups, strict=True)
        ]

    monkeypatch.setattr("anystroke.tasks.segmentation.observations.observe_all", observed)
    arguments = ["calibrate", str(folder), "--data", str(data), "--only-risk"]
    assert main([*arguments, "--risk-patients", "0"]) == 2
    assert "expected at least 60 to learn from, got 0" in _error(capsys)
    assert main([*arguments, "--risk-patients", "59"]) == 2
    assert "expected at least 60 to learn from, got 59" in _error(capsys)
    assert main([*arguments, "--risk-patients", "80", "--observations", str(kept)]) == 0
    again = checkpoints.load_config(folder, SegmentationConfig)
    assert again.threshold == 0.3
    assert again.risk is not None
    assert (again.risk.failed, again.risk.patients_empty, again.risk.auc) == (30, 0, 1.0)
    assert "peak" in again.risk.marked.signs
    assert "30 of 80 masks failed; area under the curve 1.00" in capsys.readouterr().out
