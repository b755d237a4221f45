"""Turbo spin echo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.relaxation import decay, finish
from anystroke.acquisition.sequences.echo_train import EchoTrain, after_train, excite_train
from anystroke.acquisition.sequences.spin_echo import spin_echo_weighting, tells_of_train
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar


def turbo_spin_echo(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    repetition_time: float,
    echo_time: float,
    echo_spacing: float,
    echo_train_length: int,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a turbo (fast) spin echo with ideal 180 degree refocusing, in the steady state.

    ``PD exp(-TE R2) [1 - (1 - m) exp(-(TR - T) R1)]`` with the train ``T = ETL ESP`` and the little that is
    left after it, ``m = (1 - e)^2 / (1 + e^2) [1 - (-e^2)^ETL]``, ``e = exp(-ESP R1 / 2)``. For
    variable-flip-angle trains (SPACE, CUBE, VISTA) give the T2-equivalent echo time, not the nominal one.
    ``b1_plus`` acts on the excitation; refocusing pulses stay ideal.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        repetition_time: Excitation to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If the train does not fit into the repetition or does not hold the echo time.

    Source:
        Bernstein, King, Zhou: Handbook of MRI Pulse Sequences (2004), ch. 16; ``m`` by summing the train.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> turbo_spin_echo(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=4.0, echo_time=0.1,
        ...                 echo_spacing=0.01, echo_train_length=16)
        tensor([35.9972])
    """
    train = timing.check_echo_train(
        repetition_time=repetition_time,
        echo_time=echo_time,
        echo_spacing=echo_spacing,
        echo_train_length=echo_train_length,
    )
    left, whole = after_train(r1, repetition_time - train, echo_spacing, echo_train_length)
    factor = excite_train(1.0 - left, whole, b1_plus, echo_train_length, 1.0)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


@dataclass(frozen=True, kw_only=True)
class TurboSpinEcho(EchoTrain):
    """Turbo spin echo: T2w and PDw, in 2D or 3D (there ``echo_time`` is the T2-equivalent one).

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        incidental_mt: Fraction of the signal lost per p.u. of MT saturation.
    """

    sequence: ClassVar[str] = "tse"
    contrasts: ClassVar[Mapping[str, str]] = {"T2w": "T2w", "PDw": "PDw", "T1w": "T1w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE",)

    repetition_keys: ClassVar[tuple[str, ...]] = ("RepetitionTime", "RepetitionTimePreparation")

    weighting: str = "T2w"

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        plain = sidecar.family is Family.SPIN_ECHO and not sidecar.inverted
        return Evidence.FAMILY if plain and tells_of_train(sidecar) else None

    @classmethod
    def usual_weighting(cls, fields: Mapping[str, Any]) -> str:
        """Name the contrast that these fields give."""
        return spin_echo_weighting(fields)

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return turbo_spin_echo(**arguments)
