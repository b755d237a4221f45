import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adversaries import SHAPE, Mask, components, named_masks, pairs_of_masks, voxels_of
from anystroke.evaluation.metrics.lesion_wise import Connectivity, LesionMatch, OverlapRule, match_lesions
from anystroke.evaluation.metrics.overlap import EmptyPolicy

MASKS = named_masks()


def check_against_brute_force(prediction: Mask, truth: Mask, connectivity: Connectivity) -> None:
    match = match_lesions(prediction, truth, voxel_ml=0.5, connectivity=connectivity)
    true, predicted = components(truth, connectivity), components(prediction, connectivity)
    found = sum(bool(lesion & set(voxels_of(prediction))) for lesion in true)
    false = sum(not lesion & set(voxels_of(truth)) for lesion in predicted)
    assert (match.count("true"), match.count("predicted")) == (len(true), len(predicted))
    assert match.count("true", matched=True) == found
    assert match.count("predicted", matched=False) == false
    assert match.count_difference == abs(len(true) - len(predicted))
    if true or predicted:
        assert match.f1() == pytest.approx(found / (found + (len(true) - found + false) / 2))
    scores = [0.0] * false
    for lesion in true:
        touching = [other for other in predicted if other & lesion]
        united = set().union(*touching)
        scores.append(2 * len(lesion & united) / (len(lesion) + len(united)))
    if scores:
        assert match.dice() == pytest.approx(sum(scores) / len(scores))
    sizes = sorted(lesion.volume for lesion in match.lesions if lesion.kind == "true")
    assert sizes == sorted(len(lesion) * 0.5 for lesion in true)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_against_brute_force(connectivity: Connectivity) -> None:
    for _, prediction, truth in pairs_of_masks():
        check_against_brute_force(prediction, truth, connectivity)


@settings(max_examples=80, deadline=None)
@given(arrays.arrays(bool, (5, 4, 6)), arrays.arrays(bool, (5, 4, 6)), st.sampled_from([6, 18, 26]))
def test_against_brute_force_on_anything(prediction: Mask, truth: Mask, connectivity: Connectivity) -> None:
    check_against_brute_force(prediction, truth, connectivity)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(bool, (4, 5, 6)),
    arrays.arrays(bool, (4, 5, 6)),
    st.sampled_from(["coverage", "iou"]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 2.0, 3.0]),
)
def test_stricter_rules_find_less(
    prediction: Mask, truth: Mask, rule: OverlapRule, threshold: float, smallest: float
) -> None:
    lenient = match_lesions(prediction, truth, voxel_ml=1.0, smallest_ml=smallest)
    strict = match_lesions(
        prediction,
        truth,
        voxel_ml=1.0,
        rule=rule,
        threshold=threshold,
        smallest_ml=smallest,
    )
    assert strict.count("true") == lenient.count("true")
    assert strict.count("true", matched=True) <= lenient.count("true", matched=True)
    assert strict.f1("worst") <= lenient.f1("worst") + 1e-12
    large = [c for c in components(truth, 26) if len(c) >= smallest]
    assert strict.count("true") == len(large)


def test_diagonal_neighbours_are_one_lesion_or_three() -> None:
    diagonal, edges, empty = MASKS["diagonal"], MASKS["edge neighbours"], MASKS["empty"]
    counts = {
        c: match_lesions(empty, diagonal, voxel_ml=1.0, connectivity=c).count("true") for c in (6, 18, 26)
    }
    assert counts == {6: 3, 18: 2, 26: 1}
    counts = {c: match_lesions(empty, edges, voxel_ml=1.0, connectivity=c).count("true") for c in (6, 18, 26)}
    assert counts == {6: 2, 18: 1, 26: 1}


def boxes(*starts_and_sides: tuple[int, int]) -> Mask:
    mask = np.zeros((40, 6, 6), bool)
    for start, side in starts_and_sides:
        mask[start : start + side, 1:3, 1:3] = True
    return mask


