"""How well outcomes are predicted, and whether one model does better than another."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.special import expit

from anystroke.core.arrays import Array
from anystroke.tasks.outcome.table import TargetKind

ECE_BINS = 30
"""As in White et al., NeuroImage: Clinical 2024."""


def chances(raw: Array) -> Array:
    """Turn logits into probabilities of classes.

    Args:
        raw: float64 (patients, heads): logits of lying above class 0, 1, ...

    Returns:
        float64 (patients, heads + 1); rows sum to 1.

    Example:
        >>> chances(np.array([[0.0, -20.0]])).round(2).tolist()
        [[0.5, 0.5, 0.0]]
    """
    # The chance of lying above a grade cannot rise with the grade.
    above = np.minimum.accumulate(expit(raw), axis=1)
    edges = np.concatenate([np.ones((len(raw), 1)), above, np.zeros((len(raw), 1))], axis=1)
    found: Array = edges[:, :-1] - edges[:, 1:]
    return found


def area_under_curve(score: Array, positive: Array) -> float:
    """Compute the area under the ROC curve; equal scores count half; NaN without both classes.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        0.75
    """
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return math.nan
    ranks = stats.rankdata(score)
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


def calibration_error(probability: Array, positive: Array, bins: int = ECE_BINS) -> float:
    """Compute the expected calibration error over bins of equal width.

    Example:
        >>> round(calibration_error(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, True, False, False])), 3)
        0.1
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(float(probability[place == k].mean() - positive[place == k].mean())) * float((place == k).mean())
        for k in np.unique(place)
    ]
    return float(sum(gaps))


def scores(raw: Array, target: Array, kind: TargetKind) -> dict[str, float]:
    """Measure predictions.

    Args:
        raw: float64 (patients, heads), as `FittedModel.raw` returns it.
        target: float64 (patients,).
        kind: Of the target.

    Returns:
        Name -> value: of numbers ``r``, ``spearman``, ``mae``, ``rmse``, ``r2``; of two classes ``auc``,
        ``accuracy``, ``balanced_accuracy``, ``f1``, ``ece``, ``brier``; of grades ``mae``, ``spearman``,
        ``accuracy``, ``balanced_accuracy`` and ``within_one``.
    """
    if kind == "number":
        return _number_scores(raw[:, 0], target)
    probabilities = chances(raw)
    predicted = probabilities.argmax(axis=1)
    recalls = [float((predicted[target == k] == k).mean()) for k in np.unique(target)]
    found = {"accuracy": float((predicted == target).mean()), "balanced_accuracy": float(np.mean(recalls))}
    if kind == "ordered":
        expected = probabilities @ np.arange(probabilities.shape[1])
        median = (probabilities.cumsum(axis=1) < 0.5).sum(axis=1)
        error = np.abs(median - target)
        within = float((error <= 1).mean())
        order = float(stats.spearmanr(expected, target).statistic)
        return {"spearman": order, "mae": float(error.mean()), "within_one": within, **found}
    positive, chance = target == 1, probabilities[:, 1]
    hits = float(((predicted == 1) & positive).sum())
    return {
        "auc": area_under_curve(raw[:, 0], positive),
        **found,
        "f1": 2 * hits / max(float((predicted == 1).sum() + positive.sum()), 1.0),
        "ece": calibration_error(chance, positive),
        "brier": float(((chance - positive) ** 2).mean()),
    }


def _number_scores(predicted: Array, target: Array) -> dict[str, float]:
    error = predicted - target
    varies = predicted.std() > 1e-12 and target.std() > 1e-12
    return {
        "r": float(np.corrcoef(predicted, target)[0, 1]) if varies else math.nan,
        "spearman": float(stats.spearmanr(predicted, target).statistic) if varies else math.nan,
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float(1 - (error**2).sum() / max(float(((target - target.mean()) ** 2).sum()), 1e-12)),
    }


MAIN_SCORE: dict[TargetKind, str] = {"number": "r", "two_classes": "auc", "ordered": "spearman"}
"""The score that models are compared by; more is better."""


def bootstrap(
    score: Callable[[Array], float],
    count: int,
    *,
    rng: torch.Generator,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Compute a percentile interval of a score over patients.

    Args:
        score: Of the patients with the given numbers, which may be repeated.
        count: Of patients.
        rng: Random stream.
        draws: Number of resamples.
        level: Confidence.

    Returns:
        Low and high; NaN if no resample has a score.
    """
    index = torch.randint(0, count, (draws, count), generator=rng).numpy()
    values = np.array([score(row) for row in index])
    values = values[~np.isnan(values)]
    if not values.size:
        return math.nan, math.nan
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class TTest:
    """A t test of scores of folds.

    Attributes:
        difference: Mean of the first minus the second.
        t: Statistic.
        dof: Degrees of freedom.
        p: Two-sided.
        low: 95 % interval of the difference.
        high: Likewise.
    """

    difference: float
    t: float
    dof: float
    p: float
    low: float
    high: float


def white_t_test(differences: Sequence[float]) -> TTest:
    """Test differences of fold means with the reduced degrees of freedom of White et al. 2024.

    Folds share training patients, so that k folds count as 0.45 (k - 1) degrees of freedom: 1.35 for four.

    Args:
        differences: Mean difference of each fold; at least two.

    Example:
        >>> round(white_t_test([0.02, 0.03, 0.01, 0.02]).dof, 2)
        1.35
    """
    values = np.asarray(differences, dtype=np.float64)
    dof = 0.45 * (len(values) - 1)
    return _t_test(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(dof + 1), dof)


def corrected_t_test(differences: Sequence[float], *, test_share: float) -> TTest:
    """Test differences of the folds of repeated cross-validation.

    After Nadeau and Bengio, Machine Learning 52:239, 2003.

    Args:
        differences: One a fold and repeat; at least two.
        test_share: Tested over trained patients, such as 1/4 for five folds.

    Example:
        >>> corrected_t_test([0.1, 0.1, 0.1, 0.2], test_share=0.25).p < 0.2
        True
    """
    values = np.asarray(differences, dtype=np.float64)
    error = math.sqrt((1 / len(values) + test_share) * float(values.var(ddof=1)))
    return _t_test(float(values.mean()), error, len(values) - 1)


def _t_test(difference: float, error: float, dof: float) -> TTest:
    if not error > 0:
        p = 1.0 if difference == 0 else 0.0
        return TTest(
            difference,
            math.copysign(math.inf, difference) if difference else 0.0,
            dof,
            p,
            difference,
            difference,
        )
    t = difference / error
    half = float(stats.t.ppf(0.975, dof)) * error
    return TTest(difference, t, dof, float(2 * stats.t.sf(abs(t), dof)), difference - half, difference + half)
