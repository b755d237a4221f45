"""How likely a mask is to fail, as a number: a logistic regression on signs of the prediction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel

SMALLEST_DICE = 0.3
LARGEST_FALSE_ML = 5.0
FAILURE = f"miss the lesion or mark {LARGEST_FALSE_ML:g} ml of healthy tissue"
"""What a mask that fails does: Dice below 0.3 where there is a visible lesion, or so much marked in parts
that meet no lesion."""

# A sign further out counts as this many standard deviations: few patients tell what lies beyond.
_FURTHEST = 3.0


class RiskModel(StrictModel):
    """What turns the signs of a prediction into the probability that its mask fails.

    Attributes:
        signs: Names of ``signs.SIGNS``, in order.
        centre: Mean of each over the patients.
        scale: Its standard deviation.
        linear: Weight of each, in standard deviations from the mean.
        squared: Weight of its square less one.
        intercept: Log-odds where every sign is as usual.
        threshold: From this probability a mask is not to be trusted.
        sensitivity: Share of the failed masks that reach it.
        specificity: Share of the others that do not.
        auc: Area under the receiver operating characteristic.
        auc_interval: Its 95 % interval.
        patients: How many there were.
        failed: How many of their masks failed. These five figures are of patients of other anatomies than
            those that the weights came from, in turn.
    """

    signs: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    linear: tuple[float, ...]
    squared: tuple[float, ...]
    intercept: float
    threshold: float = Field(gt=0, lt=1)
    sensitivity: float = Field(ge=0, le=1)
    specificity: float = Field(ge=0, le=1)
    auc: float = Field(ge=0, le=1)
    auc_interval: tuple[float, float]
    patients: int = Field(gt=0)
    failed: int = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "RiskModel":
        lengths = {len(values) for values in (self.centre, self.scale, self.linear, self.squared)}
        if lengths != {len(self.signs)} or not all(scale > 0 for scale in self.scale):
            raise ValueError(
                f"expected for each of {len(self.signs)} signs a centre, a positive scale and two weights, "
                f"got {sorted(lengths)} of them and scales {self.scale}"
            )
        return self


@dataclass(frozen=True)
class Risk:
    """How likely a mask is to fail.

    Attributes:
        probability: That it does, among simulated scans from easy to hopeless.
        threshold: From which it is not to be trusted.
        driver: The sign that speaks most against it; empty where none does.
        share: Of that sign: by how much it raises the log-odds.
        above: Whether that sign is larger than usual.
    """

    probability: float
    threshold: float
    driver: str = ""
    share: float = 0.0
    above: bool = True

    @property
    def high(self) -> bool:
        """Whether the mask is not to be trusted."""
        return self.probability >= self.threshold

    @property
    def in_words(self) -> str:
        """The probability as a sentence.

        Example:
            >>> Risk(0.31, 0.4).in_words
            '3 of 10 such masks miss the lesion or mark 5 ml of healthy tissue'
        """
        return f"{_of_ten(self.probability)} such masks {FAILURE}"


def standardised(values: Array, centre: Array, scale: Array) -> Array:
    """Return what the weights are applied to.

    Args:
        values: (..., signs).
        centre: (signs,).
        scale: (signs,).

    Returns:
        (..., 2 signs): distances from the centre in scales, at most three; and their squares less one.

    Example:
        >>> standardised(np.array([[3.0, 90.0]]), np.array([1.0, 0.0]), np.array([1.0, 1.0])).tolist()
        [[2.0, 3.0, 3.0, 8.0]]
    """
    distance = np.clip((values - centre) / scale, -_FURTHEST, _FURTHEST)
    both: Array = np.concatenate([distance, distance**2 - 1], axis=-1)
    return both


def risk_of(signs: Mapping[str, float], model: RiskModel) -> Risk | None:
    """Compute how likely a mask with such signs is to fail.

    Args:
        signs: Of the prediction.
        model: Fitted to simulated patients.

    Returns:
        The risk; None where a sign that the model needs is not known.

    Example:
        >>> model = RiskModel(
        ...     signs=("parts",), centre=(1.0,), scale=(1.0,), linear=(2.0,), squared=(0.0,), intercept=-1.0,
        ...     threshold=0.5, sensitivity=0.8, specificity=0.8, auc=0.9, auc_interval=(0.8, 1.0),
        ...     patients=100, failed=30,
        ... )
        >>> found = risk_of({"parts": 2.0}, model)
        >>> round(found.probability, 2), found.driver, found.high
        (0.73, 'parts', True)
    """
    values = np.array([signs.get(name, math.nan) for name in model.signs])
    if not bool(np.isfinite(values).all()):
        return None
    count = len(values)
    entries = standardised(values, np.array(model.centre), np.array(model.scale))
    parts = entries * np.array([*model.linear, *model.squared])
    odds = model.intercept + float(parts.sum())
    of_sign = parts[:count] + parts[count:]
    worst = int(of_sign.argmax())
    probability = 1 / (1 + math.exp(-odds))
    if of_sign[worst] <= 0:
        return Risk(probability, model.threshold)
    return Risk(
        probability, model.threshold, model.signs[worst], float(of_sign[worst]), bool(entries[worst] > 0)
    )


def _of_ten(probability: float) -> str:
    if probability < 0.05:
        return "fewer than 1 of 20"
    return "nearly all" if probability >= 0.95 else f"{round(10 * probability)} of 10"
