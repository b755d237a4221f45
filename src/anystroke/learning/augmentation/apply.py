"""Augmentation of scans with their targets, as published for the baselines of SynthStroke, qATLAS and qSynth.

What happens to a scan is drawn first and applied then, so that the draw can be kept and played again. MONAI's
transforms, which the published code uses, are not: they draw from numpy's generators and count in voxels.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from anystroke.anatomy.tissues.deformation import SamplingGrid, grid_affine, sample_at
from anystroke.core.fields import GridShape, spline_matrix
from anystroke.core.rng import stream
from anystroke.corruption.bias_field import polynomial_field
from anystroke.corruption.head import apply_mask
from anystroke.corruption.intensity import equalise_values, gamma, shift_histogram
from anystroke.corruption.limits import check_positive, check_same_shape
from anystroke.learning.augmentation.draws import (
    AUGMENTATIONS,
    BASELINE_AUGMENTATION,
    NONE,
    TAIL,
    AugmentationSettings,
    Deformation,
    DrawnAugmentation,
    draw_augmentation,
    elastic_sd,
)
from anystroke.learning.cases import HEALTHY

__all__ = [
    "AUGMENTATIONS",
    "BASELINE_AUGMENTATION",
    "NONE",
    "TAIL",
    "AugmentationSettings",
    "DrawnAugmentation",
    "apply_augmentation",
    "augment",
    "draw_augmentation",
    "elastic_sd",
]


def augment(
    image: Tensor,
    target: Tensor,
    settings: AugmentationSettings,
    *,
    spacing: float,
    rng: torch.Generator,
    brain: Tensor | None = None,
    shape: GridShape | None = None,
    centre: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw and apply: `draw_augmentation`, then `apply_augmentation`.

    Args:
        image: As for `apply_augmentation`, as are the target and what follows ``rng``.
        target: Its target.
        settings: How often and how much.
        spacing: Voxel size in mm.
        rng: Random stream on the CPU.
        brain: Where the brain is.
        shape: Voxels of the result.
        centre: Its middle.

    Returns:
        The image and its target.

    Example:
        >>> image = torch.rand(32, 32, 32)
        >>> target = (image > 0.5).to(torch.uint8)
        >>> augment(image, target, TAIL, spacing=2.0, rng=stream(1, "example"))[1].unique()
        tensor([0, 1], dtype=torch.uint8)
    """
    drawn = draw_augmentation(settings, rng=rng)
    return apply_augmentation(image, target, drawn, spacing=spacing, brain=brain, shape=shape, centre=centre)


