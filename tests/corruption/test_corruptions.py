import numpy as np
import pytest
import torch

from anystroke.core.fields import apply_separable
from anystroke.core.rng import stream
from anystroke.corruption.bias_field import polynomial_field, receive_field, transmit_field
from anystroke.corruption.noise import rician
from anystroke.corruption.resolution import slice_grid


def test_fields_are_positive_smooth_and_bounded() -> None:
    for seed in range(20):
        receive = receive_field((32, 40, 32), strength=0.3, rng=stream(seed, "receive"))
        assert bool((receive > 0).all())
        assert float(receive.log().std()) <= 0.3 + 1e-4
        assert float(receive.log().mean()) == pytest.approx(0, abs=1e-4)
        for field_strength, spread in ((1.5, 0.05), (3.0, 0.15), (7.0, 0.35)):
            transmit = transmit_field((32, 40, 32), field_strength=field_strength, rng=stream(seed, "t"))
            assert float((transmit - 1).abs().max()) <= spread + 1e-4


def test_rician_noise_has_its_two_limits() -> None:
    rng = stream(1, "noise")
    strong = rician(torch.full((60, 60, 60), 100.0), sd=2.0, rng=rng)
    assert float(strong.std()) == pytest.approx(2.0, rel=0.01)
    air = rician(torch.zeros(60, 60, 60), sd=2.0, rng=rng)
    assert float(air.mean()) == pytest.approx(2.0 * (torch.pi / 2) ** 0.5, rel=0.01)
    assert torch.equal(rician(air, sd=0.0, rng=rng), air)
    with pytest.raises(ValueError, match="-1"):
        rician(air, sd=-1, rng=rng)


@pytest.mark.parametrize(
    ("thickness", "distance", "offset"), [(5.0, 5.0, 0.0), (3.0, 4.2, 0.6), (2.0, 2.0, 0.0)]
)
def test_slices_keep_constants_and_ramps(thickness: float, distance: float, offset: float) -> None:
    slices = slice_grid(50, spacing=2.0, thickness=thickness, distance=distance, offset=offset)
    assert torch.allclose(slices.acquire.sum(1), torch.ones(slices.acquire.shape[0]), atol=1e-6)
    assert torch.allclose(slices.restore.sum(1), torch.ones(50), atol=1e-6)
    ramp = torch.arange(50.0)
    back = slices.restore @ (slices.acquire @ ramp)
    assert float((back - ramp)[8:-8].abs().max()) < 0.51 * thickness / 2.0


def test_thick_slices_average_along_their_axis_only() -> None:
    image = torch.rand((6, 7, 40), generator=stream(1, "image"))
    slices = slice_grid(40, spacing=1.0, thickness=8.0, distance=8.0)
    low = apply_separable(image, (None, None, slices.acquire))
    assert low.shape == (6, 7, 5)
    weights = slices.acquire[1]
    assert float(weights.max()) == pytest.approx(1 / 8)
    assert torch.allclose(low[..., 1], (image * weights).sum(-1), atol=1e-5)
    turned = apply_separable(image.permute(2, 0, 1), (slices.acquire, None, None))
    assert torch.allclose(turned.permute(1, 2, 0), low, atol=1e-5)
    with pytest.raises(ValueError, match="finer model grid"):
        slice_grid(40, spacing=2.0, thickness=1.0, distance=1.0)


def test_the_logarithm_of_a_polynomial_field_is_a_legendre_series() -> None:
    coefficients = [0.1 * k - 0.7 for k in range(20)]
    cube = np.zeros((4, 4, 4))
    place = iter(coefficients)
    for i in range(4):
        for j in range(4 - i):
            for k in range(4 - i - j):
                cube[i, j, k] = next(place)
    x, y, z = (np.linspace(-1, 1, n) for n in (9, 7, 5))
    expected = np.exp(np.polynomial.legendre.leggrid3d(x, y, z, cube))
    field = polynomial_field((9, 7, 5), degree=3, coefficients=coefficients)
    np.testing.assert_allclose(field.numpy(), expected, rtol=1e-4)
