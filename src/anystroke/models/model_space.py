"""Bring a clinical scan to model space: world axes, isotropic voxels, the head only, standard intensity."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool3d

from anystroke.core.volume import Volume, VolumeError

# A scan must have this many voxels along each of its axes once they are `CHECK_SPACING` mm wide.
MINIMUM_VOXELS = 32
CHECK_SPACING = 2.0
# Longest side of a field of view [mm]: beyond it the header's voxel sizes are not millimetres.
MAXIMUM_EXTENT = 1500.0
# Air left around the head [mm], and how far below the vertex the box reaches: no brain is that tall.
HEAD_MARGIN = 10.0
HEAD_HEIGHT = 220.0
LARGEST_SAMPLE = 2_000_000
CLIP_QUANTILES = (0.005, 0.995)
Normalisation = Literal["foreground", "log_tail", "whole", "percentiles"]
Standardisation = Literal["foreground", "log_tail", "whole", "percentiles", "equalised"]
_RAS = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True, eq=False)
class ModelSpace:
    """A scan as the network wants it, and the way back.

    Attributes:
        image: Normalised intensities (1, X, Y, Z), float32; axes run to the right, front and top of the head.
        affine: Voxels of ``image`` to RAS+ mm, float64 (4, 4), axis-aligned and isotropic.
        native_affine: Voxels of the scan to RAS+ mm.
        native_shape: Voxels of the scan.
        space_code: NIfTI code of the scan's space.
    """

    image: Tensor
    affine: Tensor
    native_affine: Tensor
    native_shape: tuple[int, int, int]
    space_code: int

    def to_native(self, values: Tensor, *, fill: float = 0.0) -> Volume:
        """Resample values from the model grid to the scan's own grid.

        Trilinear; where the scan's voxels are coarser the values are averaged over them. Only the part of the
        scan that the model grid covers is computed.

        Args:
            values: One number per voxel of the model grid, (1, X, Y, Z).
            fill: Value of the scan's voxels outside the model grid.

        Returns:
            float32 volume with the scan's own shape and affine.

        Example:
            >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([3.0, 3, 3, 1])))
            >>> space = to_model_space(scan)
            >>> space.to_native(space.image).shape
            (40, 40, 40)
        """
        volume = Volume(values.to(torch.float32), self.affine)
        orientation = io_orientation(self.native_affine.numpy())
        grid = self.native_affine @ torch.from_numpy(
            inv_ornt_aff(ornt_transform(orientation, _RAS), self.native_shape)
        )
        order = [int(axis) for axis in orientation[:, 0]]
        shape = [self.native_shape[order.index(axis)] for axis in range(3)]
        covered = (_corners(volume) @ torch.linalg.inv(grid).T)[:, :3]
        low = [max(0, math.floor(float(c))) for c in covered.amin(dim=0)]
        high = [min(n, math.ceil(float(c)) + 1) for c, n in zip(covered.amax(dim=0), shape, strict=True)]
        result = torch.full((1, *shape), fill)
        if all(a < b for a, b in zip(low, high, strict=True)):
            start = grid.clone()
            start[:3, 3] += grid[:3, :3] @ torch.tensor(low, dtype=torch.float64)
            sides = (high[0] - low[0], high[1] - low[1], high[2] - low[2])
            part = volume.resample_to(start, sides, fill=fill, antialias=True)
            result[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = part.data
        flipped = [i + 1 for i, direction in enumerate(orientation[:, 1]) if direction < 0]
        data = result.permute(0, *(axis + 1 for axis in order)).flip(flipped)
        return Volume(data.contiguous(), self.native_affine, self.space_code)


def normalise_intensity(image: Tensor, over: Standardisation = "foreground") -> Tensor:
    """Standardise the intensities of one scan.

    Voxels above the minimum are the foreground. All voxels are clipped to the foreground's 0.5 and 99.5 %
    quantiles and brought to mean 0 and standard deviation 1 over the foreground. These numbers are taken of
    every n-th voxel where there are more than two million.

    Args:
        image: Intensities in any unit, any shape.
        over: ``"foreground"``; or ``"log_tail"``: the same, but what is brighter than the upper quantile is
            not clipped: each standard deviation above it counts ever less, as log(1 + excess). A lesion that
            is brighter than all else and smaller than half a percent of the foreground, such as emboli on a
            diffusion-weighted scan, keeps its contrast. Or ``"whole"``: mean and standard deviation over all
            voxels, without clipping, as the published systems do; or ``"equalised"``: the same after their
            histogram equalisation in 256 bins; or ``"percentiles"``: the same two quantiles, but of all
            voxels, become 0 and 1.

    Returns:
        float32 tensor of the same shape.

    Raises:
        ValueError: The foreground is empty or has one value only.

    Example:
        >>> normalise_intensity(torch.arange(5.0)).mean() > -1
        tensor(True)
    """
    image = image.to(torch.float32)
    if over == "equalised":
        image = equalise_histogram(image)
    if over in ("whole", "equalised"):
        spread = image.std(correction=0)
        if not bool(spread > 0):
            raise ValueError("the image is constant, expected at least three different intensities")
        return (image - image.mean()).div_(spread)
    looked_at = _sampled(image)
    if over == "percentiles":
        low, high = (looked_at.kthvalue(1 + round(q * (len(looked_at) - 1))).values for q in CLIP_QUANTILES)
        if not bool(high > low):
            raise ValueError("the image is constant, expected at least three different intensities")
        return image.clamp(low, high).sub_(low).div_(high - low)
    foreground = looked_at[looked_at > image.min()]
    if foreground.numel() == 0:
        raise ValueError("the image is constant, expected at least three different intensities")
    low, high = _limits(foreground)
    foreground = foreground.clamp(low, high)
    sd = foreground.std(correction=0)
    if not bool(sd > 0):
        raise ValueError("the image has two values only, expected at least three different intensities")
    clipped = image.clamp(low, high).sub_(foreground.mean()).div_(sd)
    if over == "log_tail":
        clipped += (image - high).clamp_(min=0).div_(sd).log1p_()
    return clipped


def has_contrast(image: Tensor) -> bool:
    """Tell whether the foreground of an image has several values, but for the tails that are clipped.

    Args:
        image: Any shape; looked at as `normalise_intensity` does.

    Example:
        >>> has_contrast(torch.tensor([0.0, 0.0, 1.0, 1.0])), has_contrast(torch.arange(4.0))
        (False, True)
    """
    foreground = _sampled(image)
    foreground = foreground[foreground > image.min()]
    if not foreground.numel():
        return False
    low, high = _limits(foreground)
    return bool(high > low)


def _sampled(image: Tensor) -> Tensor:
    return image.flatten()[:: 1 + image.numel() // LARGEST_SAMPLE]


def _limits(foreground: Tensor) -> tuple[Tensor, Tensor]:
    last = foreground.numel() - 1
    low, high = (foreground.kthvalue(1 + round(q * last)).values for q in CLIP_QUANTILES)
    return low, high


def equalise_histogram(image: Tensor, bins: int = 256) -> Tensor:
    """Replace intensities by the share of voxels that are darker, 0 to 255.

    Args:
        image: Any shape.
        bins: Of the histogram between which it is linear.

    Returns:
        float32 tensor of the same shape.

    Source:
        HistogramNormalize of MONAI, of which this is the default.

    Example:
        >>> equalise_histogram(torch.arange(256.0))[-1]
        tensor(255.)
    """
    values = image.numpy()
    counts, edges = np.histogram(values.ravel(), bins)
    share = counts.cumsum()
    levels = 255.0 * (share - share[0]) / max(float(share[-1] - share[0]), 1.0)
    return torch.from_numpy(np.interp(values, (edges[:-1] + edges[1:]) / 2, levels).astype(np.float32))


def check_scan(scan: Volume, name: str = "the scan") -> None:
    """Refuse what cannot be a scan of a head.

    Args:
        scan: One channel.
        name: How to call it in the message.

    Raises:
        VolumeError: More than one channel, a side under 32 voxels of 2 mm or over 1.5 m, voxels that are not
            finite, or fewer than three different intensities.

    Example:
        >>> check_scan(Volume(torch.rand(1, 64, 64, 64), torch.eye(4)))
    """
    if scan.data.shape[0] != 1:
        raise VolumeError(
            f"{name} holds {scan.data.shape[0]} volumes, expected a single one; extract what you need"
        )
    extents = [n * size for n, size in zip(scan.shape, scan.spacing, strict=True)]
    side = math.floor(min(extents) / CHECK_SPACING + 1e-3)
    if side < MINIMUM_VOXELS:
        raise VolumeError(
            f"{name} is too small: expected at least {MINIMUM_VOXELS} voxels a side at {CHECK_SPACING:g} mm, "
            f"got "
            f"{side}; give a scan that covers the brain"
        )
    if max(extents) > MAXIMUM_EXTENT:
        raise VolumeError(
            f"{name} is {max(extents):.0f} mm long, expected at most {MAXIMUM_EXTENT:.0f} mm; check that the "
            "header's voxel sizes are millimetres"
        )
    if not bool(torch.isfinite(scan.data).all()):
        count = int((~torch.isfinite(scan.data)).sum())
        raise VolumeError(
            f"{name} has {count} voxels that are NaN or infinite, expected finite ones; repair it first"
        )
    low, high = (float(v) for v in scan.data.aminmax())
    if low == high:
        what = "is all zeros" if low == 0 else f"is constant ({low:g})"
        raise VolumeError(f"{name} {what}, expected an image of a head; check the export")
    if bool(((scan.data == low) | (scan.data == high)).all()):
        raise VolumeError(
            f"{name} has two values only ({low:g} and {high:g}), expected a scan, not a mask; give the image"
        )


def to_model_space(
    scan: Volume,
    *,
    spacing: float = 2.0,
    divisor: int = 16,
    normalise: Standardisation | None = "foreground",
    crop: bool = True,
) -> ModelSpace:
    """Resample a scan to the network's grid, cut out the head and standardise the intensities.

    The scan is brought to RAS order first, so that every storage order of the same scan gives the same result
    to the bit. The grid follows the world axes, whatever the obliquity of the scan, and its voxel centres are
    multiples of ``spacing``; so the same head gives the same grid in every storage order.

    Args:
        scan: One channel that `check_scan` accepts.
        spacing: Voxel size of the network [mm].
        divisor: Each side of the grid is a multiple of it.
        normalise: How to standardise; None leaves intensities in the scan's unit, from zero.
        crop: Cut out the head; otherwise the grid covers the field of view.

    Returns:
        The network's input with the way back.

    Raises:
        VolumeError: The head has fewer than three different intensities at this spacing.

    Example:
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([3.0, 3, 3, 1])))
        >>> space = to_model_space(scan)
        >>> tuple(space.image.shape)
        (1, 80, 80, 80)
    """
    head = head_from_zero(scan)
    low, high = _world_box(head, spacing)
    grid, shape = _grid(low, high, spacing)
    whole = head.resample_to(grid, shape, antialias=True)
    everything = ([0, 0, 0], [n - 1 for n in shape])
    box_low, box_high = _head_box(whole.data[0], spacing) if crop else everything
    start, sides = _grow(box_low, box_high, divisor)
    image = _drop_residue(_cut(whole.data, start, sides))
    affine = grid.clone()
    affine[:3, 3] += spacing * torch.tensor(start, dtype=torch.float64)
    if normalise is not None:
        try:
            image = normalise_intensity(image, normalise)
        except ValueError as error:
            raise VolumeError(f"the scan cannot be used at {spacing:g} mm: {error}") from error
    return ModelSpace(image, affine, scan.affine, scan.shape, scan.space_code)


def head_from_zero(scan: Volume) -> Volume:
    """Return a scan in RAS order whose smallest intensity is zero, that of an empty background exactly."""
    return from_zero(scan).reorient("RAS")


def from_zero(scan: Volume) -> Volume:
    """Return a scan, float32, whose smallest intensity is zero, that of an empty background exactly."""
    data = _lower_background(scan.data.to(torch.float32))
    return Volume(data - data.min(), scan.affine)


def _lower_background(data: Tensor) -> Tensor:
    """Make zeros the minimum where zero is the background of a scan with negative intensities."""
    background = data == 0
    if bool(data.min() < 0) and float(background.float().mean()) > 0.1:
        return data.masked_fill(background, float(data.min()))
    return data


def _drop_residue(image: Tensor) -> Tensor:
    """Set to zero what interpolation leaves in an empty background: under 0.5 % of the brightest."""
    positive = image[image > 0]
    if positive.numel() == 0:
        return image
    bright = positive.kthvalue(1 + round(0.99 * (positive.numel() - 1))).values
    return torch.where(image < 0.005 * bright, 0.0, image)


def _corners(volume: Volume) -> Tensor:
    """Compute the corners of a volume's field of view, homogeneous RAS+ mm (8, 4)."""
    ends = [torch.tensor([-0.5, n - 0.5], dtype=torch.float64) for n in volume.shape]
    corners = torch.cartesian_prod(*ends, torch.ones(1, dtype=torch.float64))
    return corners @ volume.affine.T


