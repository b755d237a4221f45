"""Old small-vessel disease that is not the lesion: what a network must learn to leave alone."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import Box
from anystroke.core.fields import GridShape, smooth, smooth_noise
from anystroke.core.rng import chance, integer, log_uniform, normal, uniform

WHITE_MATTER_HYPERINTENSITY = "white_matter_hyperintensity"
MICROBLEED = "haemosiderin_rim"
LACUNE = "ventricular_csf"


def white_matter_hyperintensities(
    white_matter: Tensor, ventricles: Tensor, *, spacing: float, volume_ml: float, rng: torch.Generator
) -> Tensor:
    """Draw leukoaraiosis: caps and bands along the ventricles, and foci deep in white matter.

    A tenth to a half of the volume is foci, which are a few mm wide, and merge where they are many.

    Args:
        white_matter: (X, Y, Z) share of white matter.
        ventricles: (X, Y, Z) share of ventricular fluid.
        spacing: Voxel size in mm.
        volume_ml: Wanted volume; it is reached within 10 % where white matter is ten times that.
        rng: Random stream.

    Returns:
        (X, Y, Z) share of the voxel, at most that of white matter.

    Raises:
        ValueError: If the volume is negative.

    Source: the forms and places of F. Fazekas et al., AJR 149:351 (1987); the numbers are estimates.
    """
    if volume_ml < 0:
        raise ValueError(f"expected a volume of 0 ml or more, got {volume_ml}")
    result = torch.zeros_like(white_matter)
    box = box_around(white_matter > 0.5, math.ceil(6 / spacing))
    if volume_ml == 0 or box is None:
        return result
    white, fluid = white_matter[box].contiguous(), ventricles[box]
    foci = uniform(rng, 0.1, 0.5) * volume_ml / (spacing**3 / 1000)
    bands = volume_ml / (spacing**3 / 1000) - foci
    # Smoothing stands in for the distance to the ventricles. Between them, where they are wide on both
    # sides, is the callosum and the septum, which the wider one tells from their horns.
    near = smooth(fluid, uniform(rng, 2.5, 4.5) / spacing)
    around = smooth(fluid, 9.0 / spacing)
    uneven = _noise(white, spacing, uniform(rng, 12.0, 25.0), rng).mul_(uniform(rng, 0.1, 0.4)).add_(1)
    score = uneven.clamp_(min=0.1).mul_(near).mul_(1 - uniform(rng, 0.6, 1.0) * around)
    drawn = _highest(score, white, bands, uniform(rng, 0.03, 0.08))
    # Deep is what white matter surrounds: neither the cortex nor a ventricle is near.
    deep = smooth(white, 3.0 / spacing).sub_(0.85).clamp_(max=0)
    spots = _noise(white, spacing, uniform(rng, 4.0, 9.0), rng)
    spots.add_(deep, alpha=8.0).sub_(near, alpha=4.0)
    drawn += _highest(spots, white - drawn, foci, uniform(rng, 0.15, 0.4))
    result[box] = drawn
    return result


def box_around(mask: Tensor, margin: int) -> Box | None:
    """Return the smallest box that holds a mask and a margin, None if the mask is empty."""
    plane = mask.any(0)
    some = (mask.flatten(1).any(1), plane.any(1), plane.any(0))
    spans = [torch.nonzero(line).flatten().tolist() for line in some]
    if not spans[0]:
        return None
    x, y, z = (
        slice(max(span[0] - margin, 0), min(span[-1] + 1 + margin, n))
        for span, n in zip(spans, mask.shape, strict=True)
    )
    return x, y, z


def _highest(score: Tensor, room: Tensor, voxels: float, width: float) -> Tensor:
    """Fill the room where a score is highest, with a soft border, up to a volume.

    Args:
        score: (X, Y, Z).
        room: (X, Y, Z) share of each voxel that may be filled.
        voxels: The volume.
        width: Of the border, in units of the score.
    """
    some = room > 0.01
    if not bool(some.any()):
        return torch.zeros_like(room)
    values, shares = score[some] / width + 0.5, room[some]
    low, high = float(values.min()) - 1, float(values.max())
    for _ in range(14):
        middle = (low + high) / 2
        filled = float((values - middle).clamp_(0, 1).dot(shares))
        low, high = (middle, high) if filled > voxels else (low, middle)
    return (score / width).add_(0.5 - high).clamp_(0, 1).mul_(room)


def _noise(field: Tensor, spacing: float, grain: float, rng: torch.Generator) -> Tensor:
    """Draw smooth noise on a field's grid whose control points are ``grain`` mm apart."""
    shape: GridShape = (field.shape[0], field.shape[1], field.shape[2])
    x, y, z = (max(4, round(n * spacing / grain) + 3) for n in shape)
    return smooth_noise(shape, (x, y, z), rng=rng, device=field.device)[0]


