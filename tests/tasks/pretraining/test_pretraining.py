"""Runs of the task: they resume, gather patients over processes, and find patients again."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anystroke.commands.main import main
from anystroke.core.config import ConfigError
from anystroke.core.volume import Volume
from anystroke.learning.run import Devices, SharedPatientError, check_held_out, train
from anystroke.learning.run_log import read_log
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import CaseStream
from anystroke.learning.supply import stream_settings
from anystroke.learning.trainer import Trainer
from anystroke.models.checkpoints import CheckpointError, load_config, task_of_model
from anystroke.models.encoders import EncoderError, load_encoder
from anystroke.tasks.pretraining.config import EncoderConfig
from anystroke.tasks.pretraining.predict import FeatureModel
from anystroke.tasks.pretraining.recipe import PretrainingSettings
from anystroke.tasks.registry import load_any_recipe
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.recipe import TrainingSettings
from processes import run_in_processes
from recipe_files import write_recipe
from resuming import check_resumes_to_the_bit

RECIPE: dict[str, Any] = {
    "task": "pretraining",
    "name": "toy",
    "architecture": "tiny_unet",
    "grid": {"spacing": 8.0, "shapes": [[16, 16, 16]], "normalisation": "whole"},
    "sources": [{"kind": "simulated"}],
    "views": {"hole_side": 2},
    "optimiser": {
        "steps": 4,
        "batch": 3,
        "checkpoint_every": 2,
        "workers": 0,
        "precision": "float32",
        "warm_up": 5,
    },
}


def _settings(**optimiser: object) -> PretrainingSettings:
    changed = RECIPE["optimiser"] | optimiser
    return PretrainingSettings.model_validate(RECIPE | {"optimiser": changed})


def test_a_run_leaves_an_encoder_that_segmentation_starts_from(run: Path) -> None:
    settings = _settings().model_copy(
        update={"validation": _settings().validation.model_copy(update={"every": 4, "patients": 3})}
    )
    model = train(settings, run)
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step_000002.png", "step_000004.png"]
    assert task_of_model(model) == "pretraining"
    encoder, config = load_encoder(model), load_config(model, EncoderConfig)
    assert (config.architecture, config.spacing, config.equalised) == ("tiny_unet", 8.0, True)
    scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([8.0, 8, 8, 1])))
    assert FeatureModel(encoder, config).of_scan(scan).shape == (32,)
    with pytest.raises(CheckpointError, match="is of the task pretraining"):
        load_config(model, SegmentationConfig)
    row = (run / "validation.csv").read_text().splitlines()
    assert "retrieved" in row[0]
    assert len(row) == 2

    def segments(**changes: object) -> Trainer:
        recipe = {
            "name": "after",
            "architecture": "tiny_unet",
            "grid": {"spacing": 8.0, "shapes": [[16, 16, 16]]},
            "sources": [{"kind": "simulated"}],
            "optimiser": {"steps": 3, "batch": 2, "workers": 0, "precision": "float32"},
            "start_from": str(model),
        }
        return Trainer(TrainingSettings.model_validate(recipe | changes), run / "after")

    started = segments()
    own = started.module.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(own[f"network.{key}"], value)
    frozen = segments(freeze_encoder=True)
    cases = CaseStream(sources_of(frozen.settings, run / "data"), stream_settings(frozen.settings))
    before = {key: value.clone() for key, value in frozen.module.state_dict().items()}
    for batch in islice(cases, 3):
        frozen.train_step(batch)
    after, averaged = frozen.module.state_dict(), frozen.averaged().state_dict()
    inside = {f"network.{key}" for key in encoder.state_dict()}
    for key, value in before.items():
        assert torch.equal(after[key], value) == (key in inside), key
        assert key not in inside or torch.equal(averaged[key], value)
    frozen.save()
    again = segments(freeze_encoder=True)
    again.resume()
    assert all(torch.equal(again.module.state_dict()[key], value) for key, value in after.items())
    with pytest.raises(EncoderError, match=r"encoder of 'small_unet'.*one of 'tiny_unet'"):
        segments(architecture="small_unet", grid={"spacing": 8.0, "shapes": [[32, 32, 32]]})
    with pytest.raises(EncoderError, match="freeze_encoder needs start_from"):
        segments(freeze_encoder=True, start_from=None)


def test_resuming_gives_the_losses_of_a_run_without_break(run: Path) -> None:
    settings = _settings(steps=6)
    batches = list(islice(CaseStream(sources_of(settings, run / "data"), stream_settings(settings)), 4))
    assert batches[0].image.shape == batches[0].target.shape == (3, 2, 16, 16, 16)
    check_resumes_to_the_bit(settings, run, batches)


def test_with_a_buffer_a_run_goes_on(run: Path) -> None:
    """With other cases, so that only its form is looked at."""
    settings = PretrainingSettings.model_validate(
        _settings(steps=6).model_dump() | {"buffer": {"reuse": 2, "cases": 8, "first": 3}}
    )
    train(settings.model_copy(update={"optimiser": _settings(steps=2).optimiser}), run)
    train(settings, run, resume=True)
    assert [int(row["step"]) for row in read_log(run)] == [1, 2, 3, 4, 5, 6]


def _gradients(run: Path, ranks: int, batch: int) -> None:
    """Compute the gradients of one step in one of several processes; the first writes them down."""
    settings = _settings(batch=batch, precision="float64")
    fabric = Devices(accelerator="cpu").fabric(settings)
    fabric.launch()
    made = Trainer(settings, run, fabric)
    stream = CaseStream(
        sources_of(settings, run / "data"),
        stream_settings(settings),
        first=3,
        rank=fabric.global_rank,
        ranks=ranks,
    )
    image, target, _ = next(iter(stream))
    loss = made._loss(image.double(), target.double(), number=0)
    made.fabric.backward(loss)
    if fabric.global_rank == 0:
        gradients = {n: p.grad.contiguous() for n, p in made.module.named_parameters() if p.grad is not None}
        save_file(gradients, run / f"gradients_{ranks}.safetensors")


def test_patients_of_all_processes_are_told_from_each_other(run: Path) -> None:
    """Two processes with two patients each have the gradients of one process with four."""
    run_in_processes(_gradients, run, 2, 2, ranks=2)
    _gradients(run, 1, 4)
    two, one = (load_file(run / f"gradients_{k}.safetensors") for k in (2, 1))
    assert one.keys() == two.keys()
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 1e-3
    for name, gradient in one.items():
        assert float((two[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-10, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "plain_unet"}, "architecture with an encoder"),
        ({"optimiser": {"batch": 1}}, "batch of 2 or more"),
        ({"optimiser": {"made_on": "device"}}, "made_on = 'cpu'"),
        ({"loss": {"kind": "none", "reconstruction": 0}}, "something to learn"),
        ({"sources": []}, "at least one source"),
        ({"sources": [{"kind": "simulated", "target": "soft"}]}, "neither 'augmentation' nor 'target'"),
    ],
)
def test_what_a_recipe_cannot_say(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainingSettings.model_validate(RECIPE | change)
    if "sources" in change:
        return
    path = tmp_path / "recipe.toml"
    write_recipe(path, RECIPE | change)
    assert main(["pretrain", str(path), "-o", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_recipes_of_other_tasks_are_not_pretrained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "toy"\n[[sources]]\nkind = "simulated"\n')
    assert main(["pretrain", str(path), "-o", str(tmp_path / "run")]) == 2
    assert 'has no task = "pretraining"' in capsys.readouterr().err
    path.write_text('task = "unknown"\nname = "toy"\n[[sources]]\nkind = "simulated"\n')
    with pytest.raises(ConfigError, match=r"among .*pretraining"):
        load_any_recipe(path)


@pytest.mark.slow
def test_features_of_a_patient_come_nearer(run: Path) -> None:
    """From the first hundred steps on: the margin between own and other patients grows on the same views."""
    settings = _settings(steps=100, batch=6, learning_rate=2e-3, ema=0.9)
    trainer = Trainer(settings, run)
    stream = iter(CaseStream(sources_of(settings, run / "data"), stream_settings(settings)))
    seen, unseen = [next(stream) for _ in range(8)], [next(stream) for _ in range(3)]

    def margin() -> float:
        margins = []
        trainer.module.eval()
        with torch.no_grad():
            for batch in unseen:
                one, two = trainer.module.heads(batch.image)[0].unbind(1)
                one, two = (torch.nn.functional.normalize(each, dim=1) for each in (one, two))
                cosine = (one @ two.T).numpy()
                off = ~np.eye(len(cosine), dtype=bool)
                margins.append(float(cosine.diagonal().mean() - cosine[off].mean()))
        trainer.module.train()
        return float(np.mean(margins))

    before = margin()
    for step in range(100):
        trainer.train_step(seen[step % len(seen)])
    assert margin() > before + 0.05


def test_a_run_is_not_judged_on_what_its_encoder_has_seen(run: Path) -> None:
    model = train(_settings(steps=2), run)
    seen = load_config(model, EncoderConfig).training["anatomies"]
    assert "bare" in seen
    recipe = TrainingSettings.model_validate(
        {"name": "after", "start_from": str(model), "sources": [{"kind": "simulated"}]}
    )
    check_held_out(recipe, {"anatomies": ["other"], "held_out_anatomies": ["unseen"]})
    check_held_out(recipe, {"anatomies": ["bare"], "held_out_anatomies": ["bare"]})
    with pytest.raises(SharedPatientError, match="bare is one of them"):
        check_held_out(recipe, {"anatomies": ["other"], "held_out_anatomies": ["bare"]})
