"""What the sequences share that repeat published programs."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, regrowth


def check_published(**positive: float) -> None:
    """Refuse what even the published programs cannot compute with: numbers that are not above 0.

    Args:
        **positive: Times in s, angles in degrees and counts by name.

    Raises:
        TimingError: With the name and the value.

    Example:
        >>> check_published(repetition_time=2.0)
    """
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0.0):
            raise timing.TimingError(f"{name} must be finite and above 0, got {value!r}")


def check_delays(delays: dict[str, float]) -> None:
    """Refuse delays below 0.

    Args:
        delays: In s, by what they lie between.

    Raises:
        TimingError: With the first that is negative.

    Example:
        >>> check_delays({"the inversion and the train": 0.2})
    """
    for between, delay in delays.items():
        if delay < 0.0:
            raise timing.TimingError(f"the time between {between} would be {delay:g} s")


def train_powers(r1: Tensor, cosine: float, spacing: float, count: float) -> tuple[Tensor, Tensor]:
    """Return ``x ** count`` and what a train of ``count`` excitations adds, ``x = cos(a) exp(-TX R1)``."""
    kept = decay(r1, spacing * count) * math.pow(cosine, count)
    regrown = regrowth(r1, spacing)
    return kept, regrown * (1.0 - kept) / (1.0 - cosine * (1.0 - regrown) + TINY)


@dataclass(frozen=True, kw_only=True)
class PublishedProtocol(Protocol):
    """What the published sequences share."""

    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2star")
    not_negative: ClassVar[tuple[str, ...]] = ("gain",)
    words: ClassVar[Mapping[str, str]] = {"gain": "gain {:.3g}"}

    repetition_time: float
    echo_time: float
    gain: float = 1.0

    @property
    def impossible(self) -> str:
        """Why no scanner can play the timing; empty if one can."""
        try:
            self._check_scanner()
        except timing.TimingError as error:
            return str(error)
        return ""

    def _check(self) -> None:
        check_published(**self._positive())

    def _positive(self) -> dict[str, float]:
        return {"repetition_time": self.repetition_time, "echo_time": self.echo_time}

    def _check_scanner(self) -> None:
        timing.check_spin_echo(repetition_time=self.repetition_time, echo_time=self.echo_time)

    @abstractmethod
    def _image(self, arguments: dict[str, Any]) -> Tensor:
        """Call the published function."""

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return self._image(
            {key: value for key, value in arguments.items() if key not in ("signed", "b1_plus")}
        )
