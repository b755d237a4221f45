"""Losses of segmentation networks.

A target is either hard, (B, X, Y, Z) numbers of classes, or soft, (B, K, X, Y, Z) shares of classes. A hard
target may hold ``HEALTHY``: no lesion, but the tissue is not known; and ``IGNORED``, which counts in no way,
as does a voxel of a soft target whose shares are all zero. The lesion is the last class.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from anystroke.core.config import StrictModel
from anystroke.learning.cases import HEALTHY, IGNORED

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, differentiably."""

PartialLabels = Literal["merged", "first_and_last"]


class LossSettings(StrictModel):
    """What is minimised.

    Attributes:
        dice_weights: Weight of each class's Dice; by default 0 for the first class, the background, and 1 for
            the others.
        cross_entropy_weights: Weight of each class's voxels; None weighs all alike.
        absent_classes: What the Dice of a class that no voxel of the target has counts: ``"left_out"`` of the
            mean, or ``"counted"`` as the published systems do.
        partial_labels: How voxels that are healthy, but of unknown tissue, are learnt from: the probabilities
            of all healthy classes ``"merged"``, or, as published, a softmax over the logits
            ``"first_and_last"`` alone.
        l2_steps: The first steps fit the logits to +5 and -5 instead.
        lesion_wise: Weight of a term in which each connected lesion counts alike, whatever its size, see
            `anystroke.tasks.segmentation.lesion_loss.parts_loss`.
        false_parts: Weight of a term in which each false part away from lesions costs about alike; below 1
            for each case before weighing.
        half_cost_ml: Volume of a false part that costs half of the most [ml].
        smallest_lesion_ml: A connected lesion below this does not count on its own [ml].
        reach_mm: False voxels so close to a lesion are part of its term, those further away false parts [mm].
    """

    dice_weights: tuple[float, ...] | None = None
    cross_entropy_weights: tuple[float, ...] | None = None
    absent_classes: Literal["left_out", "counted"] = "left_out"
    partial_labels: PartialLabels = "merged"
    l2_steps: int = Field(default=0, ge=0)
    lesion_wise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    false_parts: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    half_cost_ml: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    smallest_lesion_ml: float = Field(default=0.02, ge=0, allow_inf_nan=False)
    reach_mm: float = Field(default=10.0, ge=0, allow_inf_nan=False)

    @property
    def counts_parts(self) -> bool:
        """Whether lesions or false parts are counted one by one, for which cases carry their cells."""
        return self.lesion_wise > 0 or self.false_parts > 0

    def weights(self, classes: int) -> tuple[float, ...]:
        """Return the Dice weight of each of so many classes."""
        return self.dice_weights or (0.0, *[1.0] * (classes - 1))


