"""Whole runs in seconds: by the clock, out of a buffer, killed and gone on with."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.anatomy.lesions.bank import save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.core.fields import GridShape
from anystroke.learning import clock, loop, run_log, supply
from anystroke.learning.cases import Case
from anystroke.learning.interruption import Interruption
from anystroke.learning.run import train
from anystroke.learning.run_log import read_log
from anystroke.learning.supply import Supply
from anystroke.learning.trainer import Trainer, TrainingError, make_fabric, recipe_digest
from anystroke.models.checkpoints import open_network, read_tensors
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.recipe import TrainingSettings
from anystroke.tasks.segmentation.task import SegmentationTask
from phantoms import ellipsoid_anatomy, sphere_lesion

BUFFER = {"reuse": 4, "cases": 20, "first": 3}


class Sprinkled:
    """Noise whose bright voxels are the lesion, quickly made or slowly."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        time.sleep(self.seconds)
        image = torch.rand(shape, generator=rng)
        return Case(image, torch.where(image > 0.9, 4, 1).to(torch.uint8), {"sum": float(image.sum())})


def _sources(*_: object) -> Callable[[], list[Sprinkled]]:
    return lambda: [Sprinkled()]


def _slow_sources(*_: object) -> Callable[[], list[Sprinkled]]:
    return lambda: [Sprinkled(0.02)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "sources_of", _sources)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out pictures and reports, which take longer than these runs."""
    monkeypatch.setattr(SegmentationTask, "sheet", lambda *_: None)
    monkeypatch.setattr(loop, "write_report", lambda *_, **__: None)
    monkeypatch.setattr(run_log.RunLog, "sheet", lambda *_: None)


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
    save_anatomies([ellipsoid_anatomy()], tmp_path / "data" / "anatomies.safetensors")
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


def _already_came(one: Interruption) -> Interruption:
    one.came = True
    return one


@pytest.mark.slow
def test_everything_is_written_in_time(run: Path) -> None:
    began = time.monotonic()
    train(_settings(minutes=0.4, learning_rate=1e-3, checkpoint_every=1000), run)
    assert 10 < time.monotonic() - began < 60 * 0.4


def test_a_second_call_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_FEWEST_FOR_RANGE", 1)
    monkeypatch.setattr(clock, "LEAVING", 0.5)
    settings = _settings(minutes=0.11, learning_rate=1e-3, checkpoint_every=1000)
    for call in (1, 2):
        train(settings, run, resume=call == 2)
    first, second = _calls(run)
    assert (first["from_step"], first["minutes"]) == (0, pytest.approx(0.11))
    assert 0 < first["to_step"] == second["from_step"] < second["to_step"]
    config = open_network(run / "model", SegmentationConfig).config
    assert config.training["steps"] == second["to_step"] == len(_losses(run))
    assert config.training["calls"] == [first, second]
    assert config.training["planned_steps"] is None
    assert config.image_range
    assert "steps in" in (run / "report.html").read_text()
    rates = [float(row["learning_rate"]) for row in read_log(run)]
    again = rates[first["to_step"] :]
    assert again[0] < 0.1 * max(again)
    assert again[-1] < max(again)


def test_too_little_time_is_said(run: Path) -> None:
    with pytest.raises(TrainingError, match=r"no step was done in 0\.01 minutes.*buffer\.first"):
        train(_settings(BUFFER, minutes=0.01), run)
    assert not (run / "state.safetensors").exists()


@pytest.mark.usefixtures("bare")
def test_with_a_buffer_a_run_depends_on_its_seed_and_not_on_the_workers(run: Path) -> None:
    one, two = _beside(run, "one"), _beside(run, "two")
    train(_settings(BUFFER), one)
    train(_settings(BUFFER, workers=1), two)
    assert _losses(one) == _losses(two)
    assert _calls(one) == [{"minutes": None, "from_step": 0, "to_step": 6, "cases": 3 + 5 * 2 // 4}]
    plain = _beside(run, "plain")
    train(_settings(), plain)
    assert _losses(plain) != _losses(one)


@pytest.mark.usefixtures("bare")
def test_a_buffer_of_several_scans_of_a_patient_depends_on_the_seed_too(run: Path) -> None:
    settings = [_settings(BUFFER, workers=workers) for workers in (0, 2)]
    folders = [_beside(run, name) for name in ("one", "two")]
    for each, folder in zip(settings, folders, strict=True):
        train(each.model_copy(update={"contrasts": 3}), folder)
    assert _losses(folders[0]) == _losses(folders[1])
    plain = _beside(run, "plain")
    train(settings[0], plain)
    assert _losses(plain) != _losses(folders[0])


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("contrasts", [1, 4])
def test_a_buffer_goes_on_at_the_first_case_that_was_not_made(run: Path, contrasts: int) -> None:
    def settings(steps: int = 6) -> TrainingSettings:
        return _settings(BUFFER, steps=steps).model_copy(update={"contrasts": contrasts})

    train(settings(), run)
    train(settings(8), run, resume=True)
    first, second = _calls(run)
    assert (second["from_step"], second["to_step"]) == (6, 8)
    assert int(read_tensors(run / "state.safetensors")[1]["made"]) == first["cases"] + second["cases"]
    trainer = Trainer(settings(), run)
    trainer.resume()
    assert trainer.made == first["cases"] + second["cases"]
    source = Supply(
        trainer.settings, run / "data", make_fabric("float32"), step=8, made=trainer.made, clock=None
    )
    assert source.take(8, lambda: False)
    assert set(source._numbers) <= set(range(trainer.made, trainer.made + 3))
    assert len(source.records()) == 2


@pytest.mark.usefixtures("bare")
def test_a_run_that_is_killed_goes_on(run: Path) -> None:
    """Twice from the same checkpoint gives the same."""
    broken = _beside(run, "broken")
    settings = _settings(BUFFER, steps=4000, workers=1, checkpoint_every=10)
    process = multiprocessing.get_context("fork").Process(target=train, args=(settings, broken))
    process.start()
    while len(read_log(broken)) < 13:
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    done = int(read_tensors(broken / "state.safetensors")[1]["step"])
    assert 10 <= done < 4000
    again = _beside(run, "again")
    (again / "state.safetensors").write_bytes((broken / "state.safetensors").read_bytes())
    settings = _settings(BUFFER, steps=done + 5, checkpoint_every=10)
    train(settings, broken, resume=True)
    train(settings, again, resume=True)
    assert [loss for step, loss in _losses(broken) if step > done] == [loss for _, loss in _losses(again)]
    assert [step for step, _ in _losses(broken)] == list(range(1, done + 6))


@pytest.mark.usefixtures("bare")
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
    assert open_network(run / "model", SegmentationConfig).config.training["steps"] == 3
    train(settings, run, resume=True)
    whole = _beside(run, "whole")
    train(settings, whole)
    assert _losses(run) == _losses(whole)


def _train_in_own_group(settings: TrainingSettings, run: Path) -> None:
    os.setpgrp()
    train(settings, run)


@pytest.mark.usefixtures("bare")
def test_sigterm_to_all_processes_writes_a_checkpoint_too(run: Path) -> None:
    settings = _settings(steps=4000, workers=2, checkpoint_every=4000)
    process = multiprocessing.get_context("fork").Process(target=_train_in_own_group, args=(settings, run))
    process.start()
    while len(read_log(run)) < 5:
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 1
    done = int(read_tensors(run / "state.safetensors")[1]["step"])
    assert 5 <= done == _losses(run)[-1][0]


@pytest.mark.usefixtures("bare")
def test_sigterm_before_the_first_step_promises_no_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(loop.Loop, "_step", lambda *_: taken.append(1))
    monkeypatch.setattr(Interruption, "__enter__", _already_came)
    with pytest.raises(TrainingError, match=r"^SIGTERM came before the first step"):
        train(_settings(), run)
    assert not taken
    assert not (run / "state.safetensors").exists()


@pytest.mark.usefixtures("bare")
def test_a_signal_is_heard_before_another_batch_is_waited_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, step, asked = Supply.take, Trainer.train_step, []

    def noted(supply: Supply, number: int, over: Callable[[], bool]) -> Any:
        asked.append(number)
        return take(supply, number, over)

    monkeypatch.setattr(Supply, "take", noted)

    def stopped(trainer: Trainer, *batches: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *batches)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    with pytest.raises(TrainingError, match=r"after step 1 with a checkpoint"):
        train(_settings(checkpoint_every=100), run)
    assert asked == [0]


@pytest.mark.usefixtures("bare")
def test_a_buffer_shortens_the_wait(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cases are slow and steps are quick, one case in so many is what is waited for."""
    monkeypatch.setattr(supply, "sources_of", _slow_sources)
    waits = {}
    for name, buffer in (("plain", None), ("buffer", {"reuse": 8, "first": 2})):
        train(_settings(buffer, steps=16, checkpoint_every=100), folder := _beside(run, name))
        waits[name] = sum(float(row["seconds_waiting"]) for row in read_log(folder))
    assert waits["buffer"] < 0.5 * waits["plain"]


def test_time_workers_and_an_absent_buffer_do_not_make_another_recipe() -> None:
    digest = recipe_digest(_settings())
    assert digest == recipe_digest(_settings(minutes=3, workers=7, warm_up_share=0.1))
    assert digest != recipe_digest(_settings(BUFFER))
    assert recipe_digest(_settings(BUFFER)) != recipe_digest(_settings(BUFFER | {"reuse": 5}))
