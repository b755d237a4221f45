"""Protocols of spin echoes."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.sequences import equations


@dataclass(frozen=True, kw_only=True)
class SpinEcho(Protocol):
    """Conventional spin echo: T1w at short repetition and echo times.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
    """

    sequence: ClassVar[str] = "se"

    weighting: str = "T1w"
    repetition_time: float
    echo_time: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2")

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {"r2": self.echo_time}

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return equations.spin_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class InversionRecoverySpinEcho(Protocol):
    """Inversion-recovery spin echo with one echo per inversion.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
    """

    sequence: ClassVar[str] = "ir_se"

    weighting: str = "T1w"
    repetition_time: float
    inversion_time: float
    echo_time: float
    inversion_efficiency: float = 0.95

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2")

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {"r2": self.echo_time}

    def _check(self) -> None:
        timing.check_inversion_recovery(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return equations.inversion_recovery_spin_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class _EchoTrain(Protocol):
    """What the sequences with a train of spin echoes share."""

    repetition_time: float
    echo_time: float
    echo_spacing: float
    echo_train_length: int
    incidental_mt: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2", *(("mt_saturation",) if self.incidental_mt else ()))

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {"r2": self.echo_time}

    @property
    def losses(self) -> Mapping[str, float]:
        """For each map ``M`` that takes away signal as ``1 - s M``, the ``s``."""
        return {"mt_saturation": self.incidental_mt} if self.incidental_mt else {}

    def _check(self) -> None:
        timing.check_echo_train(**self._parameters())

    @abstractmethod
    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        """Call the signal function."""

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        """Neighbouring slices' and refocusing pulses are MT pulses too."""
        saturation = arguments.pop("mt_saturation", None)
        signal = self._echo(arguments)
        if saturation is None:
            return signal
        return signal * equations.incidental_mt_factor(
            mt_saturation=saturation, sensitivity=self.incidental_mt
        )


@dataclass(frozen=True, kw_only=True)
class TurboSpinEcho(_EchoTrain):
    """Turbo spin echo: T2w and PDw, in 2D or 3D (there ``echo_time`` is the T2-equivalent one).

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        incidental_mt: Fraction of the signal lost per p.u. of MT saturation.
    """

    sequence: ClassVar[str] = "tse"

    weighting: str = "T2w"

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return equations.turbo_spin_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class Flair(_EchoTrain):
    """Inversion-recovery turbo spin echo: FLAIR, and T1-FLAIR or STIR at short inversion times.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        incidental_mt: Fraction of the signal lost per p.u. of MT saturation.
    """

    sequence: ClassVar[str] = "flair"

    weighting: str = "FLAIR"
    inversion_time: float
    inversion_efficiency: float = 0.95

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return equations.flair(**arguments)


@dataclass(frozen=True, kw_only=True)
class DoubleInversionRecovery(_EchoTrain):
    """Double-inversion-recovery turbo spin echo: grey matter alone, with both CSF and white matter nulled.

    Attributes:
        repetition_time: First inversion to first inversion, s.
        inversion_times: First to second inversion, and second inversion to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        inversion_efficiency: -Mz after / Mz before each inversion, 0..1.
        incidental_mt: Fraction of the signal lost per p.u. of MT saturation.
    """

    sequence: ClassVar[str] = "dir"

    weighting: str = "DIR"
    inversion_times: tuple[float, float]
    inversion_efficiency: float = 0.95

    def _check(self) -> None:
        parameters = self._parameters()
        inversion = timing.check_double_inversion(parameters.pop("inversion_times"))
        timing.check_echo_train(**parameters, inversion_time=inversion)

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return equations.double_inversion_recovery(**arguments)


@dataclass(frozen=True, kw_only=True)
class DiffusionWeighted(Protocol):
    """Diffusion-weighted spin echo, trace image; ``b_value = 0`` gives the T2w companion image.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b_value: Diffusion weighting, s/mm^2.
    """

    sequence: ClassVar[str] = "dwi"

    weighting: str = "DWI"
    repetition_time: float
    echo_time: float
    b_value: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2", "adc")

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {"r2": self.echo_time, "adc": self.b_value}

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return equations.diffusion_weighted(**arguments)


@dataclass(frozen=True, kw_only=True)
class AdcMap(Protocol):
    """Map of the apparent diffusion coefficient that scanners compute of two diffusion-weighted images.

    ``signal`` gives it in 1e-6 mm^2/s, as scanners store it: about 800 in the brain. Without noise it depends
    on no other parameter; those that are here tell which scan it comes from.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b_value: The higher of the two b-values, s/mm^2; the lower is 0.
    """

    sequence: ClassVar[str] = "adc"

    weighting: str = "ADC"
    repetition_time: float
    echo_time: float
    b_value: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("adc",)

    @property
    def additive(self) -> bool:
        """Whether the signed signals of the parts of a voxel add up to that of the voxel."""
        return False

    @property
    def measured(self) -> tuple[Protocol, ...]:
        """The protocols of the two images without and with diffusion weighting.

        Example:
            >>> low, high = AdcMap(repetition_time=4.0, echo_time=0.08, b_value=1000.0).measured
            >>> low.b_value, high.b_value
            (0.0, 1000.0)
        """
        image = DiffusionWeighted(
            field_strength=self.field_strength,
            dimensions=self.dimensions,
            name=self.name,
            repetition_time=self.repetition_time,
            echo_time=self.echo_time,
            b_value=self.b_value,
        )
        return replace(image, weighting="T2w", b_value=0.0), image

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        adc: Tensor = arguments["adc"]
        return adc * 1e6
