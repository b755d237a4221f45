import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anystroke.evaluation.metrics import EmptyPolicy, dice, volume_ml

FULL, EMPTY = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)


def test_known_values() -> None:
    half = torch.tensor([[True, True, True], [False, False, False]])
    assert dice(FULL, FULL) == 1
    assert dice(FULL, half) == pytest.approx(2 * 3 / 9)
    assert dice(half, ~half) == 0
    assert dice(half.numpy(), np.asarray(FULL)) == pytest.approx(2 / 3)


def test_every_policy_for_two_empty_masks() -> None:
    expected = {"undefined": math.nan, "perfect": 1.0, "worst": 0.0}
    assert set(get_args(EmptyPolicy)) == set(expected)
    assert math.isnan(dice(EMPTY, EMPTY))
    assert dice(EMPTY, EMPTY, empty="perfect") == 1
    assert dice(EMPTY, EMPTY, empty="worst") == 0
    for policy in get_args(EmptyPolicy):
        assert dice(EMPTY, FULL, empty=policy) == dice(FULL, EMPTY, empty=policy) == 0
    with pytest.raises(ValueError, match="'skip'"):
        dice(EMPTY, EMPTY, empty="skip")  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_symmetric_bounded_and_blind_to_the_background(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (torch.tensor(column) for column in zip(*pairs, strict=True))
    value = dice(first, second, empty="perfect")
    assert 0 <= value <= 1
    assert value == dice(second, first, empty="perfect")
    padding = torch.zeros(17, dtype=torch.bool)
    assert value == dice(torch.cat([first, padding]), torch.cat([second, padding]), empty="perfect")


def test_what_is_no_pair_of_masks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        dice(FULL, FULL.T)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        dice(FULL.float(), FULL)


def test_volume_follows_the_voxel_and_not_the_direction() -> None:
    affine = torch.tensor([[0.0, -2, 0, 5], [1.5, 0, 0, 5], [0, 0, 4, 5], [0, 0, 0, 1]])
    assert volume_ml(FULL, affine=affine) == pytest.approx(6 * 12 / 1000)
    assert volume_ml(EMPTY, affine=affine) == 0
