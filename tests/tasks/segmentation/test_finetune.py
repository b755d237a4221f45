from pathlib import Path

import pytest
import torch

from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.learning.recipe import ScansPart, SimulatedPart
from anystroke.learning.trainer import StartError, Trainer
from anystroke.models.checkpoints import CheckpointError, load_config, open_network
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


def test_a_network_of_fewer_channels_takes_evenly_spaced_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = finetuning_recipe([tmp_path], overrides=['architecture="small_unet"', "start_from_wider=true"])
    with caplog.at_level("INFO", logger="anystroke"):
        own = Trainer(settings, tmp_path).module.state_dict()
    assert "start anew" not in caplog.text
    wide = open_network("default", SegmentationConfig).network.state_dict()
    thirds = [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]
    first = next(key for key, value in wide.items() if value.shape[:2] == (24, 1))
    assert torch.equal(own[first], wide[first][thirds])
    # Channels handed across and those that come from below keep to their halves.
    joined = next(key for key, value in wide.items() if value.shape[:2] == (48, 5))
    assert torch.equal(own[joined], wide[joined][[*thirds, *(index + 24 for index in thirds)]])


def test_a_network_that_sees_the_mirror_image_starts_as_the_one_that_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = finetuning_recipe([tmp_path], overrides=['architecture="mirrored_unet"'])
    with caplog.at_level("INFO", logger="anystroke"):
        network = Trainer(settings, tmp_path).module.eval()
    assert "start anew" not in caplog.text
    image = torch.randn((1, 1, 48, 48, 48), generator=stream(1, "mirror"))
    with torch.no_grad():
        expected = open_network("default", SegmentationConfig).network(image)
        torch.testing.assert_close(network(image), expected, atol=1e-3, rtol=1e-3)
        first = next(value for value in network.state_dict().values() if value.shape[1:2] == (3,))
        first[:, 2] = 0.5
        assert float((network(image) - expected).abs().max()) > 0.1


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


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'nothing'"):
        finetuning_recipe([tmp_path], model="nothing")
    with pytest.raises(ConfigError, match=r"did you mean 'optimiser.steps'"):
        finetuning_recipe([tmp_path], overrides=["optimiser.stepps=3"])
