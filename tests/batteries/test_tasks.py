"""What every task that trains a network must do; a new task is a line in `TASKS`."""

import json
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import anystroke.tasks
from anystroke.anatomy.lesions.bank import save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import CaseStream
from anystroke.learning.supply import stream_settings
from anystroke.learning.trainer import Trainer
from anystroke.models.checkpoints import open_network
from anystroke.tasks.classification.recipe import ClassificationSettings
from anystroke.tasks.denoising.recipe import DenoisingSettings
from anystroke.tasks.pretraining.recipe import PretrainingSettings
from anystroke.tasks.qmri.recipe import EstimatorSettings
from anystroke.tasks.registry import AnyRecipe
from anystroke.tasks.segmentation.recipe import TrainingSettings
from anystroke.tasks.tissues.recipe import TissueSettings
from participants import write_participants
from phantoms import ellipsoid_anatomy, sphere_lesion

SHAPE = [32, 32, 32]
FILES = ("config", "losses", "predict", "recipe", "sources", "task", "validate")
"""Modules that each task has, beside those of its own."""


def _common(batch: int) -> dict[str, Any]:
    options = {"steps": 4, "workers": 0, "precision": "float32", "warm_up": 0, "batch": batch}
    return {"name": "test", "grid": {"spacing": 8.0, "shapes": [SHAPE]}, "optimiser": options}


def _segmentation(batch: int = 1) -> AnyRecipe:
    content = _common(batch) | {"architecture": "tiny_unet", "sources": [{"kind": "simulated"}]}
    return TrainingSettings.model_validate(content)


def _qmri(batch: int = 1) -> AnyRecipe:
    content = _common(batch) | {
        "task": "qmri",
        "architecture": "small_estimator_unet",
        "sources": [{"kind": "simulated", "synthesis": {"preset": "estimator"}}],
        "loss": {"scale": "typical"},
    }
    return EstimatorSettings.model_validate(content)


def _pretraining(batch: int = 1) -> AnyRecipe:
    content = _common(batch) | {
        "task": "pretraining",
        "architecture": "tiny_unet",
        "sources": [{"kind": "simulated"}],
        "loss": {"kind": "none"},
    }
    return PretrainingSettings.model_validate(content)


def _tissues(batch: int = 1) -> AnyRecipe:
    content = _common(batch) | {
        "task": "tissues",
        "architecture": "tiny_unet",
        "sources": [{"kind": "simulated"}],
    }
    return TissueSettings.model_validate(content)


def _denoising(batch: int = 1) -> AnyRecipe:
    content = _common(batch) | {
        "task": "denoising",
        "architecture": "tiny_unet",
        "grid": {"spacing": 8.0, "shapes": [SHAPE], "normalisation": "whole"},
        "sources": [{"kind": "simulated"}],
    }
    return DenoisingSettings.model_validate(content)


def _classification(batch: int = 1) -> AnyRecipe:
    folder = Path(tempfile.gettempdir()) / "anystroke participants"
    write_participants(folder)
    content = _common(batch) | {
        "task": "classification",
        "architecture": "tiny_unet",
        "sources": [
            {
                "kind": "participants",
                "scans": [folder],
                "table": folder / "participants.tsv",
                "column": "sex",
                "test": 0.4,
            }
        ],
    }
    return ClassificationSettings.model_validate(content)


TASKS: dict[str, Callable[..., AnyRecipe]] = {
    "segmentation": _segmentation,
    "qmri": _qmri,
    "pretraining": _pretraining,
    "tissues": _tissues,
    "denoising": _denoising,
    "classification": _classification,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("anatomies", "held_out_anatomies"):
        save_anatomies([ellipsoid_anatomy()], tmp_path / "data" / f"{name}.safetensors")
    for name in ("lesions", "held_out_lesions"):
        save_bank([sphere_lesion()], tmp_path / "data" / f"{name}.safetensors")
    return tmp_path


def _stream(settings: AnyRecipe, run: Path) -> CaseStream:
    return CaseStream(sources_of(settings, run / "data"), stream_settings(settings))


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_holds_the_cases_of_its_numbers(name: str, run: Path) -> None:
    alone = list(islice(_stream(TASKS[name](), run), 4))
    pairs = list(islice(_stream(TASKS[name](batch=2), run), 2))
    for place, pair in enumerate(pairs):
        for inside in range(2):
            one = alone[2 * place + inside]
            assert torch.equal(pair.image[inside], one.image[0])
            assert torch.equal(pair.target[inside], one.target[0])
    assert not torch.equal(alone[0].image, alone[1].image)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_goes_on_to_the_bit(name: str, run: Path) -> None:
    settings = TASKS[name]()
    batches = list(islice(_stream(settings, run), 4))
    whole = Trainer(settings, run)
    for batch in batches[:2]:
        whole.train_step(batch)
    whole.save()
    resumed = Trainer(settings, run)
    resumed.resume()
    assert [resumed.train_step(b) for b in batches[2:]] == [whole.train_step(b) for b in batches[2:]]
    assert all(torch.equal(whole.average[key], resumed.average[key]) for key in whole.average)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_exported_computes_the_same(name: str, run: Path) -> None:
    settings = TASKS[name]()
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
def test_a_configuration_survives_its_file(name: str, run: Path) -> None:
    config = Trainer(TASKS[name](), run).model_config()
    assert config.task == name
    assert type(config).model_validate(json.loads(config.model_dump_json())) == config


def test_a_task_has_the_files_of_every_task() -> None:
    root = Path(anystroke.tasks.__file__).parent
    for name in TASKS:
        files = {path.stem for path in (root / name).glob("*.py")}
        assert set(FILES) <= files, name
