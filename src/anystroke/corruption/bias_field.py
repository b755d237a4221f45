"""Receive (B1-) and transmit (B1+) fields."""

import torch
from torch import Tensor

from anystroke.fields import GridShape, apply_separable, smooth_noise, spline_matrix
from anystroke.rng import integer, uniform


def receive_field(shape: GridShape, *, strength: float, rng: torch.Generator) -> Tensor:
    """Draw a smooth multiplicative receive field with geometric mean one.

    Args:
        shape: Grid.
        strength: Largest standard deviation of the field's logarithm; 0.3 is a strong field.
        rng: Random stream.

    Returns:
        (X, Y, Z), positive, dimensionless.
    """
    control = (integer(rng, 4, 6), integer(rng, 4, 6), integer(rng, 4, 6))
    field = smooth_noise(shape, control, rng=rng)[0]
    field -= field.mean()
    return torch.exp(field * (uniform(rng, 0.0, strength) / float(field.std().clamp(min=1e-6))))


def transmit_field(shape: GridShape, *, field_strength: float, rng: torch.Generator) -> Tensor:
    """Draw a transmit field, the true over the nominal flip angle.

    The spread about one is 5 % at 1.5 T, 15 % at 3 T and 35 % at 7 T: engineering estimates of the range seen
    across a head.

    Args:
        shape: Grid.
        field_strength: B0 in T.
        rng: Random stream.

    Returns:
        (X, Y, Z), positive, dimensionless.
    """
    spread = 0.05 if field_strength < 2 else 0.15 if field_strength < 5 else 0.35
    field = smooth_noise(shape, (4, 4, 4), rng=rng)[0]
    field -= field.mean()
    field *= uniform(rng, 0.0, spread) / float(field.abs().amax().clamp(min=1e-6))
    return 1 + field


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
