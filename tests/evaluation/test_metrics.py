import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adversaries import named_masks, pairs_of_masks
from anystroke.core.config import ConfigError
from anystroke.evaluation.metrics.measure import METRICS, EmptyPolicy, dice, load_settings, measure, volume_ml
from anystroke.evaluation.metrics.settings import metric_presets

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


AFFINE = torch.diag(torch.tensor([0.45, 0.45, 5.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("preset", metric_presets())
def test_every_preset_gives_every_metric_of_every_pair(preset: str) -> None:
    chosen = load_settings(preset)
    for name, prediction, truth in pairs_of_masks()[::2]:
        found = measure(prediction, truth, affine=AFFINE, settings=chosen, probability=prediction * 0.9)
        assert tuple(found.values) == tuple(METRICS), name
        for metric, value in found.values.items():
            low, high = METRICS[metric].bounds
            assert math.isnan(value) or low <= value <= high, (name, metric, value)
        if prediction.any() and truth.any():
            # Where everything is lesion there is no healthy voxel that could be left alone.
            assert set(found.undefined) <= {"specificity"} if truth.all() else not found.undefined, name


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, (4, 5, 3)), arrays.arrays(bool, (4, 5, 3)))
def test_overlaps_against_brute_force(prediction: Any, truth: Any) -> None:
    pairs = list(zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True))
    hits, false, missed, quiet = (pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1), (0, 0)))
    values = measure(prediction, truth, affine=AFFINE).values

    def same(name: str, top: float, bottom: float) -> None:
        if bottom:
            assert values[name] == pytest.approx(top / bottom)

    same("dice", 2 * hits, 2 * hits + false + missed)
    same("sensitivity", hits, hits + missed)
    same("specificity", quiet, quiet + false)
    same("positive_predictive_value", hits, hits + false)
    assert values["volume_difference"] == pytest.approx(abs(false - missed) * 0.45**2 * 5 / 1000, abs=1e-12)
    assert values["truth_ml"] == pytest.approx((hits + missed) * 0.45**2 * 5 / 1000)


def test_missing_a_lesion_is_never_left_out() -> None:
    truth = named_masks()["hollow"]
    for name in metric_presets():
        values = measure(np.zeros_like(truth), truth, affine=AFFINE, settings=load_settings(name)).values
        assert not any(math.isnan(value) for value in values.values()), name
        for metric in ("dice", "surface_dice", "sensitivity", "positive_predictive_value", "lesion_f1",
                       "lesion_precision", "lesion_recall", "lesion_dice"):  # fmt: skip
            assert values[metric] == 0, (name, metric)


def test_presets_say_what_they_are() -> None:
    truth, empty = named_masks()["one voxel"], named_masks()["empty"]
    assert set(metric_presets()) == {"anystroke", "qsynth", "synthstroke", "isles22", "atlas", "brats"}
    distance = {
        name: measure(empty, truth, affine=AFFINE, settings=load_settings(name)).values["hausdorff95"]
        for name in metric_presets()
    }
    assert distance["qsynth"] == 256
    assert distance["brats"] == 374
    assert distance["synthstroke"] == math.inf
    assert distance["anystroke"] == pytest.approx(math.dist((0, 0, 0), (7 * 0.45, 6 * 0.45, 5 * 5.0)))
    both = {
        n: measure(empty, empty, affine=AFFINE, settings=load_settings(n)).values for n in metric_presets()
    }
    assert math.isnan(both["anystroke"]["dice"])
    assert (both["qsynth"]["dice"], both["qsynth"]["hausdorff95"]) == (1, 0)
    assert load_settings("atlas").connectivity == 6
    for name in metric_presets():
        chosen = load_settings(name)
        assert chosen.source
        assert f"preset {name}" in chosen.describe()
        assert str(chosen.connectivity) in chosen.describe()


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="'isles15'"):
        load_settings("isles15")
    with pytest.raises(ConfigError, match="overlap_threshold"):
        load_settings("atlas", overlap_rule="iou")
    with pytest.raises(ConfigError, match="connectivity"):
        load_settings("atlas", connectivity=8)


def test_sheared_axes_are_refused() -> None:
    sheared = torch.eye(4)
    sheared[0, 1] = 0.2
    with pytest.raises(ValueError, match="orthogonal"):
        measure(FULL[None], FULL[None], affine=sheared)


def test_rotation_changes_no_distance() -> None:
    masks = named_masks()
    angle = torch.tensor(0.4, dtype=torch.float64)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    plain, turned = (
        measure(masks["hollow"], masks["sparse"], affine=affine).values for affine in (AFFINE, turn @ AFFINE)
    )
    assert dict(plain) == pytest.approx(dict(turned), rel=1e-5)
