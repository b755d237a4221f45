"""Acquired resolution: slice thickness, gap and in-plane blur, back on the model grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.fields import apply_separable


@dataclass(frozen=True)
class SliceGrid:
    """Matrices from the model grid to the acquired slices of one axis and back.

    Attributes:
        acquire: (n_slices, n) average over the slice profile; rows sum to one.
        restore: (n, n_slices) linear interpolation between slice centres; rows sum to one.
    """

    acquire: Tensor
    restore: Tensor


def slice_grid(
    n: int, *, spacing: float, thickness: float, distance: float, offset: float = 0.0
) -> SliceGrid:
    """Build the operators of a stack of slices along one axis.

    Args:
        n: Voxels of the model grid along the axis.
        spacing: Their size in mm.
        thickness: Slice thickness in mm (a box profile, with at least one voxel's width).
        distance: Distance of slice centres in mm: thickness plus gap.
        offset: Position of the first slice within one slice distance, 0 to 1.

    Raises:
        ValueError: If the distance is smaller than the voxel size.
    """
    if distance < spacing:
        raise ValueError(f"slices {distance} mm apart need a finer model grid than {spacing} mm")
    centres = torch.arange(offset * distance, n * spacing, distance, dtype=torch.float64)
    position = (torch.arange(n, dtype=torch.float64) + 0.5) * spacing
    half = max(thickness, spacing) / 2
    overlap = torch.minimum(position + spacing / 2, centres[:, None] + half) - torch.maximum(
        position - spacing / 2, centres[:, None] - half
    )
    acquire = overlap.clamp(min=0)
    acquire = acquire / acquire.sum(1, keepdim=True)
    along = ((position - centres[0]) / distance).clamp(0, len(centres) - 1)
    lower = along.floor().long().clamp(max=max(len(centres) - 2, 0))
    restore = torch.zeros(n, len(centres), dtype=torch.float64)
    restore.scatter_(1, lower[:, None], (1 - (along - lower))[:, None])
    if len(centres) > 1:
        restore.scatter_add_(1, lower[:, None] + 1, (along - lower)[:, None])
    return SliceGrid(acquire.float(), restore.float())


def along_axis(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply a matrix along one of the last three axes of an image (..., X, Y, Z)."""
    return apply_separable(
        image,
        (
            matrix if axis == 0 else None,
            matrix if axis == 1 else None,
            matrix if axis == 2 else None,
        ),
    )
