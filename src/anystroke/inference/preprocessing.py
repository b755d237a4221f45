"""Bring a clinical scan to the space and the intensities that the network knows."""

import torch
from torch import Tensor

FOREGROUND = 0.1
"""Share of the intensity range above which a voxel counts as part of the head."""


def normalise_intensity(image: Tensor) -> Tensor:
    """Clip an image to its 0.5 to 99.5 percentile and give its foreground zero mean and unit SD.

    Percentiles are taken over voxels above the minimum; the foreground are voxels above a tenth of the clipped
    range. The result does not change when the image is scaled or shifted.

    Args:
        image: (..., X, Y, Z), float32, finite and not constant.

    Returns:
        Same shape.

    Raises:
        ValueError: If the image is constant.
    """
    lowest = image.min()
    values = image[image > lowest]
    if values.numel() == 0:
        raise ValueError(f"expected an image with contrast, but every voxel is {float(lowest):g}")
    if values.numel() > 500_000:
        values = values[:: values.numel() // 500_000 + 1]
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995], device=values.device))
    if high <= low:
        low, high = lowest, image.max()
    scaled = ((image - low) / (high - low)).clamp_(0, 1)
    inside = scaled[scaled > FOREGROUND]
    return (scaled - inside.mean()) / inside.std().clamp(min=1e-3)
