"""What every task that trains a network must do; a new task is a line in `TASKS`."""

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import anystroke.tasks
from anystroke.commands.main import main
from anystroke.core.rng import stream
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume
from anystroke.learning.run_log import read_log
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import CaseStream
from anystroke.learning.supply import stream_settings
from anystroke.learning.trainer import Trainer
from anystroke.models.checkpoints import open_network, read_tensors
from anystroke.tasks.registry import AnyRecipe, load_any_recipe
from anystroke.tasks.use import USES
from participants import write_participants
from recipe_files import write_recipe
from resuming import check_resumes_to_the_bit

SHAPE = [32, 32, 32]
FILES = ("config", "files", "losses", "predict", "recipe", "sources", "task", "validate")
"""Modules that each task has, beside those of its own."""


SIMULATED: dict[str, Any] = {"architecture": "tiny_unet", "sources": [{"kind": "simulated"}]}
TASKS: dict[str, dict[str, Any]] = {
    "segmentation": SIMULATED,
    "qmri": {
        "architecture": "small_estimator_unet",
        "sources": [{"kind": "simulated", "synthesis": {"preset": "estimator"}}],
        "loss": {"scale": "typical"},
    },
    "pretraining": SIMULATED | {"loss": {"kind": "none"}},
    "tissues": SIMULATED,
    "denoising": SIMULATED | {"grid": {"normalisation": "whole"}},
    "classification": {
        "architecture": "tiny_unet",
        "sources": [{"kind": "participants", "column": "sex", "test": 0.4}],
    },
}


def _recipe(name: str, run: Path, **options: object) -> Path:
    """Write the recipe of a task; a task with participants gets some."""
    recipe = {"name": "test"} | TASKS[name]
    if name != "segmentation":
        recipe["task"] = name
    if name == "classification":
        table = write_participants(run / "participants")
        files = {"scans": [str(table.parent)], "table": str(table)}
        recipe["sources"] = [part | files for part in recipe["sources"]]
    recipe["grid"] = {"spacing": 8.0, "shapes": [SHAPE]} | recipe.get("grid", {})
    optimiser = {"steps": 4, "workers": 0, "precision": "float32", "warm_up": 0, "batch": 1}
    return write_recipe(run / "recipe.toml", recipe | {"optimiser": optimiser | options})


def _settings(name: str, run: Path, **options: object) -> AnyRecipe:
    return load_any_recipe(_recipe(name, run, **options))


def _stream(settings: AnyRecipe, run: Path) -> CaseStream:
    return CaseStream(sources_of(settings, run / "data"), stream_settings(settings))


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_holds_the_cases_of_its_numbers(name: str, run: Path) -> None:
    alone = list(islice(_stream(_settings(name, run), run), 4))
    pairs = list(islice(_stream(_settings(name, run, batch=2), run), 2))
    for place, pair in enumerate(pairs):
        for inside in range(2):
            one = alone[2 * place + inside]
            assert torch.equal(pair.image[inside], one.image[0])
            assert torch.equal(pair.target[inside], one.target[0])
    assert not torch.equal(alone[0].image, alone[1].image)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_goes_on_to_the_bit(name: str, run: Path) -> None:
    settings = _settings(name, run)
    check_resumes_to_the_bit(settings, run, list(islice(_stream(settings, run), 4)))


def _start(recipe: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "anystroke", "train", str(recipe), "-o", str(folder), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_run_killed_at_any_moment_goes_on_to_the_bit(name: str, run: Path) -> None:
    recipe = _recipe(name, run, steps=40, checkpoint_every=7, workers=1)
    whole, broken = run / "whole", run / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        (folder / "data").symlink_to(run / "data")
    assert _start(recipe, whole).wait() == 0
    process = _start(recipe, broken)
    while len(read_log(broken)) < 12:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 12 <= len(read_log(broken)) < 40
    assert _start(recipe, broken, "--resume").wait() == 0
    assert [row["loss"] for row in read_log(whole)] == [row["loss"] for row in read_log(broken)]
    first, second = (read_tensors(folder / "state.safetensors")[0] for folder in (whole, broken))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_exported_computes_the_same(name: str, run: Path) -> None:
    settings = _settings(name, run)
    trainer = Trainer(settings, run)
    [batch] = islice(_stream(settings, run), 1)
    trainer.train_step(batch)
    trainer.export(run / "model")
    opened = open_network(run / "model", trainer.task.config_kind)
    image = batch.image
    with torch.no_grad():
        expected, found = trainer.averaged()(image), opened.network(image)
    assert found.shape[1] == len(opened.config.output_names) == trainer.task.outputs
    # Weights are stored with 11 bits.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("name", TASKS)
def test_a_model_is_used_by_a_verb(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Trainer(_settings(name, run), run).export(run / "model")
    scan, out = run / "sub-77_T1w.nii.gz", run / "out"
    values = torch.rand(1, 40, 40, 40, generator=stream(1, "scan"))
    Volume(values, torch.diag(torch.tensor([6.0, 6, 6, 1]))).save(scan)
    call = ["apply", str(run / "model"), str(scan), "-o", str(out)]
    if name not in USES:
        assert main(call) == 2
        assert f"is of the task {name}; use the verb" in capsys.readouterr().err
        return
    assert main(call) == 0
    [table] = out.glob("*.tsv")
    assert str(table) in capsys.readouterr().out
    assert [row["scan"] for row in read_rows(table)] == ["sub-77_T1w"]
    assert main(call) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_a_configuration_survives_its_file(name: str, run: Path) -> None:
    config = Trainer(_settings(name, run), run).model_config()
    assert config.task == name
    assert type(config).model_validate(json.loads(config.model_dump_json())) == config


def test_a_task_has_the_files_of_every_task() -> None:
    root = Path(anystroke.tasks.__file__).parent
    for name in TASKS:
        files = {path.stem for path in (root / name).glob("*.py")}
        assert set(FILES) <= files, name
