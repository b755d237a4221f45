"""One view of a scan: where its voxels come from is drawn first, then what is wrong with its grey values.

Source: arXiv 2501.12057 and its program, with rotations in degrees and about each axis.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape
from anystroke.core.rng import chance, integer, stream, uniform
from anystroke.corruption.bias_field import polynomial_field
from anystroke.corruption.intensity import equalise_values
from anystroke.corruption.kspace import gibbs_ringing
from anystroke.corruption.noise import rician
from anystroke.learning.augmentation.apply import AugmentationSettings, apply_augmentation, draw_augmentation

ViewKind = Literal["mprage", "one_sequence", "two_sequences"]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]

_BIAS_DEGREE = 3
_BIAS_COEFFICIENTS = math.comb(_BIAS_DEGREE + 3, 3)
_UPPER = {"mprage": 0.995, "one_sequence": 0.95, "two_sequences": 0.95}


class ViewSettings(StrictModel):
    """How two views of a patient are made; the defaults are the published values.

    Attributes:
        kind: ``"mprage"``: one MPRAGE; ``"one_sequence"``: one random scan; ``"two_sequences"``: two random
            scans. With one scan, both views are of it.
        mprage: Preset of the first kind.
        margin: Scans are simulated so much larger than views, along each axis.
        lower: Quantile of a scan that becomes 0.
        upper: Quantile that becomes 1; None for 0.995 of an MPRAGE and 0.95 of other scans.
        equalised: Whether the histogram of a scan is equalised.
        spatial: Deformation and flips, drawn for each view.
        bias: Probability of a smooth multiplicative field.
        bias_coefficient: Range of the coefficients of the polynomial that is its logarithm.
        ringing: Probability that the outer part of k-space is missing.
        ringing_strength: Range of how much is: of a strength of s the share 2^0.5 (1 - s) of each axis is
            kept, or all of it.
        noise: Probability of Rician noise.
        noise_sd: Range of its standard deviation.
        holes: Probability that parts are replaced by uniform noise.
        hole_count: Range of their number.
        hole_side: Smallest side of one in voxels.
        largest_hole: Largest side, as a share of the view's.
    """

    kind: ViewKind = "two_sequences"
    mprage: str = "qatlas"
    margin: float = Field(default=1.2, ge=1)
    lower: float = Field(default=0.005, ge=0, lt=0.5)
    upper: float | None = Field(default=None, gt=0.5, le=1)
    equalised: bool = True
    spatial: AugmentationSettings = AugmentationSettings(deformation=0.8, flip=1.0)
    bias: Probability = 1.0
    bias_coefficient: Range = (0.0, 0.3)
    ringing: Probability = 1.0
    ringing_strength: Range = (0.0, 0.8)
    noise: Probability = 1.0
    noise_sd: Range = (0.0, 0.2)
    holes: Probability = 1.0
    hole_count: tuple[int, int] = (1, 10)
    hole_side: int = Field(default=5, ge=1)
    largest_hole: float = Field(default=0.25, gt=0, le=1)

    @model_validator(mode="after")
    def _ranges(self) -> "ViewSettings":
        for name in ("bias_coefficient", "ringing_strength", "noise_sd", "hole_count"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"expected views.{name} from 0 or more to no less, got {low:g} to {high:g}")
        if self.ringing_strength[1] >= 1:
            raise ValueError(f"expected views.ringing_strength below 1, got {self.ringing_strength[1]:g}")
        return self

    @property
    def scans(self) -> int:
        """Scans of each patient."""
        return 2 if self.kind == "two_sequences" else 1


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        image: (X, Y, Z), with everything that is wrong with it.
        clean: (X, Y, Z), the same voxels without that.
        record: What was drawn.
    """

    image: Tensor
    clean: Tensor
    record: dict[str, Any]


