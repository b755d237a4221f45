import math
from collections.abc import Callable

import pytest
import torch

from anystroke.core import units


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        (units.degrees_to_radians, 90.0, math.pi / 2),
        (units.seconds_to_milliseconds, 0.08, 80.0),
        (units.percent_to_fraction, 1.5, 0.015),
    ],
)
def test_numbers(convert: Callable[[float], float], value: float, expected: float) -> None:
    assert convert(value) == pytest.approx(expected, rel=1e-15)


def test_tensors_stay_tensors_of_their_type() -> None:
    angle = units.degrees_to_radians(torch.tensor([180.0]))
    assert angle.dtype == torch.float32
    assert angle.item() == pytest.approx(math.pi, rel=1e-6)
