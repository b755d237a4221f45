"""Protocols of the equations in ``published``, which play what no scanner can.

Their images keep what the published programs keep, so ``signal`` may be negative whether ``signed`` or not,
and ``b1_plus`` is ignored. ``impossible`` tells why a scanner could not play one.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.sequences import published


@dataclass(frozen=True, kw_only=True)
class _Published(Protocol):
    """What the published sequences share."""

    repetition_time: float
    echo_time: float
    gain: float = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star")

    @property
    def impossible(self) -> str:
        """Why no scanner can play the timing; empty if one can."""
        try:
            self._check_scanner()
        except timing.TimingError as error:
            return str(error)
        return ""

    def _check(self) -> None:
        published.check_published(**self._positive())

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


@dataclass(frozen=True, kw_only=True)
class PublishedTurboSpinEcho(_Published):
    """Turbo spin echo of qATLAS and qSynth, see ``published_turbo_spin_echo``.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_tse"

    weighting: str = "T2w"

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published.published_turbo_spin_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class PublishedFlair(_Published):
    """FLAIR of qATLAS and qSynth, see ``published_flair``.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Echo time, s.
        gain: Factor on the image.
        magnitude: Drop the sign, which the published program keeps.
    """

    sequence: ClassVar[str] = "published_flair"

    weighting: str = "FLAIR"
    inversion_time: float
    magnitude: bool = False

    def _positive(self) -> dict[str, float]:
        return {**super()._positive(), "inversion_time": self.inversion_time}

    def _check_scanner(self) -> None:
        timing.check_inversion_recovery(
            repetition_time=self.repetition_time,
            inversion_time=self.inversion_time,
            echo_time=self.echo_time,
        )

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published.published_flair(**arguments, signed=not self.magnitude)


@dataclass(frozen=True, kw_only=True)
class PublishedGradientEcho(_Published):
    """Gradient echo of qATLAS and qSynth, see ``published_gradient_echo``.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        flip_angle: Flip angle, degrees.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_gre"

    weighting: str = "T2starw"
    flip_angle: float

    def _positive(self) -> dict[str, float]:
        return {**super()._positive(), "flip_angle": self.flip_angle}

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published.published_gradient_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class PublishedSpgr(PublishedGradientEcho):
    """SPGR of the published program, see ``published_gradient_echo``: MT in p.u. taken for a fraction.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        flip_angle: Flip angle, degrees.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_spgr"

    weighting: str = "T1w"

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star", "mt_saturation")


@dataclass(frozen=True, kw_only=True)
class PublishedMprage(_Published):
    """MPRAGE of qATLAS and qSynth, see ``published_mprage``.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the middle of the train, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per inversion, not always whole.
        flip_angle: Flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_mprage"

    weighting: str = "T1w"
    inversion_time: float
    excitation_spacing: float
    n_excitations: float
    flip_angle: float
    inversion_efficiency: float = 0.96

    def _positive(self) -> dict[str, float]:
        names = ("inversion_time", "excitation_spacing", "n_excitations", "flip_angle")
        return {**super()._positive(), **{name: getattr(self, name) for name in names}}

    def _check_scanner(self) -> None:
        half = 0.5 * self.n_excitations * self.excitation_spacing
        _check_delays(
            {
                "the inversion and the train": self.inversion_time - half,
                "the train and the next inversion": self.repetition_time - self.inversion_time - half,
                "an echo and the next excitation": self.excitation_spacing - self.echo_time,
            }
        )

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published.published_mprage(**arguments)


@dataclass(frozen=True, kw_only=True)
class PublishedMp2rage(_Published):
    """MP2RAGE of the published program, see ``published_mp2rage``; ``signal`` gives its uniform image.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the middle of each train, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per train, not always whole.
        flip_angles: Flip angle of each train, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion.
        gain: Factor on the two images; cancels in the uniform one.
    """

    sequence: ClassVar[str] = "published_mp2rage"

    weighting: str = "UNIT1"
    inversion_times: tuple[float, float]
    excitation_spacing: float
    n_excitations: float
    flip_angles: tuple[float, float]
    inversion_efficiency: float = 0.96

    def _positive(self) -> dict[str, float]:
        pairs = {
            **{f"inversion_times[{index}]": time for index, time in enumerate(self.inversion_times)},
            **{f"flip_angles[{index}]": angle for index, angle in enumerate(self.flip_angles)},
        }
        names = ("excitation_spacing", "n_excitations")
        return {**super()._positive(), **{name: getattr(self, name) for name in names}, **pairs}

    def _check_scanner(self) -> None:
        train = self.n_excitations * self.excitation_spacing
        first, second = self.inversion_times
        _check_delays(
            {
                "the inversion and the first train": first - 0.5 * train,
                "the two trains": second - first - train,
                "the second train and the next inversion": self.repetition_time - second - 0.5 * train,
                "an echo and the next excitation": self.excitation_spacing - self.echo_time,
            }
        )

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published.published_mp2rage(**arguments)[2]


def _check_delays(delays: dict[str, float]) -> None:
    for between, delay in delays.items():
        if delay < 0.0:
            raise timing.TimingError(f"the time between {between} would be {delay:g} s")
