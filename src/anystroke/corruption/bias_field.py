"""Receive (B1-) and transmit (B1+) fields."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anystroke.core.fields import GridShape, apply_separable, legendre_matrix, spline_matrix
from anystroke.core.rng import integer, uniform
from anystroke.corruption.limits import check_within


def receive_field(
    shape: GridShape, *, strength: float, rng: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Draw a smooth multiplicative receive field with geometric mean one.

    Args:
        shape: Grid.
        strength: Largest standard deviation of the field's logarithm; 0.3 is a strong field.
        rng: Random stream.
        device: Where the field is made, of the same control points anywhere; that of the stream if None.

    Returns:
        (X, Y, Z), positive, dimensionless.
    """
    points = (integer(rng, 4, 6), integer(rng, 4, 6), integer(rng, 4, 6))
    control = torch.randn(points, generator=rng, device=rng.device)
    control -= _mean(control, shape)
    # Of a field with mean zero, what the mean of its square would be is known from the control points.
    grams = [matrix.T @ matrix / len(matrix) for matrix in _matrices(control, shape)]
    sd = (
        float((control * apply_separable(control, (grams[0], grams[1], grams[2]))).sum().clamp(min=1e-12))
        ** 0.5
    )
    control *= uniform(rng, 0.0, strength) / sd
    return _spline(control.to(device or rng.device), shape).exp_()


def transmit_field(
    shape: GridShape, *, field_strength: float, rng: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Draw a transmit field, the true over the nominal flip angle.

    The spread about one is 5 % at 1.5 T, 15 % at 3 T and 35 % at 7 T: engineering estimates of the range seen
    across a head.

    Args:
        shape: Grid.
        field_strength: B0 in T.
        rng: Random stream.
        device: As for `receive_field`.

    Returns:
        (X, Y, Z), positive, dimensionless.
    """
    spread = 0.05 if field_strength < 2 else 0.15 if field_strength < 5 else 0.35
    control = torch.randn((4, 4, 4), generator=rng, device=rng.device)
    # The spline's weights sum to one, so what is done to its control points is done to the field.
    control -= _mean(control, shape)
    x, y, z = (min(n, 32) for n in shape)
    largest = float(_spline(control, (x, y, z)).abs().amax().clamp(min=1e-6))
    control = control * (uniform(rng, 0.0, spread) / largest) + 1
    return _spline(control.to(device or rng.device), shape)


def control_point_field(
    shape: GridShape, *, amplitude: float, control_points: GridShape, rng: torch.Generator
) -> Tensor:
    """Draw a multiplicative field from independent control points.

    Args:
        shape: Grid.
        amplitude: Largest distance of the field from one, 0 to below 1.
        control_points: Points per axis that span the grid, each at least 2.
        rng: Random stream.

    Returns:
        (X, Y, Z), between ``1 - amplitude`` and ``1 + amplitude``; a cubic spline through few points.

    Raises:
        ValueError: If an argument is out of its range.

    Source: the form of the field in SynthStroke (L. Chalcroft et al., 2024), with an approximating spline.
    """
    if not 0 <= amplitude < 1:
        raise ValueError(f"expected an amplitude from 0 to below 1, got {amplitude}")
    for points in control_points:
        if points < 2:
            raise ValueError(f"expected at least 2 control points per axis, got {points}")
    outer = [points + 2 for points in control_points]
    control = torch.rand(outer, generator=rng, device=rng.device).mul_(2 * amplitude).add_(1 - amplitude)
    x, y, z = (spline_matrix(n, c).to(rng.device) for n, c in zip(shape, outer, strict=True))
    return apply_separable(control, (x, y, z))


def polynomial_field(shape: GridShape, *, degree: int, coefficients: Sequence[float]) -> Tensor:
    """Compute the exponential of a sum of products of Legendre polynomials.

    Args:
        shape: Grid, from -1 to 1 along each axis.
        degree: Largest total degree of a product, 1 or more.
        coefficients: One for each product, by the degree along x, then y, then z: there are
            ``(degree + 1) * (degree + 2) * (degree + 3) / 6``.

    Returns:
        (X, Y, Z), positive, dimensionless.

    Raises:
        ValueError: If the number of coefficients is another, or the degree is below 1.

    Source: K. van Leemput et al., Automated model-based bias field correction of MR images of the brain, IEEE
    Trans Med Imaging 18:885 (1999).

    Example:
        >>> polynomial_field((3, 2, 2), degree=1, coefficients=(0.0, 0.0, 0.0, 1.0))[:, 0, 0]
        tensor([0.3679, 1.0000, 2.7183])
    """
    check_within("the degree of a polynomial field", degree, 1, 20)
    products = [
        (i, j, k) for i in range(degree + 1) for j in range(degree + 1 - i) for k in range(degree + 1 - i - j)
    ]
    if len(coefficients) != len(products):
        raise ValueError(
            f"expected {len(products)} coefficients for degree {degree}, got {len(coefficients)}"
        )
    cube = torch.zeros((degree + 1,) * 3)
    for product, coefficient in zip(products, coefficients, strict=True):
        cube[product] = coefficient
    x, y, z = (legendre_matrix(n, degree + 1) for n in shape)
    return apply_separable(cube, (x, y, z)).exp_()


def _matrices(control: Tensor, shape: GridShape) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (spline_matrix(n, c).to(control.device) for n, c in zip(shape, control.shape, strict=True))
    return x, y, z


def _spline(control: Tensor, shape: GridShape) -> Tensor:
    return apply_separable(control, _matrices(control, shape))


def _mean(control: Tensor, shape: GridShape) -> Tensor:
    """Return the mean of the field over the grid."""
    x, y, z = (matrix.mean(0) for matrix in _matrices(control, shape))
    return torch.einsum("abc,a,b,c->", control, x, y, z)
