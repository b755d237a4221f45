"""What scans hold where the head is not: NaN, padding and noise, made an empty background."""

import warnings
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from anystroke.core.volume import Volume, VolumeError, VolumeWarning

_Array = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]
_Mask = np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]

_NEIGHBOURS = np.ones((3, 3, 3), bool)
# Voxels next to padding hold mixtures of it where a scan was resampled.
_RIM = 2
_SMALLEST_SHARE = 0.002
# Distance of a padding value from all others, as a share of their range.
_FAR = 0.25
# Air of ratio images is about uniform over the range of intensities: standard deviation 0.29 of it, median in
# the middle. That of magnitude images has a few per cent, of computed ADC maps up to 0.15 near the lower end.
_NOISY = 0.2
_MIDDLE = (0.3, 0.7)
# Mean difference of neighbours over the standard deviation: 1.13 of Gaussian noise, little of tissue.
_UNCORRELATED = 0.8
_CORNER = 10
_HEAD_ML = (700.0, 12_000.0)
_RIM_MM, _CLOSED_MM = 2.0, 8.0
_SAMPLE = 1_000_000


def clean_background(scan: Volume, name: str = "the scan") -> Volume:
    """Make what is outside of the head the empty background that the networks know.

    NaN and infinities that reach the border of the field of view, a padding value far from all others, and
    air that is noise over the whole range, as in MP2RAGE's ratio images (Marques et al., NeuroImage 49:1271,
    2010).

    Args:
        scan: One channel of floating-point values.
        name: How to call it in messages.

    Returns:
        The same scan where there is nothing to do; values within the head stay as they are.

    Raises:
        VolumeError: Air is noise and the head cannot be told from it.

    Warns:
        VolumeWarning: Voxels were taken as background.

    Example:
        >>> padded = torch.rand(1, 40, 40, 40)
        >>> padded[:, :8] = -32768.0
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     float(clean_background(Volume(padded, torch.eye(4))).data.min()) >= 0
        True
    """
    if scan.data.shape[0] != 1 or not scan.data.is_floating_point() or scan.data.numel() == 0:
        return scan
    data: _Array = scan.data[0].detach().cpu().numpy()
    said: list[str] = []
    data = _without_padding(_without_nan(data, said), said)
    if bool(np.isfinite(data).all()):
        data = _without_noise(data, scan, name, said)
    for text in said:
        warnings.warn(f"{name}: {text}", VolumeWarning, stacklevel=2)
    if not said:
        return scan
    return Volume(torch.from_numpy(data)[None].to(scan.data.dtype), scan.affine, scan.space_code)


def _without_nan(data: _Array, said: list[str]) -> _Array:
    """Take NaN and infinities that reach the border as background."""
    bad = ~np.isfinite(data)
    if not bad.any() or bad.all():
        return data
    parts, _ = ndimage.label(bad, structure=_NEIGHBOURS)
    at_border = np.unique(np.concatenate([face.ravel() for face in _faces(parts)]))
    outside = np.isin(parts, at_border[at_border > 0])
    if not outside.any():
        return data
    lowest = float(data[~bad].min())
    said.append(
        f"{int(outside.sum())} voxels at the border of the field of view are NaN or infinite and are taken "
        "as background"
    )
    return np.where(outside, np.float32(min(lowest, 0.0)), data)


