"""How far a network looks: the gradient of the voxel in the middle of what it puts out.

Source: W. Luo et al., Understanding the effective receptive field in deep convolutional neural networks,
NeurIPS 2016.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from anystroke.core.fields import GridShape


def centre_gradient(
    layer: Callable[[Tensor], Tensor], shape: GridShape, *, images: int = 4, rng: torch.Generator
) -> Tensor:
    """Return how much each voxel of an image changes the features in the middle, on average.

    Args:
        layer: (B, 1, X, Y, Z) to features (B, C, x, y, z) of any grid.
        shape: Voxels of the image.
        images: Random ones, of independent normal voxels, that the gradient's magnitude is averaged over.
        rng: Random stream.

    Returns:
        (X, Y, Z) that sums to 1.

    Raises:
        ValueError: The features in the middle depend on no voxel.

    Example:
        >>> from anystroke.core.rng import stream
        >>> field = centre_gradient(torch.nn.Conv3d(1, 2, 3, padding=1), (9, 9, 9), rng=stream(1, "field"))
        >>> field_width(field, 1.0)
        3
    """
    total = torch.zeros(shape)
    for _ in range(images):
        image = torch.randn((1, 1, *shape), generator=rng).requires_grad_()
        features = layer(image)
        x, y, z = (n // 2 for n in features.shape[2:])
        # Channels by random signs, so that none cancels another in each draw.
        signs = torch.randint(0, 2, (features.shape[1],), generator=rng) * 2.0 - 1
        [gradient] = torch.autograd.grad((features[0, :, x, y, z] * signs).sum(), [image])
        total += gradient[0, 0].abs()
    amount = float(total.sum())
    if not amount > 0:
        raise ValueError("expected features that depend on the image, but their gradient is zero everywhere")
    return total / amount


def field_width(gradient: Tensor, share: float = 0.95) -> int:
    """Return the side of the smallest cube around the heaviest place that holds a share of a gradient.

    Args:
        gradient: (X, Y, Z) of `centre_gradient`.
        share: How much of it; 1 gives the whole extent.

    Returns:
        An odd number of voxels.
    """
    axes = [gradient.sum(dim=[d for d in range(3) if d != axis]) for axis in range(3)]
    middle = [round(float((torch.arange(len(axis)) * axis).sum() / axis.sum())) for axis in axes]
    whole = float(gradient.double().sum())
    for radius in range(max(gradient.shape)):
        x, y, z = (slice(max(m - radius, 0), m + radius + 1) for m in middle)
        if float(gradient[x, y, z].double().sum()) >= share * whole * (1 - 1e-9):
            return 2 * radius + 1
    return 2 * max(gradient.shape) + 1