def balls(
    inside: Tensor,
    *,
    spacing: float,
    count: int,
    radius_mm: tuple[float, float],
    elongation: float = 1.0,
    rng: torch.Generator,
) -> Tensor:
    """Draw small round holes or dots at random places: lacunes, enlarged spaces, microbleeds.

    Args:
        inside: (X, Y, Z) share of the tissue that may have them.
        spacing: Voxel size in mm.
        count: How many.
        radius_mm: Range of the semi-axes.
        elongation: Factor on one of the semi-axes, drawn for each.
        rng: Random stream.

    Returns:
        (X, Y, Z) share of the voxel, at most that of the tissue.
    """
    result = torch.zeros_like(inside)
    places = torch.nonzero(inside > 0.6)
    for _ in range(count if len(places) else 0):
        centre = places[integer(rng, 0, len(places) - 1)].tolist()
        radii = [uniform(rng, *radius_mm) / spacing for _ in range(3)]
        if elongation != 1:
            radii[integer(rng, 0, 2)] *= elongation
        # The border is one voxel wide.
        narrow = min(radii)
        reach = [math.ceil(radius * (1 + 0.5 / narrow)) for radius in radii]
        box = tuple(
            slice(max(c - r, 0), min(c + r + 1, n))
            for c, r, n in zip(centre, reach, inside.shape, strict=True)
        )
        axes = [
            ((torch.arange(part.start, part.stop, device=inside.device) - c) / radius) ** 2
            for part, c, radius in zip(box, centre, radii, strict=True)
        ]
        distance = (axes[0][:, None, None] + axes[1][:, None] + axes[2]).sqrt()
        ball = ((1 - distance) * narrow + 0.5).clamp(0, 1)
        # One that is smaller than a voxel fills no more of it than its volume.
        volume = 4 / 3 * math.pi * math.prod(radii)
        ball *= min(1.0, volume / float(ball.sum()))
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
    rooms = (deep_grey, white_matter)
    if chance(rng, leukoaraiosis):
        volume = min(6.0 * math.exp(normal(rng, 0.0, 0.9)), 60.0)
        shares[WHITE_MATTER_HYPERINTENSITY] = white_matter_hyperintensities(
            white_matter, ventricles, spacing=spacing, volume_ml=volume, rng=rng
        )
    if chance(rng, lacunes):
        shares[LACUNE] = _scatter(
            rooms, spacing, integer(rng, 1, 4), (1.5, max(log_uniform(rng, 1.5, 7.0), 2.0)), rng
        )
    if chance(rng, microbleeds):
        shares[MICROBLEED] = _scatter(rooms, spacing, integer(rng, 1, 8), (1.0, 2.5), rng)
    if len(shares) > 1:
        total = sum(shares.values(), torch.zeros_like(white_matter)).clamp_(min=1)
        shares = {name: share / total for name, share in shares.items()}
    return shares


def with_perivascular_spaces(
    shares: Mapping[str, Tensor],
    white_matter: Tensor,
    deep_grey: Tensor,
    *,
    spacing: float,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Add enlarged perivascular spaces: 10 to 60 fluid tubes, 1 to 3 mm wide and four times as long.

    Args:
        shares: Tissue name -> (X, Y, Z) share, as ``draw_confounders`` returns them.
        white_matter: (X, Y, Z) share of white matter.
        deep_grey: (X, Y, Z) share of thalamus and basal ganglia.
        spacing: Voxel size in mm.
        rng: Random stream.

    Returns:
        The shares with that of fluid increased; the others stay.
    """
    spaces = _scatter((deep_grey, white_matter), spacing, integer(rng, 10, 60), (0.5, 1.5), rng, 4.0)
    taken = sum(shares.values(), torch.zeros_like(spaces))
    spaces = torch.minimum(spaces, (white_matter + deep_grey - taken).clamp_(min=0))
    return {**shares, LACUNE: shares[LACUNE] + spaces if LACUNE in shares else spaces}


def _scatter(
    rooms: tuple[Tensor, Tensor],
    spacing: float,
    count: int,
    radius_mm: tuple[float, float],
    rng: torch.Generator,
    elongation: float = 1.0,
) -> Tensor:
    """Divide balls at random among two rooms; deep nuclei are small but have as many as white matter."""
    first = integer(rng, 0, count)
    drawn = [
        balls(room, spacing=spacing, count=part, radius_mm=radius_mm, elongation=elongation, rng=rng)
        for room, part in zip(rooms, (first, count - first), strict=True)
    ]
    return torch.maximum(*drawn)
