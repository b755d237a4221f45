"""Whole runs in seconds: by the clock, out of a buffer, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anystroke.anatomy.anatomies import save_anatomies
from anystroke.anatomy.lesions import save_bank
from anystroke.learning import loop
from anystroke.learning.checkpoints import load_model, read_tensors
from anystroke.learning.recipes import TrainingSettings
from anystroke.learning.run_log import read_log
from anystroke.learning.supply import Supply
from anystroke.learning.trainer import Trainer, TrainingError, make_fabric, recipe_digest
from anystroke.learning.training import train
from phantoms import ellipsoid_anatomy, sphere_lesion

BUFFER = {"reuse": 4, "cases": 20, "first": 3}
RECIPE = """
name = "test"
architecture = "tiny_unet"
[grid]
spacing = 12.0
shapes = [[16, 16, 16]]
[[sources]]
kind = "simulated"
[optimiser]
steps = 400
batch = 2
workers = 1
checkpoint_every = 10
precision = "float32"
[buffer]
reuse = 4
cases = 20
first = 3
"""


def _settings(buffer: dict[str, Any] | None = None, **optimiser: object) -> TrainingSettings:
    options = {"steps": 6, "batch": 2, "workers": 0, "precision": "float32", "checkpoint_every": 2}
    return TrainingSettings.model_validate(
        {
            "name": "test",
            "architecture": "tiny_unet",
            "grid": {"spacing": 12.0, "shapes": [(16, 16, 16)]},
            "sources": [{"kind": "simulated"}],
            "optimiser": options | optimiser,
            "buffer": buffer,
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    bare = replace(ellipsoid_anatomy(head=False), name="bare")
    save_anatomies([ellipsoid_anatomy(), bare], tmp_path / "data" / "anatomies.safetensors")
    save_anatomies([ellipsoid_anatomy()], tmp_path / "data" / "held_out_anatomies.safetensors")
    save_bank([sphere_lesion()], tmp_path / "data" / "lesions.safetensors")
    save_bank([sphere_lesion(radius=18)], tmp_path / "data" / "held_out_lesions.safetensors")
    return tmp_path


def _beside(run: Path, name: str) -> Path:
    (run / name).mkdir()
    (run / name / "data").symlink_to(run / "data")
    return run / name


def _losses(folder: Path) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row["loss"])) for row in read_log(folder)]


def _calls(folder: Path) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = json.loads(read_tensors(folder / "state.safetensors")[1]["calls"])
    return calls


def test_everything_is_written_in_time_and_a_second_call_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_FEWEST_FOR_RANGE", 1)
    settings = _settings(minutes=0.1, learning_rate=1e-3)
    for call in (1, 2):
        began = time.monotonic()
        train(settings, run, resume=call == 2)
        assert 1 < time.monotonic() - began < 6
    first, second = _calls(run)
    assert (first["from_step"], first["minutes"]) == (0, pytest.approx(0.1))
    assert 0 < first["to_step"] == second["from_step"] < second["to_step"]
    config = load_model(run / "model")[1]
    assert config.training["steps"] == second["to_step"] == len(_losses(run))
    assert config.training["calls"] == [first, second]
    assert config.training["planned_steps"] is None
    assert config.image_range
    assert "steps in" in (run / "report.html").read_text()
    rates = [float(row["learning_rate"]) for row in read_log(run)]
    for part in (rates[: first["to_step"]], rates[first["to_step"] :]):
        assert part[0] < 0.1 * max(part)
        assert part[-1] < 0.3 * max(part)
        assert max(part) > 9e-4


def test_too_little_time_is_said(run: Path) -> None:
    with pytest.raises(TrainingError, match=r"no step was done in 0\.01 minutes.*buffer\.first"):
        train(_settings(BUFFER, minutes=0.01), run)
    assert not (run / "state.safetensors").exists()


def test_with_a_buffer_a_run_depends_on_its_seed_and_not_on_the_workers(run: Path) -> None:
    one, two = _beside(run, "one"), _beside(run, "two")
    train(_settings(BUFFER), one)
    train(_settings(BUFFER, workers=1), two)
    assert _losses(one) == _losses(two)
    assert _calls(one) == [{"minutes": None, "from_step": 0, "to_step": 6, "cases": 3 + 5 * 2 // 4}]
    plain = _beside(run, "plain")
    train(_settings(), plain)
    assert _losses(plain) != _losses(one)


def test_a_buffer_goes_on_at_the_first_case_that_was_not_made(run: Path) -> None:
    train(_settings(BUFFER), run)
    train(_settings(BUFFER, steps=8), run, resume=True)
    first, second = _calls(run)
    assert (second["from_step"], second["to_step"]) == (6, 8)
    assert int(read_tensors(run / "state.safetensors")[1]["made"]) == first["cases"] + second["cases"]
    trainer = Trainer(_settings(BUFFER), run)
    trainer.resume()
    assert trainer.made == first["cases"] + second["cases"]
    supply = Supply(
        trainer.settings, run / "data", make_fabric("float32"), step=8, made=trainer.made, clock=None
    )
    assert supply.take(8, lambda: False)
    assert set(supply._numbers) <= set(range(trainer.made, trainer.made + 3))
    assert len(supply.records()) == 2


def test_a_run_that_is_killed_goes_on(run: Path) -> None:
    """Twice from the same checkpoint gives the same, and until then nothing differs from a run without break."""
    recipe = run / "recipe.toml"
    recipe.write_text(RECIPE)
    broken = _beside(run, "broken")
    command = [sys.executable, "-m", "anystroke", "train", str(recipe), "-o", str(broken)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (broken / "state.safetensors").exists() or len(read_log(broken)) < 13:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = int(read_tensors(broken / "state.safetensors")[1]["step"])
    assert 10 <= done < 400
    again = _beside(run, "again")
    (again / "state.safetensors").write_bytes((broken / "state.safetensors").read_bytes())
    settings = _settings(BUFFER, steps=400, checkpoint_every=10, workers=0)
    settings = settings.model_copy(
        update={"optimiser": settings.optimiser.model_copy(update={"steps": done + 5})}
    )
    train(settings, broken, resume=True)
    train(settings, again, resume=True)
    assert [loss for step, loss in _losses(broken) if step > done] == [loss for _, loss in _losses(again)]
    assert [step for step, _ in _losses(broken)] == list(range(1, done + 6))


def test_sigterm_writes_a_checkpoint_and_stops(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.train_step

    def stopped_at_three(trainer: Trainer, *batches: Any) -> float:
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *batches)

    settings = _settings(checkpoint_every=100)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped_at_three)
        with pytest.raises(TrainingError, match=r"SIGTERM.*after step 3.*--resume"):
            train(settings, run)
    assert load_model(run / "model")[1].training["steps"] == 3
    train(settings, run, resume=True)
    whole = _beside(run, "whole")
    train(settings, whole)
    assert _losses(run) == _losses(whole)


def test_a_buffer_shortens_the_wait(run: Path) -> None:
    """Where cases are slow and steps are quick, one case in so many is what is waited for."""
    waits = {}
    for name, buffer in (("plain", None), ("buffer", {"reuse": 8, "first": 2})):
        train(_settings(buffer, steps=24, checkpoint_every=100), folder := _beside(run, name))
        waits[name] = sum(float(row["seconds_waiting"]) for row in read_log(folder))
    assert waits["buffer"] < 0.5 * waits["plain"]


def test_time_workers_and_an_absent_buffer_do_not_make_another_recipe() -> None:
    digest = recipe_digest(_settings())
    assert digest == recipe_digest(_settings(minutes=3, workers=7, warm_up_share=0.1))
    assert digest != recipe_digest(_settings(BUFFER))
    assert recipe_digest(_settings(BUFFER)) != recipe_digest(_settings(BUFFER | {"reuse": 5}))
