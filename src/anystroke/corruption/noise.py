"""Thermal noise of magnitude images."""

import torch
from torch import Tensor


def rician(signal: Tensor, *, sd: float, rng: torch.Generator) -> Tensor:
    """Return the magnitude of a real signal in complex Gaussian noise.

    Args:
        signal: Any shape; the noise-free real signal.
        sd: Standard deviation of the noise in each of the two channels, in units of the signal.
        rng: Random stream on the signal's device.

    Returns:
        sqrt((signal + n1)^2 + n2^2), same shape.

    Raises:
        ValueError: If ``sd`` is negative.

    Source: H. Gudbjartsson and S. Patz, Magn Reson Med 34:910 (1995).
    """
    if sd < 0:
        raise ValueError(f"the noise SD must be zero or more, but it is {sd}")
    noise = torch.randn((2, *signal.shape), generator=rng, device=signal.device, dtype=signal.dtype) * sd
    return torch.hypot(signal + noise[0], noise[1])
