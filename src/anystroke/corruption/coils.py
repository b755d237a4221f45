"""Shading of receive coils that lie on the head, and slices that are not equally bright."""

import math

import torch
from torch import Tensor

from anystroke.core.fields import GridShape, apply_separable, linear_matrix
from anystroke.core.rng import choice, integer, normal, uniform

_COARSE_MM = 12.0


def surface_coil_field(
    shape: GridShape,
    *,
    spacing: float,
    strength: float,
    rng: torch.Generator,
    device: torch.device | None = None,
) -> Tensor:
    """Draw the shading of an array of surface coils without correction: bright near them, dark inside.

    Loops lie on an ellipsoid around the middle of the grid; each sees a point as on its axis,
    ``(1 + (d / a)^2)^-1.5`` at a distance ``d`` with loops of radius ``a``, and they are combined by the root
    of the sum of squares. At times one side, the back or the front alone has loops, or some are weak.

    Args:
        shape: Grid.
        spacing: Voxel size in mm.
        strength: Exponent of the field: 0 for none, 1 for no correction at all.
        rng: Random stream.
        device: Where the field is made, of the same coarse one anywhere; that of the stream if None.

    Returns:
        (X, Y, Z), positive, dimensionless, mean one.

    Source: the field on the axis of a loop (law of Biot and Savart) and the combination of P. Roemer et al.,
    Magn Reson Med 16:192 (1990); the places of the loops are engineering estimates.
    """
    factor = max(round(_COARSE_MM / spacing), 1)
    small = tuple(-(-n // factor) for n in shape)
    points = [
        (torch.arange(n) * factor + (factor - 1) / 2 - (m - 1) / 2) * spacing
        for n, m in zip(small, shape, strict=True)
    ]
    x, y, z = (axis.to(rng.device) for axis in points)
    layout = choice(rng, [0.6, 0.15, 0.15, 0.1])
    away = uniform(rng, 0.0, 2 * math.pi)
    radius = uniform(rng, 55.0, 90.0)
    total = torch.zeros(small, device=rng.device)
    count = integer(rng, 6, 12)
    for ring, height in enumerate((-45.0, 35.0)):
        for k in range(count):
            angle = 2 * math.pi * (k + 0.5 * ring) / count
            weight = math.exp(normal(rng, 0.0, 0.25))
            if layout == 1:
                weight *= 0.25 + 0.75 * (0.5 + 0.5 * math.cos(angle - away))
            if layout == 2:
                weight *= 1.0 if math.sin(angle) < 0.3 else 0.35
            if layout == 3 and chance_of_fault(rng):
                weight *= 0.1
            centre = (95.0 * math.cos(angle), 115.0 * math.sin(angle), height)
            square = (
                ((x - centre[0]) ** 2)[:, None, None] + ((y - centre[1]) ** 2)[:, None] + (z - centre[2]) ** 2
            )
            total += weight**2 * (1 + square / radius**2) ** -3
    field = total.sqrt_().pow_(strength)
    field /= field.mean()
    field = field.to(device or rng.device)
    lines = tuple(linear_matrix(n, m, factor) for n, m in zip(shape, small, strict=True))
    return apply_separable(field, (lines[0], lines[1], lines[2]))


def chance_of_fault(rng: torch.Generator) -> bool:
    """Return whether one loop of a worn array is weak."""
    return uniform(rng, 0.0, 1.0) < 0.3


def slice_gains(count: int, *, interleaves: int, strength: float, rng: torch.Generator) -> Tensor:
    """Draw how bright each slice of a stack is: as the interleaf it belongs to, and a little by itself.

    Args:
        count: Slices.
        interleaves: Slices are excited in this many passes; 1 for one after another.
        strength: SD of the passes' gains; that of single slices is a third.
        rng: Random stream.

    Returns:
        (count,) positive, mean one.
    """
    passes = torch.randn(interleaves, generator=rng, device=rng.device) * strength
    gains = passes[torch.arange(count, device=rng.device) % interleaves]
    gains = gains + torch.randn(count, generator=rng, device=rng.device) * (strength / 3)
    gains = gains.clamp_(-0.5, 0.5).exp_()
    return gains / gains.mean()
