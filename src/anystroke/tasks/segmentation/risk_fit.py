"""Learn from simulated patients which signs tell masks that fail, and judge what was learnt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anystroke.core.arrays import Array
from anystroke.tasks.segmentation.observations import Observation
from anystroke.tasks.segmentation.risk import VOLUME, RiskCurves, RiskModel, log_odds, risk_of
from anystroke.tasks.segmentation.signs import SIGNS

FEWEST_MASKS = 60
"""Patients that are needed."""
FEWEST_OF_A_KIND = 10
"""Masks that must fail, and masks that must not."""
ROUNDS = (10, 20, 40, 80, 150, 300)
_RATE, _FEWEST_IN_A_STEP, _STEPS = 0.05, 20, 24
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
    """Fit the probability that a mask fails, for masks that mark something and for empty ones.

    Gradient boosting of single splits, so that each sign has a curve of its own and they are added. How many
    there are is what gives the least log loss in five-fold cross-validation whose folds share no anatomy; so
    are the figures and the threshold, that of the largest sum of sensitivity and specificity.

    Args:
        observations: Of patients that the network may have learnt from; those held out judge the result.

    Returns:
        The model.

    Raises:
        ValueError: There are too few patients, or too few masks that fail, or that do not, also among those
            that mark something.

    Source: J. Friedman, Greedy function approximation: a gradient boosting machine, Ann Stat 29:1189-1232
    (2001); Y. Lou, R. Caruana and J. Gehrke, Intelligible models for classification and regression, KDD 2012.
    """
    failed = np.array([each.failed for each in observations], dtype=bool)
    few = min(int(failed.sum()), int((~failed).sum()))
    if len(failed) < FEWEST_MASKS or few < FEWEST_OF_A_KIND:
        raise ValueError(
            f"expected at least {FEWEST_MASKS} patients with {FEWEST_OF_A_KIND} masks that fail and as many "
            f"that do not, got {len(failed)} with {int(failed.sum())} that fail; simulate more"
        )
    table = np.array([[each.signs.get(name, math.nan) for name in SIGNS] for each in observations])
    anatomies = np.array([each.groups["anatomy"] for each in observations])
    empty = table[:, list(SIGNS).index(VOLUME)] == 0
    few = min(int(failed[~empty].sum()), int((~failed[~empty]).sum()))
    if few < FEWEST_OF_A_KIND:
        raise ValueError(
            f"expected {FEWEST_OF_A_KIND} masks that mark something and fail and as many that do not, got "
            f"{int(failed[~empty].sum())} and {int((~failed[~empty]).sum())}; simulate more"
        )
    expected = np.zeros(len(failed))
    curves = []
    for kind in (~empty, empty):
        found, expected[kind] = _fit(table[kind], failed[kind], anatomies[kind])
        curves.append(found)
    threshold = best_threshold(expected[~empty], failed[~empty])
    score = judge_risks(expected, failed, threshold)
    marked = judge_risks(expected[~empty], failed[~empty], threshold)
    return RiskModel(
        marked=curves[0],
        empty=curves[1],
        threshold=threshold,
        sensitivity=round(marked.sensitivity, 4),
        specificity=round(marked.specificity, 4),
        auc=round(score.auc, 4),
        auc_interval=(round(score.interval[0], 4), round(score.interval[1], 4)),
        auc_marked=round(marked.auc, 4),
        patients=score.patients,
        failed=score.failed,
        patients_empty=int(empty.sum()),
        failed_empty=int(failed[empty].sum()),
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


def _fit(table: Array, failed: Array, anatomies: Array) -> tuple[RiskCurves, Array]:
    """Fit the curves of one kind of masks; they, and the risk of each mask from other anatomies."""
    few = min(int(failed.sum()), int((~failed).sum()))
    if few < FEWEST_OF_A_KIND:
        share = (failed.sum() + 1) / (len(failed) + 2)
        intercept = round(math.log(share / (1 - share)), 4)
        return RiskCurves(signs=(), usual=(), edges=(), odds=(), intercept=intercept), np.full(
            len(failed), share
        )
    expected = _held_out(table, failed, anatomies)
    best = min(ROUNDS, key=lambda rounds: _log_loss(expected[rounds], failed))
    return _curves(table, failed)[best], expected[best]


def _curves(table: Array, failed: Array) -> dict[int, RiskCurves]:
    """Boost splits of the signs, cut at evenly spaced quantiles; the curves after some rounds."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    usable = [k for k in range(table.shape[1]) if np.isfinite(table[:, k]).all() and np.ptp(table[:, k]) > 0]
    values = table[:, usable]
    edges = [_edges(values[:, k]) for k in range(len(usable))]
    steps = np.stack([np.searchsorted(e, values[:, k]) for k, e in enumerate(edges)], axis=1).astype(float)
    fitted = HistGradientBoostingClassifier(
        max_iter=max(ROUNDS),
        learning_rate=_RATE,
        max_depth=1,
        min_samples_leaf=_FEWEST_IN_A_STEP,
        early_stopping=False,
    )
    firsts = np.cumsum([1, *(len(own) + 1 for own in edges)])
    probes = np.zeros((int(firsts[-1]), len(usable)))
    for k, (own, first) in enumerate(zip(edges, firsts, strict=False)):
        probes[first : first + len(own) + 1, k] = np.arange(len(own) + 1)
    with threadpool_limits(1):
        fitted.fit(steps, failed)
        stages = list(fitted.staged_decision_function(probes))
    found = {}
    for rounds in ROUNDS:
        start, *_ = heights = stages[rounds - 1]
        odds = [
            heights[first : first + len(own) + 1] - start for own, first in zip(edges, firsts, strict=False)
        ]
        found[rounds] = _read(values, steps, edges, odds, float(start), [list(SIGNS)[k] for k in usable])
    return found


