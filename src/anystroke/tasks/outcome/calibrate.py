"""Intervals that hold their rate, and probabilities that mean what they say, from out-of-fold predictions."""

import numpy as np
from pydantic import Field
from scipy.optimize import minimize_scalar
from scipy.special import expit

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel


class Conformal(StrictModel):
    """How far numbers lie from their predictions.

    The error is expected to grow along a line with the prediction; its quantiles are those of held-out
    patients in units of that line (normalised conformal prediction, Lei et al., JASA 113:1094, 2018).

    Attributes:
        rate: Share of patients that the interval holds.
        constant: Expected absolute error where the prediction is 0.
        slope: Its growth with the prediction.
        least: Smallest expected absolute error.
        low: Quantile of target minus prediction in units of the expected error; below 0.
        high: Likewise; above 0.
        bounds: Smallest and largest number of the training.
    """

    rate: float = Field(gt=0, lt=1)
    constant: float
    slope: float
    least: float = Field(gt=0)
    low: float
    high: float
    bounds: tuple[float, float]

    @classmethod
    def fit(cls, predicted: Array, target: Array, *, rate: float = 0.9) -> "Conformal":
        """Measure errors of held-out patients.

        Args:
            predicted: float64 (patients,), by models that did not learn from them.
            target: float64 (patients,).
            rate: Wanted.

        Example:
            >>> x = np.linspace(0, 1, 100)
            >>> low, high = Conformal.fit(x, x + np.where(np.arange(100) % 2, 0.1, -0.1)).interval(x)
            >>> bool((low <= x).all() and (x <= high).all())
            True
        """
        error = target - predicted
        size = np.abs(error)
        slope, constant = (
            np.polyfit(predicted, size, 1) if predicted.std() > 1e-12 else (0.0, float(size.mean()))
        )
        least = max(0.25 * float(size.mean()), 1e-9)
        scaled = np.sort(error / np.maximum(constant + slope * predicted, least))
        n = len(scaled)
        # Each tail gets half; the k-th smallest of n is passed by a new patient with a chance of k / (n + 1).
        k = int(np.floor((1 - rate) / 2 * (n + 1)))
        low = scaled[k - 1] if k >= 1 else scaled[0] * 1.5 if scaled[0] < 0 else -1.0
        high = scaled[n - k] if k >= 1 else scaled[-1] * 1.5 if scaled[-1] > 0 else 1.0
        return cls(
            rate=rate,
            constant=float(constant),
            slope=float(slope),
            least=least,
            low=min(float(low), 0.0),
            high=max(float(high), 0.0),
            bounds=(float(target.min()), float(target.max())),
        )

    def interval(self, predicted: Array) -> tuple[Array, Array]:
        """Return low and high ends, within what was seen in training."""
        size = np.maximum(self.constant + self.slope * predicted, self.least)
        low = np.clip(predicted + self.low * size, *self.bounds)
        high = np.clip(predicted + self.high * size, *self.bounds)
        return low, high


def fit_temperature(logits: Array, positive: Array) -> float:
    """Find what logits are to be divided by, so that probabilities fit held-out patients best.

    Args:
        logits: float64, any shape.
        positive: Likewise, 0 or 1.

    Returns:
        From 0.05 to 20 (Guo et al., On calibration of modern neural networks, ICML 2017).

    Example:
        >>> logits = np.tile([4.0, -4.0], 50)
        >>> fit_temperature(logits, np.tile([1.0, 0.0, 0.0, 0.0], 25)) > 2
        True
    """

    def loss(logarithm: float) -> float:
        scaled = logits / np.exp(logarithm)
        return float((np.logaddexp(0, scaled) - positive * scaled).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def smoothed(logits: Array, temperature: float) -> Array:
    """Return probabilities of logits at a temperature."""
    probability: Array = expit(logits / temperature)
    return probability
