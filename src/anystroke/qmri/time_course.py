"""How the tissue of an infarct changes with its age, from minutes to four weeks.

Every change is relative to the tissue underneath and linear in time between the ages of ``_COURSE``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from anystroke.core.rng import normal
from anystroke.qmri.tissue_priors import MAPS, PriorError, TissueDraw

LAST_HOUR = 672.0
"""Four weeks, in hours: later a lesion has a cavity and a rim, which are tissues of their own."""

_PD, _R1, _R2, _R2STAR, _MT, _ADC = range(len(MAPS))
_EARLY_HOURS = 9.0
_USUAL_ADC_MINIMUM = 0.65

# Age [h] -> factor. T2 after the first 9 h is a gain [s] on top of that of the first 9 h. Sources in the
# docstring of `InfarctCourse`.
_COURSE: dict[str, tuple[tuple[float, float], ...]] = {
    "proton_density": ((0, 1.0), (6, 1.03), (36, 1.1), (204, 1.13)),
    "r1": ((0, 1.0), (3, 0.95), (24, 0.85), (168, 0.78)),
    "late_t2": ((9, 0.0), (36, 9e-3), (204, 37e-3)),
    "r2prime": ((0, 1.0), (36, 0.8), (204, 0.73)),
    "mt_saturation": ((0, 1.0), (6, 0.85), (36, 0.64), (204, 0.53)),
    "adc": ((0, 1.0), (0.5, 0.8), (3, 0.74), (6, 0.65), (48, 0.65), (120, 0.77), (240, 1.0), (672, 1.07)),
}


@dataclass(frozen=True, kw_only=True)
class InfarctCourse:
    """One infarct's way through time.

    T2 grows by ``t2_rate`` for 9 h and more slowly until day 8. ADC falls to ``adc_minimum`` times the
    tissue's between 6 and 48 h, passes through the tissue's in week 2 and ends above it. R1 falls to 0.95 of
    the tissue's in the first hours, 0.85 in the first days, 0.78 after a week.

    Attributes:
        t2_rate: Growth of T2 in the first 9 h, s per h.
        adc_minimum: Lowest ratio of ADC to that of the tissue; about 0.5 in the core.

    Raises:
        PriorError: If the rate is negative or the minimum not in (0, 1].

    Source:
        T2: Damion et al. (2019), 1.94 +- 0.61 ms/h. ADC: Nagesh et al. (1998), ratio 0.74 below 10 h;
        Lansberg et al. (2001), pseudonormal in week 2. R1, PD, MT, R2* and everything after the first 9 h of
        T2 are engineering estimates that agree with the rows of acute and subacute infarct in the table.

    Example:
        >>> round(InfarctCourse().adc_ratio(24.0), 3), round(1e3 * InfarctCourse().t2_gain(5.0), 3)
        (0.65, 9.7)
    """

    t2_rate: float = 1.94e-3
    adc_minimum: float = _USUAL_ADC_MINIMUM

    def __post_init__(self) -> None:
        if not (math.isfinite(self.t2_rate) and self.t2_rate >= 0.0):
            raise PriorError(f"t2_rate must be finite and at least 0 s/h, got {self.t2_rate!r}")
        if not 0.0 < self.adc_minimum <= 1.0:
            raise PriorError(f"adc_minimum is a ratio above 0 and at most 1, got {self.adc_minimum!r}")

    @classmethod
    def sample(cls, rng: torch.Generator) -> "InfarctCourse":
        """Draw a course.

        The T2 rate is N(1.94, 0.61) ms/h, reflected at 0; the ADC minimum N(0.65, 0.08), reflected at 1.

        Args:
            rng: The random stream.

        Example:
            >>> from anystroke.core.rng import stream
            >>> 0 < InfarctCourse.sample(stream(1)).adc_minimum <= 1
            True
        """
        rate = abs(normal(rng, 1.94e-3, 0.61e-3))
        minimum = abs(normal(rng, _USUAL_ADC_MINIMUM, 0.08))
        return cls(t2_rate=rate, adc_minimum=min(minimum, max(2.0 - minimum, 0.5)))

    def t2_gain(self, hours: float) -> float:
        """Give the gain of T2 over the tissue underneath [s] at an age in hours."""
        _check_hours(hours)
        return self.t2_rate * min(hours, _EARLY_HOURS) + _interpolate("late_t2", hours)

    def adc_ratio(self, hours: float) -> float:
        """Give the ratio of ADC to that of the tissue underneath at an age in hours."""
        _check_hours(hours)
        ratio = _interpolate("adc", hours)
        if ratio >= 1.0:
            return ratio
        return 1.0 - (1.0 - ratio) * (1.0 - self.adc_minimum) / (1.0 - _USUAL_ADC_MINIMUM)

    def apply(self, tissue: Tensor, hours: float) -> Tensor:
        """Give the properties that tissue has at an age of its infarct.

        Args:
            tissue: (..., 6), healthy properties in the order and units of ``MAPS``; R2 positive, R2* at least
                R2.
            hours: Age of the infarct, 0 to ``LAST_HOUR``.

        Returns:
            (..., 6), R2* at least R2.

        Raises:
            PriorError: If the age is outside the course, or the tissue has no R2.

        Example:
            >>> white = torch.tensor([69.0, 0.98, 14.0, 20.5, 1.6, 0.7e-3])
            >>> [round(x, 3) for x in InfarctCourse().apply(white, 9.0)[:3].tolist()]
            [71.553, 0.903, 11.25]
        """
        _check_hours(hours)
        if not bool((tissue[..., _R2] > 0).all()):
            raise PriorError("an infarct needs tissue with an R2 above 0; air and the like have none")
        result = tissue.clone()
        result[..., _PD] *= _interpolate("proton_density", hours)
        result[..., _R1] *= _interpolate("r1", hours)
        result[..., _R2] = tissue[..., _R2] / (1.0 + tissue[..., _R2] * self.t2_gain(hours))
        prime = (tissue[..., _R2STAR] - tissue[..., _R2]) * _interpolate("r2prime", hours)
        result[..., _R2STAR] = result[..., _R2] + prime
        result[..., _MT] *= _interpolate("mt_saturation", hours)
        result[..., _ADC] *= self.adc_ratio(hours)
        return result


def with_infarct(
    draw: TissueDraw,
    hours: float,
    *,
    course: InfarctCourse | None = None,
    tissues: Sequence[str] = ("cortical_grey_matter", "white_matter"),
    name: str = "acute_infarct",
) -> TissueDraw:
    """Give a subject an infarct of a stated age, made of the subject's own tissue.

    Args:
        draw: The subject's tissues.
        hours: Age of the infarct, 0 to ``LAST_HOUR``.
        course: Its way through time; the mean one if None.
        tissues: The tissues it took, in equal parts. The SD within them changes in proportion to the mean.
        name: Row of the infarct: replaced where the draw has it, else added at the end.

    Returns:
        A new draw; ``draw`` stays as it is.

    Raises:
        PriorError: If the age is outside the course, or the draw lacks one of the tissues.

    Example:
        >>> from anystroke.qmri.tissue_priors import load_table
        >>> from anystroke.core.rng import stream
        >>> draw = load_table().sample(stream(1), ["cortical_grey_matter", "white_matter"])
        >>> with_infarct(draw, 24.0).names
        ('cortical_grey_matter', 'white_matter', 'acute_infarct')
    """
    if not tissues or not set(tissues) <= set(draw.names):
        raise PriorError(
            f"expected one or more of the draw's tissues ({', '.join(draw.names)}) for the infarct, "
            f"got {list(tissues)}"
        )
    rows = [draw.names.index(tissue) for tissue in tissues]
    healthy = draw.mean[rows]
    infarct = (course or InfarctCourse()).apply(healthy, hours)
    ratio = infarct / healthy.where(healthy > 0, torch.ones_like(healthy))
    mean, sd = infarct.mean(0, keepdim=True), (draw.sd[rows] * ratio).mean(0, keepdim=True)
    if name not in draw.names:
        return replace(
            draw,
            names=(*draw.names, name),
            mean=torch.cat([draw.mean, mean]),
            sd=torch.cat([draw.sd, sd]),
        )
    row = draw.names.index(name)
    means, sds = draw.mean.clone(), draw.sd.clone()
    means[row], sds[row] = mean[0], sd[0]
    return replace(draw, mean=means, sd=sds)


def _check_hours(hours: float) -> None:
    if not 0.0 <= hours <= LAST_HOUR:
        raise PriorError(
            f"the course of an infarct runs from 0 to {LAST_HOUR:g} hours, got {hours!r}; "
            "older lesions are chronic_core and gliotic_rim"
        )


def _interpolate(name: str, hours: float) -> float:
    knots = _COURSE[name]
    if hours <= knots[0][0]:
        return knots[0][1]
    for (start, low), (end, high) in pairwise(knots):
        if hours <= end:
            return low + (high - low) * (hours - start) / (end - start)
    return knots[-1][1]
