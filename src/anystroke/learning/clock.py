"""Training by the clock: how much of its time is left, and when to stop to have everything written."""

import math
import time
from collections.abc import Callable

LEAVING = 4.0
"""Seconds that worker processes and the interpreter take to end (engineering estimate)."""

_SAFETY = 1.5
_UNKNOWN_SAVING = 0.05
_RECENT = 20


class Clock:
    """The time that one call of a training has.

    It runs from the call on: reading data and starting worker processes count. Training begins with the first
    batch, and ends early enough for a last step, and for writing everything, to fit in: 1.5 times as long as
    that took before, a twentieth of the time until it is known, and ``LEAVING``.

    Args:
        seconds: From the call to its end [s].
        now: A clock that never goes back [s].
        started: What it showed at the call; by default now.

    Example:
        >>> shown = iter([0.0, 10.0, 10.0, 50.0])
        >>> clock = Clock(100.0, now=lambda: next(shown))
        >>> clock.begin()
        >>> clock.saved(4.0)
        >>> clock.look()
        >>> clock.look()
        >>> round(clock.left, 2), clock.over
        (0.5, False)
    """

    def __init__(
        self, seconds: float, *, now: Callable[[], float] = time.monotonic, started: float | None = None
    ) -> None:
        self.seconds = seconds
        self._now = now
        self.started = now() if started is None else started
        self.left = 1.0
        self.over = False
        self._began: float | None = None
        self._saving: float | None = None
        self._validation = seconds / 8
        self._validated = False
        self._steps: tuple[float, ...] = ()

    @property
    def elapsed(self) -> float:
        """Seconds since the call."""
        return self._now() - self.started

    @property
    def margin(self) -> float:
        """Seconds that are kept for writing what a run leaves."""
        if self._saving is None:
            return _UNKNOWN_SAVING * self.seconds + LEAVING
        return _SAFETY * self._saving + LEAVING

    @property
    def can_save(self) -> bool:
        """Whether writing everything once more would leave the margin for the end."""
        return self.elapsed + (self._saving or 0.0) < self.seconds - self.margin

    def begin(self) -> None:
        """Let the time of training begin, unless it has begun."""
        if self._began is None:
            self._began = self.elapsed

    def saved(self, seconds: float) -> None:
        """Tell how long it took to write everything that is written at the end; the longest counts."""
        self._saving = max(seconds, self._saving or 0.0)

    def stepped(self, seconds: float) -> None:
        """Tell how long a step took, waiting included; the longest of the last 20 must still fit in."""
        self._steps = (*self._steps[1 - _RECENT :], seconds)

    @property
    def can_validate(self) -> bool:
        """Whether twice the longest validation would fit in; before the first, a quarter of the time."""
        return self.elapsed + 2 * self._validation < self.seconds - self.margin

    def validated(self, seconds: float) -> None:
        """Tell how long a validation took."""
        self._validation = max(seconds, self._validation if self._validated else 0.0)
        self._validated = True

    def look(self) -> None:
        """Find how much of the time of training is left, and whether it is over."""
        elapsed, end = self.elapsed, self.seconds - self.margin
        began = elapsed if self._began is None else self._began
        whole = end - began
        self.left = min(max((end - elapsed) / whole, 0.0), 1.0) if whole > 0 else 0.0
        self.over = elapsed + max(self._steps, default=0.0) >= end


def rate_by_time(left: float, *, warm_up: float, power: float) -> float:
    """Return the share of the peak learning rate.

    Args:
        left: Share of the time of training that is left.
        warm_up: Share of the time over which the rate rises from zero.
        power: The rate falls as ``left`` to this power.

    Example:
        >>> [round(rate_by_time(left, warm_up=0.2, power=1.0), 3) for left in (1.0, 0.9, 0.8, 0.5, 0.0)]
        [0.0, 0.45, 0.8, 0.5, 0.0]
    """
    warm = min((1 - left) / warm_up, 1.0) if warm_up > 0 else 1.0
    return warm * math.pow(left, power)
