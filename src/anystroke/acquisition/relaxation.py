"""What the signal equations share: decay, regrowth, rotation.

``decay`` is an ``exp2``, the fastest exponential on all devices. ``regrowth`` is an ``expm1``: it costs four
times as much and is for delays so short that ``1 - decay`` would lose its digits in float32.
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor

from anystroke.core import units

TINY = float(torch.finfo(torch.float32).tiny)
"""Smaller than any denominator except 0, where the numerator is 0 too and the limit is 0."""

Angle: TypeAlias = float | Tensor
"""A function of a flip angle: one number, or a map where the flip angle is one."""

_LOG2_E = math.log2(math.e)


def decay(rate: Tensor, time: float) -> Tensor:
    """Return ``exp(-rate time)``.

    Example:
        >>> decay(torch.ones(1), 0.0)
        tensor([1.])
    """
    return torch.exp2(rate * (-time * _LOG2_E))


def regrowth(rate: Tensor, time: float) -> Tensor:
    """Return ``1 - exp(-rate time)``, accurate however small it is.

    Example:
        >>> regrowth(torch.ones(1), 1e-9)
        tensor([1.0000e-09])
    """
    return -torch.expm1(rate * -time)


def power(base: Angle, exponent: int) -> Angle:
    """Return ``base ** exponent`` by repeated squaring, which for maps is several times faster than ``pow``.

    Args:
        base: A number or a map.
        exponent: A whole number of at least 0.

    Example:
        >>> power(torch.tensor([-2.0]), 5)
        tensor([-32.])
    """
    if not isinstance(base, Tensor):
        return float(base**exponent)
    result: Angle = 1.0
    while exponent:
        if exponent & 1:
            result = base * result
        exponent >>= 1
        if exponent:
            base = base * base
    return result


def sin_and_versine(flip_angle: float, b1_plus: Tensor | None) -> tuple[Angle, Angle]:
    """Return sin(angle) and 1 - cos(angle), the latter without cancellation at small angles.

    Args:
        flip_angle: Nominal flip angle, degrees.
        b1_plus: Actual over nominal flip angle; 1 if None.

    Example:
        >>> sine, versine = sin_and_versine(90.0, None)
        >>> round(sine, 6), round(versine, 6)
        (1.0, 1.0)
    """
    angle = units.degrees_to_radians(flip_angle)
    if b1_plus is None:
        return math.sin(angle), 2.0 * math.sin(angle / 2.0) ** 2
    half = torch.sin(b1_plus * (angle / 2.0))
    return torch.sin(b1_plus * angle), 2.0 * half * half


def finish(signal: Tensor, signed: bool) -> Tensor:
    """Return the signal itself if ``signed``, else its magnitude."""
    return signal if signed else signal.abs()