def _world_box(scan: Volume, spacing: float) -> tuple[list[int], list[int]]:
    """Find the first and last multiples of ``spacing`` whose voxels cover the field of view."""
    corners = _corners(scan)[:, :3] / spacing
    low = [math.floor(float(c) + 0.5 + 1e-3) for c in corners.amin(dim=0)]
    high = [math.ceil(float(c) - 0.5 - 1e-3) for c in corners.amax(dim=0)]
    return low, high


def _grid(low: list[int], high: list[int], spacing: float) -> tuple[Tensor, tuple[int, int, int]]:
    """Lay an axis-aligned grid over a box of multiples of ``spacing``."""
    affine = torch.eye(4, dtype=torch.float64) * spacing
    affine[3, 3] = 1.0
    affine[:3, 3] = spacing * torch.tensor(low, dtype=torch.float64)
    x, y, z = (b - a + 1 for a, b in zip(low, high, strict=True))
    return affine, (x, y, z)


def _head_box(intensity: Tensor, spacing: float) -> tuple[list[int], list[int]]:
    """Find the box around the head, with a margin, as first and last voxels; it may reach beyond the image.

    It does not depend on how much air, or padding of zeros, there is around the head.
    """
    smooth = avg_pool3d(intensity[None, None], 3, stride=1, padding=1)[0, 0]
    bright = smooth[smooth > smooth.mean()].mean()
    foreground = (smooth > 0.25 * bright).numpy()
    labels, count = ndimage.label(foreground)
    if count > 1:
        sizes = ndimage.sum_labels(foreground, labels, range(1, count + 1))
        foreground = labels == 1 + int(sizes.argmax())
    margin = math.ceil(HEAD_MARGIN / spacing)
    box = ndimage.find_objects(foreground.astype("uint8"))[0]
    low = [side.start - margin for side in box]
    high = [side.stop - 1 + margin for side in box]
    low[2] = max(low[2], high[2] - math.ceil((HEAD_HEIGHT + HEAD_MARGIN) / spacing))
    return low, high


def _grow(low: list[int], high: list[int], divisor: int) -> tuple[list[int], list[int]]:
    """Grow a box evenly to sides that are multiples of ``divisor`` and at least 32."""
    start, sides = [], []
    for a, b in zip(low, high, strict=True):
        side = divisor * math.ceil(max(b - a + 1, MINIMUM_VOXELS) / divisor)
        sides.append(side)
        start.append(a - (side - (b - a + 1)) // 2)
    return start, sides


def _cut(data: Tensor, start: list[int], sides: list[int]) -> Tensor:
    """Cut a box out of (1, X, Y, Z) data; what reaches beyond is zero."""
    result = data.new_zeros((1, *sides))
    source, target = [], []
    for a, side, n in zip(start, sides, data.shape[1:], strict=True):
        first, last = max(a, 0), min(a + side, n)
        source.append(slice(first, last))
        target.append(slice(first - a, last - a))
    result[:, target[0], target[1], target[2]] = data[:, source[0], source[1], source[2]]
    return result
