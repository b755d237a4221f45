import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anystroke.core.rng import stream
from anystroke.evaluation.statistics import (
    bootstrap_interval,
    compare_pairs,
    holm,
    permutation_p,
    seed_spread,
    stars,
    t_interval,
    wilcoxon_p,
)

SCORES = np.random.default_rng(1).beta(2, 2, 60)


@pytest.mark.parametrize(
    ("median", "deviation", "count", "bounds", "printed"),
    [
        # Printed in the qATLAS paper's table for ATLAS (N = 131); the SD is what its width implies.
        (0.575, 0.3066, 131, (0.0, 1.0), "0.522-0.628"),
        # An ensemble that finds nothing: the penalty of 256 mm at the upper bound, any spread below.
        (256.0, 2000.0, 28, (0.0, 256.0), "0.000-256.000"),
    ],
)
def test_printed_intervals(
    median: float, deviation: float, count: int, bounds: tuple[float, float], printed: str
) -> None:
    low, high = t_interval(median, deviation, count, bounds=bounds)
    assert f"{low:.3f}-{high:.3f}" == printed


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    expected = stats.t.interval(0.9, 59, SCORES.mean(), stats.sem(SCORES))
    found = t_interval(float(SCORES.mean()), float(SCORES.std(ddof=1)), 60, level=0.9)
    assert found == pytest.approx(expected)
    assert all(math.isnan(side) for side in t_interval(0.5, 0.1, 1))
    assert all(math.isnan(side) for side in t_interval(math.inf, math.nan, 10))


@pytest.mark.parametrize("centre", ["mean", "median"])
def test_bootstrap_against_scipy(centre: str) -> None:
    found = bootstrap_interval(SCORES, rng=stream(1, "test"), centre=centre, draws=20_000)  # type: ignore[arg-type]
    theirs = stats.bootstrap(
        (SCORES,), getattr(np, centre), method="percentile", n_resamples=9999, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.01)
    again = bootstrap_interval(SCORES, rng=stream(1, "test"), centre=centre, draws=20_000)  # type: ignore[arg-type]
    assert found == again


def test_the_bootstrap_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(4), 0
    for k in range(200):
        low, high = bootstrap_interval(
            rng.normal(0.3, 0.1, 40), rng=stream(k, "test"), centre="mean", draws=400
        )
        covered += low <= 0.3 <= high
    assert 0.87 <= covered / 200 <= 0.98


def test_units_are_drawn_whole() -> None:
    values = [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]
    alone = bootstrap_interval(values, rng=stream(1, "test"), centre="mean", units=list("abcdef"))
    plain = bootstrap_interval(values, rng=stream(1, "test"), centre="mean")
    assert alone == pytest.approx(plain)
    median = bootstrap_interval(values, rng=stream(1, "test"), units=list("abcdef"))
    assert median == pytest.approx(bootstrap_interval(values, rng=stream(1, "test")))
    few = bootstrap_interval(values, rng=stream(1, "test"), centre="mean", units=list("aaabbb"))
    assert few == pytest.approx((0.2, 0.8))
    assert all(map(math.isnan, bootstrap_interval(values, rng=stream(1, "test"), units=["a"] * 6)))
    # More cases of the same patients tell no more about other patients.
    copies = bootstrap_interval(values * 9, rng=stream(1, "test"), centre="mean", units=list("abcdef") * 9)
    assert copies == pytest.approx(plain)
    assert np.ptp(bootstrap_interval(values * 9, rng=stream(1, "test"), centre="mean")) < np.ptp(plain) / 2


