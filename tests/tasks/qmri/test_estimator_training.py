"""The one training loop with the estimator's task: it learns, resumes to the bit, and leaves a model."""

import csv
import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.learning.recipe import SimulatedPart
from anystroke.learning.run import train
from anystroke.learning.run_log import read_log
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import Batch, CaseStream, StreamSettings
from anystroke.learning.trainer import Trainer
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import (
    CheckpointError,
    load_config,
    open_network,
    save_model,
    shipped_models,
)
from anystroke.qmri.estimated_maps import MAP_OUTPUTS, activate
from anystroke.qmri.map_files import MapDataError
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.qmri.losses import estimation_loss
from anystroke.tasks.qmri.recipe import EstimatorSettings
from anystroke.tasks.qmri.validate import MapErrors
from anystroke.tasks.registry import load_any_recipe
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.recipe import TrainingSettings
from map_phantoms import write_map_subject
from resuming import check_resumes_to_the_bit

RECIPES = Path(__file__).resolve().parents[3] / "src" / "anystroke" / "recipes"


def _settings(**changes: Any) -> EstimatorSettings:
    optimiser = {"steps": 4, "checkpoint_every": 2, "workers": 0, "precision": "float32", "warm_up": 0}
    content: dict[str, Any] = {
        "task": "qmri",
        "name": "test",
        "architecture": "small_estimator_unet",
        "grid": {"spacing": 8.0, "shapes": [[32, 32, 32]], "normalisation": "percentiles"},
        "sources": [{"kind": "simulated", "synthesis": {"preset": "estimator"}}],
        "loss": {"l2_steps": 2, "scale": "typical"},
        "validation": {"every": 2, "patients": 2},
        "optimiser": optimiser | changes.pop("optimiser", {}),
    }
    return EstimatorSettings.model_validate(content | changes)


