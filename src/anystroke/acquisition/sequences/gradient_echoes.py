"""Signal equations of gradient echoes: spoiled, inversion-prepared and balanced.

See ``anystroke.acquisition.sequences.equations`` for units and conventions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.relaxation import (
    TINY,
    Angle,
    decay,
    finish,
    power,
    regrowth,
    sin_and_versine,
)
from anystroke.core import units


def spoiled_gradient_echo(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    echo_time: float,
    flip_angle: float,
    mt_saturation: Tensor | None = None,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> Tensor:
    """Signal of a spoiled gradient echo (SPGR, FLASH, T1-FFE) in the steady state, with MT pulse or without.

    ``PD sin(a) (1 - d)(1 - E) / [1 - (1 - d) cos(a) E] exp(-TE R2*)`` with ``E = exp(-TR R1)`` and
    ``d = mt_saturation / 100``, the fraction that an MT pulse right before each excitation saturates.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        flip_angle: Nominal flip angle, degrees.
        mt_saturation: MT saturation of the pulse that is played, p.u.; None if no MT pulse is played.
        b1_plus: Actual over nominal flip angle; 1 if None. It does not rescale ``mt_saturation``.
        signed: Keep the sign instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density``, of the maps' broadcast shape.

    Raises:
        TimingError: If the echo does not fit into the repetition or the angle is outside 0..180 degrees.

    Source:
        Ernst, Anderson, Rev Sci Instrum 37:93 (1966); Helms et al., Magn Reson Med 60:1396 (2008) for MT.

    Example:
        >>> one = torch.ones(1)
        >>> spoiled_gradient_echo(proton_density=100 * one, r1=one, r2star=20 * one,
        ...                       repetition_time=0.025, echo_time=0.005, flip_angle=20.0)
        tensor([9.1499])
    """
    timing.check_gradient_echo(repetition_time=repetition_time, echo_time=echo_time, flip_angle=flip_angle)
    sine, versine = sin_and_versine(flip_angle, b1_plus)
    regrown = regrowth(r1, repetition_time)
    if mt_saturation is None:
        denominator = regrown * (1.0 - versine) + (versine + TINY)
    else:
        saturated = units.percent_to_fraction(mt_saturation)
        regrown = (1.0 - saturated) * regrown
        denominator = (saturated + regrown) * (1.0 - versine) + (versine + TINY)
    return finish(proton_density * decay(r2star, echo_time) * sine * (regrown / denominator), signed)


class _Train(NamedTuple):
    """A train of excitations: each takes Mz to ``x Mz + 1 - E``, towards ``driven`` = (1 - E) / (1 - x).

    Attributes:
        sine: Sine of the flip angle.
        driven: Mz that the train does not change.
        to_centre: ``x ** centre``.
        to_end: ``x ** n``.
    """

    sine: Angle
    driven: Tensor
    to_centre: Tensor
    to_end: Tensor

    def at_centre(self, start: Tensor) -> Tensor:
        """Mz at the centre of k-space, of Mz at the first excitation."""
        return self.driven - self.to_centre * (self.driven - start)

    def through(self, start: Tensor) -> Tensor:
        """Mz after the train, of Mz at the first excitation."""
        return self.driven - self.to_end * (self.driven - start)


def _train(
    r1: Tensor, excitation_spacing: float, n_excitations: int, centre: int, rotation: tuple[Angle, Angle]
) -> _Train:
    sine, versine = rotation
    cosine = 1.0 - versine
    regrown = regrowth(r1, excitation_spacing)
    driven = regrown / (regrown * cosine + (versine + TINY))
    to_centre = decay(r1, centre * excitation_spacing) * power(cosine, centre)
    if n_excitations == 2 * centre:
        to_end = to_centre * to_centre
    else:
        to_end = decay(r1, n_excitations * excitation_spacing) * power(cosine, n_excitations)
    return _Train(sine, driven, to_centre, to_end)


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
        >>> one = torch.ones(1)
        >>> mprage(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=2.3, inversion_time=0.9,
        ...        excitation_spacing=0.006, n_excitations=160, flip_angle=9.0, echo_time=0.003,
        ...        inversion_efficiency=0.96)
        tensor([3.3432])
    """
    before, after, centre = timing.check_mprage(
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angle,
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
        centre_index=centre_index,
    )
    train = _train(r1, excitation_spacing, n_excitations, centre, sin_and_versine(flip_angle, b1_plus))
    to_first, rest = decay(r1, before), decay(r1, after)
    end = 1.0 - (1.0 - train.through(1.0 - to_first)) * rest
    kept = train.to_end * (to_first * rest)
    steady = end / (1.0 + inversion_efficiency * kept + TINY)
    start = 1.0 - (1.0 + inversion_efficiency * steady) * to_first
    return finish(proton_density * decay(r2star, echo_time) * train.sine * train.at_centre(start), signed)