def test_infinite_distances_have_ranks() -> None:
    low, high = bootstrap_interval([1.0, 2.0, 3.0, math.inf, math.inf], rng=stream(1, "test"))
    assert low < high == math.inf
    some = compare_pairs([1.0, 2.0, 3.0, math.inf], [2.0, 3.0, math.inf, math.inf], rng=stream(1, "test"))
    assert some.pairs == 4
    assert math.isnan(some.mean_difference)
    assert some.wilcoxon == stats.wilcoxon([-1.0, -1.0, -9.0]).pvalue


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=25))
def test_wilcoxon_is_scipys(differences: list[float]) -> None:
    if any(differences):
        assert wilcoxon_p(differences) == stats.wilcoxon([d for d in differences if d]).pvalue
    else:
        assert wilcoxon_p(differences) == 1


def test_wilcoxon_by_trying_all_signs() -> None:
    differences = [0.3, -0.1, 0.7, 0.2, 0.9, -0.4, 0.55]
    ranks = stats.rankdata(np.abs(differences))
    observed = sum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    middle = sum(ranks) / 2
    sums = [
        sum(rank for rank, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product((0, 1), repeat=7)
    ]
    extreme = sum(abs(total - middle) >= abs(observed - middle) - 1e-9 for total in sums)
    assert wilcoxon_p(differences) == pytest.approx(extreme / len(sums))


@pytest.mark.parametrize("count", [6, 30])
def test_permutations_against_scipy(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.05, 0.1, count)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(3)
    ).pvalue
    found = permutation_p(differences, rng=stream(1, "test"), draws=20_000)
    assert found == pytest.approx(theirs, abs=1e-12 if count == 6 else 0.015)
    assert permutation_p(np.full(40, 0.1), rng=stream(1, "test"), draws=500) == pytest.approx(1 / 501)


def test_both_tests_keep_their_level() -> None:
    rng, rejected = np.random.default_rng(5), np.zeros(2)
    for k in range(200):
        found = compare_pairs(rng.normal(size=25), rng.normal(size=25), rng=stream(k, "test"), draws=200)
        rejected += [found.wilcoxon <= 0.05, found.permutation <= 0.05]
    assert (rejected / 200 <= 0.1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_step_by_step(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[k] * (len(p_values) - rank) > level:
                break
            rejected.add(k)
        assert {k for k, p in enumerate(corrected) if p <= level} == rejected
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))


def test_holm_counts_tests_alone() -> None:
    corrected = holm([0.01, math.nan, 0.04])
    assert corrected[0] == 0.02
    assert math.isnan(corrected[1])
    assert corrected[2] == 0.04
    assert stars(math.nan) == ""


def test_pairs_leave_out_what_either_lacks_and_say_how_many_stay() -> None:
    found = compare_pairs([0.5, math.nan, 0.7, 0.9], [0.4, 0.4, math.nan, 0.5], rng=stream(1, "test"))
    assert found.pairs == 2
    assert found.mean_difference == pytest.approx(0.25)
    none = compare_pairs([math.nan], [1.0], rng=stream(1, "test"))
    assert none.pairs == 0
    assert math.isnan(none.wilcoxon)
    same = compare_pairs([0.5, 0.6], [0.5, 0.6], rng=stream(1, "test"))
    assert (same.wilcoxon, same.permutation) == (1, 1)
    with pytest.raises(ValueError, match="1 and 2"):
        compare_pairs([1.0], [1.0, 2.0], rng=stream(1, "test"))
    with pytest.raises(ValueError, match="without NaN"):
        bootstrap_interval([math.nan, 1.0], rng=torch.Generator())


def test_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(7)
    case, run = rng.normal(0.6, 0.2, 400), np.array([0.05, -0.05, 0.0])
    scores = case[None] + run[:, None] + rng.normal(0, 0.03, (3, 400))
    found = seed_spread(scores)
    assert found.runs == 3
    assert found.between_runs == pytest.approx(0.05, abs=0.005)
    assert found.within_case == pytest.approx(math.hypot(0.05, 0.03), abs=0.005)
    assert found.between_cases == pytest.approx(0.2, abs=0.02)
    assert math.isnan(seed_spread(scores[:1]).between_runs)
    scores[0, :399] = math.nan
    assert len(seed_spread(scores).means) == 3