def prepared_scan(scan: Tensor, settings: ViewSettings) -> Tensor:
    """Bring a scan to grey values from 0 to 1, as all its views have them.

    Args:
        scan: (X, Y, Z), not constant.
        settings: Says how.

    Example:
        >>> prepared_scan(torch.rand(16, 16, 16), ViewSettings()).aminmax()[1]
        tensor(1.)
    """
    ranked = scan.flatten()
    last = ranked.numel() - 1
    upper = settings.upper or _UPPER[settings.kind]
    low, high = (ranked.kthvalue(1 + round(q * last)).values for q in (settings.lower, upper))
    if not bool(high > low):
        low, high = scan.min(), scan.max()
    scaled = scan.clamp(low, high).sub_(low).div_(high - low)
    return equalise_values(scaled) if settings.equalised else scaled


def make_view(
    scan: Tensor, settings: ViewSettings, shape: GridShape, *, spacing: float, rng: torch.Generator
) -> View:
    """Make one view of a scan.

    Args:
        scan: (X, Y, Z) of `prepared_scan`, at least as large as the view.
        settings: Says how.
        shape: Voxels of the view.
        spacing: Voxel size in mm.
        rng: Random stream.

    Raises:
        ValueError: The scan is not finite or has no contrast.

    Example:
        >>> scan = torch.rand(40, 40, 40)
        >>> view = make_view(scan, ViewSettings(), (32, 32, 32), spacing=2.0, rng=stream(1, "view"))
        >>> view.image.shape, bool((view.image == view.clean).all())
        (torch.Size([32, 32, 32]), False)
    """
    spatial = draw_augmentation(settings.spatial, rng=rng)
    room = [(n - m) // 2 for n, m in zip(scan.shape, shape, strict=True)]
    middle = [n // 2 for n in scan.shape]
    x, y, z = (m + integer(rng, -r, r) if r > 0 else m for m, r in zip(middle, room, strict=True))
    nothing = torch.zeros(scan.shape, dtype=torch.uint8)
    clean, _ = apply_augmentation(scan, nothing, spatial, spacing=spacing, shape=shape, centre=(x, y, z))
    record: dict[str, Any] = {"spatial": spatial.record(), "centre": [x, y, z]}
    return View(_corrupted(clean, settings, rng, record), clean, record)


def _corrupted(clean: Tensor, settings: ViewSettings, rng: torch.Generator, record: dict[str, Any]) -> Tensor:
    shape: GridShape = (clean.shape[0], clean.shape[1], clean.shape[2])
    image = clean
    if chance(rng, settings.bias):
        coefficients = [uniform(rng, *settings.bias_coefficient) for _ in range(_BIAS_COEFFICIENTS)]
        record["bias"] = coefficients
        image = image * polynomial_field(shape, degree=_BIAS_DEGREE, coefficients=coefficients)
    if chance(rng, settings.ringing):
        record["ringing"] = uniform(rng, *settings.ringing_strength)
        kept = min(math.sqrt(2) * (1 - record["ringing"]), 1.0)
        image = gibbs_ringing(image, kept=(kept, kept, kept))
    if chance(rng, settings.noise):
        record["noise"] = uniform(rng, *settings.noise_sd)
        if record["noise"] > 0:
            image = rician(image, sd=record["noise"], rng=stream(integer(rng, 0, 2**62), "noise"))
    if chance(rng, settings.holes):
        record["holes"] = _holes(image := image.clone(), settings, rng)
    return image


def _holes(image: Tensor, settings: ViewSettings, rng: torch.Generator) -> list[list[int]]:
    """Put uniform noise over the image's range into boxes; return their first voxels and sides."""
    low, high = (float(value) for value in image.aminmax())
    boxes = []
    for _ in range(integer(rng, *settings.hole_count)):
        largest = [max(int(settings.largest_hole * n), settings.hole_side) for n in image.shape]
        sides = [
            min(integer(rng, settings.hole_side, most), n)
            for most, n in zip(largest, image.shape, strict=True)
        ]
        first = [integer(rng, 0, n - side) for n, side in zip(image.shape, sides, strict=True)]
        x, y, z = (slice(a, a + side) for a, side in zip(first, sides, strict=True))
        image[x, y, z] = low + (high - low) * torch.rand(sides, generator=rng)
        boxes.append([*first, *sides])
    return boxes
