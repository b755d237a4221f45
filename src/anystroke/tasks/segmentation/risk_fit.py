"""Learn from simulated patients which signs tell masks that fail, and judge what was learnt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anystroke.core.arrays import Array
from anystroke.tasks.segmentation.observations import Observation
from anystroke.tasks.segmentation.risk import RiskModel, risk_of, standardised
from anystroke.tasks.segmentation.signs import SIGNS

FEWEST_MASKS = 60
"""Patients that are needed."""
FEWEST_OF_A_KIND = 10
"""Masks that must fail, and masks that must not."""
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_FOLDS = 5


@dataclass(frozen=True)
class RiskScore:
    """How well risks told failed masks from others.

    Attributes:
        patients: How many there were.
        failed: How many of their masks failed.
        auc: Area under the receiver operating characteristic; NaN if all failed, or none.
        interval: Its 95 % interval.
        sensitivity: Share of failed masks that were flagged.
        specificity: Share of the others that were not.
    """

    patients: int
    failed: int
    auc: float
    interval: tuple[float, float]
    sensitivity: float
    specificity: float


def fit_risk(observations: Sequence[Observation]) -> RiskModel:
    """Fit the probability that a mask fails.

    A logistic regression on standardised signs and their squares. How much its weights are held back is what
    gives the least log loss in five-fold cross-validation whose folds share no anatomy; so are the figures
    and the threshold, that of the largest sum of sensitivity and specificity.

    Args:
        observations: Of patients that the network may have learnt from; those held out judge the result.

    Returns:
        The model.

    Raises:
        ValueError: There are too few patients, or too few masks that fail, or that do not.
    """
    failed = np.array([each.failed for each in observations])
    few = min(int(failed.sum()), int((~failed).sum())) if len(failed) else 0
    if len(failed) < FEWEST_MASKS or few < FEWEST_OF_A_KIND:
        raise ValueError(
            f"expected at least {FEWEST_MASKS} patients with {FEWEST_OF_A_KIND} masks that fail and as many "
            f"that do not, got {len(failed)} with {int(failed.sum())} that fail; simulate more"
        )
    table = np.array([[each.signs.get(name, math.nan) for name in SIGNS] for each in observations])
    usable = np.isfinite(table).all(axis=0) & (table.std(axis=0) > 1e-6)
    values = table[:, usable]
    centre, scale = values.mean(axis=0).round(6), values.std(axis=0).round(6)
    entries = standardised(values, centre, scale)
    anatomies = np.array([each.groups["anatomy"] for each in observations])
    expected = {strength: _held_out(entries, failed, anatomies, strength) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda strength: _log_loss(expected[strength], failed))
    threshold = best_threshold(expected[best], failed)
    score = judge_risks(expected[best], failed, threshold)
    weights, intercept = _weights(entries, failed, best)
    half = len(centre)
    return RiskModel(
        signs=tuple(name for name, kept in zip(SIGNS, usable, strict=True) if kept),
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        linear=tuple(weights[:half].round(6).tolist()),
        squared=tuple(weights[half:].round(6).tolist()),
        intercept=round(intercept, 6),
        threshold=threshold,
        sensitivity=round(score.sensitivity, 4),
        specificity=round(score.specificity, 4),
        auc=round(score.auc, 4),
        auc_interval=(round(score.interval[0], 4), round(score.interval[1], 4)),
        patients=score.patients,
        failed=score.failed,
    )


def risks(model: RiskModel, observations: Sequence[Observation]) -> Array:
    """Return the risk of each mask; NaN where it is not known."""
    found = [risk_of(each.signs, model) for each in observations]
    return np.array([math.nan if risk is None else risk.probability for risk in found])


def judge_risks(risk: Array, failed: Array, threshold: float) -> RiskScore:
    """Judge risks as a diagnostic test.

    Args:
        risk: Of each mask.
        failed: Whether it failed, bool.
        threshold: From which a mask is flagged.

    Example:
        >>> score = judge_risks(np.array([0.1, 0.4, 0.8, 0.9]), np.array([False, True, False, True]), 0.5)
        >>> score.auc, score.sensitivity, score.specificity
        (0.75, 0.5, 0.5)

    Source:
        Interval: Hanley and McNeil, Radiology 143:29, 1982.
    """
    ill, well = risk[failed], risk[~failed]
    flagged = risk >= threshold
    rates = [
        float(values.mean()) if len(values) else math.nan for values in (flagged[failed], ~flagged[~failed])
    ]
    if not len(ill) or not len(well):
        return RiskScore(len(risk), len(ill), math.nan, (math.nan, math.nan), *rates)
    above = (ill[:, None] > well).mean() + 0.5 * (ill[:, None] == well).mean()
    auc = float(above)
    both_ill, both_well = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (len(ill) - 1) * (both_ill - auc**2) + (len(well) - 1) * (both_well - auc**2)
    half = 1.96 * math.sqrt(max(variance, 0.0) / (len(ill) * len(well)))
    return RiskScore(len(risk), len(ill), auc, (max(auc - half, 0.0), min(auc + half, 1.0)), *rates)


def best_threshold(risk: Array, failed: Array) -> float:
    """Find the threshold of the largest sum of sensitivity and specificity (Youden), in steps of 0.01.

    Example:
        >>> best_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
        0.5
    """
    steps = np.arange(1, 100) / 100
    sums = np.array([(risk[failed] >= t).mean() + (risk[~failed] < t).mean() for t in steps])
    best = steps[sums >= sums.max() - 1e-9]
    return float(best[len(best) // 2 - (len(best) % 2 == 0)].round(2))


def _weights(entries: Array, failed: Array, strength: float) -> tuple[Array, float]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=2000).fit(entries, failed)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _held_out(entries: Array, failed: Array, anatomies: Array, strength: float) -> Array:
    """Return the risk of each mask from weights that other anatomies gave."""
    from sklearn.model_selection import GroupKFold

    expected = np.zeros(len(failed))
    folds = min(_FOLDS, len(set(anatomies.tolist())))
    for others, own in GroupKFold(folds).split(entries, failed, anatomies):
        weights, intercept = _weights(entries[others], failed[others], strength)
        expected[own] = 1 / (1 + np.exp(-(intercept + entries[own] @ weights)))
    return expected


def _log_loss(expected: Array, failed: Array) -> float:
    right = np.where(failed, expected, 1 - expected).clip(1e-9)
    return -float(np.log(right).mean())
