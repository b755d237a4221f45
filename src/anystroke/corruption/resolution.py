"""Acquired resolution: slice profile, gap, voxel size and encoded lines, back on the model grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from anystroke.core.fields import GridShape, apply_separable
from anystroke.corruption.kspace import Window, window_weights
from anystroke.corruption.limits import check_positive, check_within

Profile = Literal["box", "trapezoid", "gaussian"]
Interpolation = Literal["linear", "sinc"]


@dataclass(frozen=True)
class SliceGrid:
    """Matrices from the model grid to the acquired slices, or voxels, of one axis and back.

    Attributes:
        acquire: (n_slices, n) average over the slice profile; rows sum to one.
        restore: (n, n_slices) interpolation between slice centres; rows sum to one.
    """

    acquire: Tensor
    restore: Tensor


AcquiredGrids = tuple[SliceGrid | None, SliceGrid | None, SliceGrid | None]
"""How each axis of (X, Y, Z) is acquired; None is as on the model grid."""


def slice_grid(
    n: int,
    *,
    spacing: float,
    thickness: float,
    distance: float,
    offset: float = 0.0,
    profile: Profile = "box",
    ramp: float = 0.3,
) -> SliceGrid:
    """Build the operators of a stack of slices along one axis.

    Args:
        n: Voxels of the model grid along the axis.
        spacing: Their size in mm.
        thickness: Slice thickness in mm, the profile's full width at half maximum, with at least one voxel's
            width.
        distance: Distance of slice centres in mm: thickness plus gap.
        offset: Position of the first slice within one slice distance, 0 to 1.
        profile: ``"box"`` for an ideal slice, ``"trapezoid"`` for the sloping edges of a designed
            (Shinnar-Le Roux) pulse, ``"gaussian"`` for a short pulse.
        ramp: Width of each edge of the trapezoid over the thickness, above 0 and up to 1.

    Raises:
        ValueError: If the distance is smaller than the voxel size, no slice falls on the grid, or an
            argument is out of its range.
    """
    if not distance >= spacing:
        raise ValueError(f"slices {distance} mm apart need a finer model grid than {spacing} mm")
    check_positive("a slice thickness", thickness, "mm")
    check_within("an offset of the first slice", offset, 0.0, 1.0)
    if not offset * distance < n * spacing:
        raise ValueError(
            f"expected a slice within {n * spacing:g} mm, but the first one is at {offset * distance:g} mm; "
            "lower the offset or the distance"
        )
    centres = torch.arange(offset * distance, n * spacing, distance, dtype=torch.float64)
    position = (torch.arange(n, dtype=torch.float64) + 0.5) * spacing
    width = max(thickness, spacing)
    from_centre = (position - centres[:, None]) / width
    half_voxel = spacing / width / 2
    acquire = _cumulative(from_centre + half_voxel, profile, ramp) - _cumulative(
        from_centre - half_voxel, profile, ramp
    )
    acquire = acquire / acquire.sum(1, keepdim=True)
    restore = _linear((position - centres[0]) / distance, len(centres))
    return SliceGrid(acquire.float(), restore.float())


def voxel_grids(
    shape: GridShape,
    *,
    spacing: float,
    voxel: tuple[float, float, float],
    profile: Profile = "gaussian",
) -> AcquiredGrids:
    """Build the operators of an acquisition with larger voxels, equal or not in the three directions.

    Args:
        shape: The model grid.
        spacing: Its voxel size in mm.
        voxel: Acquired voxel size in mm, not below that of the model.
        profile: Shape of the point spread, with the voxel size as its full width at half maximum.

    Raises:
        ValueError: If an acquired voxel is smaller than the model's.

    Example:
        >>> grids = voxel_grids((64, 64, 64), spacing=1.0, voxel=(4.0, 4.0, 1.0))
        >>> acquire(torch.rand(64, 64, 64), grids).shape
        torch.Size([16, 16, 64])
    """
    for size in voxel:
        check_within("an acquired voxel", size, spacing, math.inf, "mm")
    x, y, z = (
        slice_grid(n, spacing=spacing, thickness=size, distance=size, offset=0.5, profile=profile)
        if size > spacing
        else None
        for n, size in zip(shape, voxel, strict=True)
    )
    return x, y, z


@lru_cache(maxsize=64)
def encoded_grid(
    n: int, *, lines: int, interpolation: Interpolation = "sinc", window: Window | None = None
) -> SliceGrid:
    """Build the operators of an axis that is encoded in k-space with few lines.

    Args:
        n: Voxels of the model grid along the axis, whose extent is the field of view.
        lines: Encoded lines, at most ``n``: those of lowest frequency.
        interpolation: ``"sinc"`` fills the missing lines with zeros, as scanners do; ``"linear"``
            interpolates the image.
        window: Weighs the lines down towards the edge of k-space.

    Raises:
        ValueError: If the lines are not from 1 to ``n``.

    Source: M. A. Bernstein, K. F. King and X. J. Zhou, Handbook of MRI Pulse Sequences, 2004, section 13.1.
    """
    check_within("the number of encoded lines", lines, 1, n)
    edge = lines / 2
    frequency = torch.arange(-math.floor(edge), math.floor(edge) + 1, dtype=torch.float64)
    weight = torch.where(frequency.abs() == edge, 0.5, 1.0).double()
    fine = torch.arange(n, dtype=torch.float64) / n
    coarse = torch.arange(lines, dtype=torch.float64) / lines
    phase = 2 * math.pi * frequency * (coarse[:, None, None] - fine[:, None])
    waves = torch.cos(phase) * weight
    acquire = (waves * window_weights(frequency.abs() / edge, window)).sum(-1) / n
    restore = waves.sum(-1).T / lines if interpolation == "sinc" else _linear(fine * lines, lines)
    return SliceGrid(acquire.float(), restore.float())


def acquire(image: Tensor, grids: AcquiredGrids) -> Tensor:
    """Take an image (..., X, Y, Z) to the acquired voxels."""
    return apply_separable(image, _matrices([grid.acquire if grid else None for grid in grids]))


def restore(image: Tensor, grids: AcquiredGrids) -> Tensor:
    """Take an acquired image back to the model grid, (..., X, Y, Z)."""
    return apply_separable(image, _matrices([grid.restore if grid else None for grid in grids]))


def at_acquired_resolution(
    image: Tensor, grids: AcquiredGrids, *, noise: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Acquire an image with larger voxels, add noise there, and interpolate it back.

    Args:
        image: (..., X, Y, Z), signal or magnitude.
        grids: How each axis is acquired.
        noise: Makes the noisy magnitude of the acquired image; None adds no noise.

    Returns:
        Magnitude image of the same shape.

    Example:
        >>> from anystroke.corruption.noise import rician
        >>> rng = torch.Generator().manual_seed(1)
        >>> grids = (None, None, slice_grid(40, spacing=1.0, thickness=5.0, distance=5.0))
        >>> noisy = at_acquired_resolution(
        ...     torch.ones(30, 30, 40), grids, noise=lambda low: rician(low, sd=0.05, rng=rng)
        ... )
        >>> noisy.shape
        torch.Size([30, 30, 40])
    """
    if all(grid is None for grid in grids):
        return noise(image) if noise is not None else image.abs()
    low = acquire(image, grids)
    if noise is not None:
        low = noise(low)
    return restore(low, grids).abs_()


