"""Sample tensors on other grids: trilinear or nearest, any spacing, any obliquity."""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Mode = Literal["linear", "nearest"]

# Coordinates this close to a voxel centre (in voxels) count as on it: float32 headers are no more exact.
_SNAP = 1e-4
# Determinant of the unit axes of an affine below which it counts as flat.
_MINIMUM_DETERMINANT = 1e-3
# Coarsening from which antialiasing smooths.
_COARSER = 1.2
_SLAB_VOXELS = 1 << 20


def affine_problem(affine: Tensor) -> str | None:
    """Say what is wrong with an affine.

    Args:
        affine: A float64 tensor that should be an invertible voxel-to-world matrix (4, 4).

    Returns:
        The end of a sentence, or None for a good affine.

    Example:
        >>> affine_problem(torch.zeros(3, 3))
        'its shape is (3, 3) instead of (4, 4)'
    """
    if tuple(affine.shape) != (4, 4):
        return f"its shape is {tuple(affine.shape)} instead of (4, 4)"
    if not bool(torch.isfinite(affine).all()):
        return "it holds NaN or infinite numbers"
    if affine[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
        return f"its last row is {affine[3].tolist()} instead of [0, 0, 0, 1]"
    sizes = affine[:3, :3].norm(dim=0)
    if bool((sizes < 1e-6).any()):
        return f"its voxel sizes are {[round(s, 6) for s in sizes.tolist()]} mm"
    if abs(float(torch.linalg.det(affine[:3, :3] / sizes))) < _MINIMUM_DETERMINANT:
        return "it is singular (two voxel axes point the same way)"
    return None


def displacement(first: Tensor, second: Tensor, shape: tuple[int, int, int]) -> float:
    """Compute how far apart [mm] two affines put the corners of a grid, at most.

    Example:
        >>> displacement(torch.eye(4), 2 * torch.eye(4), (1, 1, 4))
        3.0
    """
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in shape))
    difference = (first - second).to(torch.float64)
    return float((corners @ difference[:3, :3].T + difference[:3, 3]).norm(dim=1).max())


def resample(
    data: Tensor,
    to_source: Tensor,
    shape: tuple[int, int, int],
    mode: Mode = "linear",
    *,
    fill: float = 0.0,
    antialias: bool = False,
) -> Tensor:
    """Sample data at the voxel centres of another grid.

    Up to half a voxel beyond the outermost voxel centres of the source the edge value is held; further out is
    ``fill``. Grids with parallel axes are resampled one axis after the other, which is fast, exact where
    voxel centres coincide, and spreads NaN along the axes; others slab by slab.

    Args:
        data: Source voxels (C, X, Y, Z); floating point for ``"linear"``.
        to_source: float64 (4, 4): voxel indices of the wanted grid to those of the source.
        shape: Voxels of the wanted grid.
        mode: ``"linear"`` (trilinear) or ``"nearest"``.
        fill: Value outside the source's field of view.
        antialias: In linear mode, smooth each source axis that gets coarser by more than 1.2 first, with a
            Gaussian whose full width at half maximum makes up the difference of the voxel sizes (Cardoso et
            al., Scale factor point spread function matching, MICCAI 2015).

    Returns:
        The values (C, *shape); it may share memory with ``data`` where nothing had to change.

    Example:
        >>> half = torch.diag(torch.tensor([0.5, 1.0, 1.0, 1.0], dtype=torch.float64))
        >>> resample(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), half, (3, 1, 1)).flatten().tolist()
        [0.0, 0.5, 1.0]
    """
    widths = to_source[:3, :3].norm(dim=1).tolist() if antialias and mode == "linear" else [1.0] * 3
    order = _separable(to_source, shape)
    if order is not None:
        return _resample_by_axis(data, to_source, shape, order, mode, fill, widths)
    for axis, width in enumerate(widths):
        if width > _COARSER:
            coordinates = torch.arange(data.shape[axis + 1], dtype=torch.float64)
            data = _interpolate_axis(data, axis + 1, coordinates, width, fill)
    return _resample_oblique(data, to_source, shape, mode, fill)


