import base64
import re
from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.measure import dice
from anystroke.simulation.generator import CLASSES
from anystroke.studies import demo
from anystroke.studies.demo import DemoError, run_demo, simulate_patient
from phantoms import ellipsoid_anatomy
from stand_in import stand_in_model

SHAPE = (56, 64, 56)


@pytest.fixture(autouse=True)
def _small_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "mni_anatomy", lambda: ellipsoid_anatomy(head=False))


def test_the_page_holds_all_and_its_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    made = run_demo(tmp_path / "demo", stand_in_model(), seed=3, shape=SHAPE)
    text = made.page.read_text(encoding="utf-8")
    [truth] = (tmp_path / "demo" / "simulated").glob("*_label-L_mask.nii.gz")
    [prediction] = (tmp_path / "demo" / "segmented").glob("*_mask.nii.gz")
    masks = [Volume.load(path).data > 0 for path in (prediction, truth)]
    assert made.dice == dice(*masks)
    assert made.true_ml == pytest.approx(int(masks[1].sum()) * 0.008)
    assert f"<td>{made.dice:.2f}</td>" in text
    assert f"{made.true_ml:.1f} ml" in text
    assert f"{made.predicted_ml:.1f} ml" in text
    assert made.protocol in text
    assert "not a medical device" in text
    assert "stand-in" in text
    pictures = re.findall(r'<img class="dark" src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == text.count("<img") == 2
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "http" not in text
    for link in re.findall(r'href="([^"]+)"', text):
        assert (made.page.parent / link).exists()


def test_a_demo_is_not_overwritten_unless_it_may_be(tmp_path: Path) -> None:
    run_demo(tmp_path, stand_in_model(), seed=3, shape=SHAPE)
    other = tmp_path / "other.txt"
    other.touch()
    with pytest.raises(DemoError, match="--overwrite"):
        run_demo(tmp_path, stand_in_model(), seed=4, shape=SHAPE)
    run_demo(tmp_path, stand_in_model(), seed=4, shape=SHAPE, overwrite=True)
    assert "seed 4" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "simulated").glob("*_label-L_mask.nii.gz"))) == 1
    assert other.exists()


def test_the_patient_is_the_seed_s_and_the_lesion_is_on_the_left() -> None:
    for seed in range(3):
        sample = simulate_patient(seed, shape=SHAPE)
        lesion = (sample.target == CLASSES.index("lesion")).nonzero().double().mean(0)
        place = sample.affine @ torch.cat([lesion, torch.ones(1, dtype=torch.float64)])
        assert float(place[0]) < -5
        assert sample.record["stage"] in ("chronic", "acute")
        assert sample.protocol.weighting in ("FLAIR", "T2w")
    again = simulate_patient(2, shape=SHAPE)
    assert torch.equal(sample.image, again.image)