def _without_padding(data: _Array, said: list[str]) -> _Array:
    """Take a value that lies far from all others, and fills corners, as background."""
    last = [(0, n - 1) for n in data.shape]
    if not bool(np.isfinite(data).all()):
        return data
    smallest, largest = float(data.min()), float(data.max())
    corners = {float(data[x, y, z]) for x in last[0] for y in last[1] for z in last[2]}
    for value in sorted(corners):
        low = value < 0 and value == smallest
        if not low and value != largest:
            continue
        padding = data == value
        share = float(padding.mean())
        if not _SMALLEST_SHARE <= share < 0.95:
            continue
        solid = ndimage.binary_erosion(padding, _NEIGHBOURS, border_value=1)
        if solid.sum() < 0.5 * padding.sum():
            continue
        near = ndimage.binary_dilation(padding, _NEIGHBOURS, iterations=_RIM)
        rest = data[~near]
        if rest.size < 0.02 * data.size:
            continue
        first, middle, final = np.quantile(rest[:: 1 + rest.size // _SAMPLE], (0.001, 0.5, 0.999)).tolist()
        span = final - first
        lowest = max(float(rest.min()), first - 0.1 * span)
        far = value < first - _FAR * span or float(rest.min()) >= 0
        if low and far and span > 0 and value < lowest:
            data = np.where(data < lowest, np.float32(lowest), data)
        elif not low and span > 0 and value > final + _FAR * span and value > middle:
            data = np.where(padding | (near & (data > final)), np.float32(lowest), data)
        else:
            continue
        said.append(f"{100 * share:.0f} % of the voxels are padding ({value:g}) and are taken as background")
    return data


def _without_noise(data: _Array, scan: Volume, name: str, said: list[str]) -> _Array:
    """Blank air that is noise over the whole range of intensities."""
    spread = _noise_of_air(data)
    if spread is None:
        return data
    head = _smooth_part(data, spread, scan.spacing)
    millilitres = float(head.sum()) * scan.voxel_volume
    if not _HEAD_ML[0] <= millilitres <= _HEAD_ML[1] or head.mean() > 0.95:
        raise VolumeError(
            f"{name} has noise over the whole range of intensities where there is air, as MP2RAGE's UNI "
            "images have, and the head cannot be told from it; give the denoised UNI, or multiply it by INV2"
        )
    said.append(
        "its air is noise over the whole range of intensities, as in MP2RAGE's UNI images, and was blanked "
        f"({100 * float(1 - head.mean()):.0f} % of the voxels); a denoised UNI is more certain"
    )
    lowest = float(np.quantile(data[head], 0.005))
    return np.where(head, np.maximum(data, np.float32(lowest)), np.float32(lowest))


def _noise_of_air(data: _Array) -> float | None:
    """Return the standard deviation of noise in the corners, None if it is as small as it usually is."""
    sample = data.ravel()[:: 1 + data.size // _SAMPLE]
    low, high = np.quantile(sample, (0.01, 0.99)).tolist()
    if not high > low:
        return None
    sides = [min(_CORNER, n // 4) for n in data.shape]
    if min(sides) < 3:
        return None
    noisy = []
    for corner in np.ndindex(2, 2, 2):
        part = data[
            tuple(
                slice(0, side) if end == 0 else slice(-side, None)
                for side, end in zip(sides, corner, strict=True)
            )
        ]
        spread = float(part.std())
        differences = float(np.abs(np.diff(part, axis=0)).mean())
        place = (float(np.median(part)) - low) / (high - low)
        if not _MIDDLE[0] <= place <= _MIDDLE[1]:
            continue
        if spread > _NOISY * (high - low) and differences > _UNCORRELATED * spread:
            noisy.append(spread)
    return float(np.median(noisy)) if len(noisy) >= 6 else None


def _smooth_part(data: _Array, spread: float, spacing: tuple[float, float, float]) -> _Mask:
    """Find the largest part of a scan in which neighbours are alike, its holes filled."""
    mean = ndimage.uniform_filter(data, 5)
    square = ndimage.uniform_filter(np.square(data, dtype=np.float32), 5)
    alike = np.sqrt(np.maximum(square - np.square(mean), 0)) < 0.6 * spread
    parts, count = ndimage.label(alike)
    if not count:
        return np.zeros(data.shape, bool)
    largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    step = float(np.mean(spacing))
    wider = max(1, round(_CLOSED_MM / step))
    room = np.pad(largest, wider)
    closed = ndimage.binary_closing(room, ndimage.generate_binary_structure(3, 1), iterations=wider)
    filled = ndimage.binary_fill_holes(closed)[wider:-wider, wider:-wider, wider:-wider]
    found: _Mask = ndimage.binary_dilation(filled, iterations=max(1, round(_RIM_MM / step)))
    return found


def _faces(values: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [np.take(values, end, axis=axis) for axis in range(3) for end in (0, -1)]