def test_coverage_and_intersection_over_union() -> None:
    truth, prediction = boxes((2, 10)), boxes((2, 4))

    def recall(rule: OverlapRule, threshold: float) -> float:
        return match_lesions(prediction, truth, voxel_ml=1.0, rule=rule, threshold=threshold).recall()

    assert recall("coverage", 0.4) == recall("iou", 0.4) == 1
    assert recall("coverage", 0.41) == recall("iou", 0.41) == 0
    wide = match_lesions(boxes((0, 40)), truth, voxel_ml=1.0, rule="coverage", threshold=0.5)
    assert wide.recall() == 1
    assert wide.count("predicted", matched=False) == 1


def test_small_lesions_do_not_count_and_neither_does_finding_them() -> None:
    truth, prediction = boxes((2, 10), (20, 1)), boxes((2, 8), (20, 3), (30, 1))
    match = match_lesions(prediction, truth, voxel_ml=1.0, smallest_ml=8.0)
    assert (match.count("true"), match.count("predicted")) == (1, 1)
    assert match.f1() == match.precision() == match.recall() == 1
    assert len(match.lesions) == 5


def test_lesions_merge_over_dilations() -> None:
    truth, prediction = boxes((2, 4), (10, 4)), boxes((12, 2))
    assert match_lesions(prediction, truth, voxel_ml=1.0).recall() == 0.5
    merged = match_lesions(prediction, truth, voxel_ml=1.0, merge=3)
    assert merged.count("true") == 1
    assert merged.recall() == 1
    assert merged.dice() == pytest.approx(2 * 2 / (8 + 2))
    beside = match_lesions(boxes((16, 2)), truth, voxel_ml=1.0, merge=3)
    assert beside.recall() == 1
    assert beside.dice() == 0


def test_nothing_to_find_and_nothing_found() -> None:
    empty, one = MASKS["empty"], MASKS["one voxel"]

    def scores(match: LesionMatch, policy: EmptyPolicy) -> tuple[float, ...]:
        return tuple(score(policy) for score in (match.f1, match.precision, match.recall, match.dice))

    both = match_lesions(empty, empty, voxel_ml=1.0)
    assert scores(both, "perfect") == (1, 1, 1, 1)
    assert scores(both, "worst") == (0, 0, 0, 0)
    assert all(math.isnan(value) for value in scores(both, "undefined"))
    missed = match_lesions(empty, one, voxel_ml=1.0)
    assert scores(missed, "perfect") == (0, 0, 0, 0)
    false = match_lesions(one, empty, voxel_ml=1.0)
    assert (false.f1(), false.precision(), false.dice()) == (0, 0, 0)
    assert math.isnan(false.recall())


def test_what_is_known_of_a_lesion() -> None:
    truth, prediction = boxes((2, 4), (20, 4)), boxes((3, 4), (30, 2))
    found, missed, right, false = match_lesions(prediction, truth, voxel_ml=0.25).lesions
    assert (found.kind, found.volume, found.matched, found.overlap, found.partners) == (
        "true",
        4.0,
        True,
        3.0,
        (1,),
    )
    assert found.centre == (3.5, 1.5, 1.5)
    assert found.dice == pytest.approx(0.75)
    assert (missed.matched, missed.dice, missed.partners) == (False, 0.0, ())
    assert (right.kind, right.matched, right.partners) == ("predicted", True, (1,))
    assert (false.matched, false.overlap) == (False, 0.0)


def test_many_specks_need_no_table_of_all_pairs() -> None:
    rng = np.random.default_rng(5)
    prediction, truth = (rng.random((64, 64, 64)) < 0.05 for _ in range(2))
    match = match_lesions(prediction, truth, voxel_ml=1.0, connectivity=6)
    assert match.count("true") > 8000


def test_parameters_out_of_range_are_named() -> None:
    mask = np.ones(SHAPE, bool)
    with pytest.raises(ValueError, match="got 8"):
        match_lesions(mask, mask, voxel_ml=1.0, connectivity=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'touch'"):
        match_lesions(mask, mask, voxel_ml=1.0, rule="touch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iou needs a threshold"):
        match_lesions(mask, mask, voxel_ml=1.0, rule="iou")
    with pytest.raises(ValueError, match="got -1"):
        match_lesions(mask, mask, voxel_ml=1.0, merge=-1)
