import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anystroke.evaluation.metrics.lesion_wise import LesionMatch, match_lesions
from anystroke.evaluation.metrics.measure import EmptyPolicy, load_settings, measure


def specks(count: int, *, behind: int = 0) -> Tensor:
    """That many lesions of one voxel."""
    mask = torch.zeros(24, 3, 3, dtype=torch.bool)
    mask[2 * behind : 2 * (behind + count) : 2, 1, 1] = True
    return mask


def matched(predicted: int, true: int, *, behind: int = 0) -> LesionMatch:
    return match_lesions(specks(predicted, behind=behind), specks(true), voxel_ml=0.001)


@pytest.mark.parametrize(
    ("predicted", "true", "error"),
    [(1, 1, 0), (3, 1, 0.5), (1, 3, 0.5), (4, 0, 1), (0, 4, 1), (10, 8, 1 / 9)],
)
def test_known_values(predicted: int, true: int, error: float) -> None:
    assert matched(predicted, true).count_error() == pytest.approx(error)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 5))
def test_it_counts_and_does_not_ask_where(predicted: int, true: int, behind: int) -> None:
    found = matched(predicted, true, behind=behind).count_error("perfect")
    assert 0 <= found <= 1
    assert found == matched(true, predicted).count_error("perfect")
    assert (found == 0) == (predicted == true)


@pytest.mark.parametrize(("policy", "error"), [("undefined", math.nan), ("perfect", 0.0), ("worst", 1.0)])
def test_nothing_to_count_follows_the_policy(policy: EmptyPolicy, error: float) -> None:
    assert matched(0, 0).count_error(policy) == pytest.approx(error, nan_ok=True)


def test_lesions_that_do_not_count_do_not_count() -> None:
    affine = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    truth = specks(2)
    truth[10:14] = True
    plain = measure(specks(3), truth, affine=affine)
    assert plain.values["lesion_count_error"] == 0.0
    larger = load_settings().model_copy(update={"smallest_mm3": 2.0})
    assert measure(specks(3), truth, affine=affine, settings=larger).values["lesion_count_error"] == 1.0
