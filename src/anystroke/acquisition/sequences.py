"""Signal equations: what each MR sequence makes of quantitative maps.

Pure, differentiable functions of tensors. Maps are tensors of one broadcastable shape: ``proton_density`` in
p.u., ``r1``, ``r2``, ``r2star`` in 1/s (not negative), ``mt_saturation`` in p.u., ``adc`` in mm^2/s and
``b1_plus`` as the ratio of actual to nominal flip angle. Times are seconds, angles degrees. Spin echoes decay
with R2, gradient echoes with R2*. All models are mono-exponential with perfect spoiling; the receive field
and noise belong to ``anystroke.corruption``.

Differences of exponentials are written with ``expm1``, so that they keep their relative accuracy in float32
for long T1, and proton density is a factor that is never divided by, so that the background is 0 and not NaN.
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor

from anystroke import units
from anystroke.acquisition import timing

# Smaller than any denominator except 0, where the numerator is 0 too and the limit is 0.
_TINY = float(torch.finfo(torch.float32).tiny)

_Angle: TypeAlias = float | Tensor


def _sin_and_versine(flip_angle: float, b1_plus: Tensor | None) -> tuple[_Angle, _Angle]:
    """Return sin(angle) and 1 - cos(angle), the latter without cancellation at small angles."""
    angle = units.degrees_to_radians(flip_angle)
    if b1_plus is None:
        return math.sin(angle), 2.0 * math.sin(angle / 2.0) ** 2
    half = torch.sin(b1_plus * (angle / 2.0))
    return torch.sin(b1_plus * angle), 2.0 * half * half


def _finish(signal: Tensor, signed: bool) -> Tensor:
    return signal if signed else signal.abs()


def _spin_echo_factor(r1: Tensor, repetition_time: float, echo_time: float, b1_plus: Tensor | None) -> Tensor:
    """Transverse magnetisation per M0 of a spin echo in the steady state, before T2 decay."""
    late = torch.expm1(r1 * (echo_time / 2.0 - repetition_time))
    if b1_plus is None:
        return torch.expm1(r1 * -repetition_time) - 2.0 * late
    sin_ex, versine_ex = _sin_and_versine(90.0, b1_plus)
    _, versine_re = _sin_and_versine(180.0, b1_plus)
    early = torch.expm1(r1 * (-echo_time / 2.0))
    both = late + early + late * early
    versine = versine_ex + versine_re - versine_ex * versine_re
    numerator = -late - (1.0 + late) * early * (1.0 - versine_re)
    return sin_ex * (0.5 * versine_re) * numerator / (versine - (1.0 - versine) * both + _TINY)


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
        >>> one = torch.ones(1)
        >>> spin_echo(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=3.0, echo_time=0.08)
        tensor([42.5132])
    """
    timing.check_spin_echo(repetition_time=repetition_time, echo_time=echo_time)
    factor = _spin_echo_factor(r1, repetition_time, echo_time, b1_plus)
    return _finish(proton_density * torch.exp(r2 * -echo_time) * factor, signed)


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
    factor = _spin_echo_factor(r1, repetition_time, echo_time, b1_plus)
    return _finish(proton_density * torch.exp(r2 * -echo_time - adc * b_value) * factor, signed)


def _train_recovery(
    r1: Tensor, recovery_time: float, echo_spacing: float, echo_train_length: int
) -> tuple[Tensor, Tensor]:
    """Longitudinal magnetisation per M0 at ``recovery_time`` after a train that began with none.

    Returns it with ``exp(-R1 (recovery_time + train)) - 1``. Each ideal refocusing pulse inverts what has
    regrown during the train.
    """
    recovery = torch.expm1(r1 * -recovery_time)
    train = torch.expm1(r1 * (-echo_spacing * echo_train_length))
    lost = torch.expm1(r1 * (-0.5 * echo_spacing))
    kept = 1.0 + lost
    remaining = lost * lost / (1.0 + kept * kept)
    remaining = remaining * (-train if echo_train_length % 2 == 0 else 2.0 + train)
    return remaining * (1.0 + recovery) - recovery, recovery + train + recovery * train


def _excite_train(
    magnetisation: Tensor, whole: Tensor, b1_plus: Tensor | None, echo_train_length: int, feedback: float
) -> Tensor:
    """Tip the magnetisation by 90 ``b1_plus`` degrees; what is left upright feeds the next repetition."""
    if b1_plus is None:
        return magnetisation
    sine, versine = _sin_and_versine(90.0, b1_plus)
    parity = feedback if echo_train_length % 2 == 0 else -feedback
    denominator = (1.0 - parity) + parity * (versine - (1.0 - versine) * whole)
    return sine * magnetisation / (denominator + _TINY)


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
    ready, whole = _train_recovery(r1, repetition_time - train, echo_spacing, echo_train_length)
    factor = _excite_train(ready, whole, b1_plus, echo_train_length, 1.0)
    return _finish(proton_density * torch.exp(r2 * -echo_time) * factor, signed)


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
    ready, whole = _train_recovery(r1, repetition_time - train, echo_spacing, echo_train_length)
    factor = torch.expm1(r1 * -inversion_time) * -(1.0 + inversion_efficiency) - ready * inversion_efficiency
    factor = _excite_train(factor, whole, b1_plus, echo_train_length, -inversion_efficiency)
    return _finish(proton_density * torch.exp(r2 * -echo_time) * factor, signed)


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
    sine, versine = _sin_and_versine(flip_angle, b1_plus)
    regrown = -torch.expm1(r1 * -repetition_time)
    if mt_saturation is None:
        denominator = regrown * (1.0 - versine) + (versine + _TINY)
    else:
        saturated = units.percent_to_fraction(mt_saturation)
        regrown = (1.0 - saturated) * regrown
        denominator = (saturated + regrown) * (1.0 - versine) + (versine + _TINY)
    return _finish(proton_density * torch.exp(r2star * -echo_time) * sine * (regrown / denominator), signed)


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
    sine, versine = _sin_and_versine(flip_angle, b1_plus)
    cosine = 1.0 - versine
    regrown = -torch.expm1(r1 * -excitation_spacing)
    driven = regrown / (regrown * cosine + (versine + _TINY))
    to_centre = torch.exp(r1 * (-centre * excitation_spacing)) * cosine**centre
    if n_excitations == 2 * centre:
        to_end = to_centre * to_centre
    else:
        to_end = torch.exp(r1 * (-n_excitations * excitation_spacing)) * cosine**n_excitations
    first = torch.expm1(r1 * -before)
    rest = torch.expm1(r1 * -after)
    through = driven - to_end * (driven + first)
    kept = to_end * ((1.0 + first) * (1.0 + rest))
    steady = (through * (1.0 + rest) - rest) / (1.0 + inversion_efficiency * kept + _TINY)
    start = first + (inversion_efficiency * steady) * (1.0 + first)
    factor = driven - to_centre * (driven + start)
    return _finish(proton_density * torch.exp(r2star * -echo_time) * sine * factor, signed)
