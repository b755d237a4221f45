"""Curves that replace an estimator's values by the median truth behind them."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from anystroke.commands.main import main
from anystroke.core.rng import stream
from anystroke.models import checkpoints
from anystroke.models.architectures.catalogue import build_network
from anystroke.qmri.estimated_maps import along_curve, start_at_typical
from anystroke.tasks.qmri import calibrate as estimator_calibration
from anystroke.tasks.qmri.calibrate import _curve, calibrate_estimator, scan_of_head
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.qmri.predict import Estimator, estimate_maps
from anystroke.tasks.qmri.validate import Head

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
    monkeypatch.setattr(estimator_calibration, "load_pack", lambda _: None)


def test_an_estimate_becomes_the_median_truth_behind_it(tmp_path: Path) -> None:
    done: list[int] = []
    estimator = Estimator(Constant(), CONFIG, "")
    found = calibrate_estimator(estimator, tmp_path, heads=2, on_head=done.append)
    assert done == [1, 2]
    assert found.curves["proton_density"][0] == pytest.approx((60, 75), abs=0.01)
    assert found.bias["r1"]["white_matter"] == pytest.approx(0.5 / 0.9 - 1, abs=1e-4)
    config = found.applied_to(CONFIG)
    again = calibrate_estimator(Estimator(Constant(), config, ""), tmp_path, heads=2)
    assert again.curves == found.curves
    head = next(_heads(count=1, seed=1))
    maps = estimate_maps(scan_of_head(head), Estimator(Constant(), config, ""))
    assert float(maps["proton_density"].data.median()) == pytest.approx(75, abs=0.1)
    r1 = maps["r1"].data[0]
    grey, white = float(r1[:16].mean()), float(r1[16:].mean())
    assert (grey / 0.6) * (white / 0.9) == pytest.approx(1.0, abs=0.01)


def test_a_curve_rises_and_follows_the_truth() -> None:
    estimate = torch.linspace(0.1, 2.0, 4000)
    truth = estimate.square() + 0.1 * torch.randn(4000, generator=stream(1, "noise"))
    curve = _curve("r1", estimate.double().numpy(), truth.double().numpy())
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(curve))
    corrected = along_curve(estimate, curve)
    assert float((corrected - estimate.square()).abs().mean()) < 0.02
    # Beyond the points the factor of the last one stays.
    (x, y), far = curve[-1], torch.tensor([0.0, 4.0])
    assert along_curve(far, curve).tolist() == pytest.approx([0.0, 4.0 * y / x], rel=1e-5)
    with pytest.raises(ValidationError, match="does not rise"):
        EstimatorConfig.model_validate(CONFIG.model_dump() | {"curves": {"r1": [[1.0, 2.0], [0.5, 3.0]]}})


def test_few_voxels_of_another_tissue_do_not_move_a_curve() -> None:
    estimate = torch.linspace(0.2, 0.3, 4000).double()
    truth = estimate.clone()
    truth[::5] = 0.7
    corrected = along_curve(estimate, _curve("r1", estimate.numpy(), truth.numpy()))
    assert float((corrected - estimate).abs().max()) < 0.01


def test_a_map_that_is_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_r1(**options: Any) -> Iterator[Head]:
        for head in _heads(**options):
            head.maps[1] = 0
            yield head

    monkeypatch.setattr(estimator_calibration, "simulated_heads", lambda *_, **options: without_r1(**options))
    with pytest.raises(ValueError, match="r1 cannot be calibrated"):
        calibrate_estimator(Estimator(Constant(), CONFIG, ""), tmp_path, heads=1)


def test_the_command_calibrates_an_estimator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = tmp_path / "model", tmp_path / "data"
    network = build_network("small_estimator_unet", 2, seed=1)
    start_at_typical(network, CONFIG.maps)
    checkpoints.save_model(folder, network, CONFIG)
    data.mkdir()
    for name in ("anatomies", "lesions"):
        (data / f"{name}.safetensors").touch()
    assert main(["calibrate", str(folder), "--data", str(data), "--patients", "1"]) == 0
    assert "r1: a curve of" in capsys.readouterr().out
    assert set(json.loads((folder / "config.json").read_text())["curves"]) == {"proton_density", "r1"}
