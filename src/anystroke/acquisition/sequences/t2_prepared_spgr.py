"""T2-prepared SPGR: a train of spoiled gradient echoes after a preparation that leaves what T2 has left."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, finish, sin_and_versine
from anystroke.acquisition.sequences.gradient_train import excitation_train
from anystroke.acquisition.sidecars.sidecar import Evidence, Sidecar

_NAMES = ("t2prep", "t2-prep", "t2 prep")
_PREPARATION_TIME, _EXCITATION_SPACING, _EXCITATIONS = 0.05, 0.006, 60.0


def check_t2_prepared_spgr(
    *,
    repetition_time: float,
    preparation_time: float,
    excitation_spacing: float,
    n_excitations: int,
    flip_angle: float,
    echo_time: float,
    centre_index: int = 0,
) -> float:
    """Refuse a preparation and a train that do not fit into the repetition.

    Args:
        repetition_time: Preparation to preparation, s.
        preparation_time: From the pulse that tips the magnetisation to the one that stores it, s.
        excitation_spacing: Time between excitations of the train, s.
        n_excitations: Number of excitations in the train.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        centre_index: Which excitation (from 0) fills the centre of k-space.

    Returns:
        Delay from the end of the train to the next preparation, s.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> delay = check_t2_prepared_spgr(
        ...     repetition_time=1.5, preparation_time=0.05, excitation_spacing=0.006, n_excitations=60,
        ...     flip_angle=12.0, echo_time=0.003)
        >>> round(delay, 6)
        1.09
    """
    timing.check_times(
        echo_time=echo_time,
        repetition_time=repetition_time,
        preparation_time=preparation_time,
        excitation_spacing=excitation_spacing,
    )
    timing.check_range("flip_angle", flip_angle, 0.0, 180.0, "degrees")
    timing.check_count("n_excitations", n_excitations)
    if echo_time >= excitation_spacing:
        raise timing.TimingError(
            f"the echo must come before the next excitation: echo_time {echo_time:g} s is not below "
            f"excitation_spacing {excitation_spacing:g} s; {timing.HINT}"
        )
    if not 0 <= centre_index < n_excitations:
        raise timing.TimingError(
            f"centre_index must lie in 0..{n_excitations - 1}, below n_excitations, got {centre_index}"
        )
    delay = repetition_time - preparation_time - n_excitations * excitation_spacing
    if delay < -timing.ROUNDING:
        raise timing.TimingError(
            f"the train ends {-delay:g} s after the next preparation: repetition_time {repetition_time:g} s, "
            f"preparation_time {preparation_time:g} s, "
            f"{n_excitations} excitations of {excitation_spacing:g} s"
        )
    return max(delay, 0.0)


def t2_prepared_spgr(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2: Tensor,
    r2star: Tensor,
    repetition_time: float,
    preparation_time: float,
    excitation_spacing: float,
    n_excitations: int,
    flip_angle: float,
    echo_time: float,
    centre_index: int = 0,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a T2-prepared train of spoiled gradient echoes in the steady state.

    90 degrees, refocusing, and 90 degrees back leave ``Mz exp(-TP R2)``: what regrew meanwhile was tipped
    into the transverse plane and is spoiled. Each of the ``n`` excitations then takes Mz to ``x Mz + 1 - E``
    with ``x = cos(a) E`` and ``E = exp(-TX R1)``, and the magnetisation recovers for ``TD = TR - TP - n TX``.
    With ``d = (1 - E) / (1 - x)`` for what the train drives Mz to, the steady state before the preparation is
    ``Mss = [1 - (1 - d (1 - x^n)) exp(-TD R1)] / [1 - x^n exp(-TD R1 - TP R2)]`` and the signal at excitation
    ``c`` is ``PD sin(a) exp(-TE R2*) [d - x^c (d - Mss exp(-TP R2))]``. The preparation is taken to be
    adiabatic: ``b1_plus`` acts on the excitations alone.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2: Transverse relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Preparation to preparation, s.
        preparation_time: From the pulse that tips the magnetisation to the one that stores it (TP), s.
        excitation_spacing: Time between excitations (TX), s.
        n_excitations: Number of excitations per preparation.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        centre_index: Which excitation (from 0) fills the centre of k-space; the first has most of T2.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign, which only a flip angle beyond 180 degrees gives, instead of the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If preparation and train do not fit into the repetition.

    Source:
        Brittain et al., Magn Reson Med 33:689 (1995) for the preparation; the steady state by the Bloch
        equations, as in ``mprage``.

    Example:
        >>> one = torch.ones(1)
        >>> t2_prepared_spgr(proton_density=100 * one, r1=one, r2=10 * one, r2star=20 * one,
        ...                  repetition_time=1.5, preparation_time=0.05, excitation_spacing=0.006,
        ...                  n_excitations=60, flip_angle=12.0, echo_time=0.003)
        tensor([8.9228])
    """
    delay = check_t2_prepared_spgr(
        repetition_time=repetition_time,
        preparation_time=preparation_time,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angle,
        echo_time=echo_time,
        centre_index=centre_index,
    )
    rotation = sin_and_versine(flip_angle, b1_plus)
    train = excitation_train(r1, excitation_spacing, n_excitations, centre_index, rotation)
    prepared, rest = decay(r2, preparation_time), decay(r1, delay)
    end = 1.0 - (1.0 - train.through(torch.zeros_like(r1))) * rest
    start = prepared * (end / (1.0 - train.to_end * (rest * prepared) + TINY))
    return finish(proton_density * decay(r2star, echo_time) * train.sine * train.at_centre(start), signed)


