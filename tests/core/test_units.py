import math

import pytest
import torch

from anystroke.core import units


def test_there_and_back() -> None:
    pairs = [
        (units.degrees_to_radians, units.radians_to_degrees, 90.0, math.pi / 2),
        (units.milliseconds_to_seconds, units.seconds_to_milliseconds, 80.0, 0.08),
        (units.percent_to_fraction, units.fraction_to_percent, 1.5, 0.015),
        (units.per_millisecond_to_per_second, units.per_second_to_per_millisecond, 0.02, 20.0),
    ]
    for forth, back, value, expected in pairs:
        assert forth(value) == pytest.approx(expected, rel=1e-15)
        assert back(forth(value)) == pytest.approx(value, rel=1e-15)


def test_tensors_stay_tensors_of_their_type() -> None:
    angle = units.degrees_to_radians(torch.tensor([180.0]))
    assert angle.dtype == torch.float32
    assert angle.item() == pytest.approx(math.pi, rel=1e-6)
