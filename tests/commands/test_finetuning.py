"""Fine-tuning as a command, with a training that takes no time."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.commands.main import main
from anystroke.core.volume import Volume
from anystroke.io.labelled import LabelledScan
from anystroke.learning import run as learning_run
from anystroke.models.checkpoints import find_model, load_config
from anystroke.tasks.segmentation import finetuned, own_scans
from anystroke.tasks.segmentation.calibrate import Calibration
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import JudgedPatient, Score
from stand_in import axial_affine, lesion_truth, phantom

SHAPE = (40, 48, 36)
AFFINE = axial_affine(5.0, 5.0, 5.0, shape=SHAPE)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Five scans, and their masks in a folder of their own."""
    for folder in ("scans", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(5):
        Volume(phantom(AFFINE, SHAPE).data * (1 + 0.1 * number), AFFINE).save(
            tmp_path / "scans" / f"p{number}_T2w.nii.gz"
        )
        Volume(lesion_truth(AFFINE, SHAPE).to(torch.uint8), AFFINE).save(
            tmp_path / "masks" / f"p{number}_lesion.nii.gz"
        )
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let training copy a model, and judging say what is put into ``dice``."""
    recipes: list[Any] = []

    def train(settings: Any, folder: Path, **_: Any) -> Path:
        recipes.append(settings)
        return Path(shutil.copytree(find_model("default"), folder / "model"))

    monkeypatch.setattr(learning_run, "train", train)
    return recipes


def _judged(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    left = list(values)

    def judge(_model: Any, patients: list[JudgedPatient]) -> list[Score]:
        value = left.pop(0)
        return [Score(each.groups, value, value, 1.0, 2.0) for each in patients]

    monkeypatch.setattr(own_scans, "judge", judge)


def _arguments(own: Path, *more: str) -> list[str]:
    return ["finetune", str(own / "scans"), "--masks", str(own / "masks"), "-o", str(own / "out"), *more]


def test_what_helped_is_kept(
    own: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _judged(monkeypatch, 0.4, 0.6)
    assert main(_arguments(own, "--steps", "7", "--simulated", "0")) == 0
    printed = capsys.readouterr().out
    assert "p0_T2w: 40 x 48 x 36 voxels of 5 x 5 x 5 mm, RAS; 1 lesion" in printed
    assert "5 scans of 5 patients, 0 without a lesion" in printed
    assert "Dice 0.40, 1.0 of 2.0 ml -> Dice 0.60" in printed
    [settings] = trained
    assert settings.optimiser.steps == 7
    [held_out] = settings.sources[0].scans.held_out
    assert f"held out, to tell whether it helps: {held_out}" in printed
    assert (own / "out" / "before_after.tsv").is_file()
    assert "fine-tuned weights" in (own / "out" / "model" / "README.md").read_text()
    assert main(_arguments(own, "--check")) == 0


def test_what_did_not_help_is_left_beside(
    own: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _judged(monkeypatch, 0.6, 0.4)
    assert main(_arguments(own)) == 0
    assert "fine-tuning did not help" in capsys.readouterr().err
    assert "weights of before" in (own / "out" / "model" / "README.md").read_text()
    assert (own / "out" / "run" / "model" / "config.json").is_file()


def test_held_out_scans_calibrate_and_others_judge_what_was_calibrated(
    own: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated: list[str] = []
    judged: list[tuple[str, float]] = []

    def calibrate(model: Model, scans: list[LabelledScan], **_: Any) -> Calibration:
        calibrated.extend(scan.name for scan in scans)
        twice = (0.5, 0.6)
        config = model.config
        errors = config.volume_errors
        return Calibration(
            *(
                1.7,
                config.threshold,
                config.certain,
                errors,
                config.lesion_errors,
                twice,
                twice,
                twice,
                twice,
            ),
            *(None, len(scans), ("temperature",)),
        )

    def judge_scans(model: Model, scans: list[LabelledScan], _: Any) -> list[Score]:
        judged.extend((scan.name, model.config.temperature) for scan in scans)
        value = 0.6 if model.config.temperature == 1.7 else 0.5
        return [Score({"set": "real"}, value, value, 1.0, 2.0) for _ in scans]

    monkeypatch.setattr(own_scans, "FEWEST_SCANS", 1)
    monkeypatch.setattr(own_scans, "judge_scans", judge_scans)
    monkeypatch.setattr(finetuned, "calibrate_on_scans", calibrate)
    assert main(_arguments(own, "--held-out", "0.6")) == 0
    [settings] = trained
    names = set(settings.sources[0].scans.held_out)
    assert len(names) == 3
    assert len(calibrated) == 1
    assert {name for name, _ in judged} == names - set(calibrated)
    assert [temperature == 1.7 for _, temperature in judged] == [False, False, True, True]
    printed = capsys.readouterr().out
    assert f"held out, to calibrate on: {calibrated[0]}" in printed
    assert "Temperature chosen on 1 held-out scans that neither were learnt from nor judge" in printed
    model = own / "out" / "model"
    assert load_config(model, SegmentationConfig).temperature == 1.7
    card = " ".join((model / "README.md").read_text().split())
    assert "Temperature chosen on 1 held-out scans" in card
    assert "thresholds and intervals are those of the model of before" in card


def test_too_few_scans_leave_the_calibration(
    own: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _judged(monkeypatch, 0.4, 0.6)
    assert main(_arguments(own)) == 0
    assert "at least 10 held-out scans with a lesion are needed" in capsys.readouterr().err
    model = own / "out" / "model"
    kept = load_config(model, SegmentationConfig)
    assert kept.temperature == load_config("default", SegmentationConfig).temperature
    assert "intervals are those of the model of before" in (model / "README.md").read_text()
    assert trained


@pytest.mark.filterwarnings("always")
def test_mistakes_are_told_before_anything_is_trained(
    own: Path, trained: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    mask = own / "masks" / "p1_lesion.nii.gz"
    Volume(torch.zeros(1, 10, 10, 10), AFFINE).save(mask, overwrite=True)
    assert main(_arguments(own)) == 2
    assert "different grids" in capsys.readouterr().err
    mask.unlink()
    shutil.copy(own / "masks" / "p2_lesion.nii.gz", own / "masks" / "other.nii.gz")
    assert main(_arguments(own, "--check")) == 0
    printed = capsys.readouterr()
    assert "other.nii.gz is left out: no scan is named like it" in printed.err
    assert "p1_T2w (no mask in the table)" in printed.err
    assert (
        main(["finetune", str(own / "scans"), str(own / "masks"), "--masks", "x", "-o", str(own / "o")]) == 2
    )
    assert "name one folder" in capsys.readouterr().err
    assert not trained


def test_calibrate_says_what_it_wants(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(shutil.copytree(find_model("small"), own / "model"))
    assert main(["calibrate", str(model)]) == 2
    assert "either --data" in capsys.readouterr().err
    assert main(["calibrate", "default", "--scans", str(own / "scans")]) == 2
    assert "comes with the package and is not changed" in capsys.readouterr().err
    arguments = ["calibrate", str(model), "--scans", str(own / "scans"), "--masks", str(own / "masks")]
    for given in (["--threshold", "0.3"], ["--certain", "0.5"], ["--temperature", "2"]):
        assert main([*arguments, *given]) == 2
        assert "give --data, without --only-risk" in capsys.readouterr().err
    before = (model / "config.json").read_text()
    (own / "masks" / "p4_lesion.nii.gz").unlink()
    (own / "scans" / "p4_T2w.nii.gz").unlink()
    assert main(arguments) == 2
    assert "expected at least 5 scans with a lesion to calibrate with, got 4" in capsys.readouterr().err
    assert (model / "config.json").read_text() == before
