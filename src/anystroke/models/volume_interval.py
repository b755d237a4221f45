"""How large the lesion may be: an interval around the mask's volume, or that of what is suspected.

A split conformal interval (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, with
categories by that volume and by how sure the mask is): simulated patients tell how far true volumes lie from
it, and the quantiles of that distance are the ends. It holds the true volume of patients that are drawn as
those were at its stated rate, however good or bad the network is; other patients may be unlike them.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import Field, model_validator

from anystroke.core.config import StrictModel
from anystroke.core.volume import Volume

RATE = 0.9
"""Share of patients whose true volume the interval is to hold."""
SMALLEST_PROBABILITY = 0.05
"""Less probable voxels add nothing to the expected volume, however large the field of view."""
FEWEST = 40
"""Patients, or lesions, that are needed to measure errors."""
_STEADY = 75
"""Masks as sure, or not, that make the quantiles of a range steady: no extremes at the usual rate."""


class VolumeErrors(StrictModel):
    """How far the true volumes of simulated patients, or of single lesions, were from the central ones.

    Attributes:
        rate: Share of them between ``low`` and ``high``.
        edges: Central volumes [ml], see `central_volume`, that divide them into ranges, ascending.
        low: For each range, the lower quantile of ``log((true + 1 ml) / (central + 1 ml))``.
        high: The upper one.
        patients: How many there were.
        sure: For each range, the sureness from which masks count as sure, see `sureness`; ``low`` and
            ``high`` are of the others then. Empty if masks are not told apart.
        sure_low: As ``low``, of sure masks.
        sure_high: As ``high``, of sure masks.
    """

    rate: float = Field(gt=0, lt=1)
    edges: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    patients: int = Field(gt=0)
    sure: tuple[float, ...] = ()
    sure_low: tuple[float, ...] = ()
    sure_high: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> "VolumeErrors":
        ranges = len(self.edges) + 1
        if len(self.low) != ranges or len(self.high) != ranges or list(self.edges) != sorted(self.edges):
            raise ValueError(
                f"expected ascending edges and {ranges} quantiles, got {len(self.low)} and {len(self.high)}"
            )
        lengths = [len(each) for each in (self.sure, self.sure_low, self.sure_high)]
        if lengths not in ([0] * 3, [ranges] * 3):
            raise ValueError(f"expected {ranges} numbers for sure masks, or none, got {lengths}")
        return self


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


def expected_volume(probability: Volume) -> float:
    """Sum up the probabilities of a map: the volume [ml] that is expected if they are right.

    Example:
        >>> import torch
        >>> expected_volume(Volume(torch.full((1, 10, 10, 10), 0.5), torch.eye(4)))
        0.5
    """
    values = probability.data
    return float(values[values >= SMALLEST_PROBABILITY].double().sum()) * probability.voxel_volume


def central_volume(mask_volume: float, probability: Volume) -> float:
    """Return the volume [ml] that errors are measured from: the mask's, or if it is empty, the expected one.

    Args:
        mask_volume: [ml], of the mask at the model's own threshold.
        probability: Of lesion.
    """
    return mask_volume if mask_volume > 0 else expected_volume(probability)


def sureness(mask: Volume, probability: Volume) -> float:
    """Return how sure a mask is: the mean probability of its voxels, 0 if it is empty.

    Args:
        mask: Not zero in lesions.
        probability: Of lesion, on the grid of ``mask``.

    Example:
        >>> import torch
        >>> half = Volume(torch.full((1, 4, 4, 4), 0.5), torch.eye(4))
        >>> sureness(half, half)
        0.5
    """
    marked = mask.data > 0
    return float(probability.data[marked].double().mean()) if bool(marked.any()) else 0.0


def volume_interval(
    central: float, mask_volume: float, errors: VolumeErrors, sureness: float = 0.0
) -> VolumeInterval:
    """Compute the interval of a volume.

    Args:
        central: See `central_volume` [ml].
        mask_volume: Volume of the mask [ml]; the interval holds it too.
        errors: Of the model.
        sureness: Of the mask at the model's own threshold, see `sureness`.

    Example:
        >>> errors = VolumeErrors(rate=0.9, edges=(), low=(-0.5,), high=(0.5,), patients=100)
        >>> found = volume_interval(9.0, 10.0, errors)
        >>> round(found.low, 2), round(found.high, 2)
        (5.07, 15.49)
    """
    i = bisect.bisect_right(errors.edges, central)
    is_sure = bool(errors.sure) and sureness >= errors.sure[i]
    shifts = (errors.sure_low[i], errors.sure_high[i]) if is_sure else (errors.low[i], errors.high[i])
    low, high = ((central + 1) * math.exp(shift) - 1 for shift in shifts)
    return VolumeInterval(max(min(low, mask_volume), 0.0), max(high, mask_volume), errors.rate)


def fit_volume_errors(
    central: Sequence[float],
    true: Sequence[float],
    sureness: Sequence[float] | None = None,
    *,
    rate: float = RATE,
    ranges: int = 4,
) -> VolumeErrors:
    """Measure the errors of patients whose true volume is known.

    Args:
        central: Central volume of each [ml].
        true: True volume of each [ml].
        sureness: Of each mask, see `sureness`; masks that are as sure as the median of their range, or more,
            have errors of their own. None: they are not told apart.
        rate: Share of patients that the intervals are to hold.
        ranges: Ranges of the central volume, with as many patients each; fewer if each would hold fewer
            than 40, or with ``sureness`` fewer than 150.

    Raises:
        ValueError: The sequences differ in length, or there are fewer than 40 patients.

    Example:
        >>> fit_volume_errors([9.0] * 40, [9.0] * 20 + [19.0] * 20, ranges=1).high
        (0.693147,)
    """
    if len(central) != len(true) or len(central) < FEWEST:
        raise ValueError(
            f"expected a true volume for each of at least {FEWEST} patients, got {len(central)} central "
            f"and {len(true)} true volumes"
        )
    ranges = max(1, min(ranges, len(central) // (FEWEST if sureness is None else 2 * _STEADY)))
    ordered = sorted(central)
    wanted = sorted({round(ordered[len(ordered) * i // ranges], 4) for i in range(1, ranges)})
    edges = [
        edge
        for below, edge in pairwise([-math.inf, *wanted])
        if edge <= ordered[-1] and any(below <= e < edge for e in ordered)
    ]
    by_range: list[list[tuple[float, float]]] = [[] for _ in range(len(edges) + 1)]
    for e, t, s in zip(central, true, sureness or [0.0] * len(central), strict=True):
        by_range[bisect.bisect_right(edges, e)].append((s, math.log((t + 1) / (e + 1))))
    sure: list[float] = []
    sure_ends: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    for each in by_range:
        below = [shift for _, shift in each]
        if sureness is not None:
            sure.append(round(sorted(s for s, _ in each)[len(each) // 2], 4))
            above = [shift for s, shift in each if s >= sure[-1]]
            sure_ends.append(_ends(above, rate))
            below = [shift for s, shift in each if s < sure[-1]] or above
        ends.append(_ends(below, rate))
    return VolumeErrors(
        rate=rate,
        edges=tuple(edges),
        low=tuple(low for low, _ in ends),
        high=tuple(high for _, high in ends),
        patients=len(central),
        sure=tuple(sure),
        sure_low=tuple(low for low, _ in sure_ends),
        sure_high=tuple(high for _, high in sure_ends),
    )


def _ends(shifts: Sequence[float], rate: float) -> tuple[float, float]:
    """Return the k-th of n values from either end, which leaves the next one out with k / (n + 1)."""
    ordered = sorted(shifts)
    k = math.floor((1 - rate) / 2 * (len(ordered) + 1))
    return (
        round(ordered[max(k - 1, 0)], 6),
        round(ordered[min(len(ordered) - k, len(ordered) - 1)], 6),
    )
