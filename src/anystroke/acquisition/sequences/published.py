"""Signal equations as published with other generators, faults included, to repeat their runs.

Names: *printed* is what the qATLAS and qSynth papers say, *published* what their programs computed. None of
these functions asks whether a scanner could play the timing: the programs did not, and delays may come out
negative. For images that look like a scanner's use ``anystroke.acquisition.sequences.equations``.

All of them share these quirks: R2* stands for R2 in spin echoes; a random ``gain`` from 0.3 to 7, which is
called the field strength, multiplies the image, which normalisation undoes, and nothing else depends on the
field; the transmit field is 1 everywhere.
"""

import math

import torch
from torch import Tensor

from anystroke.acquisition.relaxation import TINY, decay, regrowth
from anystroke.acquisition.timing import TimingError
from anystroke.core import units


def check_published(**positive: float) -> None:
    """Refuse what even the published programs cannot compute with: numbers that are not above 0.

    Args:
        **positive: Times in s, angles in degrees and counts by name.

    Raises:
        TimingError: With the name and the value.

    Example:
        >>> check_published(repetition_time=2.0)
    """
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0.0):
            raise TimingError(f"{name} must be finite and above 0, got {value!r}")


def published_turbo_spin_echo(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    echo_time: float,
    gain: float = 1.0,
) -> Tensor:
    """Turbo spin echo as printed and published: ``gain PD (1 - exp(-TR R1)) exp(-TE R2*)``.

    Quirks: R2* for R2; the echo train takes no time, so the echo may come after the next excitation.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        gain: Factor on the image.

    Returns:
        Signal in the units of ``proton_density`` times ``gain``.

    Raises:
        TimingError: If a time is not above 0.

    Source:
        Equation 3 of the qATLAS and qSynth papers; ``fse`` of nitorch.

    Example:
        >>> one = torch.ones(1)
        >>> published_turbo_spin_echo(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=3.0,
        ...                           echo_time=0.08)
        tensor([19.1845])
    """
    check_published(repetition_time=repetition_time, echo_time=echo_time)
    return gain * proton_density * regrowth(r1, repetition_time) * decay(r2star, echo_time)


def published_flair(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    inversion_time: float,
    echo_time: float,
    gain: float = 1.0,
    signed: bool = True,
) -> Tensor:
    """FLAIR as printed and published: ``gain PD exp(-TE R2*) (1 - 2 exp(-TI R1) + exp(-TR R1))``.

    Quirks: the sign is kept; R2* for R2; the inversion is perfect and the echo train takes no time; the
    inversion time may exceed the repetition time, where the factor exceeds 1.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Echo time, s.
        gain: Factor on the image.
        signed: Keep the sign, as published, instead of returning the magnitude.

    Returns:
        Signal in the units of ``proton_density`` times ``gain``.

    Raises:
        TimingError: If a time is not above 0.

    Source:
        Equation 5 of the qATLAS and qSynth papers; ``flair`` of nitorch.

    Example:
        >>> one = torch.ones(1)
        >>> published_flair(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=5.0,
        ...                 inversion_time=1.0, echo_time=0.02)
        tensor([18.1643])
    """
    check_published(repetition_time=repetition_time, inversion_time=inversion_time, echo_time=echo_time)
    recovered = 1.0 - 2.0 * decay(r1, inversion_time) + decay(r1, repetition_time)
    signal = gain * proton_density * decay(r2star, echo_time) * recovered
    return signal if signed else signal.abs()


def published_gradient_echo(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    echo_time: float,
    flip_angle: float,
    gain: float = 1.0,
    mt_saturation: Tensor | None = None,
    mt_unit_bug: bool = True,
) -> Tensor:
    """Gradient echo as printed (``mt_saturation`` None) and "SPGR" as published (with it).

    ``gain PD sin(a) (1 - d)(1 - E) / [1 - (1 - d) cos(a) E] exp(-TE R2*)``.

    Quirks: the echo may come after the next excitation. In the SPGR, the MT map in p.u. is taken for the
    fraction ``d``, which should be a hundredth of it, so that white matter (1.5 p.u.) is negative; and it
    acts although no MT pulse is played.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        flip_angle: Flip angle, degrees.
        gain: Factor on the image.
        mt_saturation: MT saturation, p.u.; None gives the gradient echo.
        mt_unit_bug: Take the p.u. for a fraction, as published.

    Returns:
        Signal with its sign, in the units of ``proton_density`` times ``gain``.

    Raises:
        TimingError: If a time or the angle is not above 0.

    Source:
        Equation 4 of the qATLAS and qSynth papers; ``gre`` and ``spgr`` of nitorch.

    Example:
        >>> one = torch.ones(1)
        >>> echo = {"proton_density": 100 * one, "r1": one, "r2star": 20 * one}
        >>> timing = {"repetition_time": 0.025, "echo_time": 0.005, "flip_angle": 20.0}
        >>> published_gradient_echo(**echo, **timing)
        tensor([9.1499])
        >>> published_gradient_echo(**echo, **timing, mt_saturation=one, mt_unit_bug=False)
        tensor([8.1625])
    """
    check_published(repetition_time=repetition_time, echo_time=echo_time, flip_angle=flip_angle)
    angle = units.degrees_to_radians(flip_angle)
    versine = 2.0 * math.sin(angle / 2.0) ** 2
    regrown = regrowth(r1, repetition_time)
    saturated: Tensor | float = 0.0
    if mt_saturation is not None:
        saturated = mt_saturation if mt_unit_bug else units.percent_to_fraction(mt_saturation)
    left = 1.0 - saturated
    denominator = 1.0 - left * (1.0 - versine) * (1.0 - regrown)
    return gain * proton_density * math.sin(angle) * left * regrown / denominator * decay(r2star, echo_time)