def keep_volume(share: Tensor, voxels: float) -> Tensor:
    """Threshold a resampled mask so that its volume stays what it was.

    Where half a voxel is the limit, small lesions shrink on coarser grids, by a quarter at 0.1 ml and 2 mm.

    Args:
        share: (X, Y, Z), how much of each voxel is in the mask.
        voxels: Number that the mask should have, whole or not; at least one is kept.

    Returns:
        Boolean mask, as near to this number as equal shares allow, and empty where all shares are zero.

    Example:
        >>> keep_volume(torch.tensor([0.1, 0.45, 0.9, 0.3]), 2.2)
        tensor([False,  True,  True, False])
    """
    wanted = min(max(round(voxels), 1), share.numel())
    level = float(share.flatten().kthvalue(share.numel() - wanted + 1).values)
    reached, passed = share >= max(level, 1e-6), share > max(level, 1e-6)
    more, less = int(reached.sum()) - wanted, wanted - int(passed.sum())
    return passed if less < more and bool(passed.any()) else reached


def _separable(to_source: Tensor, shape: tuple[int, int, int]) -> list[int] | None:
    """Find the source axis that each target axis runs along; None when the grids are oblique."""
    reach = to_source[:3, :3].abs() * torch.tensor([float(max(n - 1, 1)) for n in shape], dtype=torch.float64)
    order = to_source[:3, :3].abs().argmax(dim=0).tolist()
    if sorted(order) != [0, 1, 2]:
        return None
    for target_axis, source_axis in enumerate(order):
        reach[source_axis, target_axis] = 0.0
    return order if float(reach.max()) < _SNAP else None


def _resample_by_axis(
    data: Tensor,
    to_source: Tensor,
    shape: tuple[int, int, int],
    order: list[int],
    mode: Mode,
    fill: float,
    widths: list[float],
) -> Tensor:
    """Resample one axis after the other, on grids whose axes are parallel."""
    grows = math.prod(shape) > math.prod(data.shape[1:])
    permutation = (0, *(axis + 1 for axis in order))
    places = list(range(3)) if grows else order
    if grows:
        data = data.permute(permutation)
    steps = []
    for axis, source_axis in enumerate(order):
        coordinates = torch.arange(shape[axis], dtype=torch.float64) * to_source[source_axis, axis]
        coordinates += to_source[source_axis, 3]
        steps.append((shape[axis] / data.shape[places[axis] + 1], places[axis] + 1, source_axis, coordinates))
    for _, place, source_axis, coordinates in sorted(steps, key=lambda step: step[:2]):
        if mode == "nearest":
            data = _nearest_axis(data, place, coordinates, fill)
        else:
            data = _interpolate_axis(data, place, coordinates, widths[source_axis], fill)
    if not grows:
        data = data.permute(permutation)
    return data.contiguous()


def _nearest_axis(data: Tensor, axis: int, coordinates: Tensor, fill: float) -> Tensor:
    """Take the nearest samples along one axis."""
    size = data.shape[axis]
    index = torch.floor(coordinates + 0.5 + _SNAP).to(torch.int64).clamp(0, size - 1)
    return _fill_outside(_take(data, axis, index), axis, coordinates, size, fill)


def _interpolate_axis(data: Tensor, axis: int, coordinates: Tensor, width: float, fill: float) -> Tensor:
    """Interpolate linearly along one axis, smoothed first where ``width`` (in voxels) is above 1.2."""
    size = data.shape[axis]
    rounded = coordinates.round()
    snapped = torch.where((coordinates - rounded).abs() < _SNAP, rounded, coordinates).clamp(0, size - 1)
    base = torch.floor(snapped)
    fraction = snapped - base
    index = base.to(torch.int64)
    if width <= _COARSER and not bool(fraction.any()):
        return _fill_outside(_take(data, axis, index), axis, coordinates, size, fill)
    kernel = _gaussian(width) if width > _COARSER else torch.ones(1, dtype=torch.float64)
    radius = len(kernel) // 2
    weights = torch.zeros(len(coordinates), size, dtype=torch.float64)
    for offset, share in enumerate(kernel, start=-radius):
        for step, part in ((0, 1.0 - fraction), (1, fraction)):
            source = (index + offset + step).clamp(0, size - 1)
            weights.scatter_add_(1, source[:, None], (share * part)[:, None])
    return _fill_outside(_multiply(weights.to(data), data, axis), axis, coordinates, size, fill)


