"""What tissue segmentations minimise: cross-entropy and Dice over the tissues."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from anystroke.learning.task import Reduce
from anystroke.tasks.segmentation.losses import LossSettings, deep_supervision, dice_cross_entropy


def tissue_loss(heads: Sequence[Tensor], target: Tensor, *, settings: LossSettings, reduce: Reduce) -> Tensor:
    """Return the loss of one batch.

    Args:
        heads: Logits (B, 4, ...), the finest first.
        target: (B, X, Y, Z) numbers, or (B, 4, X, Y, Z) shares.
        settings: What counts; its weights are those of four classes if there are any.
        reduce: Sums over the processes of a distributed run.
    """
    if not target.is_floating_point():
        target = target.long()
    one = partial(
        dice_cross_entropy,
        dice_weights=settings.weights(heads[0].shape[1]),
        cross_entropy_weights=settings.cross_entropy_weights,
        absent_classes=settings.absent_classes,
        reduce=reduce,
    )
    return deep_supervision(heads, target, one)
