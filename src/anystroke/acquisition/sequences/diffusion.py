"""Diffusion-weighted spin echo, and the map of the apparent diffusion coefficient made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import decay, finish
from anystroke.acquisition.sequences.spin_echo import excited_spin_echo
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar

_B_VALUE = 1000.0


def diffusion_weighted(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    adc: Tensor,
    repetition_time: float,
    echo_time: float,
    b_value: float,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a diffusion-weighted spin echo (trace image): ``spin_echo * exp(-b ADC)``.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        adc: Apparent diffusion coefficient, mm^2/s.
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b_value: Diffusion weighting, s/mm^2.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If the echo does not fit into the repetition or the b-value is negative.

    Source:
        Stejskal, Tanner, J Chem Phys 42:288 (1965); spin echo as in ``spin_echo``.

    Example:
        >>> one = torch.ones(1)
        >>> diffusion_weighted(proton_density=100 * one, r1=one, r2=10 * one, adc=1e-3 * one,
        ...                    repetition_time=3.0, echo_time=0.08, b_value=1000.0)
        tensor([15.6397])
    """
    timing.check_spin_echo(repetition_time=repetition_time, echo_time=echo_time, b_value=b_value)
    factor = excited_spin_echo(r1, repetition_time, echo_time, b1_plus)
    return finish(proton_density * decay(r2 * echo_time + adc * b_value, 1.0) * factor, signed)


def apparent_diffusion_coefficient(
    *, low: Tensor, high: Tensor, b_values: tuple[float, float] = (0.0, 1000.0)
) -> Tensor:
    """Map the apparent diffusion coefficient of two images: ``ln(low / high) / (b_high - b_low)``.

    Args:
        low: Image at the lower b-value, not negative.
        high: Image at the higher b-value, of a shape that broadcasts with ``low``.
        b_values: Lower and higher b-value, s/mm^2.

    Returns:
        ADC in mm^2/s; 0 where an image is not above 0, as it has no logarithm there.

    Raises:
        TimingError: If the second b-value is not above the first, or one is negative.

    Source:
        Le Bihan et al., Radiology 161:401 (1986).

    Example:
        >>> apparent_diffusion_coefficient(low=torch.tensor([10.0, 0.0]), high=torch.tensor([3.678794, 0.0]))
        tensor([0.0010, 0.0000])
    """
    lower, upper = b_values
    if not 0.0 <= lower < upper:
        raise timing.TimingError(f"b_values must rise from 0 s/mm^2 or more, got {b_values}")
    known = (low > 0.0) & (high > 0.0)
    ratio = torch.where(known, low, 1.0).log() - torch.where(known, high, 1.0).log()
    return ratio / (upper - lower)


def _read(sidecar: Sidecar) -> dict[str, Any]:
    fields = sidecar.require_times("RepetitionTime", "RepetitionTimeExcitation")
    b_value = sidecar.b_value
    if b_value is None:
        b_value = sidecar.take("b_value", "DiffusionBValue")
    if b_value is None:
        b_value = sidecar.assume("b_value", _B_VALUE, "DiffusionBValue is missing")
    return {**fields, "b_value": b_value}


@dataclass(frozen=True, kw_only=True)
class DiffusionWeighted(Protocol):
    """Diffusion-weighted spin echo, trace image; ``b_value = 0`` gives the T2w companion image.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b_value: Diffusion weighting, s/mm^2.
    """

    sequence: ClassVar[str] = "dwi"
    contrasts: ClassVar[Mapping[str, str]] = {"DWI": "dwi", "T2w": "T2w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("EP", "SE")
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2", "adc")
    decays: ClassVar[Mapping[str, str]] = {"r2": "echo_time", "adc": "b_value"}

    weighting: str = "DWI"
    repetition_time: float
    echo_time: float
    b_value: float

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        return Evidence.READOUT if sidecar.family is Family.ECHO_PLANAR else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        return _read(sidecar)

    @classmethod
    def usual_weighting(cls, fields: Mapping[str, Any]) -> str:
        """Name the contrast that these fields give."""
        return "DWI" if fields["b_value"] > 0.0 else "T2w"

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return diffusion_weighted(**arguments)


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
    contrasts: ClassVar[Mapping[str, str]] = {"ADC": "ADC"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("EP", "SE")
    takes: ClassVar[tuple[str, ...]] = ("adc",)

    weighting: str = "ADC"
    repetition_time: float
    echo_time: float
    b_value: float

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

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        return Evidence.SUFFIX if sidecar.suffix == "ADC" else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        return _read(sidecar)

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        adc: Tensor = arguments["adc"]
        return adc * 1e6
