import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anystroke.evaluation.metrics.calibration import reliability


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float64, 30, elements=st.floats(0, 1)),
    arrays.arrays(bool, 30),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.01, 0.5]),
)
def test_against_brute_force(
    probability: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], bins: int, floor: float
) -> None:
    found = reliability(probability, truth, bins=bins, floor=floor)
    chosen = [(p, t) for p, t in zip(probability.tolist(), truth.tolist(), strict=True) if t or p >= floor]
    assert found.voxels == len(chosen)
    if not chosen:
        assert math.isnan(found.brier())
        assert math.isnan(found.expected_calibration_error())
        return
    assert found.brier() == pytest.approx(sum((p - t) ** 2 for p, t in chosen) / len(chosen))
    error = 0.0
    for k in range(bins):
        inside = [(p, t) for p, t in chosen if min(int(p * bins), bins - 1) == k]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            share = sum(t for _, t in inside) / len(inside)
            error += len(inside) / len(chosen) * abs(confidence - share)
    assert found.expected_calibration_error() == pytest.approx(error)


def test_more_air_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    probability, truth = rng.random((6, 6, 6)), rng.random((6, 6, 6)) < 0.3
    inside = reliability(probability, truth)
    outside = reliability(np.pad(probability, 9), np.pad(truth, 9))
    assert inside.brier() == outside.brier()
    assert reliability(np.pad(probability, 9), np.pad(truth, 9), floor=0.0).brier() < inside.brier()


def test_a_calibrated_prediction_and_the_sum_of_scans() -> None:
    rng = np.random.default_rng(3)
    probability = rng.random(200_000)
    truth = rng.random(200_000) < probability
    halves = [reliability(probability[part], truth[part]) for part in (slice(100_000), slice(100_000, None))]
    whole = reliability(probability, truth)
    assert whole.expected_calibration_error() < 0.01
    assert (halves[0] + halves[1]).brier() == pytest.approx(whole.brier())
    assert reliability(probability**3, truth).expected_calibration_error() > 0.1


def test_what_is_no_probability_is_refused() -> None:
    truth = torch.zeros(2, dtype=torch.bool)
    for value in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            reliability(torch.tensor([0.5, value]), truth)
    with pytest.raises(ValueError, match="resample"):
        reliability(torch.rand(3), truth)
    with pytest.raises(ValueError, match="1 bin or more"):
        reliability(torch.rand(2), truth, bins=0)
