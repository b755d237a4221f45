"""What a lesion is made of: core, rim, penumbra and blood, by its age."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from anystroke.core.fields import GridShape, smooth_noise
from anystroke.core.rng import chance, choice, uniform

Stage = Literal["chronic", "acute", "subacute"]
STAGES: tuple[Stage, ...] = ("chronic", "acute", "subacute")
TISSUES_OF_STAGE: Mapping[Stage, tuple[str, str]] = {
    "chronic": ("chronic_core", "gliotic_rim"),
    "acute": ("acute_infarct", "acute_infarct"),
    "subacute": ("subacute_infarct", "subacute_infarct"),
}
"""The inner and outer tissue of a lesion, names of the prior table."""

BLOOD_OF_STAGE: Mapping[Stage, tuple[str, ...]] = {
    "chronic": ("haemorrhage_cleft", "haemosiderin_rim"),
    "acute": ("haemorrhage_hyperacute", "haemorrhage_acute"),
    "subacute": ("haemorrhage_early_subacute", "haemorrhage_late_subacute"),
}
"""Blood in an infarct that bled: one of the two by its days; in a chronic one the cleft and its rim."""

LESION_TISSUES: tuple[str, ...] = tuple(
    dict.fromkeys(name for stage in STAGES for name in (*TISSUES_OF_STAGE[stage], *BLOOD_OF_STAGE[stage]))
)
"""Every tissue that a lesion may have."""


_FEW_VOXELS = 8


def mix_tissue(depth: Tensor, *, membership: Tensor, spacing: float, rng: torch.Generator) -> Tensor:
    """Return the share of inner tissue (cystic core) in each voxel of a lesion, smooth and irregular.

    The core is what lies deepest; it may be a small or a large part of the lesion.

    Args:
        depth: (X, Y, Z), rises from the lesion's border inwards over some mm; ``lesion_shares`` says more.
        membership: (X, Y, Z) in [0, 1].
        spacing: Voxel size in mm.
        rng: Random stream.

    Returns:
        (X, Y, Z) in [0, 1]; the remainder is outer tissue (gliotic rim).
    """
    score = depth + uniform(rng, 0.0, 0.15) * _noise(depth, spacing, uniform(rng, 8.0, 20.0), rng)
    return _deepest(score, membership, uniform(rng, 0.0, 1.0), uniform(rng, 0.3, 1.0))


def lesion_shares(
    membership: Tensor,
    depth: Tensor,
    *,
    stage: Stage,
    spacing: float,
    penumbra: float,
    haemorrhage: float,
    graded: float = 0.0,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Divide a lesion among the tissues of its age.

    Args:
        membership: (X, Y, Z) in [0, 1].
        depth: (X, Y, Z), rises from the lesion's border inwards: its membership smoothed over some mm. How
            far it reaches is how wide rims can be.
        stage: Age of the lesion.
        spacing: Voxel size in mm.
        penumbra: Probability that what surrounds the core of an acute lesion is affected in part only.
        haemorrhage: Probability of blood in the lesion.
        graded: Probability that a lesion of any age is affected ever less towards its border.
        rng: Random stream.

    Returns:
        Tissue name -> (X, Y, Z) share of the voxel; together at most the membership (what a penumbra or
        a graded border leaves is healthy).

    Example:
        >>> from anystroke.core.fields import smooth
        >>> from anystroke.core.rng import stream
        >>> lesion = torch.zeros(24, 24, 24)
        >>> lesion[6:18, 6:18, 6:18] = 1
        >>> shares = lesion_shares(lesion, smooth(lesion, 2.0), stage="chronic", spacing=2.0, penumbra=0.0,
        ...                        haemorrhage=0.0, rng=stream(1, "lesion"))
        >>> sorted(shares)
        ['chronic_core', 'gliotic_rim']
    """
    core_tissue, rim_tissue = TISSUES_OF_STAGE[stage]
    shares = {core_tissue: membership}
    if core_tissue != rim_tissue:
        core = membership * mix_tissue(depth, membership=membership, spacing=spacing, rng=rng)
        shares = {core_tissue: core, rim_tissue: membership - core}
    if stage == "acute" and chance(rng, penumbra):
        shares = {core_tissue: _severity(depth, membership, spacing, rng).mul_(membership)}
    elif graded and chance(rng, graded):
        severity = _severity(depth, membership, spacing, rng)
        shares = {name: share * severity for name, share in shares.items()}
    if chance(rng, haemorrhage):
        blood = _blood(membership, depth, stage, spacing, rng)
        rest = 1 - sum(blood.values(), torch.zeros_like(membership))
        shares = {name: share * rest for name, share in shares.items()}
        shares |= {name: share * membership for name, share in blood.items()}
    return shares


def _severity(depth: Tensor, membership: Tensor, spacing: float, rng: torch.Generator) -> Tensor:
    """Return how far each voxel is affected: wholly in the core, in part around it."""
    least = uniform(rng, 0.3, 0.7)
    score = depth + uniform(rng, 0.0, 0.1) * _noise(depth, spacing, uniform(rng, 10.0, 25.0), rng)
    core = _deepest(score, membership, uniform(rng, 0.2, 0.7), uniform(rng, 0.4, 1.2))
    return core.mul_(1 - least).add_(least)


def _blood(
    membership: Tensor, depth: Tensor, stage: Stage, spacing: float, rng: torch.Generator
) -> dict[str, Tensor]:
    """Return the shares of blood within the lesion: scattered petechiae, or one or few large patches."""
    if int((membership > 0.5).sum()) < _FEW_VOXELS:
        return {}
    petechial = chance(rng, 0.5)
    grain = uniform(rng, 3.0, 6.0) if petechial else uniform(rng, 18.0, 35.0)
    score = _noise(depth, spacing, grain, rng).add_(depth, alpha=0.5 if petechial else 2.0)
    wanted = uniform(rng, 0.03, 0.15) if petechial else uniform(rng, 0.1, 0.45)
    patch = _deepest(score, membership, wanted, 0.25)
    first, second = BLOOD_OF_STAGE[stage]
    if stage != "chronic":
        return {first if choice(rng, [0.4, 0.6]) == 0 else second: patch}
    around = _deepest(score, membership, min(1.6 * wanted, 0.75), 0.5)
    return {first: patch, second: around.sub_(patch).clamp_(0, 1)}


def _deepest(score: Tensor, membership: Tensor, part: float, width: float) -> Tensor:
    """Return 1 where a score is among the highest of a lesion, with a soft border.

    Args:
        score: (X, Y, Z).
        membership: (X, Y, Z) in [0, 1].
        part: How much of the lesion, 0 to 1. A lesion of few voxels has that share of each.
        width: Of the border, in standard deviations of the score within the lesion; with it the border is as
            wide as the field is smooth, whatever its scale.
    """
    inside = score[membership > 0.5]
    if inside.numel() < _FEW_VOXELS:
        return torch.full_like(score, part)
    rank = min(max(round((1 - part) * inside.numel()), 1), inside.numel())
    level = float(inside.kthvalue(rank).values)
    slope = 1 / (width * max(float(inside.std()), 1e-3))
    return ((score - level) * slope).add_(0.5).clamp_(0, 1)


def _noise(field: Tensor, spacing: float, grain: float, rng: torch.Generator) -> Tensor:
    """Draw smooth noise on a field's grid whose control points are ``grain`` mm apart."""
    shape: GridShape = (field.shape[0], field.shape[1], field.shape[2])
    x, y, z = (max(4, round(n * spacing / grain) + 3) for n in shape)
    return smooth_noise(shape, (x, y, z), rng=rng, device=field.device)[0]
