"""What a lesion is made of: core, rim, penumbra and blood, by its age."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from anystroke.fields import GridShape, smooth_noise
from anystroke.rng import chance, choice, integer, uniform

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


def mix_tissue(depth: Tensor, *, rng: torch.Generator) -> Tensor:
    """Return the share of inner tissue (cystic core) in each voxel of a lesion, smooth and irregular.

    Args:
        depth: (X, Y, Z) as ``place_mask`` returns it.
        rng: Random stream.

    Returns:
        (X, Y, Z) in [0, 1]; the remainder is outer tissue (gliotic rim).
    """
    control = integer(rng, 8, 18)
    patches = smooth_noise(_shape(depth), (control,) * 3, rng=rng)[0]
    start = uniform(rng, -0.1, 0.45)
    return ((depth - start + uniform(rng, 0.0, 0.25) * patches) / uniform(rng, 0.1, 0.3)).clamp(0, 1)


def lesion_shares(
    membership: Tensor,
    depth: Tensor,
    inner: Tensor,
    *,
    stage: Stage,
    penumbra: float,
    haemorrhage: float,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Divide a lesion among the tissues of its age.

    Args:
        membership: (X, Y, Z) in [0, 1].
        depth: (X, Y, Z), height above the lesion's boundary, see ``place_mask``.
        inner: (X, Y, Z), share of the inner tissue within the lesion.
        stage: Age of the lesion.
        penumbra: Probability that tissue near the boundary of an acute lesion is affected in part only.
        haemorrhage: Probability of blood in the lesion.
        rng: Random stream.

    Returns:
        Tissue name -> (X, Y, Z) share of the voxel; together at most the membership (what a penumbra leaves
        is healthy).
    """
    core_tissue, rim_tissue = TISSUES_OF_STAGE[stage]
    shares = {core_tissue: membership}
    if core_tissue != rim_tissue:
        core = membership * inner
        shares = {core_tissue: core, rim_tissue: membership - core}
    if stage == "acute" and chance(rng, penumbra):
        severity = uniform(rng, 0.3, 0.7)
        width = uniform(rng, 0.2, 0.5)
        shares = {core_tissue: membership * (severity + (1 - severity) * (depth / width).clamp(0, 1))}
    if chance(rng, haemorrhage):
        blood = _blood(membership, depth, stage, rng)
        rest = 1 - sum(blood.values(), torch.zeros_like(membership))
        shares = {name: share * rest for name, share in shares.items()}
        shares |= {name: share * membership for name, share in blood.items()}
    return shares


def _blood(membership: Tensor, depth: Tensor, stage: Stage, rng: torch.Generator) -> dict[str, Tensor]:
    """Return the shares of blood within the lesion: scattered petechiae, or one or few large patches."""
    petechial = chance(rng, 0.5)
    control = integer(rng, 18, 28) if petechial else integer(rng, 6, 10)
    field = smooth_noise(_shape(depth), (control,) * 3, rng=rng)[0]
    field += (0.5 if petechial else 2.0) * depth.clamp(-0.5, 0.6)
    inside = field[membership > 0.5]
    if inside.numel() < 8:
        return {}
    wanted = uniform(rng, 0.03, 0.15) if petechial else uniform(rng, 0.1, 0.45)
    # The SD on the lesion makes the border a voxel or two wide, whatever the field's scale.
    level = float(inside.kthvalue(max(int((1 - wanted) * inside.numel()), 1)).values)
    width = 0.25 * float(inside.std().clamp(min=1e-3))
    patch = ((field - level) / width + 0.5).clamp(0, 1)
    first, second = BLOOD_OF_STAGE[stage]
    if stage != "chronic":
        return {first if choice(rng, [0.4, 0.6]) == 0 else second: patch}
    around = ((field - level) / (3 * width) + 0.9).clamp(0, 1)
    return {first: patch, second: (around - patch).clamp(0, 1)}


def _shape(field: Tensor) -> GridShape:
    return field.shape[0], field.shape[1], field.shape[2]
