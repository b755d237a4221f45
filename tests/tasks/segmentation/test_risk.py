import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from anystroke.tasks.segmentation.observations import Observation
from anystroke.tasks.segmentation.risk import Risk, RiskCurves, RiskModel, risk_of
from anystroke.tasks.segmentation.risk_fit import best_threshold, fit_risk, judge_risks, risks
from anystroke.tasks.segmentation.signs import SIGNS, driver_of, reason_of
from stand_in import NOTHING, ONE_SIGN

CURVES = RiskCurves(
    signs=("peak", "parts"),
    usual=(0.0, 1.0),
    edges=((-3.0, 0.0), (1.0,)),
    odds=((2.5, 1.0, -2.0), (-0.25, 0.5)),
    intercept=-1.0,
)
MODEL = ONE_SIGN.model_copy(
    update={"marked": CURVES, "empty": NOTHING.model_copy(update={"intercept": 0.5}), "threshold": 0.4}
)


def _observations(count: int, *, seed: int = 1) -> list[Observation]:
    """Masks that fail the more often the lower the peak is; one sign tells nothing but whose head it is."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        signs = {name: float(rng.normal()) for name in SIGNS}
        signs["brain"] = float(number % 11)
        signs["cut"] = 0.0
        signs["volume"] = 0.0 if number % 4 == 0 else 1 + abs(signs["volume"])
        chance = 1 / (1 + math.exp(3 * signs["peak"] + 1))
        groups = {"anatomy": f"head {number % 11}"}
        found.append(Observation(signs, bool(rng.random() < chance), (), groups, None, 0.0, 0.0))
    return found


def test_a_risk_is_the_logistic_function_of_the_steps_it_stands_on() -> None:
    found = risk_of({"volume": 1.0, "peak": 4.0, "parts": 2.5}, MODEL)
    assert found is not None
    assert found.probability == pytest.approx(1 / (1 + math.exp(1.0 + 2.0 - 0.5)))
    assert (found.driver, found.above) == ("parts", True)
    assert not found.high
    on_edges = risk_of({"volume": 1.0, "peak": -3.0, "parts": 1.0}, MODEL)
    assert on_edges is not None
    assert on_edges.probability == pytest.approx(1 / (1 + math.exp(1.0 - 2.5 + 0.25)))


def test_the_driver_is_what_raises_the_risk_most() -> None:
    found = risk_of({"volume": 1.0, "peak": -4.0, "parts": 1.5}, MODEL)
    assert found is not None
    assert found.high
    assert (found.driver, found.above) == ("peak", False)
    assert reason_of(found).startswith("nothing stands out surely enough: ")
    usual = risk_of({"volume": 1.0, "peak": 1.0, "parts": 1.0}, MODEL)
    assert usual is not None
    assert (usual.driver, driver_of(usual), reason_of(usual)) == ("", "", usual.in_words)


def test_an_empty_mask_has_a_risk_of_its_own_and_no_flag() -> None:
    found = risk_of({"volume": 0.0}, MODEL)
    assert found is not None
    assert found.probability == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert (found.threshold, found.high) == (None, False)
    assert found.in_words == "6 of 10 such scans in which nothing was found have a lesion"


@pytest.mark.parametrize(
    "signs",
    [
        {},
        {"volume": 1.0, "peak": 1.0},
        {"volume": 1.0, "peak": math.nan, "parts": 1.0},
        {"peak": 1.0, "parts": 1.0},
    ],
)
def test_an_unknown_sign_gives_no_risk(signs: dict[str, float]) -> None:
    assert risk_of(signs, MODEL) is None


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.5},
        {"marked": CURVES.model_dump() | {"usual": (0.0,)}},
        {"marked": CURVES.model_dump() | {"odds": ((1.0, 2.0), (0.0, 1.0))}},
        {"marked": CURVES.model_dump() | {"edges": ((0.0, -3.0), (1.0,))}},
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RiskModel.model_validate(MODEL.model_dump() | change)


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.0, "fewer than 1 of 20"), (0.31, "3 of 10"), (0.94, "9 of 10"), (0.99, "nearly all")],
)
def test_a_risk_in_words(probability: float, words: str) -> None:
    assert Risk(probability, 0.4).in_words.startswith(f"{words} such masks")


def test_every_sign_has_words_for_both_sides() -> None:
    for name in SIGNS:
        for above in (True, False):
            assert driver_of(Risk(0.5, 0.4, name, 1.0, above=above))


def test_the_fit_finds_the_sign_that_tells_and_holds_on_others() -> None:
    model = fit_risk(_observations(400))
    for curves in (model.marked, model.empty):
        assert "cut" not in curves.signs  # it never differs
        spans = {name: odds[0] - odds[-1] for name, odds in zip(curves.signs, curves.odds, strict=True)}
        assert max(spans, key=lambda name: spans[name]) == "peak"
    assert "volume" not in model.empty.signs
    others = _observations(400, seed=2)
    failed = np.array([each.failed for each in others])
    score = judge_risks(risks(model, others), failed, model.threshold)
    assert score.auc == pytest.approx(model.auc, abs=0.06)
    assert model.auc_interval[0] < score.auc
    assert score.sensitivity + score.specificity > 1.5
    assert float(np.nanmean(risks(model, others))) == pytest.approx(failed.mean(), abs=0.07)
    assert fit_risk(_observations(400)) == model


def test_whose_head_it_is_does_not_help() -> None:
    rng = np.random.default_rng(3)
    bad = {f"head {k}" for k in range(0, 11, 2)}
    some = [
        replace(each, failed=each.groups["anatomy"] in bad, signs=each.signs | {"peak": float(rng.normal())})
        for each in _observations(220)
    ]
    assert fit_risk(some).auc < 0.75


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="got 59 with"):
        fit_risk(_observations(59))
    never = [replace(each, failed=False) for each in _observations(100)]
    with pytest.raises(ValueError, match="got 100 with 0 that fail"):
        fit_risk(never)
    empty = [replace(each, signs=each.signs | {"volume": 0.0}) for each in _observations(200)]
    with pytest.raises(ValueError, match=r"mark something.* got 0 and 0; simulate more"):
        fit_risk(empty)


def test_the_area_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(4)
    failed = rng.random(200) < 0.3
    risk = (rng.random(200) + 0.4 * failed).round(1).clip(0, 1)  # with ties
    score = judge_risks(risk, failed, 0.5)
    assert score.auc == pytest.approx(roc_auc_score(failed, risk))
    assert score.interval[0] < score.auc < score.interval[1]
    assert math.isnan(judge_risks(risk, np.zeros(200, bool), 0.5).auc)


def test_the_threshold_separates_what_can_be_separated() -> None:
    risk, failed = np.array([0.1, 0.3, 0.6, 0.7]), np.array([False, False, True, True])
    threshold = best_threshold(risk, failed)
    assert 0.3 < threshold <= 0.6
