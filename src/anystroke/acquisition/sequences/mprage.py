"""MPRAGE: inversion-prepared gradient-echo train."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, finish, sin_and_versine
from anystroke.acquisition.sequences.gradient_train import excitation_train, read_gradient_train
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar


def check_mprage(
    *,
    repetition_time: float,
    inversion_time: float,
    excitation_spacing: float,
    n_excitations: int,
    flip_angle: float,
    echo_time: float,
    inversion_efficiency: float,
    centre_index: int | None = None,
) -> tuple[float, float, int]:
    """Refuse an inversion-prepared gradient-echo train that does not fit around its inversion time.

    Args:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the excitation that fills the centre of k-space, s.
        excitation_spacing: Time between excitations of the train, s.
        n_excitations: Number of excitations in the train.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.
        centre_index: Which excitation (from 0) fills the centre; ``n_excitations // 2`` if None.

    Returns:
        Delay from the inversion to the first excitation (s), delay from the end of the train to the next
        inversion (s), and the centre's index.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> before, after, centre = check_mprage(
        ...     repetition_time=2.3, inversion_time=0.9, excitation_spacing=0.008, n_excitations=160,
        ...     flip_angle=9.0, echo_time=0.003, inversion_efficiency=0.96)
        >>> round(before, 6), round(after, 6), centre
        (0.26, 0.76, 80)
    """
    timing.check_times(
        echo_time=echo_time,
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        excitation_spacing=excitation_spacing,
    )
    if echo_time >= excitation_spacing:
        raise timing.TimingError(
            f"the echo must come before the next excitation: echo_time {echo_time:g} s is not below "
            f"excitation_spacing {excitation_spacing:g} s; {timing.HINT}"
        )
    timing.check_range("flip_angle", flip_angle, 0.0, 180.0, "degrees")
    timing.check_count("n_excitations", n_excitations)
    timing.check_range("inversion_efficiency", inversion_efficiency, 0.0, 1.0, "(a fraction)")
    centre = n_excitations // 2 if centre_index is None else centre_index
    if not 0 <= centre < n_excitations:
        raise timing.TimingError(
            f"centre_index must lie in 0..{n_excitations - 1}, below n_excitations, got {centre}"
        )
    before = inversion_time - centre * excitation_spacing
    if before < -timing.ROUNDING:
        raise timing.TimingError(
            f"{centre} excitations of {excitation_spacing:g} s do not fit between the inversion and "
            f"inversion_time {inversion_time:g} s; {timing.HINT}"
        )
    after = repetition_time - before - n_excitations * excitation_spacing
    if after < -timing.ROUNDING:
        raise timing.TimingError(
            f"the train ends {-after:g} s after the next inversion: repetition_time {repetition_time:g} s, "
            f"inversion_time {inversion_time:g} s, {n_excitations} excitations of {excitation_spacing:g} s"
        )
    return max(before, 0.0), max(after, 0.0), centre


def mprage(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    inversion_time: float,
    excitation_spacing: float,
    n_excitations: int,
    flip_angle: float,
    echo_time: float,
    inversion_efficiency: float = 1.0,
    centre_index: int | None = None,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of an MPRAGE (inversion-prepared gradient-echo train) in the steady state.

    The magnetisation is followed forwards from the inversion through ``centre_index`` excitations, each of
    which takes Mz to ``x Mz + 1 - E`` with ``x = cos(a) E`` and ``E = exp(-TX R1)``; the excitation that
    fills the centre of k-space is fired exactly at the inversion time. The inversion is adiabatic:
    ``b1_plus`` acts on the excitations alone.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the excitation at the centre of k-space, s.
        excitation_spacing: Time between excitations (TX), s.
        n_excitations: Number of excitations per inversion.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation (from 0) fills the centre of k-space; ``n_excitations // 2`` if None.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If the train does not fit around the inversion time or into the repetition.

    Source:
        Deichmann et al., NeuroImage 12:112 (2000); Marques et al., NeuroImage 49:1271 (2010), single train.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> mprage(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=2.3, inversion_time=0.9,
        ...        excitation_spacing=0.006, n_excitations=160, flip_angle=9.0, echo_time=0.003,
        ...        inversion_efficiency=0.96)
        tensor([3.3432])
    """
    before, after, centre = check_mprage(
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angle,
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
        centre_index=centre_index,
    )
    train = excitation_train(
        r1, excitation_spacing, n_excitations, centre, sin_and_versine(flip_angle, b1_plus)
    )
    to_first, rest = decay(r1, before), decay(r1, after)
    end = 1.0 - (1.0 - train.through(1.0 - to_first)) * rest
    kept = train.to_end * (to_first * rest)
    steady = end / (1.0 + inversion_efficiency * kept + TINY)
    start = 1.0 - (1.0 + inversion_efficiency * steady) * to_first
    return finish(proton_density * decay(r2star, echo_time) * train.sine * train.at_centre(start), signed)


@dataclass(frozen=True, kw_only=True)
class Mprage(Protocol):
    """MPRAGE (IR-SPGR, TFE): inversion-prepared gradient-echo train.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the excitation at the centre of k-space, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per inversion.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation fills the centre of k-space; half of them come before it if None.
    """

    sequence: ClassVar[str] = "mprage"
    contrasts: ClassVar[Mapping[str, str]] = {"T1w": "T1w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR", "IR")
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2star")
    decays: ClassVar[Mapping[str, str]] = {"r2star": "echo_time"}

    weighting: str = "T1w"
    repetition_time: float
    inversion_time: float
    excitation_spacing: float
    n_excitations: int
    flip_angle: float
    echo_time: float
    inversion_efficiency: float = 0.95
    centre_index: int | None = None

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        inverted = sidecar.family is Family.GRADIENT_ECHO and sidecar.inverted
        return Evidence.FAMILY if inverted and sidecar.inversions < 2 else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        return read_gradient_train(sidecar, pair=False)

    def _check(self) -> None:
        check_mprage(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return mprage(**arguments)
