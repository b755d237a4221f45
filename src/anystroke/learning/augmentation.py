"""Augmentation of scans with their targets, as published for the baselines of SynthStroke, qATLAS and qSynth.

What happens to a scan is drawn first and applied then, so that the draw can be kept and played again. The
published numbers are in voxels of 1 mm; here they are mm, and mean the same at any voxel size.

Source: L. Chalcroft et al., Synthetic data for robust stroke segmentation, Medical Image Analysis (2025); its
code and that of qATLAS and qSynth, which use MONAI. MONAI's transforms are not used: they draw from numpy's
generators and count in voxels.
"""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from anystroke.anatomy.deformation import SamplingGrid, grid_affine, rotation_matrix, sample_at
from anystroke.config import StrictModel
from anystroke.corruption.bias_field import polynomial_field
from anystroke.corruption.head import apply_mask
from anystroke.corruption.intensity import equalise, gamma, shift_histogram
from anystroke.corruption.limits import check_positive, check_same_shape
from anystroke.fields import GridShape, spline_matrix
from anystroke.learning.cases import HEALTHY
from anystroke.rng import chance, integer, stream, uniform

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]

# Mean over a spline's interval of the sum of its squared weights, per axis.
_SPLINE_POWER = 151 / 315


class AugmentationSettings(StrictModel):
    """What happens to scans, in this order, how often and how much; by default nothing does.

    Attributes:
        skull_strip: Probability that nothing but the brain is left, where there is a brain mask.
        deformation: Probability of an affine and an elastic deformation, both at once.
        rotation: Largest rotation about each axis in degrees.
        scaling: Largest relative change of size along each axis.
        shear: Largest of each of the six shears.
        elastic_sigma: Range of the smoothing of the elastic displacement in mm.
        elastic_magnitude: Range of what the smoothed displacement, uniform from -1 to 1 at each mm before, is
            multiplied by, in mm; see `elastic_sd`.
        equalisation: Bins of a histogram equalisation of every scan; 0 leaves it out.
        histogram_shift: Probability of a random monotonic change of grey values.
        histogram_points: Its control points.
        bias: Probability of a smooth multiplicative field.
        bias_degree: Of the polynomial that is its logarithm.
        bias_coefficient: Range of the polynomial's coefficients.
        gamma: Probability of raising grey values to a power.
        gamma_exponent: Its range.
        flip: Probability of each flip.
        flips: Number of flips, each along a random axis.
        noise: Probability of Gaussian noise.
        noise_sd: Range of its standard deviation, over that of the image.
        low_resolution: Probability of larger voxels.
        low_resolution_zoom: Range of z where the larger voxels measure 1 / z mm.
    """

    skull_strip: Probability = 0.0
    deformation: Probability = 0.0
    rotation: float = Field(default=15.0, ge=0, le=180)
    scaling: float = Field(default=0.15, ge=0, lt=1)
    shear: float = Field(default=0.012, ge=0, lt=0.5)
    elastic_sigma: Range = (5.0, 7.0)
    elastic_magnitude: Range = (50.0, 150.0)
    equalisation: int = Field(default=0, ge=0)
    histogram_shift: Probability = 0.0
    histogram_points: int = Field(default=10, ge=3)
    bias: Probability = 0.0
    bias_degree: int = Field(default=3, ge=1, le=8)
    bias_coefficient: Range = (0.0, 0.1)
    gamma: Probability = 0.0
    gamma_exponent: Range = (0.5, 4.5)
    flip: Probability = 0.0
    flips: int = Field(default=3, ge=0)
    noise: Probability = 0.0
    noise_sd: Range = (0.0, 0.1)
    low_resolution: Probability = 0.0
    low_resolution_zoom: Range = (0.3, 0.9)


NONE = AugmentationSettings()
"""Scans as they are."""

BASELINE = AugmentationSettings(
    deformation=0.8, equalisation=256, histogram_shift=0.8, bias=0.8, gamma=0.8, flip=0.8, noise=0.8
)
"""What SynthStroke does to real scans."""

TAIL = AugmentationSettings(
    skull_strip=0.3, deformation=0.8, bias=0.8, flip=0.8, noise=0.8, low_resolution=0.6
)
"""What qATLAS and qSynth do to simulated scans, and to real ones beside them."""

PRESETS = {"none": NONE, "baseline": BASELINE, "tail": TAIL}


