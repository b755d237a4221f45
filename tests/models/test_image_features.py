import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anystroke.core.rng import stream
from anystroke.models.image_features import FEATURES, image_features, image_range, outside_range

USUAL = {"noise": (0.1, 0.3), "skewness": (-1.0, 2.0)}


def _noise(*sides: int) -> torch.Tensor:
    return torch.randn(sides, generator=stream(1, "noise"))


def test_white_noise() -> None:
    found = image_features(_noise(48, 48, 48), spacing=2.0)
    assert set(found) == set(FEATURES)
    assert found["noise"] == pytest.approx(1.0, abs=0.03)
    assert found["smoothest_axis_mm"] < 1.5
    assert found["skewness"] == pytest.approx(0.0, abs=0.05)
    assert found["centre_contrast"] == pytest.approx(0.0, abs=0.03)


def test_smoothness_is_that_of_the_filter() -> None:
    field = torch.from_numpy(gaussian_filter(_noise(96, 96, 96).numpy(), (1.5, 1.5, 3.0)))
    found = image_features(field, spacing=2.0)
    to_width = math.sqrt(8 * math.log(2)) * 2.0  # of the filter; that of the field's correlation likewise
    assert found["sharpest_axis_mm"] == pytest.approx(1.5 * to_width, rel=0.08)
    assert found["smoothest_axis_mm"] == pytest.approx(3.0 * to_width, rel=0.08)
    assert found["noise"] < 0.1


def test_entropy_is_six_bits_at_most() -> None:
    even = torch.linspace(-1, 1, 30**3).reshape(30, 30, 30)
    assert image_features(even, spacing=2.0)["entropy_bits"] == pytest.approx(6.0, abs=0.01)
    two = (torch.arange(30**3) % 3).float().reshape(30, 30, 30)
    assert image_features(two, spacing=2.0)["entropy_bits"] == pytest.approx(1.0, abs=0.01)


def test_units_and_storage_order_do_not_matter_but_the_sign_does() -> None:
    ball = torch.from_numpy(np.sum((np.indices((40, 40, 40)) - 19.5) ** 2, axis=0) < 14**2).float()
    image = ball * (3 + torch.from_numpy(gaussian_filter(_noise(40, 40, 40).numpy(), 2)) * 5)
    found = image_features(image, spacing=2.0)
    again = image_features((40 * image - 7).permute(2, 0, 1).flip(0), spacing=2.0)
    for name, value in found.items():
        assert again[name] == pytest.approx(value, rel=1e-3, abs=1e-3)
    assert found["centre_contrast"] > 1
    assert image_features(-image, spacing=2.0)["centre_contrast"] < -1


def test_an_image_without_a_foreground_has_no_features() -> None:
    blob = torch.zeros(20, 20, 20)
    blob[5:9, 5:9, 5:9] = 1
    for image in (blob, torch.zeros(20, 20, 20)):
        found = image_features(image, spacing=2.0)
        assert all(map(math.isnan, found.values()))
    assert outside_range(found, USUAL) == ["what is above the minimum has one intensity only"]
    assert outside_range(found, {}) == []


def test_range_and_what_is_outside() -> None:
    rows = [{"noise": k / 100, "skewness": -k / 10} for k in range(101)]
    found = image_range([*rows, {"noise": math.nan, "skewness": 0.0}])
    assert found["noise"] == pytest.approx((0.005, 0.995))
    assert found["skewness"] == pytest.approx((-9.95, -0.05))
    assert image_range([]) == {}
    assert outside_range({"noise": 0.2, "skewness": 0.0}, USUAL) == []
    assert outside_range({"noise": 0.31, "skewness": -1.2}, USUAL) == []  # a tenth of the range is let pass
    [words] = outside_range({"noise": 0.9, "skewness": 0.0}, USUAL)
    assert words.startswith("the noise")
    assert words.endswith("is 0.9, expected 0.1 to 0.3")
