"""Whether probabilities mean what they say: Brier score, calibration error, reliability."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.evaluation.metrics.overlap import Mask, boolean


@dataclass(frozen=True, eq=False)
class Reliability:
    """Sums over bins of equal width between 0 and 1; those of several scans can be added.

    Attributes:
        count: (B,) voxels in each bin.
        predicted: (B,) sum of their probabilities.
        true: (B,) number of lesion voxels among them.
        squared_error: Sum of the squared difference of probability and truth over all bins.
    """

    count: Array
    predicted: Array
    true: Array
    squared_error: float

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.count + other.count,
            self.predicted + other.predicted,
            self.true + other.true,
            self.squared_error + other.squared_error,
        )

    @property
    def voxels(self) -> int:
        """Number of voxels that count."""
        return int(self.count.sum())

    def brier(self) -> float:
        """Return the mean squared difference of probability and truth; NaN without voxels."""
        return self.squared_error / self.voxels if self.voxels else math.nan

    def expected_calibration_error(self) -> float:
        """Return the mean over voxels of |mean probability - share of lesion| of their bin; NaN without."""
        return float(np.abs(self.predicted - self.true).sum()) / self.voxels if self.voxels else math.nan


def reliability(
    probability: Tensor | Array, truth: Mask, *, bins: int = 10, floor: float = 0.01
) -> Reliability:
    """Sort voxels by their predicted probability.

    Almost all of a head is air or healthy, and predicted as such, so that averages over the field of view say
    little and get better with more air. Therefore a voxel counts if it is lesion or its probability reaches
    ``floor``.

    Args:
        probability: Lesion probability of any shape.
        truth: Boolean mask of the same shape.
        bins: Number of bins.
        floor: Smallest probability of a healthy voxel that counts; 0 counts all.

    Raises:
        ValueError: Shapes differ, a probability is NaN or not within 0 and 1, or there is no bin.

    Example:
        >>> found = reliability(np.array([0.0, 0.25, 1.0]), np.array([False, False, True]))
        >>> found.voxels, found.brier(), found.expected_calibration_error()
        (2, 0.03125, 0.125)
    """
    values = probability.detach().cpu().numpy() if isinstance(probability, Tensor) else probability
    true = boolean(truth)
    if values.shape != true.shape:
        raise ValueError(
            f"expected probabilities on the grid of the mask, got {values.shape} and {true.shape}; resample"
        )
    if bins < 1:
        raise ValueError(f"reliability needs 1 bin or more, got {bins}")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"expected probabilities from 0 to 1, got {low:g} to {high:g}; check the file")
    chosen = true | (values >= floor)
    values, lesion = values[chosen].astype(np.float64), true[chosen].astype(np.float64)
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    return Reliability(
        np.bincount(place, minlength=bins),
        np.bincount(place, weights=values, minlength=bins),
        np.bincount(place, weights=lesion, minlength=bins),
        float(np.square(values - lesion).sum()),
    )