def _powers(r1: Tensor, cosine: float, spacing: float, count: float) -> tuple[Tensor, Tensor]:
    """Return ``x ** count`` and what a train of ``count`` excitations adds, ``x = cos(a) exp(-TX R1)``."""
    kept = decay(r1, spacing * count) * math.pow(cosine, count)
    regrown = regrowth(r1, spacing)
    return kept, regrown * (1.0 - kept) / (1.0 - cosine * (1.0 - regrown) + TINY)


def published_mprage(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    inversion_time: float,
    excitation_spacing: float,
    n_excitations: float,
    flip_angle: float,
    echo_time: float,
    inversion_efficiency: float = 1.0,
    gain: float = 1.0,
) -> Tensor:
    """MPRAGE as published; it was run in place of the papers' equation 6 (``printed_mprage``).

    Quirks: the image is read one excitation before the centre of k-space (index n / 2 - 1, as printed by
    Marques et al.); ``n_excitations`` need not be whole; delays may be negative. The published program
    divides by proton density and sets the resulting NaN to 0; here it is a factor, with the same result.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the middle of the train, s.
        excitation_spacing: Time between excitations (TX), s.
        n_excitations: Number of excitations per inversion.
        flip_angle: Flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion.
        gain: Factor on the image.

    Returns:
        Magnitude in the units of ``proton_density`` times ``gain``.

    Raises:
        TimingError: If a time, the number or the angle is not above 0.

    Source:
        ``mprage`` of nitorch, after Marques et al., NeuroImage 49:1271 (2010).

    Example:
        >>> one = torch.ones(1)
        >>> published_mprage(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=2.3,
        ...                  inversion_time=0.9, excitation_spacing=0.006, n_excitations=160, flip_angle=9.0,
        ...                  echo_time=0.003, inversion_efficiency=0.96)
        tensor([3.3155])
    """
    check_published(
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angle,
        echo_time=echo_time,
    )
    angle = units.degrees_to_radians(flip_angle)
    cosine, half = math.cos(angle), n_excitations / 2.0
    before = inversion_time - half * excitation_spacing
    after = repetition_time - inversion_time - half * excitation_spacing
    kept, added = _powers(r1, cosine, excitation_spacing, n_excitations)
    first, rest = decay(r1, before), decay(r1, after)
    steady = ((1.0 - first) * kept + added) * rest + (1.0 - rest)
    loop = inversion_efficiency * math.pow(cosine, n_excitations)
    steady = steady / (1.0 + loop * decay(r1, repetition_time))
    start = (1.0 - first) - inversion_efficiency * steady * first
    kept, added = _powers(r1, cosine, excitation_spacing, half - 1.0)
    signal = (start * kept + added) * math.sin(angle)
    return gain * proton_density * decay(r2star, echo_time) * signal.abs()