def _take(data: Tensor, axis: int, index: Tensor) -> Tensor:
    """Pick positions along one axis, as a view where the axis stays as it is."""
    if len(index) == data.shape[axis] and torch.equal(index, torch.arange(len(index))):
        return data
    picked: list[Any] = [slice(None)] * data.ndim
    picked[axis] = index.to(data.device)
    return data[tuple(picked)]


def _multiply(weights: Tensor, data: Tensor, axis: int) -> Tensor:
    """Apply a matrix (new, old) along one axis of (C, X, Y, Z) data."""
    data = data.contiguous()
    channels, shape = data.shape[0], list(data.shape)
    shape[axis] = weights.shape[0]
    if axis == 1:
        return torch.stack([weights @ channel.reshape(channel.shape[0], -1) for channel in data]).view(shape)
    if axis == 3:
        return (data.reshape(-1, data.shape[3]) @ weights.T).view(shape)
    planes = torch.matmul(weights, data.reshape(channels * data.shape[1], data.shape[2], data.shape[3]))
    return planes.view(shape)


def _gaussian(width: float) -> Tensor:
    """Sample the Gaussian that widens a voxel from 1 to ``width`` (full widths at half maximum), sum 1."""
    sigma = math.sqrt((width**2 - 1.0) / (8.0 * math.log(2.0)))
    radius = math.ceil(3.0 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return kernel / kernel.sum()


def _fill_outside(data: Tensor, axis: int, coordinates: Tensor, size: int, fill: float) -> Tensor:
    """Set the samples outside the field of view."""
    outside = (coordinates < -0.5 - _SNAP) | (coordinates > size - 0.5 + _SNAP)
    if not bool(outside.any()):
        return data
    return data.index_fill(axis, outside.nonzero()[:, 0].to(data.device), fill)


def _resample_oblique(
    data: Tensor, to_source: Tensor, shape: tuple[int, int, int], mode: Mode, fill: float
) -> Tensor:
    """Resample between grids of any relation, slab by slab along the first axis.

    Coordinates run from -1 (first voxel centre of the source) to 1 (last).
    """
    result = data.new_full((data.shape[0], *shape), fill)
    sizes = torch.tensor(data.shape[1:], dtype=torch.float64)
    scale = (2.0 / (sizes - 1.0).clamp(min=1.0)).view(3, 1)
    limits = ((sizes + 2.0 * _SNAP) / (sizes - 1.0).clamp(min=1.0)).to(torch.float32)
    indices = (torch.arange(n, dtype=torch.float64) for n in shape)
    x, y, z = (to_source[:3, i : i + 1] * index * scale for i, index in enumerate(indices))
    x = x + to_source[:3, 3:4] * scale - (sizes.view(3, 1) > 1.0).to(torch.float64)
    planes = (y[:, :, None] + z[:, None, :]).to(data.device)
    rows = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        part = x[:, start : start + rows].to(data.device)
        points = torch.stack(
            [(part[axis, :, None, None] + planes[axis]).to(torch.float32) for axis in (2, 1, 0)], dim=-1
        )
        inside = (points.abs() <= limits.flip(0).to(data.device)).all(dim=-1)
        if not bool(inside.any()):
            continue
        if mode == "nearest":
            sampled = _gather_nearest(data, points)
        else:
            sampled = grid_sample(
                data[None], points[None].to(data.dtype), padding_mode="border", align_corners=True
            )[0]
        result[:, start : start + rows] = sampled.where(inside, fill)
    return result


def _gather_nearest(data: Tensor, points: Tensor) -> Tensor:
    """Take the voxels nearest to normalised coordinates (..., zyx)."""
    index = []
    for axis, size in enumerate(data.shape[1:]):
        coordinate = (points[..., 2 - axis] + (1.0 if size > 1 else 0.0)) * (0.5 * max(size - 1, 1))
        index.append(torch.floor(coordinate + 0.5).to(torch.int64).clamp_(0, size - 1))
    return data[:, index[0], index[1], index[2]]
