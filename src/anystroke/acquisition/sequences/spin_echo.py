"""Conventional spin echo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, finish, sin_and_versine
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar

Inversion: TypeAlias = tuple[float, float]
"""Time from the inversion to the excitation in s, and efficiency."""

_LONGEST_SHORT_ECHO, _LONGEST_SHORT_REPETITION = 0.04, 1.5


def excited_spin_echo(
    r1: Tensor,
    repetition_time: float,
    echo_time: float,
    b1_plus: Tensor | None,
    inversion: Inversion | None = None,
) -> Tensor:
    """Transverse magnetisation per M0 of a spin echo in the steady state, before T2 decay."""
    time, efficiency = inversion or (0.0, 0.0)
    if b1_plus is None:
        until_late = 2.0 * decay(r1, repetition_time - echo_time / 2.0) - decay(r1, repetition_time)
        if inversion is None:
            return 1.0 - until_late
        return 1.0 - (1.0 + efficiency) * decay(r1, time) + efficiency * until_late
    sine, versine = sin_and_versine(90.0, b1_plus)
    _, refocused = sin_and_versine(180.0, b1_plus)
    upright = 1.0 - refocused
    early = decay(r1, echo_time / 2.0)
    late = decay(r1, repetition_time - time - echo_time / 2.0)
    # Mz before the inversion, or the next excitation: gained + early late (1 - turned) Mz(excitation).
    gained = (1.0 - late) + late * upright * (1.0 - early)
    turned = versine + refocused - versine * refocused
    whole = early * late
    if inversion is None:
        denominator = (1.0 - whole) + whole * turned
    else:
        after = decay(r1, time)
        gained = (1.0 - after) - efficiency * after * gained
        whole = whole * after
        denominator = (1.0 - efficiency) + efficiency * ((1.0 - whole) + whole * (2.0 - turned))
    return sine * (0.5 * refocused) * (gained / (denominator + TINY))


def spin_echo(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    repetition_time: float,
    echo_time: float,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a 90-180 degree spin echo in the steady state.

    ``PD exp(-TE R2) [1 - 2 exp(-(TR - TE/2) R1) + exp(-TR R1)]``. With ``b1_plus`` the two pulses are
    ``90 b1_plus`` and ``180 b1_plus`` degrees, all but the refocused pathway being spoiled.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If the echo does not fit into the repetition.

    Source:
        Bernstein, King, Zhou: Handbook of MRI Pulse Sequences (2004), ch. 14.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> spin_echo(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=3.0, echo_time=0.08)
        tensor([42.5132])
    """
    timing.check_spin_echo(repetition_time=repetition_time, echo_time=echo_time)
    factor = excited_spin_echo(r1, repetition_time, echo_time, b1_plus)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


def spin_echo_weighting(fields: Mapping[str, Any]) -> str:
    """Name the contrast of a spin echo, or a train of them, by its times.

    Example:
        >>> spin_echo_weighting({"repetition_time": 0.5, "echo_time": 0.012})
        'T1w'
    """
    if fields["echo_time"] > _LONGEST_SHORT_ECHO:
        return "T2w"
    return "T1w" if fields["repetition_time"] < _LONGEST_SHORT_REPETITION else "PDw"


def tells_of_train(sidecar: Sidecar) -> bool:
    """Say whether a spin echo without inversion has several echoes; a T2w image has, if not told."""
    length = sidecar.number("EchoTrainLength")
    return (length is None and sidecar.suffix == "T2w") or (length or 1.0) > 1.0


@dataclass(frozen=True, kw_only=True)
class SpinEcho(Protocol):
    """Conventional spin echo: T1w at short repetition and echo times.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
    """

    sequence: ClassVar[str] = "se"
    contrasts: ClassVar[Mapping[str, str]] = {"T1w": "T1w", "T2w": "T2w", "PDw": "PDw"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE",)
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2")
    decays: ClassVar[Mapping[str, str]] = {"r2": "echo_time"}

    weighting: str = "T1w"
    repetition_time: float
    echo_time: float

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        plain = sidecar.family is Family.SPIN_ECHO and not sidecar.inverted
        return Evidence.FAMILY if plain and not tells_of_train(sidecar) else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        return sidecar.require_times("RepetitionTime", "RepetitionTimeExcitation")

    @classmethod
    def usual_weighting(cls, fields: Mapping[str, Any]) -> str:
        """Name the contrast that these fields give."""
        return spin_echo_weighting(fields)

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return spin_echo(**arguments)
