from pathlib import Path

import pytest
import torch

from anystroke.models import checkpoints
from anystroke.models.architectures.catalogue import DivisibleUNet, build_network
from anystroke.models.checkpoints import save_model
from anystroke.studies import doctor
from anystroke.tasks.segmentation.config import SegmentationConfig


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    monkeypatch.setattr(checkpoints, "WEIGHTS", folder)
    return folder


def _config(network: DivisibleUNet) -> SegmentationConfig:
    return SegmentationConfig(
        name="toy",
        architecture="compact_unet",
        classes=("background", "lesion"),
        spacing=2.0,
        divisor=network.divisor,
    )


def test_it_is_well_where_a_model_is_found_and_the_folder_can_be_written(
    weights: Path, tmp_path: Path
) -> None:
    network = build_network("compact_unet", 2, seed=0)
    save_model(weights / "toy", network, _config(network))
    findings = list(doctor.examine(tmp_path))
    assert all(finding.good for finding in findings)
    text = "\n".join(finding.text for finding in findings)
    assert "model toy: version 1" in text
    assert f"torch {torch.__version__}" in text
    assert f"{tmp_path} can be written" in text


def test_it_says_what_is_wrong(weights: Path, tmp_path: Path) -> None:
    problems = [f.text for f in doctor.examine(tmp_path / "nowhere") if not f.good]
    assert len(problems) == 2
    assert "none comes with this installation" in problems[0]
    assert "nowhere cannot be written" in problems[1]
    (weights / "broken").mkdir(parents=True)
    (weights / "broken" / "config.json").write_text("{")
    assert any("broken" in f.text for f in doctor.examine(tmp_path) if not f.good)


def test_dicom_and_small_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _name: None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5 * 2**20}))
    problems = [f.text for f in doctor.examine(tmp_path) if not f.good]
    assert any("pydicom is missing" in text for text in problems)
    assert any("5 MB free" in text for text in problems)


def test_weights_that_give_nonsense_are_told(weights: Path, tmp_path: Path) -> None:
    network = build_network("compact_unet", 2, seed=0)
    for parameter in network.parameters():
        parameter.data.fill_(torch.inf)
    save_model(weights / "toy", network, _config(network))
    assert any("not finite" in f.text for f in doctor.examine(tmp_path) if not f.good)
