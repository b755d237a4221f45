"""All models of the package: their size, their cards, and that segmenting ones find what is plain to see."""

import re
from typing import Any

import pytest
import torch

from anystroke.anatomy.lesions.bank import blob_lesion
from anystroke.anatomy.tissues.classes import LESION
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.measure import dice
from anystroke.models.checkpoints import WEIGHTS, load_config, shipped_models, task_of_model
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.outcome.config import OutcomeConfig
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.predict import Model, segment

LARGEST_MB = {"default": 40.0, "small": 8.0, "estimator": 25.0, "nihss": 4.0}


@pytest.mark.parametrize("name", shipped_models(None))
def test_a_model_is_small_and_has_a_card_of_its_version(name: str) -> None:
    folder = WEIGHTS / name
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 1e6 * LARGEST_MB[name]
    kinds: dict[str, type[Any]] = {
        "segmentation": SegmentationConfig, "qmri": EstimatorConfig, "outcome": OutcomeConfig
    }  # fmt: skip
    config = load_config(name, kinds[task_of_model(name)])
    card = (folder / "README.md").read_text(encoding="utf-8")
    title = re.search(r"^# (.*)", card, re.MULTILINE)
    assert title is not None
    assert title[1].endswith(f"version {config.version}")
    assert config.name == name
    assert f"{config.training['parameters']:,} parameters" in card


@pytest.mark.parametrize("weighting", ["T2w", "FLAIR"])
@pytest.mark.parametrize("name", shipped_models())
def test_a_large_chronic_lesion_is_found(name: str, weighting: str) -> None:
    looks = SynthesisSettings(weighting=weighting, corrupted=False, skull_strip=0.0)
    lesion = blob_lesion(centre=(-40.0, -5.0, 20.0), volume_ml=80.0, rng=stream(3, "blob"), name="blob")
    sample = Generator(looks)(mni_anatomy(), [lesion], rng=stream(3, weighting), stage="chronic")
    found = segment(Volume(sample.image[None], sample.affine), Model.open(name))
    truth = sample.target == LESION
    assert int(truth.sum()) * 8 / 1000 > 40
    assert dice(found.mask.data[0] > 0, truth) > 0.6
    assert torch.equal(found.mask.affine, sample.affine)


def test_the_default_model_looks_again_at_fine_scans_alone() -> None:
    model = Model.open("default")
    assert model.second_network is not None
    assert model.second_network.config.spacing == 1.0 < model.config.spacing
    assert model.second_network.config.training["anatomies"] == model.config.training["anatomies"]