def _matrices(matrices: list[Tensor | None]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, y, z = matrices
    return x, y, z


def _cumulative(position: Tensor, profile: Profile, ramp: float) -> Tensor:
    """Integrate a profile of unit width and area from far below to ``position`` widths from its centre."""
    if profile == "box":
        return (position + 0.5).clamp(0, 1)
    if profile == "gaussian":
        below: Tensor = torch.special.ndtr(position * math.sqrt(8 * math.log(2)))
        return below
    if profile != "trapezoid":
        raise ValueError(f"expected a slice profile box, trapezoid or gaussian, got {profile!r}")
    if not 0 < ramp <= 1:
        raise ValueError(f"expected a ramp above 0 and up to 1 of the thickness, got {ramp}")
    # The trapezoid is a unit box averaged over a box of the ramp's width.
    top, bottom = (
        _box_integral(position + 0.5 * ramp),
        _box_integral(position - 0.5 * ramp),
    )
    return (top - bottom) / ramp


def _box_integral(position: Tensor) -> Tensor:
    inside = (position + 0.5).clamp(0, 1)
    return inside.square() / 2 + (position - 0.5).clamp(min=0)


def _linear(position: Tensor, n_in: int) -> Tensor:
    """Return the matrix of linear interpolation at positions counted in input samples, held at both ends."""
    along = position.clamp(0, n_in - 1)
    lower = along.floor().long().clamp(max=max(n_in - 2, 0))
    upper_weight = along - lower
    matrix = torch.zeros(len(position), n_in, dtype=torch.float64)
    matrix.scatter_(1, lower[:, None], (1 - upper_weight)[:, None])
    if n_in > 1:
        matrix.scatter_add_(1, lower[:, None] + 1, upper_weight[:, None])
    return matrix
