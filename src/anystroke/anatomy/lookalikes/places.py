"""Soft places in MNI space, on both sides of the midline alike or nearly so, as weights on a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.core.fields import GridShape, smooth_noise
from anystroke.core.rng import normal


@dataclass(frozen=True)
class Place:
    """An ellipsoid with a soft border, mirrored at the midline.

    Attributes:
        name: What is there.
        centre: MNI mm; the first is the distance from the midline.
        radius: Semi-axes in mm, at which the weight is 0.6.
    """

    name: str
    centre: tuple[float, float, float]
    radius: tuple[float, float, float]


def place_weights(points: Tensor, places: Sequence[Place], amounts: Sequence[float]) -> Tensor:
    """Return the highest of the weights of places at points; each is a Gaussian about its middle.

    Args:
        points: (3, ...), MNI RAS+ mm.
        places: Where.
        amounts: Weight in the middle of each, 0 or more.

    Returns:
        (...) float32, the same on both sides of the midline.

    Raises:
        ValueError: If there are not as many amounts as places, or one is negative.

    Example:
        >>> eye = Place("eye", (32.0, 60.0, -40.0), (12.0, 12.0, 12.0))
        >>> points = torch.tensor([[-32.0, 32.0, 0.0], [60.0, 60.0, 60.0], [-40.0, -28.0, -40.0]])
        >>> place_weights(points, [eye], [2.0])
        tensor([2.0000, 1.2131, 0.0571])
    """
    if len(amounts) != len(places) or any(amount < 0 for amount in amounts):
        raise ValueError(f"expected {len(places)} amounts of 0 or more, one per place, got {list(amounts)}")
    shown = [(place, amount) for place, amount in zip(places, amounts, strict=True) if amount > 0]
    flat = points.reshape(3, -1).clone()
    flat[0].abs_()
    if not shown:
        return torch.zeros_like(points[0])
    # The exponent is a polynomial of the position, so those of all places are one matrix product.
    rows = []
    for place, amount in shown:
        centre, radius = torch.tensor(place.centre).double(), torch.tensor(place.radius).double()
        constant = math.log(amount) - 0.5 * float(((centre / radius) ** 2).sum())
        rows.append([*(-0.5 / radius**2).tolist(), *(centre / radius**2).tolist(), constant])
    terms = torch.cat([flat.square(), flat, torch.ones_like(flat[:1])])
    exponent = torch.tensor(rows).to(terms) @ terms
    return exponent.amax(0).exp_().reshape(points.shape[1:])


def sides_differ(points: Tensor, spread: float, rng: torch.Generator) -> Tensor:
    """Draw a factor that is larger on one side of the midline, and turns into the other within 1 cm.

    Args:
        points: (3, ...), MNI RAS+ mm.
        spread: SD of half the difference between left and right.
        rng: Random stream.

    Returns:
        (...), one at the midline and on average; positive.
    """
    half = max(min(normal(rng, 0.0, spread), 0.9), -0.9)
    return (points[0] / 5.0).tanh_().mul_(half).add_(1)


def uneven(points: Tensor, *, spacing: float, grain: float, rng: torch.Generator) -> Tensor:
    """Draw smooth noise of about unit variance on a grid, with control points ``grain`` mm apart.

    Args:
        points: (..., X, Y, Z), of the grid.
        spacing: Voxel size in mm.
        grain: Distance of the control points in mm.
        rng: Random stream.

    Returns:
        (X, Y, Z) float32.
    """
    shape: GridShape = (points.shape[-3], points.shape[-2], points.shape[-1])
    x, y, z = (max(4, round(n * spacing / grain) + 3) for n in shape)
    return smooth_noise(shape, (x, y, z), rng=rng, device=points.device)[0]
