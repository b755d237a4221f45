"""Inversion-recovery spin echo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import decay, finish
from anystroke.acquisition.sequences.spin_echo import excited_spin_echo
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar


def check_inversion_recovery(
    *, repetition_time: float, inversion_time: float, echo_time: float, inversion_efficiency: float = 1.0
) -> None:
    """Refuse an inversion-recovery spin echo that does not fit into the repetition.

    Args:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Excitation to echo, s.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> check_inversion_recovery(repetition_time=3.0, inversion_time=1.0, echo_time=0.02)
    """
    timing.check_times(echo_time=echo_time, repetition_time=repetition_time, inversion_time=inversion_time)
    timing.check_range("inversion_efficiency", inversion_efficiency, 0.0, 1.0, "(a fraction)")
    if inversion_time + echo_time >= repetition_time:
        raise timing.TimingError(
            f"inversion_time {inversion_time:g} s + echo_time {echo_time:g} s do not fit into "
            f"repetition_time {repetition_time:g} s; {timing.HINT}"
        )


def inversion_recovery_spin_echo(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    repetition_time: float,
    inversion_time: float,
    echo_time: float,
    inversion_efficiency: float = 1.0,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of an inversion-recovery spin echo (one echo per inversion) in the steady state.

    ``PD exp(-TE R2) [1 - (1 + eff Mss) exp(-TI R1)]`` with the magnetisation before the inversion
    ``Mss = 1 - 2 exp(-(TR - TI - TE/2) R1) + exp(-(TR - TI) R1)``. The inversion is adiabatic: ``b1_plus``
    acts on the 90 and 180 degree pulses alone, all but the refocused pathway being spoiled.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If inversion and echo do not fit into the repetition.

    Source:
        Bernstein, King, Zhou: Handbook of MRI Pulse Sequences (2004), ch. 14; efficiency by the Bloch
        equations.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> inversion_recovery_spin_echo(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=3.0,
        ...                              inversion_time=1.5, echo_time=0.02)
        tensor([49.4945])
    """
    check_inversion_recovery(
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
    )
    inversion = (inversion_time, inversion_efficiency)
    factor = excited_spin_echo(r1, repetition_time, echo_time, b1_plus, inversion)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


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
    contrasts: ClassVar[Mapping[str, str]] = {"T1w": "T1w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE", "IR")
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2")
    decays: ClassVar[Mapping[str, str]] = {"r2": "echo_time"}

    weighting: str = "T1w"
    repetition_time: float
    inversion_time: float
    echo_time: float
    inversion_efficiency: float = 0.95

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        inverted = sidecar.family is Family.SPIN_ECHO and sidecar.inverted and sidecar.inversions < 2
        return Evidence.FAMILY if inverted and sidecar.number("EchoTrainLength") == 1.0 else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        return {
            **sidecar.require_times("RepetitionTime", "RepetitionTimeExcitation"),
            "inversion_time": sidecar.require("inversion_time", "InversionTime", limit=20.0),
            "inversion_efficiency": sidecar.assume_inversion_efficiency(),
        }

    def sidecar_fields(self) -> dict[str, Any]:
        """Return what the sidecar of an image says beside what all protocols say."""
        return {"EchoTrainLength": 1}

    def _check(self) -> None:
        check_inversion_recovery(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return inversion_recovery_spin_echo(**arguments)
