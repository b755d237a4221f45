"""How large the lesion may be: an interval around the volume of the mask.

The errors of neighbouring voxels are not independent: a scan on which the network is too cautious is one on
which it is too cautious everywhere. So the log-odds of all voxels are shifted together, down and up by one
amount, and the volumes of the two masks are the ends. The amount is the one that covers the true volume of
90 % of simulated patients (benchmarks/volume_interval.py, which reports the coverage on patients that it was
not chosen on).
"""

import math
from dataclasses import dataclass

from anystroke.volume import Volume

RATE = 0.9
"""Share of patients whose true volume the interval is to hold."""
SHIFT = 2.5
"""Log-odds by which the threshold is moved to either side."""
FLOOR = 0.5
"""Volume [ml] that is added at either end: the smallest lesion that can be told."""


@dataclass(frozen=True)
class VolumeInterval:
    """Ends of the interval.

    Attributes:
        low: [ml].
        high: [ml].
        rate: Share of patients whose true volume it is to hold.
    """

    low: float
    high: float
    rate: float = RATE


NO_VOLUME = VolumeInterval(0.0, 0.0)


def volume_interval(
    probability: Volume, threshold: float, *, shift: float = SHIFT, floor: float = FLOOR
) -> VolumeInterval:
    """Compute the interval from a probability map.

    Args:
        probability: Lesion probability.
        threshold: Of the mask.
        shift: Log-odds by which it is moved.
        floor: Added at either end [ml]; the lower end is never below zero.

    Returns:
        The interval; it holds the volume of all voxels that reach the threshold.

    Example:
        >>> import torch
        >>> volume = Volume(torch.full((1, 10, 10, 10), 0.6), torch.eye(4))
        >>> volume_interval(volume, 0.5, floor=0.0)
        VolumeInterval(low=0.0, high=1.0, rate=0.9)
    """
    odds = math.log(threshold / (1 - threshold))
    low, high = (
        float((probability.data >= 1 / (1 + math.exp(-(odds + move)))).sum()) * probability.voxel_volume
        for move in (shift, -shift)
    )
    return VolumeInterval(max(low - floor, 0.0), high + floor)