def _alone(sums: Tensor) -> Tensor:
    return sums


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weights: tuple[float, ...],
    cross_entropy_weights: tuple[float, ...] | None = None,
    absent_classes: Literal["left_out", "counted"] = "left_out",
    partial_labels: PartialLabels = "merged",
    smoothing: float = 1e-5,
    reduce: Reduce = _alone,
) -> Tensor:
    """Return cross-entropy plus weighted soft Dice loss, both over the whole batch.

    Cases with voxels of unknown tissue count for the lesion's Dice alone, and their cross-entropy is that of
    lesion against all else. With no weighted class present, the Dice term is zero.

    Args:
        logits: (B, K, X, Y, Z).
        target: (B, X, Y, Z) int64 with numbers of classes, ``HEALTHY`` or ``IGNORED``, or (B, K, X, Y, Z)
            shares, all zero where a voxel is ignored. With no other voxel the loss is zero.
        dice_weights: One weight per class; zero leaves a class (the background) out.
        cross_entropy_weights: One weight per class; None weighs all voxels alike.
        absent_classes: See ``LossSettings``.
        partial_labels: See ``LossSettings``.
        smoothing: Added to numerator and denominator of Dice.
        reduce: Sums over the processes of a distributed run, so that the batch is that of all of them.

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
    exact = _exact(logits[:0]).dtype
    balance = torch.tensor(cross_entropy_weights or [1.0] * classes, dtype=exact, device=logits.device)
    soft = target.is_floating_point()
    partial = torch.zeros(len(target), dtype=torch.bool) if soft else (target == HEALTHY).flatten(1).any(1)
    groups: list[tuple[Tensor, ...]] = []
    if not bool(partial.all()):
        kept = slice(None) if not bool(partial.any()) else ~partial
        groups.append(_sums(_exact(logits[kept]).log_softmax(1), target[kept], balance))
    if bool(partial.any()):
        kept = slice(None) if bool(partial.all()) else partial
        two = _two_classes(_exact(logits[kept]), partial_labels)
        lesion = (target[kept] == classes - 1).long()
        lesion[target[kept] == IGNORED] = IGNORED
        entropy, weight, overlap, predicted, true = _sums(two, lesion, balance[[0, classes - 1]])
        padding = logits.new_zeros(classes - 1, dtype=exact)
        groups.append(
            (entropy, weight, *(torch.cat([padding, each[1:]]) for each in (overlap, predicted, true)))
        )
    parts = [sum(each[1:], each[0]) for each in zip(*groups, strict=True)]
    packed = reduce(torch.cat([part.reshape(-1) for part in parts]))
    overlap, predicted, true = packed[2:].reshape(3, classes)
    dice = (2 * overlap + smoothing) / (predicted + true + smoothing)
    share = torch.tensor(dice_weights, dtype=exact, device=logits.device)
    if absent_classes == "left_out":
        share = share * (true.detach() > 0)
    total = _some(share.sum())
    loss: Tensor = packed[0] / _some(packed[1]) + ((1 - dice) * share).sum() / total
    return loss


def _some(weight: Tensor) -> Tensor:
    """Return a weight that can be divided by, where nothing is seen too."""
    return weight.clamp(min=torch.finfo(torch.float32).tiny)


def _exact(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _sums(log_probability: Tensor, target: Tensor, balance: Tensor) -> tuple[Tensor, ...]:
    """Return the weighted cross-entropy, its weight, and (K,) overlap, predicted and true sizes."""
    classes = log_probability.shape[1]
    if target.is_floating_point():
        weights = target * balance.view(1, -1, 1, 1, 1)
        probability = log_probability.exp()
        seen = target.sum(1, keepdim=True) > 0
        if not bool(seen.all()):
            probability = probability * seen
        dims = (0, 2, 3, 4)
        return (
            -(weights * log_probability).sum(),
            weights.sum(),
            (probability * target).sum(dims),
            probability.sum(dims),
            target.sum(dims),
        )
    entropy = torch.nn.functional.nll_loss(
        log_probability, target, weight=balance, ignore_index=IGNORED, reduction="sum"
    )
    sizes = torch.bincount(target.flatten(), minlength=classes)[:classes].to(log_probability.dtype)
    probability = log_probability.exp()
    seen = target != IGNORED
    if not bool(seen.all()):
        probability, target = probability * seen[:, None], torch.where(seen, target, 0)
    right = probability.gather(1, target[:, None]).flatten()
    overlap = torch.zeros_like(sizes).index_add(0, target.flatten(), right)
    return entropy, (sizes * balance).sum(), overlap, probability.sum((0, 2, 3, 4)), sizes


def _two_classes(logits: Tensor, partial_labels: PartialLabels) -> Tensor:
    """Return the log-probabilities (B, 2, X, Y, Z) of healthy and lesion."""
    if partial_labels == "first_and_last":
        return logits[:, [0, -1]].log_softmax(1)
    log_probability = logits.log_softmax(1)
    return torch.stack([log_probability[:, :-1].logsumexp(1), log_probability[:, -1]], dim=1)


def logit_regression(logits: Tensor, target: Tensor, *, reduce: Reduce = _alone) -> Tensor:
    """Return the weighted mean squared distance of the logits from +5 (their class) and -5 (the others).

    Voxels weigh 1e-8 plus their share of foreground. Where a case holds ``HEALTHY``, just the first and the
    last logit of its voxels are fitted.

    Args:
        logits: (B, K, X, Y, Z).
        target: As in `dice_cross_entropy`.
        reduce: Sums over the processes of a distributed run.

    Returns:
        Scalar.

    Source: the warm-up loss of the published SynthStroke code.
    """
    classes = logits.shape[1]
    squares = _exact(logits.new_zeros(()))
    total = squares.clone()
    for each, truth in zip(_exact(logits), target, strict=True):
        seen = truth.sum(0) > 0 if truth.is_floating_point() else truth != IGNORED
        if truth.is_floating_point():
            wanted = truth
        elif bool((truth == HEALTHY).any()):
            each = each[[0, -1]]
            lesion = (truth == classes - 1).float()
            wanted = torch.stack([1 - lesion, lesion])
        else:
            wanted = torch.nn.functional.one_hot(torch.where(seen, truth, 0), classes).movedim(-1, 0).float()
        weight = (1 - wanted[0] + 1e-8) * seen
        squares = squares + (weight * (each - 5 * (2 * wanted - 1)).square()).sum()
        total = total + weight.sum() * len(wanted)
    packed = reduce(torch.stack([squares, total]))
    return packed[0] / _some(packed[1])


def deep_supervision(
    heads: Sequence[Tensor], target: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the weighted mean of the losses of a network's heads, each deeper one counting half as much.

    Args:
        heads: Logits (B, K, x, y, z), the finest first; each on its own grid.
        target: Hard or soft, on the grid of the finest.
        loss: Of logits and target on one grid.

    Returns:
        Scalar.

    Source: F. Isensee et al., nnU-Net, Nature Methods 18:203 (2021).
    """
    total = torch.zeros((), device=target.device)
    for depth, logits in enumerate(heads):
        total = total + 0.5**depth * loss(logits, _on_grid(target, logits.shape[2:]))
    return total / sum(0.5**depth for depth in range(len(heads)))


def _on_grid(target: Tensor, shape: torch.Size) -> Tensor:
    if target.shape[-3:] == shape:
        return target
    if target.is_floating_point():
        seen = (target.sum(1, keepdim=True) > 0).to(target.dtype)
        small = torch.nn.functional.adaptive_avg_pool3d(target, (shape[0], shape[1], shape[2]))
        if bool(seen.all()):
            return small
        share = torch.nn.functional.adaptive_avg_pool3d(seen, (shape[0], shape[1], shape[2]))
        return torch.where(share >= 0.5, small / share.clamp(min=0.5), 0)
    small = torch.nn.functional.interpolate(target[:, None].float(), shape, mode="nearest")
    return small[:, 0].to(target.dtype)
