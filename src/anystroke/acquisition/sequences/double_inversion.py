"""Double-inversion-recovery turbo spin echo."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.relaxation import decay, finish
from anystroke.acquisition.sequences.echo_train import EchoTrain, after_train, excite_train
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar


def check_double_inversion(inversion_times: tuple[float, float]) -> float:
    """Refuse inversion times of a double inversion that are not above 0.

    Args:
        inversion_times: First to second inversion, and second inversion to excitation, s.

    Returns:
        First inversion to excitation, s.

    Raises:
        TimingError: With the values.

    Example:
        >>> check_double_inversion((2.5, 0.5))
        3.0
    """
    if not all(math.isfinite(time) and time > 0.0 for time in inversion_times):
        raise timing.TimingError(
            f"inversion_times must be finite and above 0 s, got {inversion_times!r}; {timing.HINT}"
        )
    return sum(inversion_times)


def double_inversion_recovery(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    repetition_time: float,
    inversion_times: tuple[float, float],
    echo_time: float,
    echo_spacing: float,
    echo_train_length: int,
    inversion_efficiency: float = 1.0,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a double-inversion-recovery turbo spin echo in the steady state.

    ``PD exp(-TE R2) [1 - (1 + eff) exp(-TI2 R1) + eff (1 + eff) exp(-(TI1 + TI2) R1) - eff^2 (1 - m)
    exp(-(TR - T) R1)]`` with train ``T`` and ``m`` as in ``turbo_spin_echo``. The inversions are adiabatic:
    ``b1_plus`` acts on the excitation alone.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        repetition_time: First inversion to first inversion, s.
        inversion_times: First to second inversion, and second inversion to excitation, s. Vendors call the
            sum of the two the first inversion time.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        inversion_efficiency: -Mz after / Mz before each inversion, 0..1.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If inversions and train do not fit into the repetition.

    Source:
        Redpath, Smith, Br J Radiol 67:1258 (1994); efficiency and train by the Bloch equations.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> double_inversion_recovery(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=9.0,
        ...                           inversion_times=(2.6, 0.42), echo_time=0.03, echo_spacing=0.01,
        ...                           echo_train_length=16)
        tensor([16.0488])
    """
    first, second = inversion_times
    train = timing.check_echo_train(
        repetition_time=repetition_time,
        echo_time=echo_time,
        echo_spacing=echo_spacing,
        echo_train_length=echo_train_length,
        inversion_time=check_double_inversion(inversion_times),
        inversion_efficiency=inversion_efficiency,
    )
    left, whole = after_train(r1, repetition_time - train, echo_spacing, echo_train_length)
    both = inversion_efficiency * decay(r1, first + second) - decay(r1, second)
    factor = 1.0 + (1.0 + inversion_efficiency) * both - inversion_efficiency**2 * left
    factor = excite_train(factor, whole, b1_plus, echo_train_length, inversion_efficiency**2)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


@dataclass(frozen=True, kw_only=True)
class DoubleInversionRecovery(EchoTrain):
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
    contrasts: ClassVar[Mapping[str, str]] = {"DIR": "acq-DIR_T2w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE", "IR")

    weighting: str = "DIR"
    inversion_times: tuple[float, float]
    inversion_efficiency: float = 0.95

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        twice = sidecar.family is Family.SPIN_ECHO and sidecar.inversions > 1
        return Evidence.FAMILY if twice else None

    @classmethod
    def _read_inversion(cls, sidecar: Sidecar) -> tuple[dict[str, Any], float]:
        times = sidecar.pair("inversion_times", "InversionTime")
        efficiency = sidecar.assume_inversion_efficiency()
        return {"inversion_times": times, "inversion_efficiency": efficiency}, sum(times)

    def _check(self) -> None:
        parameters = self._parameters()
        inversion = check_double_inversion(parameters.pop("inversion_times"))
        timing.check_echo_train(**parameters, inversion_time=inversion)

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return double_inversion_recovery(**arguments)
