"""Checks of arguments that corruptions share."""

from collections.abc import Sequence

from torch import Tensor


def check_within(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Refuse a number outside low..high, both included, and NaN.

    Raises:
        ValueError: Names the argument, the limits and the value.
    """
    if not low <= value <= high:
        space = f" {unit}" if unit else ""
        raise ValueError(f"expected {name} between {low:g} and {high:g}{space}, got {value:g}{space}")


def check_positive(name: str, value: float, unit: str = "") -> None:
    """Refuse a number that is not above zero and finite.

    Raises:
        ValueError: Names the argument and the value.
    """
    if not 0 < value < float("inf"):
        space = f" {unit}" if unit else ""
        raise ValueError(f"expected {name} above 0{space}, got {value:g}{space}")


def check_axis(axis: int) -> None:
    """Refuse an axis that is not 0, 1 or 2.

    Raises:
        ValueError: If it is another.
    """
    if axis not in (0, 1, 2):
        raise ValueError(f"expected axis 0, 1 or 2 of (X, Y, Z), got {axis}")


def check_same_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuse a tensor of another shape.

    Raises:
        ValueError: Names both shapes.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"expected {name} of shape {tuple(shape)}, got {tuple(tensor.shape)}")