@dataclass(frozen=True)
class Deformation:
    """An affine about the middle of the image, and an elastic displacement.

    Attributes:
        rotation: About each axis, degrees.
        scaling: Factor along each axis.
        shear: The six entries beside the diagonal, row by row.
        sigma: Smoothing of the displacement, mm.
        sd: Its standard deviation, mm.
        key: Of its random stream.
    """

    rotation: tuple[float, float, float]
    scaling: tuple[float, float, float]
    shear: tuple[float, float, float, float, float, float]
    sigma: float
    sd: float
    key: int

    def linear(self) -> Tensor:
        """Return the (4, 4) affine, output mm -> input mm, both from the middle."""
        shear = torch.eye(3, dtype=torch.float64)
        shear[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = torch.tensor(self.shear, dtype=torch.float64)
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = (
            rotation_matrix(self.rotation) @ shear @ torch.diag(torch.tensor(self.scaling).double())
        )
        return affine

    def control(self, shape: GridShape, spacing: float) -> Tensor:
        """Return the (3, a, b, c) control points of the displacement on a grid, mm."""
        # A cubic B-spline through white control points is as smooth as white noise after a Gaussian whose
        # sigma is their distance over the root of 3.
        distance = self.sigma * math.sqrt(3)
        a, b, c = (max(round((n - 1) * spacing / distance), 1) + 3 for n in shape)
        points = torch.randn((3, a, b, c), generator=stream(self.key, "elastic deformation"))
        return points.mul_(self.sd / math.pow(_SPLINE_POWER, 1.5))


@dataclass(frozen=True)
class Augmentation:
    """What happens to one scan: one draw of `AugmentationSettings`.

    Attributes:
        skull_strip: Whether nothing but the brain is left.
        deformation: None leaves every voxel where it is.
        equalisation: Bins; 0 for none.
        histogram: Levels of `shift_histogram`; empty for none.
        bias_degree: Of the field's polynomial.
        bias: Its coefficients; empty for none.
        gamma: Exponent.
        flips: Axes, one after the other.
        noise: SD over that of the image.
        key: Of the noise.
        zoom: Voxels of 1 / zoom mm; None leaves them.
    """

    skull_strip: bool
    deformation: Deformation | None
    equalisation: int
    histogram: tuple[float, ...]
    bias_degree: int
    bias: tuple[float, ...]
    gamma: float
    flips: tuple[int, ...]
    noise: float
    key: int
    zoom: float | None

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def elastic_sd(sigma: float, magnitude: float) -> float:
    """Return the standard deviation in mm of the published elastic displacement along each axis.

    A field of independent numbers, uniform from -1 to 1, one per mm^3, smoothed with a Gaussian and
    multiplied by a magnitude.

    Args:
        sigma: Of the Gaussian, mm.
        magnitude: In mm.

    Example:
        >>> round(elastic_sd(6.0, 100.0), 2)
        0.59
    """
    return magnitude / math.sqrt(3) / math.pow(4 * math.pi * sigma**2, 0.75)


def draw_augmentation(settings: AugmentationSettings, *, rng: torch.Generator) -> Augmentation:
    """Draw what happens to one scan.

    Args:
        settings: How often and how much.
        rng: Random stream on the CPU.

    Example:
        >>> draw_augmentation(BASELINE, rng=stream(1, "example")).equalisation
        256
    """
    deformation = _draw_deformation(settings, rng) if chance(rng, settings.deformation) else None
    histogram: tuple[float, ...] = ()
    if chance(rng, settings.histogram_shift):
        histogram = _draw_levels(settings.histogram_points, rng)
    bias: tuple[float, ...] = ()
    if chance(rng, settings.bias):
        count = math.comb(settings.bias_degree + 3, 3)
        bias = tuple(uniform(rng, *settings.bias_coefficient) for _ in range(count))
    exponent = uniform(rng, *settings.gamma_exponent) if chance(rng, settings.gamma) else 1.0
    flips = tuple(integer(rng, 0, 2) for _ in range(settings.flips) if chance(rng, settings.flip))
    sd = uniform(rng, *settings.noise_sd) if chance(rng, settings.noise) else 0.0
    zoom = uniform(rng, *settings.low_resolution_zoom) if chance(rng, settings.low_resolution) else None
    return Augmentation(
        skull_strip=chance(rng, settings.skull_strip),
        deformation=deformation,
        equalisation=settings.equalisation,
        histogram=histogram,
        bias_degree=settings.bias_degree,
        bias=bias,
        gamma=exponent,
        flips=flips,
        noise=sd,
        key=integer(rng, 0, 2**62),
        zoom=zoom,
    )


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
    drawn: Augmentation,
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


def _draw_deformation(settings: AugmentationSettings, rng: torch.Generator) -> Deformation:
    r, s, h = settings.rotation, settings.scaling, settings.shear
    a, b, c, d, e, f = (uniform(rng, -h, h) for _ in range(6))
    sigma = uniform(rng, *settings.elastic_sigma)
    return Deformation(
        rotation=(uniform(rng, -r, r), uniform(rng, -r, r), uniform(rng, -r, r)),
        scaling=(1 + uniform(rng, -s, s), 1 + uniform(rng, -s, s), 1 + uniform(rng, -s, s)),
        shear=(a, b, c, d, e, f),
        sigma=sigma,
        sd=elastic_sd(sigma, uniform(rng, *settings.elastic_magnitude)),
        key=integer(rng, 0, 2**62),
    )


def _draw_levels(points: int, rng: torch.Generator) -> tuple[float, ...]:
    """Draw each level between the one before, as drawn, and the one after, as it was."""
    levels = [k / (points - 1) for k in range(points)]
    for k in range(1, points - 1):
        levels[k] = uniform(rng, levels[k - 1], levels[k + 1])
    return tuple(levels)


def _change_grey_values(image: Tensor, drawn: Augmentation) -> Tensor:
    if drawn.equalisation:
        image = equalise(image, bins=drawn.equalisation)
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