def test_a_run_leaves_an_estimator_a_log_validations_and_pictures(run: Path) -> None:
    model = train(_settings(), run)
    opened = open_network(model, EstimatorConfig)
    network, config = opened.network, opened.config
    assert config.maps == ("proton_density", "r1", "r2star", "mt_saturation")
    assert config.outputs["r1"] == {
        "unit": "1/s", "activation": "tenth_exp", "clamp": [-10.0, 12.0], "ceiling": 4.0
    }  # fmt: skip
    assert (config.field_strength, config.spacing, config.normalisation) == (3.0, 8.0, "percentiles")
    assert config.perceptual["source"] == "default"
    assert config.training["steps"] == 4
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 4, 16, 16, 16)
    assert [row["step"] for row in read_log(run)] == ["1", "2", "3", "4"]
    assert len(list((run / "samples").glob("*.png"))) == 2
    with (run / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {"all", "grey_matter", "white_matter", "csf", "lesion"}
    assert math.isfinite(float(rows[0]["mean_accuracy"]))
    assert load_config(run / "best", EstimatorConfig).name == "test"
    page = (run / "report.html").read_text()
    assert "1 - relative error" in page
    assert "r1 bias" in page
    before = [row["loss"] for row in read_log(run)]
    train(_settings(optimiser={"steps": 6}), run, resume=True)
    assert [row["loss"] for row in read_log(run)][:4] == before
    assert len(read_log(run)) == 6


def test_a_model_of_one_task_is_refused_by_the_other(run: Path) -> None:
    model = train(_settings(optimiser={"steps": 1}, validation={"patients": 0}), run)
    with pytest.raises(CheckpointError, match="expected a model of the task segmentation"):
        load_config(model, SegmentationConfig)
    with pytest.raises(CheckpointError, match="expected a model of the task qmri"):
        open_network("default", EstimatorConfig)
    assert "default" in shipped_models()
    assert "default" not in shipped_models("qmri")


def test_resuming_gives_the_losses_of_a_run_without_break(run: Path) -> None:
    """Dropout, the schedule of the loss and the perceptual network go on as if nothing had happened."""
    settings = _settings(
        architecture="estimator_unet",
        grid={"spacing": 8.0, "shapes": [[32, 32, 32]], "normalisation": "percentiles"},
        loss={"l2_steps": 1, "perceptual": 0.1},
    )
    drawn = StreamSettings((1,), ((32, 32, 32),), (1.0,), settings.seed, normalisation="percentiles")
    batches = list(islice(CaseStream(sources_of(settings, run / "data"), drawn), 4))
    check_resumes_to_the_bit(settings, run, batches)


def test_a_network_begins_at_typical_values_and_learns_one_head(run: Path) -> None:
    options = {"steps": 40, "learning_rate": 3e-3, "ema": 0.0}
    settings = _settings(optimiser=options, loss={"l2_steps": 20, "perceptual": 0.0, "scale": "typical"})
    drawn = StreamSettings((1,), ((32, 32, 32),), (1.0,), settings.seed, normalisation="percentiles")
    batch = next(iter(CaseStream(sources_of(settings, run / "data"), drawn)))
    trainer = Trainer(settings, run)
    first = activate(trainer.module(batch[0]), settings.maps).detach()
    assert 30 < float(first[0, 0].median()) < 200
    losses = [trainer.train_step(batch) for _ in range(40)]
    assert losses[19] < 0.5 * losses[0]
    assert losses[39] < 0.9 * losses[20]


@pytest.mark.parametrize("architecture", ["small_estimator_unet", "compact_unet", "compact_estimator_unet"])
def test_a_step_has_the_gradients_of_the_plain_network(architecture: str, run: Path) -> None:
    """Where tensors lie in memory changes no gradient."""
    settings = _settings(
        architecture=architecture, loss={"l2_steps": 9, "perceptual": 0.0, "scale": "typical"}
    )
    image = torch.rand((1, 1, 48, 48, 48), generator=stream(1, "image"))
    target = torch.rand((1, 5, 48, 48, 48), generator=stream(1, "target")) + 0.5
    trainer = Trainer(settings, run)
    plain = build_network(architecture, 4, seed=settings.seed)
    trainer.task.prepare(plain)
    trainer.train_step(Batch(image, target))
    output = plain(image)
    loss = estimation_loss(output, target, names=settings.maps, settings=settings.loss, step=0)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(plain.parameters(), settings.optimiser.clip)
    expected = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in trainer.module.named_parameters():
        wanted, found = expected[name], parameter.grad
        assert wanted is not None
        assert found is not None
        assert float((wanted - found).norm()) <= 0.02 * float(wanted.norm()) + 1e-4, name


def test_an_estimator_starts_from_a_network_that_segments(run: Path) -> None:
    """All but the last block of the way up is that of the segmentation network; maps begin as typical."""
    config = load_config("default", SegmentationConfig).model_copy(update={"architecture": "compact_unet"})
    start = build_network("compact_unet", len(config.classes), seed=1)
    save_model(run / "start", start, config, half=False)
    settings = _settings(architecture="compact_estimator_unet", start_from=str(run / "start"))
    trainer = Trainer(settings, run)
    own, model = trainer.module.state_dict(), start.state_dict()
    anew = [name for name, value in own.items() if name not in model or model[name].shape != value.shape]
    assert all(name.startswith(("network.model.2.", "network.detail.")) for name in anew)
    assert len(anew) < len(own) / 4
    assert all(torch.equal(own[name], model[name]) for name in own.keys() - set(anew))
    image = torch.rand((1, 1, 32, 32, 32), generator=stream(1, "image"))
    first = activate(trainer.module(image), settings.maps).detach()
    for values, name in zip(first[0], settings.maps, strict=True):
        assert float(values.median()) == pytest.approx(MAP_OUTPUTS[name].typical, rel=0.01), name


def test_measured_maps_are_a_source(tmp_path: Path) -> None:
    write_map_subject(tmp_path / "maps", "sub-01")
    source = {
        "kind": "maps",
        "maps": {"data": [str(tmp_path / "maps")], "preset": "estimator", "scanner": {}},
    }
    settings = _settings(
        sources=[source], validation={"patients": 0}, optimiser={"steps": 2}, loss={"l2_steps": 9}
    )
    model = train(settings, tmp_path / "run")
    config = load_config(model, EstimatorConfig)
    assert (config.perceptual, config.brain_only) == ({}, False)
    assert json.loads((tmp_path / "run" / "split.json").read_text()) == {"source_0_maps": ["sub-01"]}


def test_measured_maps_of_another_field_are_refused(tmp_path: Path) -> None:
    write_map_subject(tmp_path / "maps", "sub-01")
    (tmp_path / "maps" / "sub-01_R1map.json").write_text('{"MagneticFieldStrength": 7}')
    source = {"kind": "maps", "maps": {"data": [str(tmp_path / "maps")], "preset": "estimator"}}
    settings = _settings(sources=[source], validation={"patients": 0})
    with pytest.raises(MapDataError, match=r"sub-01 were measured at 7 T.*field_strength is 3 T"):
        train(settings, tmp_path / "run")


def test_the_published_recipe_has_the_published_values() -> None:
    settings = load_any_recipe(RECIPES / "estimator.toml")
    assert isinstance(settings, EstimatorSettings)
    assert (settings.architecture, settings.grid.shapes, settings.grid.spacing) == (
        "estimator_unet", ((192, 192, 192),), 1.0
    )  # fmt: skip
    options = settings.optimiser
    assert (options.steps, options.learning_rate, options.clip, options.batch) == (200_000, 1e-4, 12.0, 1)
    assert (settings.loss.l2_steps, settings.loss.perceptual, settings.loss.scale) == (20_000, 0.1, "maximum")
    small = load_any_recipe(RECIPES / "estimator-small.toml")
    assert isinstance(small, EstimatorSettings)
    assert small.grid.spacing == 2.0
    shipped = load_any_recipe(RECIPES / "estimator-default.toml")
    assert isinstance(shipped, EstimatorSettings)
    # Weights that saw one kind of intensities know nothing of another.
    assert shipped.grid.normalisation == load_config("default", SegmentationConfig).normalisation
    maps = load_any_recipe(RECIPES / "estimator-maps.toml", ["optimiser.steps=7"])
    assert isinstance(maps, EstimatorSettings)
    assert [part.kind for part in maps.sources] == ["maps"]
    assert maps.optimiser.steps == 7
    first = small.sources[0]
    assert isinstance(first, SimulatedPart)
    assert first.synthesis.fat_suppression == {}
    assert isinstance(load_any_recipe(RECIPES / "default.toml"), TrainingSettings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('task = "pet"', "task"),
        ('task = "qmri"\nmaps = ["t1"]', "expected different maps"),
        ('task = "qmri"\nmaps = []', "expected different maps"),
        ('task = "qmri"\nmaps = ["r1"]', "expected also proton_density, r2star"),
        ('task = "qmri"\nclasses = "lesion"', "classes"),
        ('task = "qmri"\narchitecture = "unet9"', "expected one of"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n{text}\n[[sources]]\nkind = "simulated"\n')
    with pytest.raises(ConfigError, match=words):
        load_any_recipe(path)


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    head = 'name = "x"\ntask = "qmri"\n[[sources]]\nkind = "simulated"\n'
    for more in ('augmentation = "tail"', 'target = "soft"'):
        path.write_text(head + more + "\n")
        with pytest.raises(ConfigError, match="neither 'augmentation' nor 'target'"):
            load_any_recipe(path)


def test_errors_are_those_computed_by_hand() -> None:
    """Two heads of 20 grey voxels: truths 1 and 3, found 1.5 everywhere, then 3."""
    errors = MapErrors(["r1"])
    classes = torch.ones(1, 4, 5, dtype=torch.uint8)
    for truth, found in ((1.0, 1.5), (3.0, 3.0)):
        errors.add(torch.full((1, 1, 4, 5), found), torch.full((1, 1, 4, 5), truth), classes)
    result = errors.result()
    assert set(result) == {("grey_matter", "r1")}
    error = result["grey_matter", "r1"]
    assert (error.heads, error.truth, error.bias, error.sd) == (2, 2.0, 0.25, 0.25)
    assert (error.spread, error.spread_of_means) == (1.0, 1.0)
    assert error.sd_of_means == pytest.approx(math.sqrt(0.125))
    assert error.relative == pytest.approx(math.hypot(0.25, 0.25) / 2)
