"""Thermal noise of magnitude images."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from anystroke.core.compiled import compiled
from anystroke.core.fields import GridShape, smooth_noise
from anystroke.core.rng import integer
from anystroke.core.threads import in_threads
from anystroke.corruption.limits import check_same_shape, check_within

# Torch starts threads of its own for 32768 numbers; a block stays below, and in the cache.
_BLOCK = 32704
_STREAM = 16 * _BLOCK

FillUniform = Callable[[Tensor], None]


def noise_sd(signal: Tensor, reference: Tensor, *, snr: float) -> float:
    """Return the noise that gives a region a stated signal-to-noise ratio.

    The ratio is the mean noise-free signal of the region over the standard deviation of the noise in one
    (real or imaginary) channel.

    Args:
        signal: Noise-free signal, any shape.
        reference: Same shape; a mask or the weights of the region, such as white matter.
        snr: The ratio, above zero.

    Returns:
        Standard deviation in units of the signal.

    Raises:
        ValueError: If the region is empty, its signal is not positive, or the ratio is not.

    Example:
        >>> noise_sd(torch.full((2, 2, 2), 50.0), torch.ones(2, 2, 2), snr=25.0)
        2.0
    """
    check_same_shape("a reference", reference, signal.shape)
    if not snr > 0:
        raise ValueError(f"expected a signal-to-noise ratio above 0, got {snr}")
    weights = reference.to(signal.dtype)
    weight = float(weights.sum())
    if not weight > 0:
        raise ValueError(f"expected a reference region with voxels in it, but its weights sum to {weight:g}")
    level = float(torch.dot(signal.reshape(-1), weights.reshape(-1))) / weight
    if not 0 < level < math.inf:
        raise ValueError(f"expected a reference region of positive mean signal, but it is {level:g}")
    return level / snr


def g_factor_map(
    shape: GridShape, *, peak: float, control_points: GridShape = (5, 5, 5), rng: torch.Generator
) -> Tensor:
    """Draw how much parallel imaging amplifies noise, place by place.

    Args:
        shape: Grid.
        peak: Largest amplification, at least 1; the smallest is 1.
        control_points: Of the smooth field, per axis, each at least 4.
        rng: Random stream.

    Returns:
        (X, Y, Z), from 1 to ``peak``.

    Raises:
        ValueError: If the peak is below 1.
    """
    check_within("a peak g-factor", peak, 1.0, 1e3)
    field = smooth_noise(shape, control_points, rng=rng)[0]
    low, high = field.aminmax()
    field -= low
    return field.mul_((peak - 1) / float((high - low).clamp(min=1e-12))).add_(1)


def rician(signal: Tensor, *, sd: float, g_factor: Tensor | None = None, rng: torch.Generator) -> Tensor:
    """Return the magnitude of a real signal in complex Gaussian noise.

    Args:
        signal: Any shape; the noise-free real signal.
        sd: Standard deviation of the noise in each of the two channels, in units of the signal.
        g_factor: Local amplification of the noise, same shape as the signal.
        rng: Random stream on the signal's device.

    Returns:
        sqrt((signal + n1)^2 + n2^2), same shape.

    Raises:
        ValueError: If ``sd`` is negative.

    Source: H. Gudbjartsson and S. Patz, Magn Reson Med 34:910 (1995).
    """
    return non_central_chi(signal, sd=sd, channels=1, g_factor=g_factor, rng=rng)


def non_central_chi(
    signal: Tensor, *, sd: float, channels: int, g_factor: Tensor | None = None, rng: torch.Generator
) -> Tensor:
    """Return the root sum of squares of the noisy images of several receive channels.

    The channels' noise is independent and of equal size, and the root sum of squares of their noise-free
    signals is ``signal``. The result over ``sd`` then follows a non-central chi distribution with
    ``2 * channels`` degrees of freedom and non-centrality ``signal / sd``. It carries no gradient.

    Args:
        signal: Any shape; the noise-free real signal.
        sd: Standard deviation of the noise in the real and the imaginary part of each channel.
        channels: Number of receive channels; 1 is Rician noise.
        g_factor: Local amplification of the noise, same shape as the signal.
        rng: Random stream on the signal's device; one number is taken from it.

    Returns:
        Magnitude image, same shape and dtype.

    Raises:
        ValueError: If ``sd`` is negative or there is no channel.

    Source: C. D. Constantinides, E. Atalar and E. R. McVeigh, Magn Reson Med 38:852 (1997).
    """
    if not 0 <= sd < math.inf:
        raise ValueError(f"the noise SD must be zero or more, but it is {sd}")
    if channels < 1:
        raise ValueError(f"expected at least 1 receive channel, got {channels}")
    if g_factor is not None:
        check_same_shape("a g-factor map", g_factor, signal.shape)
        g_factor = g_factor.contiguous()
    key = integer(rng, 0, 2**62)
    if sd == 0:
        return signal.abs()
    work = signal.detach().to(torch.promote_types(signal.dtype, torch.float32)).contiguous()
    out = torch.empty_like(work)
    scale = None if g_factor is None else g_factor.reshape(-1)
    _add_noise(out.view(-1), work.view(-1), scale, sd, channels, key)
    return out.to(signal.dtype)


def _add_noise(out: Tensor, signal: Tensor, scale: Tensor | None, sd: float, channels: int, key: int) -> None:
    """Fill ``out``; on a CPU each stretch of voxels has a stream of its own, so threads change nothing."""
    if not compiled(out.device):
        device_rng = torch.Generator(out.device)
        device_rng.manual_seed(key)
        _fill(out, signal, scale, sd, channels, _device_uniform(device_rng))
        return

    def stretch(index: int) -> None:
        first, last = index * _STREAM, min((index + 1) * _STREAM, len(out))
        fill = _cpu_uniform(np.random.PCG64DXSM([key, index]))
        for start in range(first, last, _BLOCK):
            part = slice(start, min(start + _BLOCK, last))
            local = None if scale is None else scale[part]
            _fill(out[part], signal[part], local, sd, channels, fill)

    in_threads(stretch, range(-(-out.numel() // _STREAM)))


def _cpu_uniform(source: np.random.PCG64DXSM) -> FillUniform:
    def fill(values: Tensor) -> None:
        words = source.random_raw((values.numel() + 1) // 2).view(np.int32)[: values.numel()]
        # Zero never occurs, and small numbers have 31 bits: the tail of the noise reaches 6.6 SD.
        values.copy_(torch.from_numpy(words).view_as(values)).abs_().add_(0.5).mul_(2.0**-31)

    return fill


def _device_uniform(rng: torch.Generator) -> FillUniform:
    def fill(values: Tensor) -> None:
        values.uniform_(generator=rng).neg_().add_(1)

    return fill


def _fill(
    out: Tensor, signal: Tensor, scale: Tensor | None, sd: float, channels: int, uniform: FillUniform
) -> None:
    """Write the noisy magnitude of a one-dimensional piece.

    With the signal in one channel's real part, its noise has radius r = sd sqrt(-2 ln u) and phase p, and the
    other channels add the squares of 2 (channels - 1) Gaussians, which are -2 sd^2 times the logarithm of a
    product of uniform numbers: magnitude^2 = signal^2 + 2 signal r cos(p) + r^2 + the others.
    """
    draws = torch.empty((2, *out.shape), dtype=out.dtype, device=out.device)
    uniform(draws)
    square = draws[0].log_().mul_(-2 * sd**2)
    cosine = draws[1].mul_(math.pi).cos_()
    torch.sqrt(square, out=out)
    out.mul_(cosine)
    if channels > 1:
        square += _other_channels(cosine, sd, channels - 1, uniform)
    if scale is not None:
        out.mul_(scale)
        square.mul_(scale).mul_(scale)
    torch.add(signal, out, alpha=2, out=out)
    square.addcmul_(out, signal).clamp_(min=0)
    torch.sqrt(square, out=out)


def _other_channels(buffer: Tensor, sd: float, channels: int, uniform: FillUniform) -> Tensor:
    total, product = torch.zeros_like(buffer), torch.ones_like(buffer)
    for index in range(channels):
        uniform(buffer)
        product.mul_(buffer)
        # A product of three, each at least 2^-32, is still a normal number.
        if index % 3 == 2 or index == channels - 1:
            total += product.log_()
            product.fill_(1)
    return total.mul_(-2 * sd**2)
