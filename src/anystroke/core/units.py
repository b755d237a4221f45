"""Physical units: the only place of the package that converts them.

Inside anystroke times are seconds, rates 1/s and angles radians; at the doors angles are degrees and MT
saturation is in percent units (p.u., 1 p.u. = 0.01). Every function takes a number or a tensor and returns
the same kind.
"""

import math
from typing import TypeVar

from torch import Tensor

Quantity = TypeVar("Quantity", float, Tensor)


def degrees_to_radians(angle: Quantity) -> Quantity:
    """Convert an angle from degrees to radians.

    Example:
        >>> round(degrees_to_radians(180.0), 6)
        3.141593
    """
    return angle * (math.pi / 180.0)


def seconds_to_milliseconds(time: Quantity) -> Quantity:
    """Convert a time from s to ms.

    Example:
        >>> seconds_to_milliseconds(0.08)
        80.0
    """
    return time * 1000.0


def percent_to_fraction(value: Quantity) -> Quantity:
    """Convert percent units (p.u.) to a fraction.

    Example:
        >>> percent_to_fraction(1.5)
        0.015
    """
    return value / 100.0
