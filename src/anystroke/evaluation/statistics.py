"""Intervals and paired tests of scores, with the conventions of the papers beside assumption-free ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import stats

from anystroke.core.arrays import Array

Centre = Literal["median", "mean"]

_EXACT_SIGNS = 12
_LEGEND = ((1e-4, "****"), (1e-3, "***"), (1e-2, "**"), (0.05, "*"))


def t_interval(
    centre: float,
    standard_deviation: float,
    count: int,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    level: float = 0.95,
) -> tuple[float, float]:
    """Compute the interval that the qATLAS paper prints: centre +- t * SD / sqrt(N), clipped to the bounds.

    Around a median it is no confidence interval of the median; it is here to print one's numbers like theirs.

    Args:
        centre: Median or mean.
        standard_deviation: Of the sample, with N - 1.
        count: N.
        bounds: Smallest and largest possible value.
        level: Confidence.

    Returns:
        Low and high; NaN for fewer than two values or an infinite spread.

    Example:
        >>> low, high = t_interval(0.575, 0.3066, 131, bounds=(0.0, 1.0))
        >>> f"{low:.3f}-{high:.3f}"
        '0.522-0.628'
    """
    if count < 2 or not (math.isfinite(centre) and math.isfinite(standard_deviation)):
        return math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, count - 1)) * standard_deviation / math.sqrt(count)
    low, high = bounds
    return max(centre - half, low), min(centre + half, high)


def bootstrap_interval(
    values: Sequence[float] | Array,
    *,
    rng: torch.Generator,
    centre: Centre = "median",
    draws: int = 2000,
    level: float = 0.95,
    units: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval of the median or mean over cases.

    Args:
        values: One score a case, none of them NaN.
        rng: Random stream.
        centre: What the interval is of.
        draws: Number of resamples.
        level: Confidence.
        units: What is drawn, such as the patient of each value; the values themselves if None.

    Returns:
        Low and high; NaN for fewer than two values, or units.

    Example:
        >>> low, high = bootstrap_interval([0.1, 0.5, 0.6, 0.7], rng=torch.Generator().manual_seed(1))
        >>> 0.1 <= low <= high <= 0.7
        True
    """
    sample = _finite_or_infinite(values)
    if sample.size < 2:
        return math.nan, math.nan
    if units is not None:
        centres = _centres_of_units(sample, units, draws, centre, rng)
        if centres.size == 0:
            return math.nan, math.nan
    else:
        resampled = sample[_indices(sample.size, draws, rng)]
        centres = np.median(resampled, axis=1) if centre == "median" else resampled.mean(axis=1)
    # Interpolating between two infinite values gives no number.
    low, high = np.quantile(centres, [0.5 - level / 2, 0.5 + level / 2], method="inverted_cdf")
    return float(low), float(high)


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same cases.

    Attributes:
        pairs: Cases in which both have a value.
        mean_difference: First minus second; NaN if a value is infinite.
        median_difference: Likewise.
        low: Bootstrap interval of the mean difference.
        high: Likewise.
        wilcoxon: Two-sided p-value of the Wilcoxon signed-rank test.
        permutation: Two-sided p-value of swapping the models at random in each case.
    """

    pairs: int
    mean_difference: float
    median_difference: float
    low: float
    high: float
    wilcoxon: float
    permutation: float


def compare_pairs(
    first: Sequence[float] | Array,
    second: Sequence[float] | Array,
    *,
    rng: torch.Generator,
    draws: int = 2000,
) -> PairedComparison:
    """Compare the scores of two models in the same cases.

    Args:
        first: One score a case; cases in which either is NaN are left out, and ``pairs`` says how many stay.
        second: Likewise, in the same order.
        rng: Random stream of bootstrap and permutations.
        draws: Number of each.

    Raises:
        ValueError: There are not as many scores of the one as of the other.

    Example:
        >>> rng = torch.Generator().manual_seed(1)
        >>> found = compare_pairs([0.5, 0.6, 0.7, 0.8, 0.9], [0.4, 0.4, 0.4, 0.4, 0.4], rng=rng)
        >>> found.pairs, round(found.mean_difference, 2), found.wilcoxon
        (5, 0.3, 0.0625)
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"expected as many scores of both, got {one.size} and {other.size}")
    both = ~(np.isnan(one) | np.isnan(other))
    difference = _differences(one[both], other[both])
    if not np.isfinite(difference).all():
        # Ranks are all that is left when a distance is infinite.
        return PairedComparison(
            difference.size, math.nan, float(np.median(difference)), math.nan, math.nan,
            wilcoxon_p(difference), math.nan,
        )  # fmt: skip
    if difference.size == 0:
        return PairedComparison(0, *[math.nan] * 6)
    low, high = bootstrap_interval(difference, rng=rng, centre="mean", draws=draws)
    return PairedComparison(
        pairs=difference.size,
        mean_difference=float(difference.mean()),
        median_difference=float(np.median(difference)),
        low=low,
        high=high,
        wilcoxon=wilcoxon_p(difference),
        permutation=permutation_p(difference, rng=rng, draws=draws),
    )


