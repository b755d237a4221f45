import numpy as np
import pytest
import torch

from anystroke.core.fields import (
    apply_separable,
    gaussian_matrix,
    legendre_matrix,
    smooth,
    smooth_noise,
    spline_matrix,
)
from anystroke.core.rng import stream


@pytest.mark.parametrize(("n", "control"), [(40, 4), (33, 9), (7, 5)])
def test_spline_rows_sum_to_one_and_reproduce_a_line(n: int, control: int) -> None:
    matrix = spline_matrix(n, control)
    assert torch.allclose(matrix.sum(1), torch.ones(n), atol=1e-6)
    line = matrix @ torch.arange(control, dtype=torch.float32)
    assert torch.allclose(line.diff(), line.diff()[0].expand(n - 1), atol=1e-5)


def test_separable_equals_a_loop_over_axes() -> None:
    rng = stream(1, "separable")
    field = torch.rand((2, 4, 5, 6), generator=rng)
    x, z = torch.rand((3, 4), generator=rng), torch.rand((7, 6), generator=rng)
    expected = torch.einsum("cijk,ai,bk->cajb", field, x, z)
    assert torch.allclose(apply_separable(field, (x, None, z)), expected, atol=1e-5)


def test_smooth_keeps_constants_and_spreads_a_point_as_a_gaussian() -> None:
    assert torch.allclose(smooth(torch.full((9, 9, 9), 3.0), 1.5), torch.full((9, 9, 9), 3.0), atol=1e-5)
    point = torch.zeros(41, 5, 5)
    point[20] = 1
    line = smooth(point, (2.0, 0.0, 0.0))[:, 0, 0]
    position = torch.arange(41.0) - 20
    assert float((line * position**2).sum() / line.sum()) == pytest.approx(4.0, rel=0.01)
    assert torch.equal(gaussian_matrix(5, 1.0), gaussian_matrix(5, 1.0))


def test_smooth_noise_is_reproducible_and_smooth() -> None:
    first = smooth_noise((30, 30, 30), (5, 5, 5), rng=stream(1, "field"), channels=2)
    assert first.shape == (2, 30, 30, 30)
    assert torch.equal(first, smooth_noise((30, 30, 30), (5, 5, 5), rng=stream(1, "field"), channels=2))
    assert float(first.diff(dim=1).abs().max()) < 0.2 * float(first.max() - first.min())


def test_legendre_polynomials_are_those_of_numpy() -> None:
    position = np.linspace(-1, 1, 21)
    for count in (1, 2, 6):
        expected = np.polynomial.legendre.legvander(position, count - 1)
        np.testing.assert_allclose(legendre_matrix(21, count).numpy(), expected, atol=1e-6)
