"""Inversion-recovery turbo spin echo: FLAIR, T1-FLAIR and STIR."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.relaxation import decay, finish
from anystroke.acquisition.sequences.echo_train import EchoTrain, after_train, excite_train
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar

_LONGEST_STIR, _LONGEST_T1_FLAIR = 0.35, 1.4


def flair(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    repetition_time: float,
    inversion_time: float,
    echo_time: float,
    echo_spacing: float,
    echo_train_length: int,
    inversion_efficiency: float = 1.0,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of an inversion-recovery turbo spin echo (FLAIR, T1-FLAIR, STIR) in the steady state.

    ``PD exp(-TE R2) [1 - (1 + eff) exp(-TI R1) + eff (1 - m) exp(-(TR - T) R1)]`` with train ``T`` and ``m``
    as in ``turbo_spin_echo``. The inversion is adiabatic: ``b1_plus`` acts on the excitation alone.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign (as phase-sensitive inversion recovery does) instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If inversion and train do not fit into the repetition.

    Source:
        Hajnal et al., J Comput Assist Tomogr 16:841 (1992); efficiency and train by the Bloch equations.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> flair(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=9.0, inversion_time=2.5,
        ...       echo_time=0.1, echo_spacing=0.01, echo_train_length=16)
        tensor([30.7538])
    """
    train = timing.check_echo_train(
        repetition_time=repetition_time,
        echo_time=echo_time,
        echo_spacing=echo_spacing,
        echo_train_length=echo_train_length,
        inversion_time=inversion_time,
        inversion_efficiency=inversion_efficiency,
    )
    left, whole = after_train(r1, repetition_time - train, echo_spacing, echo_train_length)
    factor = 1.0 - (1.0 + inversion_efficiency) * decay(r1, inversion_time) + inversion_efficiency * left
    factor = excite_train(factor, whole, b1_plus, echo_train_length, -inversion_efficiency)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


def null_inversion_time(
    *,
    t1: float,
    repetition_time: float,
    echo_spacing: float,
    echo_train_length: int,
    inversion_efficiency: float = 1.0,
) -> float:
    """Inversion time at which ``flair`` nulls a tissue: T1 ln[(1 + eff) / (1 + eff exp(-(TR - T) / T1))].

    Args:
        t1: Longitudinal relaxation time of the tissue to null, s.
        repetition_time: Inversion to inversion, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.

    Returns:
        Inversion time in s.

    Raises:
        TimingError: If the train does not fit into the repetition or ``t1`` is not positive.

    Example:
        >>> time = null_inversion_time(
        ...     t1=4.2, repetition_time=9.0, echo_spacing=0.01, echo_train_length=16)
        >>> round(time, 4)
        2.4282
    """
    if not t1 > 0.0:
        raise timing.TimingError(f"t1 must be above 0 s, got {t1!r}")
    train = timing.check_echo_train(
        repetition_time=repetition_time,
        echo_time=0.0,
        echo_spacing=echo_spacing,
        echo_train_length=echo_train_length,
        inversion_efficiency=inversion_efficiency,
    )
    left = inversion_efficiency * math.exp(-(repetition_time - train) / t1)
    return t1 * math.log((1.0 + inversion_efficiency) / (1.0 + left))


@dataclass(frozen=True, kw_only=True)
class Flair(EchoTrain):
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
    contrasts: ClassVar[Mapping[str, str]] = {"FLAIR": "FLAIR", "STIR": "acq-STIR_T2w", "T1w": "T1w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE", "IR")

    weighting: str = "FLAIR"
    inversion_time: float
    inversion_efficiency: float = 0.95

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        inverted = sidecar.family is Family.SPIN_ECHO and sidecar.inverted and sidecar.inversions < 2
        return Evidence.FAMILY if inverted and sidecar.number("EchoTrainLength") != 1.0 else None

    @classmethod
    def usual_weighting(cls, fields: Mapping[str, Any]) -> str:
        """Name the contrast that these fields give."""
        time = fields["inversion_time"]
        return "STIR" if time < _LONGEST_STIR else "T1w" if time < _LONGEST_T1_FLAIR else "FLAIR"

    @classmethod
    def _read_inversion(cls, sidecar: Sidecar) -> tuple[dict[str, Any], float]:
        time = sidecar.require("inversion_time", "InversionTime", limit=20.0)
        efficiency = sidecar.assume_inversion_efficiency()
        return {"inversion_time": time, "inversion_efficiency": efficiency}, time

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return flair(**arguments)
