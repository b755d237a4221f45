import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anystroke.core.rng import stream
from anystroke.corruption.intensity import (
    equalise_values,
    gamma,
    percentiles,
    scale_to_percentiles,
    shift_histogram,
)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60), st.floats(0, 99), st.floats(0.5, 50)
)
def test_percentiles_of_few_voxels_are_exact(values: list[float], lower: float, width: float) -> None:
    image = torch.tensor(values)
    if image.min() == image.max():
        return
    upper = min(lower + width, 100.0)
    expected = np.percentile(image.double().numpy(), [lower, upper])
    found = percentiles(image, lower=lower, upper=upper)
    assert found == pytest.approx(tuple(expected), abs=1e-2)


def test_percentiles_of_many_voxels_land_where_stated() -> None:
    image = torch.randn((161, 127, 121), generator=stream(1, "image")).exp_()
    for lower, upper in ((1.0, 99.0), (0.5, 99.5), (5.0, 95.0)):
        low, high = percentiles(image, lower=lower, upper=upper)
        assert float((image < low).float().mean()) * 100 == pytest.approx(lower, abs=0.06)
        assert float((image < high).float().mean()) * 100 == pytest.approx(upper, abs=0.06)
    assert percentiles(image, lower=0, upper=100) == (float(image.min()), float(image.max()))


def test_nonzero_voxels_alone_decide_if_asked() -> None:
    image = torch.zeros(40, 40, 40)
    image[:4] = torch.linspace(10, 20, 6400).view(4, 40, 40)
    assert percentiles(image, lower=10, upper=95)[0] == 0
    low, high = percentiles(image, lower=10, upper=90, nonzero=True)
    assert (low, high) == pytest.approx((11.0, 19.0), abs=1e-3)
    assert percentiles(image, lower=0, upper=100, nonzero=True) == (10.0, 20.0)


def test_scaling_takes_percentiles_to_zero_and_one() -> None:
    image = torch.randn((30, 31, 32), generator=stream(2, "image"))
    clipped = scale_to_percentiles(image, lower=2, upper=97)
    assert float(clipped.min()) == 0
    assert float(clipped.max()) == 1
    assert float((clipped == 0).float().mean()) == pytest.approx(0.02, abs=1e-3)
    assert float((clipped == 1).float().mean()) == pytest.approx(0.03, abs=1e-3)
    free = scale_to_percentiles(image, lower=2, upper=97, clip=False)
    assert torch.equal(free.clamp(0, 1), clipped)
    assert float((free < 0).float().mean()) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("exponent", [0.1, 0.3, 1.0, 2.2, 5.0])
def test_gamma_is_a_power_between_the_extremes(exponent: float) -> None:
    image = torch.linspace(-3.0, 7.0, 101).view(1, 1, 101)
    result = gamma(image, exponent=exponent)
    expected = (image.double() + 3).div(10).pow(exponent) * 10 - 3
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)
    assert float(result.min()) == -3
    assert float(result.max()) == 7


def test_equalised_grey_values_are_evenly_spread() -> None:
    image = torch.rand(40, 40, 20, generator=stream(1, "equalise")).square().mul(700).add(50)
    ranks = equalise_values(image, bins=256).flatten().sort().values
    assert (float(ranks[0]), float(ranks[-1])) == (0.0, 1.0)
    # The first of the bins, which becomes 0, holds the root of 1/256 of all voxels.
    assert (ranks - torch.linspace(0, 1, ranks.numel())).abs().max() < 1 / 16 + 0.02


def test_equalisation_is_that_of_numpy() -> None:
    image = torch.rand(9, 8, 7, generator=stream(2, "equalise")).square()
    counts, edges = np.histogram(image.numpy(), 64)
    ranks = counts.cumsum()
    ranks = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
    expected = np.interp(image.numpy(), (edges[1:] + edges[:-1]) / 2, ranks)
    np.testing.assert_allclose(equalise_values(image, bins=64).numpy(), expected, atol=2e-3)


@settings(deadline=None)
@given(levels=st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_shifted_histograms_follow_straight_lines(levels: list[float]) -> None:
    image = torch.linspace(-3, 5, 101).reshape(101, 1, 1)
    expected = np.interp(np.linspace(0, 1, 101), np.linspace(0, 1, len(levels)), levels) * 8 - 3
    np.testing.assert_allclose(shift_histogram(image, levels).flatten().numpy(), expected, atol=1e-5)
    assert torch.equal(image, torch.linspace(-3, 5, 101).reshape(101, 1, 1))


def test_what_cannot_be_equalised_or_shifted() -> None:
    image = torch.rand(4, 4, 4)
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        equalise_values(image, bins=1)
    with pytest.raises(ValueError, match="at least 2 levels, got 1"):
        shift_histogram(image, (0.0,))
    for change in (equalise_values, lambda flat: shift_histogram(flat, (0.0, 1.0))):
        with pytest.raises(ValueError, match="every voxel is 1"):
            change(torch.ones(4, 4, 4))