def _read(
    values: Array, steps: Array, edges: list[Array], odds: list[Array], start: float, names: list[str]
) -> RiskCurves:
    """Centre curves on the patients, and leave out those that say nothing."""
    means = [float(curve[steps[:, k].astype(int)].mean()) for k, curve in enumerate(odds)]
    kept = [k for k, curve in enumerate(odds) if np.ptp(curve) > 1e-6]
    shapes = [_joined(edges[k], odds[k] - means[k]) for k in kept]
    return RiskCurves(
        signs=tuple(names[k] for k in kept),
        usual=tuple(round(float(np.median(values[:, k])), 6) for k in kept),
        edges=tuple(tuple(shape[0]) for shape in shapes),
        odds=tuple(tuple(shape[1]) for shape in shapes),
        intercept=round(start + sum(means), 4),
    )


def _edges(values: Array) -> Array:
    """Return where a sign is cut: between quantiles, never at a value that patients have."""
    distinct = np.unique(values)
    cuts = (distinct[1:] + distinct[:-1]) / 2
    wanted = np.quantile(values, np.linspace(0, 1, _STEPS + 1)[1:-1])
    chosen = np.unique(cuts[np.searchsorted(cuts, wanted).clip(0, len(cuts) - 1)]) if len(cuts) else cuts
    found: Array = chosen
    return found


def _joined(edges: Array, odds: Array) -> tuple[list[float], list[float]]:
    """Join neighbouring steps of one height."""
    differ = np.abs(np.diff(odds)) > 1e-6
    heights = odds[np.concatenate([[True], differ])]
    return [round(float(edge), 6) for edge in edges[differ]], [round(float(height), 4) for height in heights]


def _held_out(table: Array, failed: Array, anatomies: Array) -> dict[int, Array]:
    """Return, for numbers of rounds, the risk of each mask from curves that other anatomies gave."""
    from sklearn.model_selection import GroupKFold

    expected = {rounds: np.full(len(failed), float(failed.mean())) for rounds in ROUNDS}
    folds = min(_FOLDS, len(set(anatomies.tolist())))
    if folds < 2:
        return expected
    for others, own in GroupKFold(folds).split(table, failed, anatomies):
        if not 0 < failed[others].sum() < len(others):
            continue
        for rounds, curves in _curves(table[others], failed[others]).items():
            columns = [list(SIGNS).index(name) for name in curves.signs]
            odds = log_odds(table[own][:, columns], curves).sum(axis=1)
            expected[rounds][own] = 1 / (1 + np.exp(-(curves.intercept + odds)))
    return expected


def _log_loss(expected: Array, failed: Array) -> float:
    right = np.where(failed, expected, 1 - expected).clip(1e-9)
    return -float(np.log(right).mean())
