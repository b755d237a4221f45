import shutil
from pathlib import Path

import pytest
import torch

from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.learning.recipe import ScansPart, SimulatedPart
from anystroke.learning.trainer import StartError, Trainer
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import CheckpointError, load_config, open_network, save_model
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.finetune import finetuning_recipe


def test_the_recipe_starts_from_the_model_and_has_its_grid(tmp_path: Path) -> None:
    settings = finetuning_recipe([tmp_path], simulated=2, overrides=["optimiser.steps=7"])
    config = load_config("default", SegmentationConfig)
    assert (settings.architecture, settings.grid.spacing) == (config.architecture, config.spacing)
    assert settings.grid.normalisation == config.normalisation
    first, second = settings.sources
    assert isinstance(first, ScansPart)
    assert first.scans.data == (tmp_path,)
    assert isinstance(second, SimulatedPart)
    assert (first.share, second.share, settings.optimiser.steps) == (1, 2, 7)
    assert len(finetuning_recipe([tmp_path], simulated=0).sources) == 1


def test_training_starts_with_the_weights_of_the_model(tmp_path: Path) -> None:
    settings = finetuning_recipe([tmp_path])
    trainer = Trainer(settings, tmp_path)
    network = open_network("default", SegmentationConfig).network
    for key, value in network.state_dict().items():
        assert bool((trainer.module.state_dict()[key] == value).all())


def test_the_calibration_of_the_model_is_kept(tmp_path: Path) -> None:
    config, start = (
        Trainer(finetuning_recipe([tmp_path]), tmp_path).model_config(),
        load_config("default", SegmentationConfig),
    )
    assert isinstance(config, SegmentationConfig)
    assert start.temperature != 1
    assert (config.temperature, config.threshold, config.certain) == (
        start.temperature,
        start.threshold,
        start.certain,
    )
    other = finetuning_recipe([tmp_path], overrides=['classes="lesion"'])
    changed = Trainer(other, tmp_path).model_config()
    assert isinstance(changed, SegmentationConfig)
    assert changed.temperature == 1


def test_a_head_for_other_classes_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = finetuning_recipe([tmp_path], overrides=['classes="lesion"'])
    with caplog.at_level("INFO", logger="anystroke"):
        Trainer(settings, tmp_path)
    assert "tensors start anew" in caplog.text
    other = finetuning_recipe([tmp_path], overrides=['architecture="mde"', "grid.shapes=[[64, 64, 64]]"])
    with pytest.raises(StartError, match="fits the architecture 'mde'"):
        Trainer(other, tmp_path)
    narrower = finetuning_recipe([tmp_path], overrides=['architecture="compact_unet"'])
    with pytest.raises(StartError, match=r"fits the architecture 'compact_unet' .*'wide_unet'"):
        Trainer(narrower, tmp_path)


def test_a_run_goes_on_when_the_model_that_it_started_from_has_gone(tmp_path: Path) -> None:
    start = _model_with("tiny_unet", tmp_path / "start")
    settings = finetuning_recipe([tmp_path], overrides=['architecture="tiny_unet"', f'start_from="{start}"'])
    run = Trainer(settings, tmp_path)
    before = run.model_config()
    shutil.rmtree(start)
    assert run.model_config() == before


def test_a_network_of_fewer_channels_takes_evenly_spaced_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = finetuning_recipe([tmp_path], overrides=['architecture="small_unet"', "start_from_wider=true"])
    with caplog.at_level("INFO", logger="anystroke"):
        own = Trainer(settings, tmp_path).module.state_dict()
    assert "start anew" not in caplog.text
    wide = open_network("default", SegmentationConfig).network.state_dict()
    taken = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]
    first = next(key for key, value in wide.items() if value.shape[:2] == (40, 1))
    assert torch.equal(own[first], wide[first][taken])
    # Channels handed across and those that come from below keep to their halves.
    joined = next(key for key, value in wide.items() if value.shape[:2] == (80, 5))
    assert torch.equal(own[joined], wide[joined][[*taken, *(index + 40 for index in taken)]])


def _model_with(architecture: str, folder: Path) -> Path:
    config = load_config("default", SegmentationConfig).model_copy(update={"architecture": architecture})
    save_model(folder, build_network(architecture, len(config.classes), seed=1), config, half=False)
    return folder


@pytest.mark.parametrize(
    ("has", "overrides"),
    [
        ("small_unet", ['architecture="compact_unet"', "start_from_narrower=true"]),
        ("compact_unet", ['architecture="mirrored_unet"']),
    ],
)
def test_a_network_with_more_channels_or_inputs_starts_as_the_one_with_fewer(
    has: str, overrides: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = _model_with(has, tmp_path / "start")
    settings = finetuning_recipe([tmp_path], model=str(start), overrides=overrides)
    with caplog.at_level("INFO", logger="anystroke"):
        network = Trainer(settings, tmp_path).module.eval()
    assert "start anew" not in caplog.text
    image = torch.randn((1, 1, 48, 48, 48), generator=stream(1, "image"))
    weights = network.state_dict()
    with torch.no_grad():
        expected = open_network(start, SegmentationConfig).network(image)
        torch.testing.assert_close(network(image), expected, atol=1e-3, rtol=1e-3)
        again = Trainer(settings, tmp_path).module.state_dict()
        assert all(torch.equal(value, again[key]) for key, value in weights.items())
        # What was added is there to be learnt with: it counts as soon as its weights do.
        before = open_network(start, SegmentationConfig).network.state_dict()
        for key, value in weights.items():
            if before[key].shape != value.shape:
                value[value == 0] = 0.1
        assert float((network(image) - expected).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("architecture", "override", "message"),
    [
        ("compact_unet", 'architecture="small_unet"', "fewer channels to start from, but it has more"),
        ("tiny_unet", 'architecture="small_unet"', "of as many levels"),
        ("mirrored_unet", 'architecture="wide_unet"', "expected 1 inputs and 5 outputs, but .* has 3 and 5"),
        ("small_unet", 'architecture="mde"', "expected two residual U-Nets"),
        ("small_unet", 'classes="lesion"', "2 outputs of this recipe.*has 5: background"),
    ],
)
def test_channels_are_added_to_a_model_of_the_same_kind(
    architecture: str, override: str, message: str, tmp_path: Path
) -> None:
    start = _model_with(architecture, tmp_path / "start")
    given = [override, "start_from_narrower=true", "grid.shapes=[[64, 64, 64]]"]
    settings = finetuning_recipe([tmp_path], model=str(start), overrides=given)
    with pytest.raises(StartError, match=message):
        Trainer(settings, tmp_path)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"classes": "lesion"}, r"2 outputs of this recipe.*has 5: background"),
        ({"start_from": None}, "needs start_from"),
    ],
)
def test_channels_are_taken_of_a_model_with_the_same_outputs(
    update: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    settings = finetuning_recipe([tmp_path], overrides=['architecture="small_unet"', "start_from_wider=true"])
    with pytest.raises(StartError, match=message):
        Trainer(settings.model_copy(update=update), tmp_path)


def test_a_model_has_more_channels_or_fewer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start_from_wider or start_from_narrower, got both"):
        finetuning_recipe([tmp_path], overrides=["start_from_wider=true", "start_from_narrower=true"])


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'nothing'"):
        finetuning_recipe([tmp_path], model="nothing")
    with pytest.raises(ConfigError, match=r"did you mean 'optimiser.steps'"):
        finetuning_recipe([tmp_path], overrides=["optimiser.stepps=3"])
