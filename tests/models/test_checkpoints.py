import json
from pathlib import Path

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import CheckpointError, open_network, save_model
from anystroke.tasks.segmentation.config import SegmentationConfig

CONFIG = SegmentationConfig(
    name="test", architecture="compact_unet", classes=("background", "lesion"), spacing=2.0, divisor=16
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, build_network("compact_unet", 2, seed=1), CONFIG)
    return tmp_path


def test_round_trip_in_half_precision(folder: Path) -> None:
    opened = open_network(folder, SegmentationConfig)
    network, config = opened.network, opened.config
    original = build_network("compact_unet", 2, seed=1).eval()
    image = torch.randn((1, 1, 32, 32, 32), generator=stream(1, "image"))
    with torch.no_grad():
        assert torch.allclose(network(image), original(image), atol=0.02)
    assert config == CONFIG
    assert not network.training
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_missing_damaged_and_foreign_models_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'nothing'"):
        open_network("nothing", SegmentationConfig)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_network(folder, SegmentationConfig)
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "classes": ["background", "csf", "lesion"]}))
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        open_network(folder, SegmentationConfig)
    (folder / "config.json").write_text(json.dumps({**config, "tresholds": 1}))
    with pytest.raises(CheckpointError, match="did you mean 'threshold'"):
        open_network(folder, SegmentationConfig)
    (folder / "config.json").write_text(json.dumps({**config, "architecture": "none"}))
    with pytest.raises(CheckpointError, match="unknown architecture 'none'"):
        open_network(folder, SegmentationConfig)
    weights.unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="there are none"):
        open_network(folder, SegmentationConfig)


def test_a_network_whose_blocks_have_two_names_survives_in_full_precision(tmp_path: Path) -> None:
    network = build_network("plain_unet", 2, seed=1)
    storages = [value.data_ptr() for value in network.state_dict().values() if value.numel()]
    assert len(set(storages)) < len(storages)
    config = CONFIG.model_copy(update={"architecture": "plain_unet", "divisor": 32})
    save_model(tmp_path, network, config, half=False)
    again = open_network(tmp_path, SegmentationConfig).network.state_dict()
    assert all(torch.equal(again[name], value) for name, value in network.state_dict().items())