def wilcoxon_p(differences: Sequence[float] | Array) -> float:
    """Compute the two-sided p-value of the Wilcoxon signed-rank test; differences of 0 are left out.

    Args:
        differences: One a case, none of them NaN.

    Returns:
        1 if all are 0; NaN if there is none.
    """
    values = _finite_or_infinite(differences)
    if values.size == 0:
        return math.nan
    values = values[values != 0]
    if values.size == 0:
        return 1.0
    # The test looks at ranks alone, in which the largest number stands for infinity.
    largest = np.finfo(np.float64).max / 4
    finite = np.clip(values, -largest, largest)
    return float(stats.wilcoxon(finite, alternative="two-sided").pvalue)


def permutation_p(differences: Sequence[float] | Array, *, rng: torch.Generator, draws: int = 2000) -> float:
    """Compute the two-sided p-value of the mean difference when signs are drawn at random.

    With few cases all signs are tried; else the drawn ones count with the observed one, so that p is never 0.

    Args:
        differences: One a case, finite.
        rng: Random stream.
        draws: Number of random sets of signs.

    Returns:
        NaN if there is no difference.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        return math.nan
    observed = abs(values.sum())
    rounding = 1e-12 * np.abs(values).sum()
    if values.size <= _EXACT_SIGNS:
        bits = np.arange(2**values.size)[:, None] >> np.arange(values.size) & 1
        return float((np.abs((2 * bits - 1) @ values) >= observed - rounding).mean())
    drawn = torch.randint(0, 2, (draws, values.size), generator=rng).numpy()
    extreme = np.count_nonzero(np.abs((2 * drawn - 1) @ values) >= observed - rounding)
    return (extreme + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of one family for their number (Holm 1979); NaN stays, and is no test.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    tested = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, k) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[k] = highest
    return corrected


def stars(p: float) -> str:
    """Write a p-value as the papers' brackets do: ns, *, **, *** or ****; empty for NaN.

    Example:
        >>> [stars(p) for p in (0.051, 0.05, 0.01, 0.001, 0.0001)]
        ['ns', '*', '**', '***', '****']
    """
    if math.isnan(p):
        return ""
    return next((text for limit, text in _LEGEND if p <= limit), "ns")


@dataclass(frozen=True)
class SeedSpread:
    """How much of a score's spread comes from training the same thing again.

    Attributes:
        runs: Number of runs.
        means: Mean score of each.
        between_runs: SD of these means; NaN for one run.
        within_case: Root mean variance of a case's score over the runs; NaN for one run.
        between_cases: SD over cases of the score averaged over runs.
    """

    runs: int
    means: tuple[float, ...]
    between_runs: float
    within_case: float
    between_cases: float


def seed_spread(scores: Array) -> SeedSpread:
    """Split the spread of scores.

    Args:
        scores: (runs, cases), of the same cases; a case that is NaN in any run is left out.

    Example:
        >>> round(seed_spread(np.array([[0.5, 0.7], [0.6, 0.8]])).between_runs, 4)
        0.0707
    """
    kept = scores[:, ~np.isnan(scores).any(axis=0)]
    runs, cases = kept.shape
    means = kept.mean(axis=1) if cases else np.full(runs, math.nan)
    several = runs > 1 and cases > 0
    return SeedSpread(
        runs,
        tuple(float(mean) for mean in means),
        float(means.std(ddof=1)) if several else math.nan,
        float(np.sqrt(kept.var(axis=0, ddof=1).mean())) if several else math.nan,
        float(kept.mean(axis=0).std(ddof=1)) if cases > 1 else math.nan,
    )


def _centres_of_units(
    sample: Array, units: Sequence[str], draws: int, centre: Centre, rng: torch.Generator
) -> Array:
    """Draw whole units, with all of their values; nothing for fewer than two."""
    names, member = np.unique(np.asarray(units), return_inverse=True)
    if names.size < 2:
        return np.empty(0)
    drawn = _indices(names.size, draws, rng)
    times = np.stack([(drawn == k).sum(axis=1) for k in range(names.size)], axis=1)
    order = sample.argsort(kind="stable")
    weights, ordered = times[:, member[order]], sample[order]
    if centre == "mean":
        products = np.where(weights > 0, weights * np.where(weights > 0, ordered, 0.0), 0.0)
        means: Array = products.sum(axis=1) / weights.sum(axis=1)
        return means
    upto = weights.cumsum(axis=1)
    half = upto[:, -1:] / 2
    low, high = ordered[(upto >= half).argmax(axis=1)], ordered[(upto > half).argmax(axis=1)]
    middle: Array = np.where(low == high, low, (low + high) / 2)
    return middle


def _finite_or_infinite(values: Sequence[float] | Array) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError(f"expected scores without NaN, got {int(np.isnan(array).sum())}; count them aside")
    return array


def _differences(one: Array, other: Array) -> Array:
    """Subtract; two infinite scores are equal."""
    difference = np.zeros_like(one)
    unequal = one != other
    difference[unequal] = one[unequal] - other[unequal]
    return difference


def _indices(count: int, draws: int, rng: torch.Generator) -> Array:
    drawn: Array = torch.randint(0, count, (draws, count), generator=rng).numpy()
    return drawn
