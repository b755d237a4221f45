"""Old small-vessel disease that is not the lesion: what a network must learn to leave alone."""

import math

import torch
from torch import Tensor

from anystroke.fields import GridShape, smooth, smooth_noise
from anystroke.rng import chance, integer, log_uniform, normal, uniform

WHITE_MATTER_HYPERINTENSITY = "white_matter_hyperintensity"
MICROBLEED = "haemosiderin_rim"
LACUNE = "ventricular_csf"


def white_matter_hyperintensities(
    white_matter: Tensor, ventricles: Tensor, *, spacing: float, volume_ml: float, rng: torch.Generator
) -> Tensor:
    """Draw leukoaraiosis: caps and bands along the ventricles, and foci deep in white matter.

    Args:
        white_matter: (X, Y, Z) share of white matter.
        ventricles: (X, Y, Z) share of ventricular fluid.
        spacing: Voxel size in mm.
        volume_ml: Wanted volume; it is reached within some 10 % where there is enough white matter.
        rng: Random stream.

    Returns:
        (X, Y, Z) share of the voxel, at most that of white matter.

    Raises:
        ValueError: If the volume is negative.

    Source: the forms and places of F. Fazekas et al., AJR 149:351 (1987); the numbers are estimates.
    """
    if volume_ml < 0:
        raise ValueError(f"expected a volume of 0 ml or more, got {volume_ml}")
    shape = _shape(white_matter)
    # Smoothing stands in for the distance to the ventricles: it falls to 1/2 at their wall.
    near = smooth(ventricles, uniform(rng, 2.5, 5.0) / spacing).mul_(uniform(rng, 3.0, 7.0))
    deep = smooth(white_matter, 3.0 / spacing)
    control = tuple(max(4, round(n * spacing / uniform(rng, 7.0, 14.0)) + 3) for n in shape)
    foci = smooth_noise(shape, (control[0], control[1], control[2]), rng=rng)[0]
    score = near.add_(foci).add_(deep, alpha=1.5)
    candidates = score[white_matter > 0.5]
    wanted = round(volume_ml * 1000 / spacing**3)
    if wanted < 1 or candidates.numel() < 10:
        return torch.zeros_like(white_matter)
    rank = max(candidates.numel() - wanted, 1)
    level = float(candidates.kthvalue(rank).values)
    return ((score - level) / uniform(rng, 0.15, 0.4) + 0.5).clamp_(0, 1).mul_(white_matter)


def balls(
    inside: Tensor, *, spacing: float, count: int, radius_mm: tuple[float, float], rng: torch.Generator
) -> Tensor:
    """Draw small round holes or dots at random places: lacunes, enlarged spaces, microbleeds.

    Args:
        inside: (X, Y, Z) share of the tissue that may have them.
        spacing: Voxel size in mm.
        count: How many.
        radius_mm: Range of the semi-axes.
        rng: Random stream.

    Returns:
        (X, Y, Z) share of the voxel, at most that of the tissue.
    """
    result = torch.zeros_like(inside)
    places = torch.nonzero(inside > 0.6)
    for _ in range(count if len(places) else 0):
        centre = places[integer(rng, 0, len(places) - 1)]
        radii = [uniform(rng, *radius_mm) / spacing for _ in range(3)]
        reach = [math.ceil(radius) + 1 for radius in radii]
        box = tuple(
            slice(max(int(c) - r, 0), min(int(c) + r + 1, n))
            for c, r, n in zip(centre, reach, inside.shape, strict=True)
        )
        axes = [
            ((torch.arange(part.start, part.stop, device=inside.device) - int(c)) / radius) ** 2
            for part, c, radius in zip(box, centre, radii, strict=True)
        ]
        distance = (axes[0][:, None, None] + axes[1][:, None] + axes[2]).sqrt()
        # One voxel wide at the border; smaller ones never fill their voxel.
        width = 1 / min(radii)
        ball = ((1 - distance) / width + 0.5).clamp(0, 1)
        result[box] = torch.maximum(result[box], ball)
    return result.mul_(inside)


def draw_confounders(
    white_matter: Tensor,
    deep_grey: Tensor,
    ventricles: Tensor,
    *,
    spacing: float,
    leukoaraiosis: float,
    lacunes: float,
    microbleeds: float,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Draw the small-vessel disease of one patient.

    Args:
        white_matter: (X, Y, Z) share of white matter.
        deep_grey: (X, Y, Z) share of thalamus and basal ganglia.
        ventricles: (X, Y, Z) share of ventricular fluid.
        spacing: Voxel size in mm.
        leukoaraiosis: Probability of white matter hyperintensities; their volume is log-normal about 6 ml.
        lacunes: Probability of old lacunes, one to four of 3 to 15 mm, filled with fluid.
        microbleeds: Probability of microbleeds, one to eight of up to 5 mm.
        rng: Random stream.

    Returns:
        Tissue name -> (X, Y, Z) share; empty for a patient without.
    """
    shares: dict[str, Tensor] = {}
    if chance(rng, leukoaraiosis):
        volume = min(6.0 * math.exp(normal(rng, 0.0, 0.9)), 60.0)
        shares[WHITE_MATTER_HYPERINTENSITY] = white_matter_hyperintensities(
            white_matter, ventricles, spacing=spacing, volume_ml=volume, rng=rng
        )
    if chance(rng, lacunes):
        count, radius = integer(rng, 1, 4), log_uniform(rng, 1.5, 7.0)
        shares[LACUNE] = balls(
            white_matter + deep_grey, spacing=spacing, count=count, radius_mm=(1.5, max(radius, 2.0)), rng=rng
        )
    if chance(rng, microbleeds):
        shares[MICROBLEED] = balls(
            white_matter + deep_grey,
            spacing=spacing,
            count=integer(rng, 1, 8),
            radius_mm=(1.0, 2.5),
            rng=rng,
        )
    if len(shares) > 1:
        total = sum(shares.values(), torch.zeros_like(white_matter)).clamp_(min=1)
        shares = {name: share / total for name, share in shares.items()}
    return shares


def _shape(field: Tensor) -> GridShape:
    return field.shape[0], field.shape[1], field.shape[2]
