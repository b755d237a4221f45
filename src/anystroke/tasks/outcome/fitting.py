"""To train a model of outcomes, with its parameters chosen among the training patients."""

import numpy as np

from anystroke.core.arrays import Array
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.estimators import ESTIMATORS, FittedPart, Parameters
from anystroke.tasks.outcome.folds import stratified_folds
from anystroke.tasks.outcome.models import (
    FittedMember,
    FittedModel,
    ModelSpec,
    Transform,
    fitting_spec,
    head_targets,
)
from anystroke.tasks.outcome.network_training import fit_network
from anystroke.tasks.outcome.table import TargetKind

_INNER_FOLDS = 5


def fit_model(
    spec: ModelSpec, cohort: OutcomeCohort, kind: TargetKind, *, seed: int = 1, epochs: int | None = None
) -> FittedModel:
    """Train a model.

    Args:
        spec: What to train.
        cohort: Training patients, all with a target.
        kind: Of the target.
        seed: Of inner folds and networks.
        epochs: Of networks; their own number if None.

    Raises:
        OutcomeError: The cohort lacks what the model needs, or is too small for it.
    """
    bounds = (float(cohort.target.min()), float(cohort.target.max()))
    if spec.network:
        return FittedModel(
            spec, kind, bounds=bounds, network=fit_network(spec, cohort, kind, seed=seed, epochs=epochs)
        )
    spec = fitting_spec(spec, cohort)
    members = []
    for member in spec.members:
        transform = Transform.fit(member.groups, cohort)
        x = transform.apply(cohort)
        fitted = [
            _tuned(member.estimator, x, y, kind != "number", seed) for y in head_targets(kind, cohort.target)
        ]
        members.append(
            FittedMember(transform, tuple(part for part, _ in fitted), tuple(chosen for _, chosen in fitted))
        )
    return FittedModel(spec, kind, tuple(members), bounds)


def _tuned(name: str, x: Array, y: Array, classes: bool, seed: int) -> tuple[FittedPart, Parameters]:
    """Choose an estimator's parameters by cross-validation among the training patients, and fit it."""
    estimator = ESTIMATORS[name]
    chosen = estimator.grid[len(estimator.grid) // 2]
    fewest = min(int(y.sum()), int(len(y) - y.sum())) if classes else len(y)
    if len(estimator.grid) > 1 and fewest >= 2 * _INNER_FOLDS:
        folds = stratified_folds(y, _INNER_FOLDS, seed=seed, classes=classes)
        losses = []
        for parameters in estimator.grid:
            predicted = np.empty(len(y))
            for k in range(_INNER_FOLDS):
                part = estimator.fit(x[folds != k], y[folds != k], classes, parameters)
                predicted[folds == k] = part.apply(x[folds == k])
            losses.append(_loss(predicted, y, classes))
        chosen = estimator.grid[int(np.argmin(losses))]
    return estimator.fit(x, y, classes, chosen), chosen


def _loss(predicted: Array, y: Array, classes: bool) -> float:
    """Return the cross-entropy of logits, or the mean squared error of numbers."""
    if classes:
        return float((np.logaddexp(0, predicted) - y * predicted).mean())
    return float(((predicted - y) ** 2).mean())
