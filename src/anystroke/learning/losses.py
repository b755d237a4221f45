"""Losses of segmentation networks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weights: tuple[float, ...],
    cross_entropy_weights: tuple[float, ...] | None = None,
    smoothing: float = 1e-5,
) -> Tensor:
    """Return cross-entropy plus weighted soft Dice loss over the batch.

    The Dice term of a class that is absent from the target is left out of the mean: its false positives are
    the cross-entropy's business. With no weighted class present, the Dice term is zero.

    Args:
        logits: (B, K, X, Y, Z).
        target: (B, X, Y, Z) class indices, int64.
        dice_weights: One weight per class; zero leaves a class (the background) out.
        cross_entropy_weights: One weight per class; None weighs all voxels alike.
        smoothing: Added to the Dice denominator.

    Returns:
        Scalar.

    Raises:
        ValueError: If the number of weights is not that of the classes.

    Source: F. Milletari et al., V-Net, 3DV 2016 (soft Dice); its sum with cross-entropy as in nnU-Net.
    """
    classes = logits.shape[1]
    for weights in (dice_weights, cross_entropy_weights):
        if weights is not None and len(weights) != classes:
            raise ValueError(f"expected {classes} weights, one per class, but got {len(weights)}")
    log_probability = torch.log_softmax(logits.float(), dim=1)
    balance = None if cross_entropy_weights is None else log_probability.new_tensor(cross_entropy_weights)
    cross_entropy = torch.nn.functional.nll_loss(log_probability, target, weight=balance)
    numerator = logits.new_zeros((), dtype=torch.float32)
    total = 0.0
    for k, weight in enumerate(dice_weights):
        inside = target == k
        count = inside.sum()
        if weight == 0 or count == 0:
            continue
        probability = log_probability[:, k].exp()
        overlap = (probability * inside).sum()
        dice = 2 * overlap / (probability.sum() + count + smoothing)
        numerator = numerator + weight * (1 - dice)
        total += weight
    return cross_entropy + (numerator / total if total else numerator)


def deep_supervision(
    heads: Sequence[Tensor], target: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the weighted mean of the losses of a network's heads, each deeper one counting half as much.

    Args:
        heads: Logits (B, K, x, y, z), the finest first; each on its own grid.
        target: (B, X, Y, Z) class indices on the grid of the finest.
        loss: Of logits and target on one grid.

    Returns:
        Scalar.

    Source: F. Isensee et al., nnU-Net, Nature Methods 18:203 (2021).
    """
    total = torch.zeros((), device=target.device)
    for depth, logits in enumerate(heads):
        fitting = target
        if logits.shape[2:] != target.shape[1:]:
            small = torch.nn.functional.interpolate(target[:, None].float(), logits.shape[2:], mode="nearest")
            fitting = small[:, 0].to(target.dtype)
        total = total + 0.5**depth * loss(logits, fitting)
    return total / sum(0.5**depth for depth in range(len(heads)))
