"""Tissues at the scan's own resolution: the network says where they may be, the intensities where they end.

A mixture of Gaussians of the logarithm of the intensity, one of each tissue, with a smooth bias field; the
network's probabilities are its priors (Ashburner and Friston, Unified segmentation, NeuroImage 26:839, 2005;
Zhang et al., IEEE Trans Med Imaging 20:45, 2001, for the neighbourhood).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from anystroke.core.volume import Volume

GREY, WHITE = "grey_matter", "white_matter"
PARTIAL_VOLUME = 0.25
"""Share of grey and of white matter, each, from which a voxel is of both."""

_ITERATIONS, _PASSES = 8, 2
_SAMPLE = 500_000
_INSIDE = 0.05
_CORE = 0.8
_LEAST_VOXELS = 500
# Power of the network's probability as prior, and of the neighbours' mean.
_PRIOR, _NEIGHBOURS = 1.0, 0.7
_SMALLEST_PRIOR = 1e-3
_BIAS_MM = 30.0
# Distance between grey and white matter in standard deviations from which intensities tell them apart.
_SMALLEST_CONTRAST = 1.0
_SMALLEST_SD = 0.02
# Largest width of a tissue over that of grey and white matter; that of fluid is the widest by far.
_WIDEST = 2.0


def tissues_of_scan(scan: Volume, tissues: Mapping[str, Volume], lesion: Volume) -> dict[str, Volume]:
    """Sharpen the network's tissue probabilities by the scan's intensities.

    Args:
        scan: One channel.
        tissues: Probabilities of the healthy tissues on its grid, at least grey and white matter.
        lesion: Mask on its grid; its voxels teach nothing.

    Returns:
        Probabilities that sum, in each voxel, to what those given sum to. Those given, where grey and white
        matter are not told apart by intensity.
    """
    names = list(tissues)
    given = torch.stack([tissues[name].data[0] for name in names])
    inside = given.sum(0) > _INSIDE
    if GREY not in names or WHITE not in names or int(inside.sum()) < _LEAST_VOXELS:
        return dict(tissues)
    box = _box(inside)
    part = given[(slice(None), *box)]
    image = scan.data[0][box].float()
    weight = (part.sum(0) > 0.5) & (lesion.data[0][box] == 0) & (image > 0)
    posterior = _mixture(image, part, weight, scan.spacing, names)
    if posterior is None:
        return dict(tissues)
    given[(slice(None), *box)] = posterior * part.sum(0)
    return {name: replace(tissues[name], data=given[i : i + 1]) for i, name in enumerate(names)}


def partial_volume(labels: Tensor, grey: Tensor, white: Tensor) -> Tensor:
    """Tell the voxels of grey or white matter that hold a quarter of both at least.

    Args:
        labels: (X, Y, Z) bool, voxels of grey or white matter.
        grey: (X, Y, Z), probability.
        white: Likewise.

    Returns:
        (X, Y, Z) bool.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> bool(partial_volume(one > 0, 0.6 * one, 0.4 * one))
        True
    """
    both = (grey + white).clamp(min=1e-6)
    return labels & (torch.minimum(grey, white) / both >= PARTIAL_VOLUME)


def _mixture(
    image: Tensor, given: Tensor, weight: Tensor, spacing: tuple[float, float, float], names: list[str]
) -> Tensor | None:
    """Fit the mixture, on every other voxel, and tell the tissues; None where two of them are alike."""
    prior = (given / given.sum(0).clamp(min=1e-6)).clamp(min=_SMALLEST_PRIOR)
    prior /= prior.sum(0)
    known = image[weight]
    if known.numel() < _LEAST_VOXELS:
        return None
    floor = float(known.flatten()[:: 1 + known.numel() // _SAMPLE].quantile(0.001).clamp(min=1e-6))
    level = image.clamp(min=floor).log()
    strides = [2 if step < 1.6 and n > 32 else 1 for step, n in zip(spacing, image.shape, strict=True)]
    every = tuple(slice(None, None, stride) for stride in strides)
    wide = tuple(step * stride for step, stride in zip(spacing, strides, strict=True))
    grey, white = names.index(GREY), names.index(WHITE)
    step = (wide[0], wide[1], wide[2])
    fitted = _fit(
        level[every],
        prior[(slice(None), *every)],
        weight[every],
        step,
        [grey, white],
    )
    if fitted is None:
        return None
    means, deviations, coarse_bias = fitted
    contrast = abs(float(means[grey] - means[white])) / float((deviations[grey] + deviations[white]) / 2)
    if contrast < _SMALLEST_CONTRAST:
        return None
    bias = interpolate(coarse_bias[None, None], size=level.shape, mode="trilinear", align_corners=False)[0, 0]
    own = _energy(level - bias, means, deviations, prior)
    posterior = own.softmax(0)
    for _ in range(_PASSES):
        posterior = (own + _neighbours(posterior)).softmax(0)
    return posterior


def _fit(
    level: Tensor,
    prior: Tensor,
    weight: Tensor,
    spacing: tuple[float, float, float],
    solid: list[int],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Fit means, standard deviations and the bias field; None where a tissue is hardly there."""
    bias = torch.zeros_like(level)
    core = (prior > _CORE) & weight
    thin = core.sum((1, 2, 3)) < _LEAST_VOXELS  # thinner than the network's voxels
    share = torch.where(thin.view(-1, 1, 1, 1), (prior > 0.5) & weight, core).float()
    means = deviations = torch.zeros(len(prior))
    for _ in range(_ITERATIONS):
        mass = share.sum((1, 2, 3))
        if float(mass.min()) < _LEAST_VOXELS / 10:
            return None
        corrected = level - bias
        means = (share * corrected).sum((1, 2, 3)) / mass
        apart = corrected - means.view(-1, 1, 1, 1)
        squares = (share * apart.square()).sum((1, 2, 3))
        # One width for grey and white matter: folding widens that of grey, which would take the rim of white.
        squares[solid], weights = squares[solid].sum(), mass.clone()
        weights[solid] = mass[solid].sum()
        deviations = (squares / weights).sqrt().clamp(min=_SMALLEST_SD)
        deviations = deviations.clamp(max=_WIDEST * float(deviations[solid[0]]))
        posterior = _energy(corrected, means, deviations, prior).softmax(0)
        bias = _smooth_residual(level, means, deviations, posterior, weight, spacing)
        share = posterior * weight
    return means, deviations, bias


