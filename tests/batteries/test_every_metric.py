"""What every metric must do. A new one takes part as soon as it is in ``METRICS``."""

import math

import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.evaluation.metrics.measure import METRICS, load_settings, measure

SHAPE = (14, 16, 12)
AFFINE = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0], dtype=torch.float64))
CALIBRATION = ("brier", "calibration_error")
# Of one mask against another it makes a difference which is the true one.
DIRECTED = {
    "sensitivity": "positive_predictive_value",
    "positive_predictive_value": "sensitivity",
    "hausdorff95_to_truth": "hausdorff95_to_prediction",
    "hausdorff95_to_prediction": "hausdorff95_to_truth",
    "truth_ml": "predicted_ml",
    "predicted_ml": "truth_ml",
    "truth_lesions": "predicted_lesions",
    "predicted_lesions": "truth_lesions",
}
LESION_WISE = ("lesion_f1", "lesion_precision", "lesion_recall", "lesion_dice", "specificity")


def blobs(seed: int, count: int) -> Tensor:
    """Boxes of random places and sizes."""
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    rng = stream(seed, "blobs")
    for _ in range(count):
        corner = [int(torch.randint(0, n - 3, (), generator=rng)) for n in SHAPE]
        sides = [int(torch.randint(1, 4, (), generator=rng)) for _ in SHAPE]
        mask[tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))] = True
    return mask


PAIRS = [(blobs(k, 1 + k % 4), blobs(k + 100, 1 + k % 3)) for k in range(12)]
EMPTY = torch.zeros(SHAPE, dtype=torch.bool)


def values(prediction: Tensor, truth: Tensor, affine: Tensor = AFFINE) -> dict[str, float]:
    probability = prediction.float() * 0.8 + 0.1
    return dict(measure(prediction, truth, affine=affine, probability=probability).values)


@pytest.fixture(params=list(METRICS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.title
    assert metric.meaning[0].isupper() or metric.meaning[0].isdigit()
    assert not metric.meaning.endswith(".")
    assert metric.unit in ("", "mm", "ml")
    assert metric.bounds[0] < metric.bounds[1]
    assert [other for other, one in METRICS.items() if one.title == metric.title] == [name]


def test_it_is_given_for_every_pair_and_lies_within_its_bounds(name: str) -> None:
    low, high = METRICS[name].bounds
    for pair in PAIRS:
        value = values(*pair)[name]
        assert low <= value <= high, pair


def test_the_same_masks_give_the_same_number(name: str) -> None:
    assert values(*PAIRS[0])[name] == values(*PAIRS[0])[name]


def test_nothing_is_better_than_the_truth(name: str) -> None:
    if METRICS[name].best is None or name in CALIBRATION:
        pytest.skip("has no best value, or judges probabilities")
    low, high = METRICS[name].bounds
    for _, truth in PAIRS:
        assert values(truth, truth)[name] == (high if METRICS[name].best == "high" else low)


def test_it_does_not_depend_on_how_the_grid_is_laid(name: str) -> None:
    for prediction, truth in PAIRS[:4]:
        plain = values(prediction, truth)[name]
        flipped = values(prediction.flip(0), truth.flip(0))[name]
        order = (2, 0, 1)
        diagonal = torch.diag(torch.cat([AFFINE.diagonal()[list(order)], torch.ones(1, dtype=torch.float64)]))
        turned = values(prediction.permute(order), truth.permute(order), diagonal)[name]
        assert flipped == pytest.approx(plain, rel=1e-9, nan_ok=True)
        assert turned == pytest.approx(plain, rel=1e-9, nan_ok=True)


def test_its_unit_is_that_of_its_number(name: str) -> None:
    if name in ("surface_dice", "calibration_error"):
        pytest.skip("has a tolerance in mm, or bins")
    twice = AFFINE.clone()
    twice[:3] *= 2
    factor = {"mm": 2.0, "ml": 8.0, "": 1.0}[METRICS[name].unit]
    for prediction, truth in PAIRS[:4]:
        plain = values(prediction, truth)[name]
        assert values(prediction, truth, twice)[name] == pytest.approx(factor * plain, rel=1e-6, nan_ok=True)


def test_swapping_truth_and_prediction_does_what_is_expected(name: str) -> None:
    if name in (*LESION_WISE, *CALIBRATION):
        pytest.skip("judges one of the masks by the other")
    for prediction, truth in PAIRS[:4]:
        swapped = values(truth, prediction)[DIRECTED.get(name, name)]
        assert swapped == pytest.approx(values(prediction, truth)[name], rel=1e-9)


@pytest.mark.parametrize("policy", ["undefined", "perfect", "worst"])
def test_two_empty_masks_follow_the_policy(name: str, policy: str) -> None:
    settings = load_settings().model_copy(update={"both_empty": policy})
    value = measure(EMPTY, EMPTY, affine=AFFINE, settings=settings, probability=EMPTY.float()).values[name]
    metric = METRICS[name]
    low, high = metric.bounds
    best, worst = (high, low) if metric.best == "high" else (low, high)
    if metric.best is None or name in ("specificity", "volume_difference", "lesion_count_difference"):
        assert value == (1.0 if name == "specificity" else 0.0)
    elif policy == "undefined" and name not in CALIBRATION:
        assert math.isnan(value)
    elif policy == "perfect":
        assert value == best
    elif name not in CALIBRATION:
        assert value == worst or (metric.unit == "mm" and value > 0)


def test_one_empty_mask_is_never_perfect(name: str) -> None:
    metric = METRICS[name]
    if metric.best is None or name in ("specificity", *CALIBRATION):
        pytest.skip("nothing to find is no fault of it")
    truth = PAIRS[0][1]
    best = metric.bounds[1] if metric.best == "high" else metric.bounds[0]
    for pair in ((EMPTY, truth), (truth, EMPTY)):
        assert values(*pair)[name] != best
