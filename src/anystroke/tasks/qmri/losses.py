"""What an estimator of quantitative maps is trained to do: make maps of a T1w MPRAGE (qATLAS).

A target is (B, K + 1, X, Y, Z): K maps in their units, and last how much each voxel counts.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anystroke.core.config import StrictModel
from anystroke.qmri.estimated_maps import MAP_OUTPUTS, activate

Reduce = Callable[[Tensor], Tensor]
Perceptual = Callable[[Tensor, Tensor], Tensor]

_LEAST = 4.5e-5


class EstimationLossSettings(StrictModel):
    """What is minimised.

    Attributes:
        l2_steps: The first steps fit values alone, by their squares.
        values: Weight of the absolute and squared differences of values.
        gradients: Weight of those of spatial gradients.
        perceptual: Weight of the perceptual loss of each map; 0 leaves its network away.
        features: The perceptual network: ``"default"`` or another model of the package or folder, whose
            encoder is taken; or a .safetensors file with the weights of a 3-D ResNet of MedicalNet.
        scale: What maps are divided by: ``"maximum"``, the largest target of each case within the region that
            counts, as published; or ``"typical"``, the same for all cases.
    """

    l2_steps: int = Field(default=20_000, ge=0)
    values: float = Field(default=1.0, ge=0)
    gradients: float = Field(default=1.0, ge=0)
    perceptual: float = Field(default=0.1, ge=0)
    features: str = "default"
    scale: Literal["maximum", "typical"] = "maximum"


def _alone(sums: Tensor) -> Tensor:
    return sums


def estimation_loss(
    output: Tensor,
    target: Tensor,
    *,
    names: Sequence[str],
    settings: EstimationLossSettings,
    step: int,
    perceptual: Perceptual | None = None,
    reduce: Reduce = _alone,
) -> Tensor:
    """Return the loss of one step.

    Before step ``l2_steps`` it is the mean square of the scaled maps' differences. Afterwards it is the mean
    of absolute and squared differences of values, plus that of forward differences along the three axes (zero
    in the last slice), summed over the axes, plus the perceptual loss summed over maps. Means are over maps
    and voxels, weighted by the last channel of the target.

    Args:
        output: (B, K, X, Y, Z) of the network, before the activation.
        target: (B, K + 1, X, Y, Z).
        names: The K maps.
        settings: Weights and schedule.
        step: From 0.
        perceptual: Distance of two batches (B, 1, X, Y, Z); a scalar.
        reduce: Sums over the processes of a distributed run.

    Returns:
        Scalar.

    Raises:
        ValueError: If the target does not have one channel more than there are maps.

    Source: L. Chalcroft et al., qATLAS and its published program, which names the reconstruction loss after
        C. Baur.
    """
    if target.shape[1] != len(names) + 1:
        raise ValueError(f"expected {len(names)} maps and their weight, got {target.shape[1]} channels")
    maps = activate(output.float() if output.dtype != torch.float64 else output, names)
    truth, weight = (target[:, :-1] + _LEAST).to(maps), target[:, -1:].to(maps)
    scale = _scale(truth, weight, names, settings.scale)
    maps, truth = maps / scale, truth / scale
    difference = maps - truth
    voxels = (weight.sum() * len(names)).detach()
    if step < settings.l2_steps:
        return _mean((weight * difference.square()).sum(), voxels, reduce)
    error = settings.values * (weight * (difference.abs() + difference.square())).sum()
    if settings.gradients:
        for axis in (2, 3, 4):
            change, last = difference.diff(dim=axis), weight.shape[axis] - 1
            # A step into a voxel that does not count, does not count.
            both = torch.minimum(weight.narrow(axis, 0, last), weight.narrow(axis, 1, last))
            error = error + settings.gradients * (both * (change.abs() + change.square())).sum()
    loss = _mean(error, voxels, reduce)
    if perceptual is not None and settings.perceptual:
        seen = weight > 0
        for channel in range(len(names)):
            pair = ((each * seen)[:, channel : channel + 1] for each in (maps, truth))
            loss = loss + settings.perceptual * perceptual(*pair)
    return loss


def _scale(truth: Tensor, weight: Tensor, names: Sequence[str], kind: str) -> Tensor:
    """Return what each map is divided by, (B or 1, K, 1, 1, 1)."""
    if kind == "typical":
        typical = [MAP_OUTPUTS[name].typical for name in names]
        return truth.new_tensor(typical).view(1, -1, 1, 1, 1)
    # The brain counts 1 or more; bone and fat around it must not set the scale.
    inside = weight >= weight.amax((2, 3, 4), keepdim=True).clamp(max=1.0)
    return (truth * inside).amax((2, 3, 4), keepdim=True).clamp(min=1e-3)


def _mean(error: Tensor, voxels: Tensor, reduce: Reduce) -> Tensor:
    total = reduce(torch.stack([error, voxels]))
    return total[0] / total[1].clamp(min=1.0)