def mp2rage(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    inversion_times: tuple[float, float],
    excitation_spacing: float,
    n_excitations: int,
    flip_angles: tuple[float, float],
    echo_time: float,
    inversion_efficiency: float = 1.0,
    centre_index: int | None = None,
    robust_beta: float = 0.0,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Signals of an MP2RAGE (two gradient-echo trains per inversion) in the steady state.

    The magnetisation is followed forwards from the inversion through both trains, each as in ``mprage``.
    Following it backwards from the second, as is often printed, loses all digits in float32 for short T1.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the excitation at the centre of k-space of each train, s.
        excitation_spacing: Time between excitations (TX), s.
        n_excitations: Number of excitations per train.
        flip_angles: Nominal flip angle of each train, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation (from 0) fills the centre of k-space; ``n_excitations // 2`` if None.
        robust_beta: Regularises the uniform image, see ``uniform_image``; in squared units of the signals.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign of the two images instead of returning their magnitude.

    Returns:
        The two images in the units of ``proton_density``, and the uniform image (UNI), which is always
        signed and lies in -0.5..0.5.

    Raises:
        TimingError: If the trains do not fit around their inversion times or into the repetition.

    Source:
        Marques et al., NeuroImage 49:1271 (2010).

    Example:
        >>> one = torch.ones(1)
        >>> inv1, inv2, uni = mp2rage(
        ...     proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=6.25,
        ...     inversion_times=(0.8, 2.2), excitation_spacing=0.0058, n_excitations=160,
        ...     flip_angles=(4.0, 5.0), echo_time=0.0029, inversion_efficiency=0.96)
        >>> round(uni.item(), 4)
        0.1719
    """
    before, between, after, centre = timing.check_mp2rage(
        repetition_time=repetition_time,
        inversion_times=inversion_times,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angles=flip_angles,
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
        centre_index=centre_index,
    )
    rotations = [sin_and_versine(angle, b1_plus) for angle in flip_angles]
    one, two = (_train(r1, excitation_spacing, n_excitations, centre, turn) for turn in rotations)
    to_first, to_second, rest = decay(r1, before), decay(r1, between), decay(r1, after)
    second = 1.0 - (1.0 - one.through(1.0 - to_first)) * to_second
    end = 1.0 - (1.0 - two.through(second)) * rest
    kept = one.to_end * two.to_end * (to_first * to_second * rest)
    steady = end / (1.0 + inversion_efficiency * kept + TINY)
    start = 1.0 - (1.0 + inversion_efficiency * steady) * to_first
    second = 1.0 - (1.0 - one.through(start)) * to_second
    received = proton_density * decay(r2star, echo_time)
    inv1 = received * one.sine * one.at_centre(start)
    inv2 = received * two.sine * two.at_centre(second)
    uni = uniform_image(inv1=inv1, inv2=inv2, robust_beta=robust_beta)
    return finish(inv1, signed), finish(inv2, signed), uni


def uniform_image(*, inv1: Tensor, inv2: Tensor, robust_beta: float = 0.0) -> Tensor:
    """Combine the two signed images of an MP2RAGE so that PD, R2* and the receive field cancel.

    ``(inv1 inv2 - beta) / (inv1^2 + inv2^2 + 2 beta)``. Without ``beta`` the background is noise of full
    range; with it, of the size of a few noise variances, it goes to -0.5, the dark end.

    Args:
        inv1: First image, signed.
        inv2: Second image, signed.
        robust_beta: Regularisation in squared units of the images; 0 gives the plain uniform image.

    Returns:
        UNI in -0.5..0.5; 0 where both images and ``robust_beta`` are 0. Scanners store (UNI + 0.5) 4095.

    Raises:
        ValueError: If ``robust_beta`` is negative or not finite.

    Source:
        Marques et al., NeuroImage 49:1271 (2010); O'Brien et al., PLoS One 9:e99676 (2014) for beta.

    Example:
        >>> uniform_image(inv1=torch.tensor([-1.0, 0.0]), inv2=torch.tensor([2.0, 0.0]), robust_beta=0.5)
        tensor([-0.4167, -0.5000])
    """
    if not 0.0 <= robust_beta < float("inf"):
        raise ValueError(f"robust_beta must be finite and not negative, got {robust_beta!r}")
    product, power_ = inv1 * inv2, inv1 * inv1 + inv2 * inv2
    return (product - robust_beta) / (power_ + (2.0 * robust_beta + TINY))


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
