"""What denoising minimises: the mean squared error of the noise."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import mse_loss


def noise_loss(heads: Sequence[Tensor], noise: Tensor) -> Tensor:
    """Return the mean squared error of the noise that the finest head finds.

    Args:
        heads: (B, 1, ...), the finest first.
        noise: (B, 1, X, Y, Z).
    """
    return mse_loss(heads[0].to(noise.dtype), noise)
