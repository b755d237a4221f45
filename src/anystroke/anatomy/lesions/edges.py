"""Soft edges and gradations of pasted lesions, as published for SynthStroke and as they were meant.

Source: L. Chalcroft et al., Synthetic data for robust stroke segmentation, Medical Image Analysis (2025), and
its code; Soft-CP: S. Dai et al., Soft-CP: a credible and effective data augmentation for semantic
segmentation of medical lesions, arXiv 2203.10507 (2022).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from anystroke.core.fields import legendre_matrix, smooth_noise
from anystroke.core.rng import uniform

SoftEdge = Literal["reference", "morphological"]
Fading = Literal["reference", "smooth"]


def soft_copy_paste(
    mask: Tensor,
    *,
    erosions: int = 1,
    dilations: int = 1,
    alpha: float = 0.9,
    mode: SoftEdge = "morphological",
) -> Tensor:
    """Give a lesion mask a soft edge.

    ``"morphological"``: the mask is eroded ``erosions`` times, then ``dilations`` rings of one voxel are put
    around it, ring j with the weight ``alpha ** j``. ``"reference"``: what the published code computes. Its
    erosion is a box blur of 3 voxels; then, ``dilations`` times, all of the blur's support becomes lesion, is
    blurred again to d, and alpha^j d (1 - d) is added.

    Args:
        mask: (X, Y, Z), 0 or 1.
        erosions: Times of erosion, 0 or more.
        dilations: Rings, 0 or more.
        alpha: Weight of a ring over that of the one inside, in (0, 1].
        mode: Which of the two.

    Returns:
        (X, Y, Z) float32, 0 to 1 (the reference exceeds one by rounding at most).

    Raises:
        ValueError: If an argument is out of its range.
    """
    if erosions < 0 or dilations < 0 or not 0 < alpha <= 1:
        raise ValueError(
            f"expected erosions and dilations of 0 or more and alpha in (0, 1], got {erosions}, {dilations} "
            f"and {alpha}"
        )
    if mode not in ("reference", "morphological"):
        raise ValueError(f"expected the mode reference or morphological, got {mode!r}")
    lesion = mask.float()
    if mode == "reference":
        for _ in range(erosions):
            lesion = _box_mean(lesion)
        for ring in range(1, dilations + 1):
            wide = _box_mean((lesion > 1e-5).float())
            lesion = wide + alpha**ring * wide * (1 - wide)
        return lesion
    for _ in range(erosions):
        outside = _largest_of_neighbours(pad(1 - lesion, (1,) * 6, value=1.0))
        lesion = 1 - outside[1:-1, 1:-1, 1:-1]
    result = lesion.clone()
    for ring in range(1, dilations + 1):
        wider = _largest_of_neighbours(lesion)
        result.add_(wider, alpha=alpha**ring).sub_(lesion, alpha=alpha**ring)
        lesion = wider
    return result


def fade(membership: Tensor, *, mode: Fading = "smooth", lowest: float = 0.3, rng: torch.Generator) -> Tensor:
    """Grade the severity within a lesion.

    ``"smooth"``: the membership is multiplied with a smooth random field between ``lowest`` and 1.
    ``"reference"``: with exp(P), clipped to 1, where P is a series of Legendre polynomials of total degree up
    to 7 over the grid. All its coefficients are drawn from 2 to 3, as published; so it is 1 almost everywhere
    and dips at nearly the same places in each draw.

    Args:
        membership: (X, Y, Z) in [0, 1].
        mode: Which of the two.
        lowest: Least factor of the smooth field, 0 to 1.
        rng: Random stream.

    Returns:
        (X, Y, Z) in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.
    """
    if not 0 <= lowest <= 1:
        raise ValueError(f"expected a lowest factor from 0 to 1, got {lowest}")
    shape = (membership.shape[0], membership.shape[1], membership.shape[2])
    if mode == "smooth":
        field = smooth_noise(shape, (7, 7, 7), rng=rng, device=membership.device)[0].sigmoid_()
        least = uniform(rng, lowest, 1.0)
        return membership * field.mul_(1 - least).add_(least)
    if mode != "reference":
        raise ValueError(f"expected the mode reference or smooth, got {mode!r}")
    x, y, z = (legendre_matrix(n, 8).to(membership) for n in shape)
    degree = torch.arange(8)
    kept = degree[:, None, None] + degree[:, None] + degree <= 7
    coefficients = torch.rand((8, 8, 8), generator=rng, device=rng.device).add_(2) * kept.to(rng.device)
    series = torch.einsum("abc,xa,yb,zc->xyz", coefficients.to(membership), x, y, z)
    return (membership * series.exp()).clamp(0, 1)


def _box_mean(field: Tensor) -> Tensor:
    """Average over 3 x 3 x 3 voxels, zero beyond the border."""
    for axis, n in enumerate(field.shape):
        total = field.clone()
        total.narrow(axis, 1, n - 1).add_(field.narrow(axis, 0, n - 1))
        total.narrow(axis, 0, n - 1).add_(field.narrow(axis, 1, n - 1))
        field = total
    return field.div_(27)


def _largest_of_neighbours(field: Tensor) -> Tensor:
    """Take the maximum over 3 x 3 x 3 voxels."""
    for axis, n in enumerate(field.shape):
        found = field.clone()
        for part, other in ((1, 0), (0, 1)):
            kept = found.narrow(axis, part, n - 1)
            torch.maximum(kept, field.narrow(axis, other, n - 1), out=kept)
        field = found
    return field
