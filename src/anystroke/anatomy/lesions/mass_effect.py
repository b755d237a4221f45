"""Swelling around fresh lesions and shrinkage around old ones."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import Box, SamplingGrid
from anystroke.core.fields import apply_separable, smooth, spline_matrix

_LATTICE_MM = 8.0


def plausible_displacement(membership: Tensor, *, spacing: float) -> float:
    """Return how far in mm a lesion may push: a fifth of the radius of a ball as large, at most 4 mm.

    Both numbers are engineering estimates.

    Args:
        membership: (X, Y, Z) in [0, 1].
        spacing: Voxel size in mm.

    Example:
        >>> round(plausible_displacement(torch.ones(10, 10, 10), spacing=2.0), 2)
        2.48
    """
    volume = float(membership.sum()) * spacing**3
    return min(0.2 * float((0.75 / math.pi * volume) ** (1 / 3)), 4.0)


def displaced(
    grid: SamplingGrid,
    membership: Tensor,
    box: Box,
    *,
    spacing: float,
    largest_mm: float,
    reach_mm: float,
    brain: Tensor | None = None,
) -> SamplingGrid:
    """Return a grid on which the tissue around a lesion is pushed away, or pulled in.

    The push points down the gradient of the smoothed lesion, so it is strongest at the lesion's border and
    fades within a few times the reach. Skull and scalp yield to it unless the brain is given.

    Args:
        grid: Output voxels.
        membership: (x, y, z) of the lesion in the box, on a grid of ``spacing``.
        box: Where on the output grid, in output voxels.
        spacing: Voxel size of the membership in mm; the output's or a whole multiple of it.
        largest_mm: Largest displacement: positive for swelling, negative for shrinkage.
        reach_mm: SD of the smoothing. At least 1.7 times the displacement keeps the map one-to-one.
        brain: (X', Y', Z') share of the brain, ventricles included, on the whole output grid in voxels of
            ``spacing``. With it the displacement fades towards the skull and is small beyond, and below
            the largest for a lesion at the brain's surface.

    Returns:
        The grid with a finer spline, which keeps the displacement that was there to a few hundredths of a mm.

    Raises:
        ValueError: If the reach is too short for the displacement.
    """
    if reach_mm < 1.7 * abs(largest_mm):
        raise ValueError(
            f"expected a reach of at least 1.7 times the displacement of {largest_mm} mm, got {reach_mm} mm"
        )
    voxel = float(torch.linalg.det(grid.affine[:3, :3]).abs()) ** (1 / 3)
    counts = [max(round(n * voxel / _LATTICE_MM) + 3, 7) for n in grid.shape]
    # Control point k of a uniform spline sits (k - 1) intervals from the first voxel.
    steps = [(n - 1) / (c - 3) for n, c in zip(grid.shape, counts, strict=True)]
    positions = [(torch.arange(c) - 1) * step for c, step in zip(counts, steps, strict=True)]
    factor = spacing / voxel
    lattice = _onto(positions, membership, (box[0].start, box[1].start, box[2].start), factor)
    sizes = [step * voxel for step in steps]
    bump = smooth(lattice, (reach_mm / sizes[0], reach_mm / sizes[1], reach_mm / sizes[2]))
    push = torch.stack(torch.gradient(bump, spacing=sizes))
    # Output axes to the patient's: rows of the linear part, without its scale.
    turn = (grid.linear[:3, :3] / voxel).to(push)
    push = torch.einsum("ij,jabc->iabc", turn, push)
    splines = [spline_matrix(n, c) for n, c in zip(grid.shape, counts, strict=True)]
    longest = _longest(push, splines)
    if longest < 1e-9:
        return grid
    if brain is not None:
        push *= (2 * _onto(positions, brain, (0, 0, 0), factor) - 1).clamp(0, 1)
    control = _refitted(grid, splines) + push * (largest_mm / longest)
    return replace(grid, control=control, splines=(splines[0], splines[1], splines[2]))


def _refitted(grid: SamplingGrid, splines: list[Tensor]) -> Tensor:
    """Return the control points with which other splines come nearest to a grid's displacement."""
    x, y, z = (torch.linalg.pinv(new) @ old for new, old in zip(splines, grid.splines, strict=True))
    return apply_separable(grid.control, (x, y, z))


def _longest(control: Tensor, splines: list[Tensor]) -> float:
    """Return the length of the longest vector of a spline field, looked for at every fourth voxel."""
    x, y, z = (spline[::4] for spline in splines)
    return float(apply_separable(control, (x, y, z)).norm(dim=0).amax())


def _onto(positions: list[Tensor], field: Tensor, starts: tuple[int, int, int], factor: float) -> Tensor:
    """Average a field that starts at some voxels of the grid onto a lattice of positions in voxels."""
    x, y, z = (
        _interpolation(position, start, n, factor)
        for position, start, n in zip(positions, starts, field.shape, strict=True)
    )
    return apply_separable(field, (x, y, z))


def _interpolation(position: Tensor, start: int, count: int, factor: float) -> Tensor:
    """Return (len(position), count), the weights of a box's voxels around each lattice position."""
    centres = start + (torch.arange(count) + 0.5) * factor - 0.5
    step = float(position[1] - position[0])
    near = (1 - (position[:, None] - centres).abs() / step).clamp(min=0)
    return near * (factor / step)
