"""How well a mask agrees with the truth; what happens with empty masks has a name."""

import math
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
    if empty not in _BOTH_EMPTY:
        raise ValueError(f"expected empty to be one of {', '.join(_BOTH_EMPTY)}, got {empty!r}")
    if tuple(prediction.shape) != tuple(truth.shape):
        raise ValueError(
            f"expected two masks of one shape, got {tuple(prediction.shape)} and {tuple(truth.shape)}; "
            "resample one to the grid of the other"
        )
    predicted, true = _boolean(prediction), _boolean(truth)
    total = int(predicted.sum()) + int(true.sum())
    return 2 * int((predicted & true).sum()) / total if total else _BOTH_EMPTY[empty]


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
    return int(_boolean(mask).sum()) * abs(float(torch.linalg.det(affine[:3, :3].double()))) / 1000


def _boolean(mask: Mask) -> Tensor:
    tensor = mask if isinstance(mask, Tensor) else torch.from_numpy(np.ascontiguousarray(mask))
    if tensor.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask, got {tensor.dtype}; compare it with a threshold first")
    return tensor
