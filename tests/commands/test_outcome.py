"""The command outcome: from a table to a model, predictions, comparisons; a sentence for each bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer

from anystroke.commands.main import main
from anystroke.commands.outcome import outcome
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume

Maker = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = ["participant_id\tage\tsex\tnihss\tgood"]
    for k in range(48):
        lines.append(
            f"sub-{k:02d}\t{'n/a' if k == 5 else 40 + k}\t{'MF'[k % 2]}\t{k // 3 + k % 2}\t{int(k < 20)}"
        )
    path = tmp_path / "t.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    [line] = lines
    assert line.startswith("error: ")
    return line


def test_from_a_table_to_predictions(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    arguments = ["--target", "nihss", "--model", "table:ridge", "-o", str(model)]
    assert main(["outcome", "train", str(table), *arguments]) == 0
    said = capsys.readouterr()
    assert "cross-validated r 0.9" in said.out
    assert "missing values of age (1) become the medians" in said.err
    assert {path.name for path in model.iterdir()} == {
        "README.md", "config.json", "evaluation.json", "model.safetensors", "out_of_fold.tsv", "report.html"
    }  # fmt: skip
    assert json.loads((model / "config.json").read_text())["task"] == "outcome"
    assert "Research use only" in (model / "README.md").read_text()
    predictions = tmp_path / "p.tsv"
    assert main(["outcome", "predict", str(model), str(table), "-o", str(predictions)]) == 0
    rows = read_rows(predictions)
    assert list(rows[0]) == ["participant_id", "prediction", "interval_low", "interval_high"]
    assert all(float(r["interval_low"]) <= float(r["prediction"]) <= float(r["interval_high"]) for r in rows)
    assert len(rows) == 48
    assert main(["outcome", "train", str(table), *arguments]) == 2
    assert "exists already" in _error(capsys)


def test_two_classes_and_a_comparison(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    assert main(["outcome", "train", str(table), "--target", "nihss", "--above", "5", "--model", "ridge",
                 "-o", str(model)]) == 2  # fmt: skip
    assert "needs lesion masks" in _error(capsys)
    arguments = ["--target", "nihss", "--above", "5", "--columns", "age", "--repeats", "1"]
    assert main(["outcome", "train", str(table), *arguments, "-o", str(model)]) == 0
    predictions = tmp_path / "p.tsv"
    assert main(["outcome", "predict", str(model), str(table), "-o", str(predictions)]) == 0
    rows = read_rows(predictions)
    assert {row["prediction"] for row in rows} == {"at most 5", "above 5"}
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    out = tmp_path / "compared"
    named = [
        "--models",
        "table:ridge,table:mean",
        "--lock-box",
        "0.25",
        "--permutations",
        "3",
        "-o",
        str(out),
    ]
    assert main(["outcome", "compare", str(table), *arguments, *named]) == 0
    made = json.loads((out / "comparison.json").read_text())
    assert [row["model"] for row in made["models"]] == ["table:ridge", "table:mean"]
    assert made["models"][0]["auc"] > 0.8
    assert made["lock_box"]["openings"] == 1
    assert main(["outcome", "compare", str(table), *arguments, *named, "--overwrite"]) == 0
    assert "opening number 2" in (out / "report.html").read_text()


def test_pages_of_an_explanation(table: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "explained"
    arguments = ["--target", "nihss", "--model", "table:ridge", "--repeats", "1", "-o", str(model)]
    assert main(["outcome", "train", str(table), *arguments]) == 0
    assert main(["outcome", "explain", str(model), str(table), "-o", str(out), "--patients", "2"]) == 0
    page = (out / "sub-00.html").read_text()
    assert "Research use only" in page
    assert "Patients like this one" in page
    first = read_rows(out / "importance.tsv")[0]
    assert first["name"] == "age"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "height"], "expected the column 'height'"),
        (["--target", "nihss", "--columns", "nihss"], "predict itself"),
        (["--target", "nihss", "--model", "magic"], "no model 'magic'"),
        (["--target", "nihss", "--model", "resnet18"], "needs images or masks"),
        (["--target", "nihss", "--masks", "nowhere"], "nowhere"),
        (["--target", "nihss", "--rate", "2"], "--rate is a share"),
        (["--target", "nihss", "--columns", "none"], "nothing is left to predict from"),
    ],
)
def test_bad_input(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["outcome", "train", str(table), *arguments, "-o", str(tmp_path / "m")]) == 2
    assert words in _error(capsys)
    assert not (tmp_path / "m").exists()


def test_ids_without_a_mask_are_listed(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    Volume(torch.zeros(1, 4, 4, 4), torch.eye(4)).save(masks / "sub-00.nii.gz")
    arguments = [
        "outcome",
        "train",
        str(table),
        "--target",
        "nihss",
        "--masks",
        str(masks),
        "-o",
        str(tmp_path / "m"),
    ]
    assert main(arguments) == 2
    assert "47 of 48 patients have no mask: sub-01, sub-02" in _error(capsys)
    (masks / "sub-07.nii.gz").symlink_to("nowhere.nii.gz")
    assert main(arguments) == 2
    assert "no mask: sub-07 (sub-07.nii.gz is a link whose target is missing" in _error(capsys)
    assert main([*arguments, "--skip-missing"]) == 2
    assert "expected at least 12 patients" in _error(capsys)


def test_a_model_of_something_else(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["outcome", "predict", "small", str(table), "-o", str(tmp_path / "p.tsv")]
    assert main(arguments) == 2
    assert "predicts no outcome" in _error(capsys)


def test_each_example_is_a_call() -> None:
    group = typer.main.get_command(outcome)
    assert sorted(group.commands) == ["compare", "explain", "predict", "train"]  # type: ignore[attr-defined]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        example = next(line for line in command.help.splitlines() if "Example:" in line)
        words = example.split("Example: anystroke outcome ")[1].split()
        assert words[0] == name
        assert command.make_context(name, words[1:]).info_name == name
