"""Signal equations of spin echoes: conventional, turbo, inversion-prepared and diffusion-weighted.

See ``anystroke.acquisition.sequences.equations`` for units and conventions.
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.relaxation import TINY, decay, finish, sin_and_versine

# Time from the inversion to the excitation in s, and efficiency.
_Inversion: TypeAlias = tuple[float, float]


def _excited_spin_echo(
    r1: Tensor,
    repetition_time: float,
    echo_time: float,
    b1_plus: Tensor | None,
    inversion: _Inversion | None = None,
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
        >>> one = torch.ones(1)
        >>> spin_echo(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=3.0, echo_time=0.08)
        tensor([42.5132])
    """
    timing.check_spin_echo(repetition_time=repetition_time, echo_time=echo_time)
    factor = _excited_spin_echo(r1, repetition_time, echo_time, b1_plus)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


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
        >>> one = torch.ones(1)
        >>> inversion_recovery_spin_echo(proton_density=100 * one, r1=one, r2=10 * one, repetition_time=3.0,
        ...                              inversion_time=1.5, echo_time=0.02)
        tensor([49.4945])
    """
    timing.check_inversion_recovery(
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
    )
    inversion = (inversion_time, inversion_efficiency)
    factor = _excited_spin_echo(r1, repetition_time, echo_time, b1_plus, inversion)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


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
    factor = _excited_spin_echo(r1, repetition_time, echo_time, b1_plus)
    return finish(proton_density * decay(r2 * echo_time + adc * b_value, 1.0) * factor, signed)


def apparent_diffusion_coefficient(
    *, low: Tensor, high: Tensor, b_values: tuple[float, float] = (0.0, 1000.0)
) -> Tensor:
    """Map the apparent diffusion coefficient of two images: ``ln(low / high) / (b_high - b_low)``.

    Args:
        low: Image at the lower b-value, not negative.
        high: Image at the higher b-value, of a shape that broadcasts with ``low``.
        b_values: Lower and higher b-value, s/mm^2.

    Returns:
        ADC in mm^2/s; 0 where an image is not above 0, as it has no logarithm there.

    Raises:
        TimingError: If the second b-value is not above the first, or one is negative.

    Source:
        Le Bihan et al., Radiology 161:401 (1986).

    Example:
        >>> apparent_diffusion_coefficient(low=torch.tensor([10.0, 0.0]), high=torch.tensor([3.678794, 0.0]))
        tensor([0.0010, 0.0000])
    """
    lower, upper = b_values
    if not 0.0 <= lower < upper:
        raise timing.TimingError(f"b_values must rise from 0 s/mm^2 or more, got {b_values}")
    known = (low > 0.0) & (high > 0.0)
    ratio = torch.where(known, low, 1.0).log() - torch.where(known, high, 1.0).log()
    return ratio / (upper - lower)


def _after_train(
    r1: Tensor, recovery_time: float, echo_spacing: float, echo_train_length: int
) -> tuple[Tensor, Tensor]:
    """Return ``(1 - m) exp(-R1 recovery_time)`` and ``exp(-R1 (recovery_time + train))``.

    ``m`` is the longitudinal magnetisation per M0 at the end of a train that began with none: each ideal
    refocusing pulse inverts what has regrown.
    """
    half = decay(r1, 0.5 * echo_spacing)
    train = decay(r1, echo_spacing * echo_train_length)
    recovery = decay(r1, recovery_time)
    lost = 1.0 - half
    summed = 1.0 - train if echo_train_length % 2 == 0 else 1.0 + train
    remaining = lost * lost / (1.0 + half * half) * summed
    return (1.0 - remaining) * recovery, recovery * train


def _excite_train(
    magnetisation: Tensor, whole: Tensor, b1_plus: Tensor | None, echo_train_length: int, feedback: float
) -> Tensor:
    """Tip the magnetisation by 90 ``b1_plus`` degrees; what is left upright feeds the next repetition."""
    if b1_plus is None:
        return magnetisation
    sine, versine = sin_and_versine(90.0, b1_plus)
    parity = feedback if echo_train_length % 2 == 0 else -feedback
    denominator = (1.0 - parity) + parity * (versine + (1.0 - versine) * (1.0 - whole))
    return sine * (magnetisation / (denominator + TINY))


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
    left, whole = _after_train(r1, repetition_time - train, echo_spacing, echo_train_length)
    factor = _excite_train(1.0 - left, whole, b1_plus, echo_train_length, 1.0)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)


def incidental_mt_factor(*, mt_saturation: Tensor, sensitivity: float) -> Tensor:
    """Share of a turbo spin echo's signal that the MT effect of its own pulses leaves: 1 - sensitivity MT.

    The refocusing pulses of other slices, and of the train itself, are off resonance for bound protons.

    Args:
        mt_saturation: MT saturation of the map's own pulse, p.u.
        sensitivity: Fraction of the signal lost per p.u. of MT saturation, 0.03 to 0.10 in practice (an
            estimate), 0 for none.

    Returns:
        Factor on the signal, of the shape of ``mt_saturation``.

    Raises:
        ValueError: If the sensitivity is negative or not finite.

    Source:
        Melki, Mulkern, Magn Reson Med 24:357 (1992) for the effect; Radunsky et al. (2021) measured MT
        ratios of 19 to 21 % in white matter.

    Example:
        >>> incidental_mt_factor(mt_saturation=torch.tensor([0.0, 1.5]), sensitivity=0.1)
        tensor([1.0000, 0.8500])
    """
    if not 0.0 <= sensitivity < math.inf:
        raise ValueError(f"sensitivity must be finite and not negative, got {sensitivity!r}")
    return 1.0 - sensitivity * mt_saturation


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
    left, whole = _after_train(r1, repetition_time - train, echo_spacing, echo_train_length)
    factor = 1.0 - (1.0 + inversion_efficiency) * decay(r1, inversion_time) + inversion_efficiency * left
    factor = _excite_train(factor, whole, b1_plus, echo_train_length, -inversion_efficiency)
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
        inversion_time=timing.check_double_inversion(inversion_times),
        inversion_efficiency=inversion_efficiency,
    )
    left, whole = _after_train(r1, repetition_time - train, echo_spacing, echo_train_length)
    both = inversion_efficiency * decay(r1, first + second) - decay(r1, second)
    factor = 1.0 + (1.0 + inversion_efficiency) * both - inversion_efficiency**2 * left
    factor = _excite_train(factor, whole, b1_plus, echo_train_length, inversion_efficiency**2)
    return finish(proton_density * decay(r2, echo_time) * factor, signed)