@dataclass(frozen=True, kw_only=True)
class T2PreparedSpgr(Protocol):
    """T2-prepared SPGR: T2 weighting in 3D without long trains of refocusing pulses.

    Attributes:
        repetition_time: Preparation to preparation, s.
        preparation_time: From the pulse that tips the magnetisation to the one that stores it, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per preparation.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        centre_index: Which excitation fills the centre of k-space.
    """

    sequence: ClassVar[str] = "t2prep_spgr"
    contrasts: ClassVar[Mapping[str, str]] = {"T2prep": "acq-T2prep_T2w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR",)
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2", "r2star")
    words: ClassVar[Mapping[str, str]] = {"preparation_time": "T2prep {:.3g} s"}

    weighting: str = "T2prep"
    repetition_time: float
    preparation_time: float
    excitation_spacing: float
    n_excitations: int
    flip_angle: float
    echo_time: float
    centre_index: int = 0

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        return Evidence.NAME if any(name in sidecar.name for name in _NAMES) else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar; BIDS has none for the preparation."""
        fields = sidecar.require_times("RepetitionTimePreparation", "RepetitionTime")
        fields["flip_angle"] = sidecar.require("flip_angle", "FlipAngle")
        usual = {
            "preparation_time": ("T2PreparationTime", _PREPARATION_TIME),
            "excitation_spacing": (
                "RepetitionTimeExcitation",
                max(_EXCITATION_SPACING, 2 * fields["echo_time"]),
            ),
        }
        for name, (key, value) in usual.items():
            known = sidecar.take(name, key)
            fields[name] = sidecar.assume(name, value, f"{key} is missing") if known is None else known
        count = sidecar.take("n_excitations", "NumberShots")
        if count is None:
            room = fields["repetition_time"] - fields["preparation_time"]
            fitting = max(1.0, min(_EXCITATIONS, room // fields["excitation_spacing"]))
            count = sidecar.assume("n_excitations", fitting, "usual, as far as they fit")
        return {**fields, "n_excitations": round(count)}

    def sidecar_fields(self) -> dict[str, Any]:
        """Return what the sidecar of an image says beside what all protocols say."""
        return {
            "PulseSequenceType": "T2prep SPGR",
            "T2PreparationTime": self.preparation_time,
            "RepetitionTimePreparation": self.repetition_time,
        }

    def _check(self) -> None:
        check_t2_prepared_spgr(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return t2_prepared_spgr(**arguments)
