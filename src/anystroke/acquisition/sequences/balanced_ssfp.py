"""Balanced steady-state free precession."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, finish, regrowth, sin_and_versine
from anystroke.acquisition.sidecars.sidecar import Evidence, Sidecar

_NAMES = ("balanced", "bssfp", "trufi", "truefisp", "fiesta", "bffe", "tfi2d", "tfi3d")


def balanced_ssfp(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    repetition_time: float,
    flip_angle: float,
    off_resonance: Tensor | None = None,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a balanced steady-state free precession (TrueFISP, FIESTA, bFFE) at ``TE = TR / 2``.

    ``PD sin(a) (1 - E1) / [1 - (E1 - E2) cos(a) - E1 E2] exp(-TR R2 / 2)`` with ``E = exp(-TR R)`` and the
    phase of the pulses alternating. Off resonance the signal bands, with nulls at odd multiples of
    ``1 / (2 TR)``. Rates must obey ``R2 >= R1 / 2``, as all tissue does.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        repetition_time: Excitation to excitation, s; the echo is in the middle.
        flip_angle: Nominal flip angle, degrees.
        off_resonance: Frequency offset, Hz; 0 if None.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign, which only a flip angle beyond 180 degrees gives, instead of the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If the repetition time is not above 0 or the angle is outside 0..180 degrees.

    Source:
        Freeman, Hill, J Magn Reson 4:366 (1971).

    Example:
        >>> one = torch.ones(1)
        >>> balanced_ssfp(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=0.005,
        ...               flip_angle=45.0)
        tensor([15.2496])
    """
    timing.check_gradient_echo(
        repetition_time=repetition_time, echo_time=repetition_time / 2.0, flip_angle=flip_angle
    )
    sine, versine = sin_and_versine(flip_angle, b1_plus)
    regrown, dephased = regrowth(r1, repetition_time), regrowth(r2, repetition_time)
    received = proton_density * decay(r2, repetition_time / 2.0) * sine
    if off_resonance is None:
        denominator = regrown * (2.0 - versine) + (versine - regrown) * dephased
        return finish(received * (regrown / (denominator + TINY)), signed)
    turn = off_resonance * (torch.pi * repetition_time)
    # 1 + cos(2 turn), without cancellation at the nulls.
    aligned = 2.0 * torch.cos(turn).square()
    kept = 1.0 - dephased
    profile = (dephased.square() + 2.0 * kept * aligned + TINY).sqrt()
    denominator = regrown * (2.0 - versine) * (dephased + kept * aligned)
    denominator = denominator + (versine - regrown) * dephased * (1.0 + kept)
    return finish(received * (regrown * profile / (denominator + TINY)), signed)


@dataclass(frozen=True, kw_only=True)
class BalancedSsfp(Protocol):
    """Balanced steady-state free precession, on resonance (or phase-cycled); the echo is at half of TR.

    Attributes:
        repetition_time: Excitation to excitation, s.
        flip_angle: Nominal flip angle, degrees.
    """

    sequence: ClassVar[str] = "bssfp"
    contrasts: ClassVar[Mapping[str, str]] = {"bSSFP": "acq-bSSFP_T2w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR",)
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2")

    weighting: str = "bSSFP"
    repetition_time: float
    flip_angle: float

    @property
    def echo_time(self) -> float:
        """Excitation to echo, s."""
        return self.repetition_time / 2.0

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        return Evidence.NAME if any(name in sidecar.name for name in _NAMES) else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        keys = ("RepetitionTimeExcitation", "RepetitionTime")
        return {
            "repetition_time": sidecar.require("repetition_time", *keys, limit=60.0),
            "flip_angle": sidecar.require("flip_angle", "FlipAngle"),
        }

    def sidecar_fields(self) -> dict[str, Any]:
        """Return what the sidecar of an image says beside what all protocols say."""
        return {
            "EchoTime": self.echo_time,
            "PulseSequenceType": "Balanced SSFP",
            "RepetitionTimeExcitation": self.repetition_time,
        }

    def _check(self) -> None:
        timing.check_gradient_echo(**self._parameters(), echo_time=self.echo_time)

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return balanced_ssfp(**arguments)
