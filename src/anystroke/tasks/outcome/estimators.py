"""Estimators that are fitted by scikit-learn and kept as plain arrays, so that nothing is ever unpickled.

No array is a row of a patient: support vectors are summed to weights of random Fourier features (Rahimi and
Recht, Random features for large-scale kernel machines, NIPS 2007).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.core.rng import stream

Parameters = Mapping[str, float]

_FEATURES = 1500


@dataclass(frozen=True, eq=False)
class FittedPart:
    """A fitted estimator: what it is, and its arrays."""

    kind: str
    arrays: dict[str, Array] = field(default_factory=dict)

    def apply(self, x: Array) -> Array:
        """Predict numbers, or the logit of the second class.

        Args:
            x: float64 (patients, features), standardised.

        Returns:
            float64 (patients,).
        """
        return _APPLY[self.kind](self.arrays, x)


@dataclass(frozen=True)
class OutcomeEstimator:
    """How an estimator is fitted.

    Attributes:
        fit: x (patients, features) and y (patients,) -> part; the flag says whether y is a class of 0 or 1.
        grid: Parameters to choose among by inner cross-validation.
    """

    fit: Callable[[Array, Array, bool, Parameters], FittedPart]
    grid: tuple[Parameters, ...] = ({},)


def _linear(arrays: Mapping[str, Array], x: Array) -> Array:
    values: Array = x @ arrays["weights"] + arrays["constant"]
    return values


def _fourier(arrays: Mapping[str, Array], x: Array) -> Array:
    values: Array = _waves(arrays, x) @ arrays["weights"] + arrays["constant"]
    return values


def _waves(arrays: Mapping[str, Array], x: Array) -> Array:
    phase = x @ arrays["frequencies"]
    count = phase.shape[1]
    waves: Array = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / np.sqrt(count)
    return waves


def _fourier_squared(arrays: Mapping[str, Array], x: Array) -> Array:
    values: Array = np.maximum(_fourier(arrays, x), 0) ** 2 + arrays["least"]
    return values


def _trees(arrays: Mapping[str, Array], x: Array) -> Array:
    """Sum trees whose nodes lie in one table, roots in ``roots``."""
    total = np.full(len(x), float(arrays["constant"]))
    rows = np.arange(len(x))
    left, right, feature = arrays["left"], arrays["right"], arrays["feature"]
    for root in arrays["roots"]:
        node = np.full(len(x), root)
        while True:
            inner = left[node] >= 0
            if not inner.any():
                break
            # scikit-learn compares in float32.
            lower = x[rows, np.maximum(feature[node], 0)].astype(np.float32) <= arrays["threshold"][node]
            node = np.where(inner, np.where(lower, left[node], right[node]), node)
        total += arrays["value"][node]
    return total


_APPLY: dict[str, Callable[[Mapping[str, Array], Array], Array]] = {
    "linear": _linear,
    "fourier": _fourier,
    "fourier_squared": _fourier_squared,
    "trees": _trees,
}


def _as_linear(weights: Array, constant: float) -> FittedPart:
    arrays = {
        "weights": np.asarray(weights, dtype=np.float64).reshape(-1),
        "constant": np.array(float(constant)),
    }
    return FittedPart("linear", arrays)


def _fit_mean(x: Array, y: Array, classes: bool, _parameters: Parameters) -> FittedPart:
    centre = float(y.mean())
    if classes:
        share = (y.sum() + 0.5) / (len(y) + 1)
        centre = float(np.log(share / (1 - share)))
    return _as_linear(np.zeros(x.shape[1]), centre)


def _fit_ridge(x: Array, y: Array, classes: bool, parameters: Parameters) -> FittedPart:
    from sklearn.linear_model import LogisticRegression, Ridge

    if classes:
        model = LogisticRegression(C=1 / parameters["alpha"], max_iter=2000).fit(x, y)
        return _as_linear(model.coef_, model.intercept_[0])
    model = Ridge(alpha=parameters["alpha"]).fit(x, y)
    return _as_linear(model.coef_, model.intercept_)


def _fit_elastic_net(x: Array, y: Array, classes: bool, parameters: Parameters) -> FittedPart:
    from sklearn.linear_model import ElasticNet, LogisticRegression

    if classes:
        strength = 1 / (parameters["strength"] * len(y))
        model = LogisticRegression(
            C=strength, solver="saga", l1_ratio=0.5, max_iter=500, tol=1e-3, random_state=0
        ).fit(x, y)
        return _as_linear(model.coef_, model.intercept_[0])
    scale = float(y.std()) or 1.0
    model = ElasticNet(alpha=parameters["strength"], l1_ratio=0.5, max_iter=5000, tol=1e-3).fit(x, y / scale)
    return _as_linear(model.coef_ * scale, model.intercept_ * scale)


def _fit_support_vectors(x: Array, y: Array, classes: bool, parameters: Parameters) -> FittedPart:
    from sklearn.svm import SVC, SVR

    width = parameters["gamma"] / x.shape[1]
    rng = stream(1, "outcome", "fourier", x.shape[1])
    import torch

    drawn = torch.randn(x.shape[1], _FEATURES, generator=rng, dtype=torch.float64).numpy()
    arrays = {"frequencies": (drawn * np.sqrt(2 * width)).astype(np.float32)}
    waves = _waves(arrays, x)
    kernel = waves @ waves.T
    if classes:
        model = SVC(C=parameters["cost"] / 10, kernel="precomputed").fit(kernel, y)
        weights = waves[model.support_].T @ model.dual_coef_[0]
        constant = float(model.intercept_[0])
    else:
        scale = float(y.std()) or 1.0
        model = SVR(C=parameters["cost"] / 8, epsilon=0.125, kernel="precomputed").fit(kernel, y / scale)
        weights = waves[model.support_].T @ model.dual_coef_[0] * scale
        constant = float(model.intercept_[0]) * scale
    return FittedPart("fourier", {**arrays, "weights": weights, "constant": np.array(constant)})


def _fit_root(x: Array, y: Array, classes: bool, parameters: Parameters) -> FittedPart:
    """Learn the square root of numbers above their least one, as of scores with many small values."""
    if classes:
        return _fit_support_vectors(x, y, classes, parameters)
    least = float(y.min())
    part = _fit_support_vectors(x, np.sqrt(y - least), classes, parameters)
    return FittedPart("fourier_squared", {**part.arrays, "least": np.array(least)})


def _fit_boosting(x: Array, y: Array, classes: bool, _parameters: Parameters) -> FittedPart:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    settings: dict[str, Any] = {
        "n_estimators": 150,
        "max_depth": 3,
        "learning_rate": 0.04,
        "subsample": 0.5,
        "max_features": 0.2,
        "min_samples_leaf": min(8, max(1, len(y) // 10)),
        "random_state": 0,
    }
    model = (GradientBoostingClassifier if classes else GradientBoostingRegressor)(**settings).fit(x, y)
    trees = [each[0].tree_ for each in model.estimators_]
    sizes = [tree.node_count for tree in trees]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)

    def joined(name: str) -> Array:
        return np.concatenate([getattr(tree, name).reshape(-1) for tree in trees])

    def linked(name: str) -> Array:
        pairs = zip(trees, starts, strict=True)
        parts = [np.where(getattr(t, name) >= 0, getattr(t, name) + start, -1) for t, start in pairs]
        return np.concatenate(parts).astype(np.int32)

    share = float(y.mean())
    constant = np.log(share / (1 - share)) if classes else share
    return FittedPart(
        "trees",
        {
            "roots": starts,
            "left": linked("children_left"),
            "right": linked("children_right"),
            "feature": joined("feature").astype(np.int32),
            "threshold": joined("threshold").astype(np.float64),
            "value": joined("value") * settings["learning_rate"],
            "constant": np.array(constant),
        },
    )


_STRENGTHS: tuple[Parameters, ...] = tuple(
    {"alpha": alpha} for alpha in (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
)

ESTIMATORS: dict[str, OutcomeEstimator] = {
    "mean": OutcomeEstimator(_fit_mean),
    "ridge": OutcomeEstimator(_fit_ridge, _STRENGTHS),
    "elastic-net": OutcomeEstimator(
        _fit_elastic_net, tuple({"strength": strength} for strength in (0.01, 0.03, 0.1, 0.3))
    ),
    "support-vectors": OutcomeEstimator(
        _fit_support_vectors,
        tuple({"cost": cost, "gamma": gamma} for cost, gamma in ((3, 0.1), (10, 0.1), (30, 0.1), (10, 0.3))),
    ),
    "root-support-vectors": OutcomeEstimator(
        _fit_root, tuple({"cost": cost, "gamma": gamma} for cost, gamma in ((10, 0.1), (30, 0.1), (10, 0.3)))
    ),
    "boosting": OutcomeEstimator(_fit_boosting),
}
"""Name -> estimator; ``ridge`` is logistic regression where there are classes."""
