"""Factors that take the mean bias of an estimator's maps out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anystroke import estimator_calibration
from anystroke.cli import main
from anystroke.estimator_calibration import calibrate_estimator
from anystroke.inference.estimation import Estimator
from anystroke.learning import checkpoints
from anystroke.learning.checkpoints import EstimatorConfig
from anystroke.learning.estimated_maps import start_at_typical
from anystroke.learning.estimation_validation import Head
from anystroke.learning.networks import build_network

CONFIG = EstimatorConfig(
    name="toy", architecture="small_estimator_unet", maps=("proton_density", "r1"), spacing=4.0, divisor=8
)


class Constant(nn.Module):
    """PD 60 p.u. and R1 0.5 /s everywhere."""

    def forward(self, image: Tensor) -> Tensor:
        levels = torch.tensor([60.0, 5.0]).log().view(1, 2, 1, 1, 1)
        return levels.expand(1, 2, *image.shape[2:])


def _heads(*_: Any, count: int, seed: int, **__: Any) -> Iterator[Head]:
    for number in range(count):
        image = torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(seed + number))
        classes = torch.zeros(32, 32, 32, dtype=torch.uint8)
        classes[:16], classes[16:] = 1, 2
        maps = torch.empty(2, 32, 32, 32)
        maps[0], maps[1, :16], maps[1, 16:] = 75.0, 0.6, 0.9
        yield Head(image, maps, classes)


@pytest.fixture(autouse=True)
def _no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator_calibration, "simulated_heads", _heads)
    monkeypatch.setattr(estimator_calibration, "load_anatomies", lambda _: [])
    monkeypatch.setattr(estimator_calibration, "load_bank", lambda _: [])


def test_the_bias_is_shared_by_grey_and_white_matter(tmp_path: Path) -> None:
    done: list[int] = []
    estimator = Estimator(Constant(), CONFIG, "")
    found = calibrate_estimator(estimator, tmp_path, heads=2, on_head=done.append)
    assert done == [1, 2]
    assert found.gains["proton_density"] == pytest.approx(75 / 60, abs=1e-4)
    assert found.gains["r1"] == pytest.approx((0.6 * 0.9) ** 0.5 / 0.5, abs=1e-4)
    assert found.bias["r1"]["white_matter"] == pytest.approx(0.5 / 0.9 - 1, abs=1e-4)
    config = found.applied_to(CONFIG)
    again = calibrate_estimator(Estimator(Constant(), config, ""), tmp_path, heads=2)
    assert again.gains == pytest.approx(found.gains, abs=2e-4)
    assert again.bias["proton_density"]["grey_matter"] == pytest.approx(0.0, abs=1e-3)


def test_a_map_that_is_nothing_is_refused(tmp_path: Path) -> None:
    class Nothing(Constant):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).masked_fill(torch.tensor([False, True]).view(1, 2, 1, 1, 1), -10.0)

    config = CONFIG.model_copy(update={"gains": {"r1": 1e-30}})
    estimator = Estimator(Nothing(), config, "")
    with pytest.raises(ValueError, match="r1 cannot be calibrated"):
        calibrate_estimator(estimator, tmp_path, heads=1)


def test_the_command_calibrates_an_estimator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = tmp_path / "model", tmp_path / "data"
    network = build_network("small_estimator_unet", 2, seed=1)
    start_at_typical(network, CONFIG.maps)
    checkpoints.save_model(folder, network, CONFIG)
    data.mkdir()
    for name in ("anatomies", "lesions"):
        (data / f"{name}.safetensors").touch()
    assert main(["calibrate", str(folder), "--data", str(data), "--patients", "1"]) == 0
    assert "r1: times" in capsys.readouterr().out
    assert set(json.loads((folder / "config.json").read_text())["gains"]) == {"proton_density", "r1"}
