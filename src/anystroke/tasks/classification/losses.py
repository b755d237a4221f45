"""What classifiers minimise: cross-entropy."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy


def class_loss(heads: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the cross-entropy of one batch.

    Args:
        heads: Logits (B, K), alone.
        target: (B, K), 1 for the class of each.
    """
    return cross_entropy(heads[0].to(target.dtype), target)
