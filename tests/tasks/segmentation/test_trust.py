import math

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.models.volume_interval import VolumeErrors, VolumeInterval
from anystroke.tasks.segmentation.mask import mask_of
from anystroke.tasks.segmentation.predict import Model, interval_of, segment
from anystroke.tasks.segmentation.trust import (
    cut_area,
    mean_certainty,
    reasons_between,
    reasons_not_to_trust,
    volume_in_words,
)
from stand_in import CONFIG, ONE_SIGN, Brightest, phantom

NARROW = VolumeInterval(9.0, 11.0)


def _volume(data: torch.Tensor, spacing: float = 1.0) -> Volume:
    return Volume(data, torch.diag(torch.tensor([spacing] * 3 + [1.0], dtype=torch.float64)))


def _brain(low: int) -> Volume:
    data = torch.zeros(1, 80, 80, 80, dtype=torch.uint8)
    data[:, 10:70, 10:70, low:70] = 1
    return _volume(data, 2.0)


def test_a_whole_brain_is_trusted_and_a_cut_one_is_not() -> None:
    scan = _volume(torch.rand(1, 80, 80, 80), 2.0)
    assert (
        reasons_not_to_trust(scan=scan, volume_ml=10, interval=NARROW, brain=_brain(10), certainty=0.9) == ()
    )
    assert cut_area(_brain(10), scan) == 0
    assert cut_area(_brain(0), scan) == pytest.approx(12.0 * 12.0, rel=0.01)
    [reason] = reasons_not_to_trust(scan=scan, volume_ml=10, interval=NARROW, brain=_brain(0))
    assert "cut off: 144 cm2" in reason


def test_the_interval_is_about_the_mask_of_the_models_own_threshold() -> None:
    data = torch.zeros(1, 40, 40, 40)
    data[:, 5:35, 5:35, 5:35] = 0.6
    data[:, 10:30, 10:30, 10:30] = 0.9
    probability = _volume(data)
    own, other = (
        interval_of(probability, mask_of(probability, CONFIG, threshold), CONFIG, threshold)
        for threshold in (CONFIG.threshold, 0.8)
    )
    assert own is not None
    assert other is not None
    assert own.high == other.high == pytest.approx(28 * math.exp(0.2) - 1)
    assert (own.low, other.low) == pytest.approx((28 * math.exp(-0.2) - 1, 8.0))


def test_a_wide_interval_counts_where_no_risk_is_known() -> None:
    wide = VolumeErrors(rate=0.9, edges=(), low=(-3.0,), high=(3.0,), patients=100)
    scan = phantom(torch.diag(torch.tensor([4.0, 4, 4, 1])), (64, 64, 64))
    found = [
        segment(scan, Model(Brightest(), CONFIG.model_copy(update={"volume_errors": wide, "risk": risk}), ""))
        for risk in (None, ONE_SIGN)
    ]
    assert [any("too wide" in reason for reason in each.reasons) for each in found] == [True, False]


@pytest.mark.parametrize("orientation", ["LPS", "SAR"])
def test_the_cut_does_not_depend_on_the_storage_order(orientation: str) -> None:
    scan = _volume(torch.rand(1, 160, 160, 160), 1.0)
    assert cut_area(_brain(0), scan.reorient(orientation)) == cut_area(_brain(0), scan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"interval": VolumeInterval(1.0, 90.0)},
            "volume is uncertain: the mask has 10.0 ml, .* to 90.0 ml",
        ),
        ({"certainty": 0.4}, "unsure of the tissues"),
        ({"brain": _volume(torch.ones(1, 20, 20, 20))}, "8 ml of brain|18 ml of brain"),
        ({"scan": _volume(torch.rand(1, 10, 10, 10), 9.0)}, "9.0 mm long"),
        (
            {"features": {"skewness": 4.0}, "image_range": {"skewness": (-2.0, 2.0)}},
            "outside the training range: the skewness of the histogram is 4, expected -2 to 2",
        ),
    ],
)
def test_each_reason(change: dict[str, object], words: str) -> None:
    import re

    given = {"scan": _volume(torch.rand(1, 40, 40, 40)), "volume_ml": 10.0, "interval": NARROW} | change
    reasons = reasons_not_to_trust(**given)  # type: ignore[arg-type]
    assert any(re.search(words, reason) for reason in reasons)


def test_disagreement_counts_only_where_there_is_something() -> None:
    names = ["a", "b", "c"]
    rows = [(0, 1, 0.0, 0.2, 0.5), (0, 2, 0.1, 0.2, 9.0), (1, 2, None, 0.5, 9.0)]
    assert len(reasons_between(0, rows, {}, names)) == 1
    assert reasons_between(1, rows, {}, names) == ()
    assert "registration failed: far" in reasons_between(1, rows, {1: "far"}, names)[0]


def test_certainty_is_that_of_the_winner_inside() -> None:
    brain = torch.zeros(2, 9, 9, 9)
    brain[0, 2:7, 2:7, 2:7] = 0.8
    assert mean_certainty(torch.zeros(9, 9, 9), brain) == pytest.approx(0.8)
    assert mean_certainty(torch.zeros(9, 9, 9), torch.zeros(2, 9, 9, 9)) is None


@pytest.mark.parametrize(
    ("volume", "low", "high", "words"),
    [
        (0.0, 0.0, 3.0, "nothing was found"),
        (2.0, 0.0, 9.0, "there may be none"),
        (20.0, 12.0, 31.0, "probably 12.0 to 31.0 ml"),
        (20.0, 0.6, 160.0, "too wide to use"),
        (0.0, 0.0, 70.0, "too wide to use"),
    ],
)
def test_an_interval_in_words(volume: float, low: float, high: float, words: str) -> None:
    assert words in volume_in_words(volume, VolumeInterval(low, high, 0.9))
