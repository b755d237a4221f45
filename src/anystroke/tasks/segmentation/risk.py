"""How likely a mask is to fail, as a number: curves of the signs of the prediction, added up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel

VOLUME = "volume"
"""The sign that is zero where a mask is empty."""
SMALLEST_DICE = 0.3
LARGEST_FALSE_ML = 5.0
FAILURE = f"miss the lesion or mark {LARGEST_FALSE_ML:g} ml of healthy tissue"
"""What a mask that fails does: Dice below 0.3 where there is a visible lesion, or so much marked in parts
that meet no lesion."""


class RiskCurves(StrictModel):
    """What turns the signs of one kind of mask into log-odds: a curve of steps for each sign, summed.

    Attributes:
        signs: Names of ``signs.SIGNS``, in order.
        usual: Median of each over the patients.
        edges: Of each, where its steps meet, rising.
        odds: Of each, the log-odds of each step, one more than edges; their mean over the patients is zero.
        intercept: Log-odds where no sign says anything.
    """

    signs: tuple[str, ...]
    usual: tuple[float, ...]
    edges: tuple[tuple[float, ...], ...]
    odds: tuple[tuple[float, ...], ...]
    intercept: float

    @model_validator(mode="after")
    def _fits(self) -> "RiskCurves":
        lengths = {len(values) for values in (self.usual, self.edges, self.odds)}
        steps = [len(odds) - len(edges) for edges, odds in zip(self.edges, self.odds, strict=False)]
        if lengths != {len(self.signs)} or any(step != 1 for step in steps):
            raise ValueError(
                f"expected for each of {len(self.signs)} signs a usual value, edges and one more odds than "
                f"edges, got {sorted(lengths)} of them and {steps} more"
            )
        if any(list(edges) != sorted(edges) for edges in self.edges):
            raise ValueError("expected edges that rise, got others")
        return self


class RiskModel(StrictModel):
    """What turns the signs of a prediction into the probability that its mask fails.

    An empty mask fails where there is a lesion, and hardly anything tells whether there is: it has curves of
    its own, and no threshold.

    Attributes:
        marked: For masks that mark something.
        empty: For those that mark nothing.
        threshold: From this probability a mask that marks something is not to be trusted.
        sensitivity: Share of those failed masks that reach it.
        specificity: Share of the others that do not.
        auc: Area under the receiver operating characteristic, of all masks.
        auc_interval: Its 95 % interval.
        auc_marked: The area of masks that mark something.
        patients: How many there were.
        failed: How many of their masks failed.
        patients_empty: How many masks were empty.
        failed_empty: How many of these failed. All these figures are of patients of other anatomies than
            those that the curves came from, in turn.
    """

    marked: RiskCurves
    empty: RiskCurves
    threshold: float = Field(gt=0, lt=1)
    sensitivity: float = Field(ge=0, le=1)
    specificity: float = Field(ge=0, le=1)
    auc: float = Field(ge=0, le=1)
    auc_interval: tuple[float, float]
    auc_marked: float = Field(ge=0, le=1)
    patients: int = Field(gt=0)
    failed: int = Field(gt=0)
    patients_empty: int = Field(ge=0)
    failed_empty: int = Field(ge=0)


@dataclass(frozen=True)
class Risk:
    """How likely a mask is to fail.

    Attributes:
        probability: That it does, among simulated scans from easy to hopeless.
        threshold: From which it is not to be trusted; None for an empty mask.
        driver: The sign that speaks most against it; empty where none does.
        share: Of that sign: by how much it raises the log-odds.
        above: Whether that sign is larger than usual.
    """

    probability: float
    threshold: float | None
    driver: str = ""
    share: float = 0.0
    above: bool = True

    @property
    def high(self) -> bool:
        """Whether the mask is not to be trusted."""
        return self.threshold is not None and self.probability >= self.threshold

    @property
    def in_words(self) -> str:
        """The probability as a sentence.

        Example:
            >>> Risk(0.31, 0.4).in_words
            '3 of 10 such masks miss the lesion or mark 5 ml of healthy tissue'
            >>> Risk(0.31, None).in_words
            '3 of 10 such scans in which nothing was found have a lesion'
        """
        if self.threshold is None:
            return f"{_of_ten(self.probability)} such scans in which nothing was found have a lesion"
        return f"{_of_ten(self.probability)} such masks {FAILURE}"


def log_odds(values: Array, curves: RiskCurves) -> Array:
    """Return what each sign adds to the log-odds.

    Args:
        values: (..., signs), finite.
        curves: Of those signs.

    Returns:
        Likewise.

    Example:
        >>> curves = RiskCurves(
        ...     signs=("parts",), usual=(1.0,), edges=((0.5, 2.0),), odds=((-1.0, 0.0, 3.0),), intercept=0.0
        ... )
        >>> log_odds(np.array([[0.5], [0.6], [2.1]]), curves).ravel().tolist()
        [-1.0, 0.0, 3.0]
    """
    found = np.zeros(values.shape)
    for k, (edges, odds) in enumerate(zip(curves.edges, curves.odds, strict=True)):
        found[..., k] = np.asarray(odds)[np.searchsorted(edges, values[..., k])]
    return found


def risk_of(signs: Mapping[str, float], model: RiskModel) -> Risk | None:
    """Compute how likely a mask with such signs is to fail.

    Args:
        signs: Of the prediction.
        model: Fitted to simulated patients.

    Returns:
        The risk; None where a sign that the model needs is not known.
    """
    nothing = signs.get(VOLUME, math.nan) == 0
    curves = model.empty if nothing else model.marked
    values = np.array([signs.get(name, math.nan) for name in curves.signs])
    if not bool(np.isfinite(values).all()) or VOLUME not in signs:
        return None
    parts = log_odds(values, curves)
    probability = 1 / (1 + math.exp(-(curves.intercept + float(parts.sum()))))
    threshold = None if nothing else model.threshold
    worst = int(parts.argmax()) if len(parts) else 0
    if not len(parts) or parts[worst] <= 0:
        return Risk(probability, threshold)
    above = bool(values[worst] > curves.usual[worst])
    return Risk(probability, threshold, curves.signs[worst], float(parts[worst]), above)


def _of_ten(probability: float) -> str:
    if probability < 0.05:
        return "fewer than 1 of 20"
    return "nearly all" if probability >= 0.95 else f"{round(10 * probability)} of 10"