def printed_mprage(
    *,
    proton_density: Tensor,
    r1: Tensor,
    repetition_time: float,
    excitation_spacing: float,
    delay_time: float,
    n_excitations: float,
    flip_angle: float,
) -> Tensor:
    """Equation 6 of the qATLAS and qSynth papers, which they call MPRAGE, times proton density.

    ``PD |sin(a) (1 - exp(-TR R1)) / (1 - cos(a) exp(-TR R1)) (1 - (cos(a) exp(-TX R1))^n) exp(-TD R1) +
    1 - exp(-TD R1)|``. It is not an MPRAGE but nearly the magnetisation before the inversion: there is no
    inversion and no inversion time, TR stands where TX belongs, and sin(a) multiplies one term only. No
    preset uses it; it is here so that the claim can be checked.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        repetition_time: TR, s.
        excitation_spacing: TX, s.
        delay_time: TD, from the end of the train to the next inversion, s.
        n_excitations: Number of excitations.
        flip_angle: Flip angle, degrees.

    Returns:
        What the equation gives, in the units of ``proton_density``.

    Raises:
        TimingError: If a time other than ``delay_time``, the number or the angle is not above 0.

    Source:
        Equation 6 of the qATLAS and qSynth papers, as printed.

    Example:
        >>> one = torch.ones(1)
        >>> value = printed_mprage(proton_density=100 * one, r1=one, repetition_time=2.3,
        ...                        excitation_spacing=0.006, delay_time=0.92, n_excitations=160,
        ...                        flip_angle=9.0)
        >>> bool(value > 50)
        True
    """
    check_published(
        repetition_time=repetition_time,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angle,
    )
    angle = units.degrees_to_radians(flip_angle)
    cosine = math.cos(angle)
    regrown, rest = regrowth(r1, repetition_time), decay(r1, delay_time)
    ernst = regrown / (1.0 - cosine * (1.0 - regrown))
    train = 1.0 - decay(r1, excitation_spacing * n_excitations) * math.pow(cosine, n_excitations)
    return proton_density * (math.sin(angle) * ernst * train * rest + 1.0 - rest).abs()


def published_mp2rage(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    inversion_times: tuple[float, float],
    excitation_spacing: float,
    n_excitations: float,
    flip_angles: tuple[float, float],
    echo_time: float,
    inversion_efficiency: float = 1.0,
    gain: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """MP2RAGE as published: two magnitudes and their uniform image.

    Quirks: the uniform image is made of magnitudes, so that it lies in 0..0.5 and two T1 give the same value;
    the first image is read one excitation before the centre of k-space, the second at it; the trains may
    overlap or end after the next inversion, which they do in nine of ten draws of the published protocol, and
    where that overflows the uniform image is 0, as published. The published program follows the second image
    backwards in time, which fails in float32 for short T1; this follows it forwards.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the middle of each train, s.
        excitation_spacing: Time between excitations (TX), s.
        n_excitations: Number of excitations per train.
        flip_angles: Flip angle of each train, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion.
        gain: Factor on the two images.

    Returns:
        The two images in the units of ``proton_density`` times ``gain``, and the uniform image.

    Raises:
        TimingError: If a time, the number or an angle is not above 0.

    Source:
        ``mp2rage`` of nitorch, after Marques et al., NeuroImage 49:1271 (2010).

    Example:
        >>> one = torch.ones(1)
        >>> _, _, uni = published_mp2rage(
        ...     proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=6.25,
        ...     inversion_times=(0.8, 2.2), excitation_spacing=0.0058, n_excitations=160,
        ...     flip_angles=(4.0, 5.0), echo_time=0.0029, inversion_efficiency=0.96)
        >>> round(uni.item(), 4)
        0.1663
    """
    first_time, second_time = inversion_times
    check_published(
        repetition_time=repetition_time,
        first_inversion_time=first_time,
        second_inversion_time=second_time,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        first_flip_angle=flip_angles[0],
        second_flip_angle=flip_angles[1],
        echo_time=echo_time,
    )
    angles = [units.degrees_to_radians(angle) for angle in flip_angles]
    cosines = [math.cos(angle) for angle in angles]
    half = n_excitations / 2.0
    train = n_excitations * excitation_spacing
    before = decay(r1, first_time - 0.5 * train)
    between = decay(r1, second_time - first_time - train)
    after = decay(r1, repetition_time - second_time - 0.5 * train)
    (kept1, added1), (kept2, added2) = (
        _powers(r1, cosine, excitation_spacing, n_excitations) for cosine in cosines
    )
    steady = ((1.0 - before) * kept1 + added1) * between + (1.0 - between)
    steady = (steady * kept2 + added2) * after + (1.0 - after)
    loop = inversion_efficiency * math.pow(cosines[0] * cosines[1], n_excitations)
    steady = steady / (1.0 + loop * decay(r1, repetition_time))
    start = (1.0 - before) - inversion_efficiency * steady * before
    second = (start * kept1 + added1) * between + (1.0 - between)
    received = gain * proton_density * decay(r2star, echo_time)
    kept1, added1 = _powers(r1, cosines[0], excitation_spacing, half - 1.0)
    kept2, added2 = _powers(r1, cosines[1], excitation_spacing, half)
    one = (math.sin(angles[0]) * (start * kept1 + added1)).abs()
    two = (math.sin(angles[1]) * (second * kept2 + added2)).abs()
    uni = one * two / (one.square() + two.square() + TINY)
    return received * one, received * two, torch.where(uni.isfinite(), uni, 0.0)
