"""Smooth random fields and separable linear operators on regular grids.

A field is given by few control points and read out on the full grid through one small matrix per axis, so its
cost is that of three matrix products.
"""

from functools import lru_cache

import torch
from torch import Tensor

GridShape = tuple[int, int, int]


@lru_cache(maxsize=256)
def spline_matrix(n_out: int, n_control: int) -> Tensor:
    """Return the (n_out, n_control) matrix of a uniform cubic B-spline.

    The ``n_out`` points span the ``n_control - 3`` inner intervals of the spline; every row sums to one.

    Args:
        n_out: Number of points on the grid.
        n_control: Number of control points, at least 4.

    Source: C. de Boor, A Practical Guide to Splines, 1978.
    """
    position = torch.linspace(0.0, n_control - 3.0, n_out, dtype=torch.float64)
    first = position.floor().clamp(max=n_control - 4)
    t = position - first
    weights = torch.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1
    )
    matrix = torch.zeros(n_out, n_control, dtype=torch.float64)
    columns = first.long()[:, None] + torch.arange(4)
    matrix.scatter_add_(1, columns, weights / 6)
    return matrix.float()


def apply_separable(field: Tensor, matrices: tuple[Tensor | None, Tensor | None, Tensor | None]) -> Tensor:
    """Apply one matrix (n_out, n_in) along each of the last three axes; None leaves the axis as it is.

    Args:
        field: (..., X, Y, Z).
        matrices: One matrix per axis.

    Returns:
        (..., X', Y', Z').
    """
    x, y, z = matrices
    if z is not None:
        field = field @ z.T.to(field)
    if y is not None:
        field = torch.matmul(y.to(field), field)
    if x is not None:
        lead, (nx, ny, nz) = field.shape[:-3], field.shape[-3:]
        field = torch.matmul(x.to(field), field.reshape(*lead, nx, ny * nz)).reshape(
            *lead, x.shape[0], ny, nz
        )
    return field


def smooth_noise(
    shape: GridShape,
    control_points: GridShape,
    *,
    rng: torch.Generator,
    channels: int = 1,
    device: torch.device | None = None,
) -> Tensor:
    """Draw a smooth Gaussian field, about unit variance at its control points.

    Args:
        shape: Grid of the result.
        control_points: Number of spline control points per axis, each at least 4.
        rng: Random stream.
        channels: Number of independent fields.
        device: Where the field is made, of the same control points anywhere; that of the stream if None.

    Returns:
        (channels, X, Y, Z), float32.
    """
    control = torch.randn((channels, *control_points), generator=rng, device=rng.device)
    control = control.to(device or rng.device)
    nx, ny, nz = (spline_matrix(n, c).to(control) for n, c in zip(shape, control_points, strict=True))
    return apply_separable(control, (nx, ny, nz))


def legendre_matrix(n: int, count: int) -> Tensor:
    """Return (n, count), the first Legendre polynomials at n points from -1 to 1.

    Example:
        >>> legendre_matrix(3, 3)
        tensor([[ 1.0000, -1.0000,  1.0000],
                [ 1.0000,  0.0000, -0.5000],
                [ 1.0000,  1.0000,  1.0000]])
    """
    position = torch.linspace(-1, 1, n)
    rows = [torch.ones(n), position]
    for degree in range(1, count - 1):
        rows.append(((2 * degree + 1) * position * rows[-1] - degree * rows[-2]) / (degree + 1))
    return torch.stack(rows[:count], dim=1)


@lru_cache(maxsize=64)
def linear_matrix(n_out: int, n_in: int, factor: int) -> Tensor:
    """Return the (n_out, n_in) matrix of linear interpolation from voxels that hold ``factor`` fine ones."""
    position = ((torch.arange(n_out, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, n_in - 1)
    lower = position.floor().long().clamp(max=max(n_in - 2, 0))
    weight = position - lower
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    matrix.scatter_(1, lower[:, None], (1 - weight)[:, None])
    if n_in > 1:
        matrix.scatter_add_(1, lower[:, None] + 1, weight[:, None])
    return matrix.float()


def refine(field: Tensor, shape: GridShape, factor: int) -> Tensor:
    """Interpolate a field (X, Y, Z) on a grid ``factor`` times finer, of a given shape."""
    if factor == 1:
        return field
    x, y, z = (linear_matrix(n, m, factor) for n, m in zip(shape, field.shape, strict=True))
    return apply_separable(field, (x, y, z))


@lru_cache(maxsize=256)
def gaussian_matrix(n: int, sigma: float) -> Tensor:
    """Return the (n, n) matrix that smooths with a Gaussian of ``sigma`` voxels; rows sum to one."""
    index = torch.arange(n, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((index[:, None] - index[None, :]) / sigma) ** 2)
    return (kernel / kernel.sum(1, keepdim=True)).float()


def smooth(field: Tensor, sigma: float | tuple[float, float, float]) -> Tensor:
    """Smooth the last three axes with a Gaussian; at the border the kernel is cut and renormalised.

    Args:
        field: (..., X, Y, Z).
        sigma: Standard deviation in voxels, one or one per axis; zero leaves an axis as it is.
    """
    sigmas = (sigma,) * 3 if isinstance(sigma, float | int) else sigma
    x, y, z = (
        gaussian_matrix(n, round(float(s), 2)).to(field.device) if s > 0.01 else None
        for n, s in zip(field.shape[-3:], sigmas, strict=True)
    )
    return apply_separable(field, (x, y, z))
