"""Positions of the voxels of several sampling grids at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anystroke.core.fields import GridShape

# Smaller grids are filled up to the size of the largest, as long as that costs no more than this.
_MOST_PADDING = 1.5


def of_like_size(shapes: Sequence[GridShape], most: int) -> list[list[int]]:
    """Group grids that are worth filling up to the size of the largest among them.

    Args:
        shapes: Of the grids.
        most: Voxels of one group, all together.

    Returns:
        Groups of indices; each grid is in one of them.

    Example:
        >>> of_like_size([(4, 4, 4), (40, 40, 40), (4, 4, 5)], 10**6)
        [[1], [2, 0]]
    """
    sizes = [x * y * z for x, y, z in shapes]
    groups: list[list[int]] = []
    for index in sorted(range(len(shapes)), key=lambda k: -sizes[k]):
        for group in groups:
            together = [*group, index]
            x, y, z = (max(shapes[k][axis] for k in together) for axis in range(3))
            filled = x * y * z * len(together)
            if filled <= min(most, _MOST_PADDING * sum(sizes[k] for k in together)):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def stacked_points(
    controls: Sequence[Tensor], splines: Sequence[Sequence[Tensor]], linears: Sequence[Tensor]
) -> Tensor:
    """Return where the voxels of several grids are, filled up to the size of the largest.

    Args:
        controls: (3, a, b, c) each, control points of the displacement.
        splines: Three matrices (n, a) each, on the CPU.
        linears: (4, 4) each, output voxel -> mm, on the CPU.

    Returns:
        (B, 3, X, Y, Z) in mm; what lies beyond a grid is without meaning.
    """
    device = controls[0].device
    field = _stacked_controls(controls)
    x, y, z = (
        _stacked_matrices([each[axis] for each in splines], field.shape[2 + axis]).to(device)
        for axis in range(3)
    )
    count, nx, ny, nz = len(controls), x.shape[1], y.shape[1], z.shape[1]
    field = torch.matmul(field, z[:, None, None].mT)
    field = torch.matmul(y[:, None, None], field)
    field = torch.matmul(x[:, None], field.flatten(3)).view(count, 3, nx, ny, nz)
    linear = torch.stack(list(linears))[:, :3].float().to(device)[..., None, None]
    a, b, c = (
        torch.arange(n, dtype=torch.float32, device=device).view([-1 if k == axis else 1 for k in range(3)])
        for axis, n in enumerate((nx, ny, nz))
    )
    ramp = torch.addcmul(linear[:, :, 0:1] * a, linear[:, :, 1:2], b)
    return field.add_(ramp).add_(torch.addcmul(linear[:, :, 3:4], linear[:, :, 2:3], c))


def _stacked_controls(controls: Sequence[Tensor]) -> Tensor:
    """Return (B, 3, a, b, c), filled up with zeros, in as many operations as for one."""
    shapes = [each.shape for each in controls]
    if len(set(shapes)) == 1:
        return torch.stack(list(controls))
    largest = [max(shape[axis] for shape in shapes) for axis in range(1, 4)]
    # What fills up is read from the zero that comes first.
    places = torch.zeros((len(controls), 3, *largest), dtype=torch.int64)
    first = 1
    for place, shape in zip(places, shapes, strict=True):
        part = place[:, : shape[1], : shape[2], : shape[3]]
        part.copy_(torch.arange(first, first + part.numel()).view(part.shape))
        first += part.numel()
    flat = torch.cat([controls[0].new_zeros(1), *(each.reshape(-1) for each in controls)])
    return flat[places.to(flat.device)]


def _stacked_matrices(matrices: Sequence[Tensor], columns: int) -> Tensor:
    """Return (B, n, columns), filled up with zeros."""
    wide = [torch.nn.functional.pad(each.float(), (0, columns - each.shape[1])) for each in matrices]
    return pad_sequence(wide, batch_first=True)
