"""Voxel-wise agreement of two masks; what happens with empty masks has a name."""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Mask = Tensor | np.ndarray[Any, Any]
EmptyPolicy = Literal["undefined", "perfect", "worst"]

_BOTH_EMPTY = MappingProxyType({"undefined": math.nan, "perfect": 1.0, "worst": 0.0})


def dice(prediction: Mask, truth: Mask, *, empty: EmptyPolicy = "undefined") -> float:
    """Compute the Dice coefficient: twice the overlap over the sum of the two sizes.

    Args:
        prediction: Boolean mask of any shape.
        truth: Boolean mask of the same shape.
        empty: What two empty masks give: ``"undefined"`` (NaN, to be left out of means), ``"perfect"`` (1) or
            ``"worst"`` (0). If just one of them is empty, Dice is 0 by its definition.

    Returns:
        0 to 1, or NaN.

    Raises:
        ValueError: The shapes differ, a mask is not boolean, or the policy is unknown.

    Example:
        >>> dice(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        0.6666666666666666
    """
    worth = share_when_empty(empty)
    predicted, true = boolean_pair(prediction, truth)
    total = count(predicted) + count(true)
    return 2 * count(predicted & true) / total if total else worth


def volume_ml(mask: Mask, *, affine: Tensor) -> float:
    """Compute the volume of a mask.

    Args:
        mask: Boolean mask of any shape.
        affine: (4, 4) voxel -> mm.

    Returns:
        Volume in ml.

    Raises:
        ValueError: The mask is not boolean.

    Example:
        >>> volume_ml(torch.ones(10, 10, 10, dtype=torch.bool), affine=2 * torch.eye(4))
        8.0
    """
    return count(boolean(mask)) * abs(float(torch.linalg.det(affine[:3, :3].double()))) / 1000


@dataclass(frozen=True)
class Confusion:
    """Voxels of a predicted mask, sorted by what is true.

    Attributes:
        true_positive: Lesion in both.
        false_positive: Lesion in the prediction alone.
        false_negative: Lesion in the truth alone.
        true_negative: Lesion in neither; grows with the field of view.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def predicted(self) -> int:
        """Voxels of the predicted mask."""
        return self.true_positive + self.false_positive

    @property
    def true(self) -> int:
        """Voxels of the true mask."""
        return self.true_positive + self.false_negative

    def dice(self, empty: EmptyPolicy = "undefined") -> float:
        """Return twice the overlap over the sum of sizes; ``empty`` says what two empty masks give."""
        total = self.predicted + self.true
        return 2 * self.true_positive / total if total else share_when_empty(empty)

    def sensitivity(self, empty: EmptyPolicy = "undefined") -> float:
        """Return the found share of the true mask; NaN if there is a prediction but nothing to find."""
        return _ratio(self.true_positive, self.true, share_when_empty(empty), math.nan, self.predicted)

    def positive_predictive_value(self, empty: EmptyPolicy = "undefined") -> float:
        """Return the right share of the predicted mask; 0 if there was a lesion and nothing was predicted.

        An undefined value here would leave missed lesions out of means, and so reward them.
        """
        return _ratio(self.true_positive, self.predicted, share_when_empty(empty), 0.0, self.true)

    def specificity(self) -> float:
        """Return the share of the healthy voxels that were left alone; it depends on the field of view."""
        healthy = self.true_negative + self.false_positive
        return self.true_negative / healthy if healthy else math.nan


def confusion(prediction: Mask, truth: Mask) -> Confusion:
    """Count the voxels of two masks.

    Args:
        prediction: Boolean mask of any shape.
        truth: Boolean mask of the same shape.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.

    Example:
        >>> confusion(torch.tensor([True, True, False]), torch.tensor([True, False, False])).dice()
        0.6666666666666666
    """
    predicted, true = boolean_pair(prediction, truth)
    both, first, second = count(predicted & true), count(predicted), count(true)
    return Confusion(both, first - both, second - both, predicted.size - first - second + both)


def share_when_empty(empty: EmptyPolicy) -> float:
    """Return what a share of two empty masks is worth under a policy.

    Raises:
        ValueError: The policy is unknown.
    """
    if empty not in _BOTH_EMPTY:
        raise ValueError(f"expected empty to be one of {', '.join(_BOTH_EMPTY)}, got {empty!r}")
    return _BOTH_EMPTY[empty]


def boolean_pair(
    prediction: Mask, truth: Mask
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return two masks as boolean arrays.

    Raises:
        ValueError: The shapes differ, or a mask is not boolean.
    """
    if tuple(prediction.shape) != tuple(truth.shape):
        raise ValueError(
            f"expected two masks of one shape, got {tuple(prediction.shape)} and {tuple(truth.shape)}; "
            "resample one to the grid of the other"
        )
    return boolean(prediction), boolean(truth)


def boolean(mask: Mask) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a mask as a boolean array.

    Raises:
        ValueError: It is not boolean.
    """
    array: np.ndarray[Any, Any] = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    if array.dtype != np.bool_:
        raise ValueError(f"expected a boolean mask, got {mask.dtype}; compare it with a threshold first")
    return array


def count(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Count the voxels of a mask."""
    return int(np.count_nonzero(mask))


def _ratio(part: int, whole: int, both_empty: float, one_empty: float, other: int) -> float:
    if whole:
        return part / whole
    return one_empty if other else both_empty