def _energy(level: Tensor, means: Tensor, deviations: Tensor, prior: Tensor) -> Tensor:
    """Return the logarithm of likelihood and prior, up to a constant (K, X, Y, Z)."""
    sd = deviations.view(-1, 1, 1, 1)
    return -0.5 * ((level - means.view(-1, 1, 1, 1)) / sd).square() - sd.log() + _PRIOR * prior.log()


def _neighbours(posterior: Tensor) -> Tensor:
    """Return what the 26 neighbours say of each voxel."""
    around = avg_pool3d(posterior[None], 3, 1, 1, count_include_pad=False)[0]
    return _NEIGHBOURS * around.clamp(min=_SMALLEST_PRIOR).log()


def _smooth_residual(
    level: Tensor,
    means: Tensor,
    deviations: Tensor,
    posterior: Tensor,
    weight: Tensor,
    spacing: tuple[float, float, float],
) -> Tensor:
    """Average what the means do not explain over a few centimetres."""
    precision = posterior / deviations.view(-1, 1, 1, 1).square()
    total = precision.sum(0) * weight
    residual = total * level - (precision * means.view(-1, 1, 1, 1)).sum(0) * weight
    factor = [max(1, min(n, round(4.0 / step))) for n, step in zip(level.shape, spacing, strict=True)]
    coarse = avg_pool3d(torch.stack([residual, total])[:, None], factor, ceil_mode=True)[:, 0]
    for axis in range(3):
        coarse = _blur(coarse, axis + 1, _BIAS_MM / (factor[axis] * spacing[axis]))
    field = coarse[0] / coarse[1].clamp(min=1e-6)
    return interpolate(field[None, None], size=level.shape, mode="trilinear", align_corners=False)[0, 0]


def _blur(data: Tensor, axis: int, sigma: float) -> Tensor:
    """Smooth along one axis with a Gaussian of some voxels."""
    place = torch.arange(data.shape[axis], dtype=torch.float32)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / max(sigma, 1e-3)) ** 2)
    return torch.movedim(torch.movedim(data, axis, -1) @ kernel, -1, axis)


def _box(inside: Tensor) -> tuple[slice, slice, slice]:
    found = inside.nonzero()
    low, high = found.amin(0).tolist(), found.amax(0).tolist()
    x, y, z = (slice(a, b + 1) for a, b in zip(low, high, strict=True))
    return x, y, z
