"""Changes of grey values: percentiles clipped and scaled, gamma, histograms equalised and shifted."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anystroke.corruption.limits import check_within

_SAMPLES = 1 << 20


def percentiles(image: Tensor, *, lower: float, upper: float, nonzero: bool = False) -> tuple[float, float]:
    """Return two percentiles of the voxels of an image.

    An image of more than two million voxels is read at regular distances, which moves the rank of a result
    by about 0.01 %; 0 and 100 are always those of all voxels.

    Args:
        image: Any shape; must be finite and not constant.
        lower: The lower percentile, 0 to 100.
        upper: The upper one, above the lower.
        nonzero: Look at voxels other than zero alone, unless all are zero.

    Raises:
        ValueError: If the image is not finite or is constant, or the percentiles do not increase.
    """
    check_within("a lower percentile", lower, 0.0, 100.0)
    check_within("an upper percentile", upper, 0.0, 100.0)
    if not lower < upper:
        raise ValueError(f"expected percentiles that increase, got {lower} and {upper}")
    smallest, largest = _range(image)
    values = image.detach().reshape(-1)
    values = values[:: _step(image)].to(torch.promote_types(image.dtype, torch.float32))
    if nonzero:
        values = values[values != 0]
        if not len(values):
            raise ValueError("expected voxels other than zero, but none of those looked at is")
        if lower == 0 or upper == 100:
            kept = image[image != 0].aminmax()
            smallest, largest = float(kept.min), float(kept.max)
    low = smallest if lower == 0 else _percentile(values, lower)
    high = largest if upper == 100 else _percentile(values, upper)
    return low, high


def scale_to_percentiles(
    image: Tensor,
    *,
    lower: float = 1.0,
    upper: float = 99.0,
    clip: bool = True,
    nonzero: bool = False,
) -> Tensor:
    """Take one percentile to 0 and another to 1.

    Args:
        image: Any shape; must be finite and not constant.
        lower: The percentile that becomes 0, 0 to 100.
        upper: The percentile that becomes 1.
        clip: Cut values off at 0 and 1; without it an image may leave that range on both sides.
        nonzero: Take the percentiles of voxels other than zero alone.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: If the image is not finite or is constant, if the percentiles do not increase, or if they
            have the same value.

    Example:
        >>> scale_to_percentiles(torch.arange(101.0), lower=25, upper=75)[[0, 50, 100]]
        tensor([0.0000, 0.5000, 1.0000])
    """
    low, high = percentiles(image, lower=lower, upper=upper, nonzero=nonzero)
    if not high > low:
        raise ValueError(
            f"expected percentiles {lower} and {upper} of different value, but both are {low:g}; "
            "widen them or look at nonzero voxels alone"
        )
    scaled = (image - low).mul_(1 / (high - low))
    return scaled.clamp_(0, 1) if clip else scaled


def gamma(image: Tensor, *, exponent: float) -> Tensor:
    """Raise grey values to a power between the smallest and the largest, which stay what they are.

    Args:
        image: Any shape; must be finite and not constant.
        exponent: Above 0; below 1 brightens the middle, above 1 darkens it.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: If the exponent is not positive, or the image is not finite or is constant.
    """
    if not 0 < exponent < math.inf:
        raise ValueError(f"expected an exponent above 0, got {exponent}")
    low, high = _range(image)
    if exponent == 1:
        return image.clone()
    # Logarithms of zero are slow, and so is a general power. Down to this exponent the power of the smallest
    # normal number is as good as zero.
    floor = torch.finfo(image.dtype).tiny if exponent >= 0.25 else 0.0
    scaled = (image - low).mul_(1 / (high - low)).clamp_(floor, 1)
    return scaled.log2_().mul_(exponent).exp2_().mul_(high - low).add_(low)


def equalise_values(image: Tensor, *, bins: int = 256) -> Tensor:
    """Give every grey value the rank that it has among the voxels.

    The ranks at the middles of equally wide bins are interpolated linearly in between.

    Args:
        image: Any shape; must be finite and not constant.
        bins: Number of bins from the smallest to the largest value, at least 2.

    Returns:
        A new tensor of the same shape, from 0 (the first bin) to 1 (the last).

    Raises:
        ValueError: If the image is not finite or is constant, or there are fewer than 2 bins.

    Example:
        >>> equalise_values(torch.tensor([0.0, 1.0, 2.0, 8.0]), bins=8)
        tensor([0.0000, 0.1667, 0.5000, 1.0000])
    """
    if bins < 2:
        raise ValueError(f"expected at least 2 bins, got {bins}")
    low, high = _range(image)
    ranks = torch.histc(image.detach().float(), bins, low, high).double().cumsum(0)
    ranks = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
    position = (image - low).mul_(bins / (high - low)).sub_(0.5)
    return _interpolate(position, ranks.to(image))


def shift_histogram(image: Tensor, levels: Sequence[float]) -> Tensor:
    """Map grey values by straight lines between points at equal distances.

    Args:
        image: Any shape; must be finite and not constant.
        levels: New values at equal steps from the smallest value of the image to the largest, as shares of
            this range; at least 2. ``(0, 0.5, 1)`` changes nothing.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: If the image is not finite or is constant, or there are fewer than 2 levels.

    Example:
        >>> shift_histogram(torch.tensor([0.0, 5.0, 10.0]), (0.0, 0.8, 1.0))
        tensor([ 0.,  8., 10.])
    """
    if len(levels) < 2:
        raise ValueError(f"expected at least 2 levels, got {len(levels)}")
    low, high = _range(image)
    position = (image - low).mul_((len(levels) - 1) / (high - low))
    return _interpolate(position, torch.tensor(levels).to(image)).mul_(high - low).add_(low)


def _interpolate(position: Tensor, values: Tensor) -> Tensor:
    """Interpolate a list of values linearly at positions counted in its steps, held at both ends."""
    position = position.clamp_(0, len(values) - 1)
    lower = position.long().clamp_(max=len(values) - 2)
    return torch.lerp(values[lower], values[lower + 1], position.sub_(lower))


def _range(image: Tensor) -> tuple[float, float]:
    smallest, largest = (float(value) for value in image.detach().aminmax())
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise ValueError(f"expected finite grey values, but they range from {smallest} to {largest}")
    if smallest == largest:
        raise ValueError(f"expected an image with contrast, but every voxel is {smallest:g}")
    return smallest, largest


def _step(image: Tensor) -> int:
    """Return how far apart the voxels that are looked at lie; it divides no axis, so no plane is favoured."""
    step = image.numel() // _SAMPLES
    while step > 1 and any(math.gcd(step, n) > 1 for n in image.shape):
        step -= 1
    return max(step, 1)


def _percentile(values: Tensor, percentile: float) -> float:
    rank = percentile / 100 * (len(values) - 1)
    lower = min(int(rank), max(len(values) - 2, 0))
    below = float(values.kthvalue(lower + 1).values)
    if rank == lower:
        return below
    above = float(values.kthvalue(lower + 2).values)
    return below + (rank - lower) * (above - below)
