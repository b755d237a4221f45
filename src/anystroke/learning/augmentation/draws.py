"""What augmentation may do to scans, and one draw of it.

The published numbers are in voxels of 1 mm; here they are mm, and mean the same at any voxel size.

Source: L. Chalcroft et al., Synthetic data for robust stroke segmentation, Medical Image Analysis (2025); its
code and that of qATLAS and qSynth.
"""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from anystroke.anatomy.tissues.deformation import rotation_matrix
from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape
from anystroke.core.rng import chance, integer, stream, uniform

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

BASELINE_AUGMENTATION = AugmentationSettings(
    deformation=0.8, equalisation=256, histogram_shift=0.8, bias=0.8, gamma=0.8, flip=0.8, noise=0.8
)
"""What SynthStroke does to real scans."""

TAIL = AugmentationSettings(
    skull_strip=0.3, deformation=0.8, bias=0.8, flip=0.8, noise=0.8, low_resolution=0.6
)
"""What qATLAS and qSynth do to simulated scans, and to real ones beside them."""

AUGMENTATIONS = {"none": NONE, "baseline": BASELINE_AUGMENTATION, "tail": TAIL}


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
class DrawnAugmentation:
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


def draw_augmentation(settings: AugmentationSettings, *, rng: torch.Generator) -> DrawnAugmentation:
    """Draw what happens to one scan.

    Args:
        settings: How often and how much.
        rng: Random stream on the CPU.

    Example:
        >>> draw_augmentation(BASELINE_AUGMENTATION, rng=stream(1, "example")).equalisation
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
    return DrawnAugmentation(
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