def apply_augmentation(
    image: Tensor,
    target: Tensor,
    drawn: DrawnAugmentation,
    *,
    spacing: float,
    brain: Tensor | None = None,
    shape: GridShape | None = None,
    centre: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Do to a scan what was drawn; crop and pad it in the same step as deforming it.

    Args:
        image: (X, Y, Z) float32, finite and with contrast wherever it is cropped.
        target: (X, Y, Z) uint8, numbers of classes; or (K, X, Y, Z) float32, shares, of which the first is
            that of the background.
        drawn: What to do.
        spacing: Voxel size in mm.
        brain: (X, Y, Z), not zero in the brain; without it no skull is stripped.
        shape: Voxels of the result; by default those of the image.
        centre: Voxel of the image that comes to the middle of the result; by default the image's middle.

    Returns:
        Image, smallest value of the input where there is nothing, and target: there and outside of a stripped
        brain ``HEALTHY`` if that occurs in the target, otherwise background. No grey value is normalised.

    Raises:
        ValueError: Grids differ, the image is not finite, or it has no contrast.
    """
    check_positive("a voxel size", spacing, "mm")
    check_same_shape("a target", target[0] if target.ndim == 4 else target, image.shape)
    if drawn.skull_strip and brain is not None:
        check_same_shape("a brain mask", brain, image.shape)
        image, target = _strip(image, target, brain != 0)
    size = shape or (image.shape[0], image.shape[1], image.shape[2])
    start = _start(image, size, centre)
    if drawn.deformation is None:
        image = _cut(image[None], start, size, float(image.min()))[0]
        target = _cut_target(target, start, size)
    else:
        image, target = _deform(image, target, drawn.deformation, start, size, spacing)
    image = _change_grey_values(image, drawn)
    for axis in drawn.flips:
        image, target = image.flip(axis), target.flip(axis - 3)
    if drawn.noise > 0:
        noise = torch.randn(image.shape, generator=stream(drawn.key, "noise"))
        image = image.add(noise, alpha=drawn.noise * float(image.std(correction=0)))
    if drawn.zoom is not None:
        image = _coarsen(image, min(drawn.zoom * spacing, 1.0))
    return image.contiguous(), target.contiguous()


def _change_grey_values(image: Tensor, drawn: DrawnAugmentation) -> Tensor:
    if drawn.equalisation:
        image = equalise_values(image, bins=drawn.equalisation)
    if drawn.histogram:
        image = shift_histogram(image, drawn.histogram)
    if drawn.bias:
        x, y, z = image.shape
        image = image * polynomial_field((x, y, z), degree=drawn.bias_degree, coefficients=drawn.bias)
    return gamma(image, exponent=drawn.gamma) if drawn.gamma != 1 else image


def _fill_value(target: Tensor) -> int:
    """Return the class of a voxel that is not in the scan."""
    return HEALTHY if bool((target == HEALTHY).any()) else 0


def _strip(image: Tensor, target: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    low = image.min()
    image = apply_mask(image - low, brain).add_(low)
    if target.ndim == 3:
        return image, torch.where(brain, target, _fill_value(target))
    target = target * brain
    target[0] += ~brain
    return image, target


def _start(image: Tensor, size: GridShape, centre: tuple[int, int, int] | None) -> list[int]:
    """Return the first voxel of the image that the result shows; it may lie outside."""
    middle = [n // 2 for n in image.shape] if centre is None else centre
    return [c - n // 2 for c, n in zip(middle, size, strict=True)]


def _cut(data: Tensor, start: list[int], size: GridShape, fill: float) -> Tensor:
    """Cut a box out of (C, X, Y, Z), filled up where it reaches beyond."""
    result = data.new_full((data.shape[0], *size), fill)
    source, place = [], []
    for first, n, side in zip(start, size, data.shape[1:], strict=True):
        low, high = max(first, 0), max(min(first + n, side), max(first, 0))
        source.append(slice(low, high))
        place.append(slice(low - first, high - first))
    result[:, place[0], place[1], place[2]] = data[:, source[0], source[1], source[2]]
    return result


def _cut_target(target: Tensor, start: list[int], size: GridShape) -> Tensor:
    if target.ndim == 3:
        return _cut(target[None], start, size, _fill_value(target))[0]
    result = _cut(target, start, size, 0.0)
    result[0] += 1 - result.sum(0)
    return result


def _deform(
    image: Tensor,
    target: Tensor,
    deformation: Deformation,
    start: list[int],
    size: GridShape,
    spacing: float,
) -> tuple[Tensor, Tensor]:
    """Read image and target where each voxel of the result comes from."""
    to_world = grid_affine(size, spacing)
    linear = deformation.linear() @ to_world
    linear[:3, 3] += spacing * torch.tensor([a + (n - 1) / 2 for a, n in zip(start, size, strict=True)])
    control = deformation.control(size, spacing)
    x, y, z = (spline_matrix(n, c) for n, c in zip(size, control.shape[1:], strict=True))
    points = SamplingGrid(size, linear, control, (x, y, z), to_world).points()
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    low = image.min()
    fill = _fill_value(target) if target.ndim == 3 else 0
    if target.ndim == 3:
        present = target.flatten().bincount().nonzero().flatten().tolist()
        classes = [value for value in present if value != fill]
        shares = [(target == value).to(image.dtype) for value in classes]
    else:
        classes, shares = [], list(target.to(image.dtype))
    read = sample_at(torch.stack([image - low, *shares]), affine, points)
    moved, shares_read = read[0].add_(low), read[1:]
    rest = 1 - shares_read.sum(0)
    if target.ndim == 4:
        shares_read[0] += rest
        return moved, shares_read
    result = torch.full(size, fill, dtype=torch.uint8)
    for value, share in zip(classes, shares_read, strict=True):
        result[share > rest] = value
        torch.maximum(rest, share, out=rest)
    return moved, result


def _coarsen(image: Tensor, zoom: float) -> Tensor:
    """Take the nearest voxels of a coarser grid, and interpolate linearly back."""
    shape = [max(round(n * zoom), 1) for n in image.shape]
    if shape == list(image.shape):
        return image
    low = interpolate(image[None, None], size=shape, mode="nearest-exact")
    return interpolate(low, size=list(image.shape), mode="trilinear", align_corners=False)[0, 0]
