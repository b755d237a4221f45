"""What is bright on T2w and FLAIR in healthy brains too, on both sides about alike."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.anatomy.lookalikes.confounders import box_around
from anystroke.anatomy.lookalikes.places import Place, place_weights, sides_differ, uneven
from anystroke.core.fields import smooth
from anystroke.core.rng import chance, uniform


@dataclass(frozen=True)
class BrightPlace(Place):
    """Brain tissue that relaxes more slowly than others of its kind.

    Attributes:
        largest: Largest share of it that counts as white matter hyperintensity; the smallest is a quarter.
        probability: That a brain shows it.
    """

    largest: float
    probability: float = 1.0


BRIGHT_CORTEX = (
    BrightPlace("hippocampus", (27, -22, -15), (9, 15, 9), largest=0.6),
    BrightPlace("amygdala", (22, -4, -19), (9, 9, 9), largest=0.6),
    BrightPlace("parahippocampal gyrus", (24, -20, -26), (9, 17, 8), largest=0.5),
    BrightPlace("insula", (38, 4, 0), (7, 18, 14), largest=0.6),
    BrightPlace("anterior cingulate", (6, 34, 16), (6, 14, 16), largest=0.5),
    BrightPlace("middle cingulate", (6, -4, 40), (6, 24, 9), largest=0.4),
    BrightPlace("posterior cingulate", (7, -44, 26), (7, 13, 14), largest=0.4),
    BrightPlace("subcallosal area", (6, 16, -12), (6, 10, 8), largest=0.5),
    BrightPlace("temporal pole, cortex", (38, 12, -34), (14, 12, 12), largest=0.4, probability=0.5),
    BrightPlace("base of the frontal lobe", (14, 36, -20), (14, 18, 8), largest=0.35, probability=0.3),
)
"""Limbic cortex is brighter than other cortex: T. Hirai et al., Limbic lobe of the human brain: evaluation
with turbo fluid-attenuated inversion-recovery MR imaging, Radiology 215:470 (2000). The pole and the base,
and all numbers, are engineering estimates."""

BRIGHT_WHITE_MATTER = (
    BrightPlace("posterior limb of the internal capsule", (23, -17, 8), (4, 6, 11), largest=0.45),
    BrightPlace("corticospinal tract above", (24, -22, 32), (6, 8, 14), largest=0.3, probability=0.7),
    BrightPlace("cerebral peduncle", (15, -18, -11), (4, 5, 7), largest=0.3, probability=0.7),
    BrightPlace("terminal zone behind the trigone", (29, -56, 20), (8, 14, 11), largest=0.5, probability=0.7),
    BrightPlace("septum pellucidum", (0, 6, 14), (3, 16, 9), largest=0.6),
    BrightPlace("temporal pole, white matter", (36, 4, -32), (11, 12, 10), largest=0.45, probability=0.6),
    BrightPlace("superior cerebellar peduncle", (6, -46, -26), (5, 8, 7), largest=0.3, probability=0.5),
)
"""Corticospinal tract: A. Yagishita et al., Radiology 191:455 (1994). Terminal zones of myelination:
C. Parazzini et al., AJNR 23:1669 (2002). The others and all numbers are engineering estimates."""

_CAPS = (
    Place("cap of the frontal horn", (17, 33, 6), (9, 7, 9)),
    Place("cap of the occipital horn", (27, -62, 10), (9, 9, 9)),
)


def bright_shares(points: Tensor, *, spacing: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw how much cortex and white matter are brightened by where they are.

    Args:
        points: (3, X, Y, Z) MNI RAS+ mm of each voxel.
        spacing: Their distance in mm.
        rng: Random stream.

    Returns:
        ``(cortex, white)``: (X, Y, Z) in [0, 0.8] each, about the same on both sides; they say nothing of
        where these tissues are.
    """
    overall = uniform(rng, 0.3, 1.0)
    found = []
    for places in (BRIGHT_CORTEX, BRIGHT_WHITE_MATTER):
        amounts = [
            overall * uniform(rng, 0.25, 1.0) * place.largest * chance(rng, place.probability)
            for place in places
        ]
        total = place_weights(points, places, amounts)
        noise = uneven(points, spacing=spacing, grain=25.0, rng=rng).mul_(0.15).add_(1)
        found.append(total.mul_(noise).mul_(sides_differ(points, 0.1, rng)).clamp_(0, 0.8))
    return found[0], found[1]


def periventricular_rim(
    ventricles: Tensor, white_matter: Tensor, caps: Tensor, *, spacing: float, rng: torch.Generator
) -> Tensor:
    """Draw the thin bright rim of white matter along the ventricles, and small caps on their horns.

    Args:
        ventricles: (X, Y, Z) share of ventricular fluid.
        white_matter: (X, Y, Z) share of white matter.
        caps: (X, Y, Z) weight of the caps' places, as ``cap_weight`` makes it.
        spacing: Voxel size in mm.
        rng: Random stream.

    Returns:
        (X, Y, Z) share of the voxel, at most that of white matter; about 1 to 2 mm wide, caps up to 6 mm.

    Source: forms of G. Sze et al., AJNR 7:381 (1986) and grade 1 of F. Fazekas et al., AJR 149:351 (1987);
    the numbers are engineering estimates.
    """
    rim, cap = uniform(rng, 0.1, 0.6), uniform(rng, 0.1, 0.7)
    narrow, broad = uniform(rng, 0.8, 1.6) / spacing, uniform(rng, 2.0, 3.5) / spacing
    result = torch.zeros_like(white_matter)
    box = box_around(ventricles > 0.5, math.ceil(8 / spacing))
    if box is not None:
        fluid = ventricles[box].contiguous()
        near = smooth(fluid, narrow).mul_(1.6).clamp_(max=1).mul_(rim)
        wide = smooth(fluid, broad).mul_(4.0).clamp_(max=1).mul_(cap)
        result[box] = torch.maximum(near, wide.mul_(caps[box])).mul_(white_matter[box])
    return result


def cap_weight(points: Tensor) -> Tensor:
    """Return the weight of the places of the horns' caps, (X, Y, Z), at MNI points (3, X, Y, Z)."""
    return place_weights(points, _CAPS, (1.0, 1.0))


def fluid_pouch(points: Tensor, *, rng: torch.Generator) -> Tensor:
    """Draw a pouch of fluid: an arachnoid cyst at one temporal pole, or a large cisterna magna.

    Args:
        points: (3, X, Y, Z) MNI RAS+ mm of each voxel.
        rng: Random stream.

    Returns:
        (X, Y, Z) in [0, 1], with a border of about 3 mm; about 1 to 40 ml.

    Source: the two commonest places of W. Al-Holou et al., J Neurosurg 118:222 (2013), who found arachnoid
    cysts in 1.4 % of adults; sizes are engineering estimates.
    """
    if chance(rng, 0.6):
        side = -1.0 if chance(rng, 0.6) else 1.0
        centre = (side * uniform(rng, 36, 46), uniform(rng, 12, 22), uniform(rng, -38, -26))
        radius = [uniform(rng, 7, 20) for _ in range(3)]
    else:
        centre = (uniform(rng, -6, 6), uniform(rng, -88, -78), uniform(rng, -54, -44))
        radius = [uniform(rng, 12, 24), uniform(rng, 7, 14), uniform(rng, 8, 18)]
    distance = torch.stack([((points[k] - centre[k]) / radius[k]).square_() for k in range(3)]).sum(0).sqrt_()
    return distance.mul_(-1).add_(1).mul_(min(radius) / 3.0).add_(0.5).clamp_(0, 1)
