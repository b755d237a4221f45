"""MPRAGE as published, and the equation that was printed in its place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition.relaxation import decay, regrowth
from anystroke.acquisition.sequences.published.shared import (
    PublishedProtocol,
    check_delays,
    check_published,
    train_powers,
)
from anystroke.core import units


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
        >>> import torch
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
    kept, added = train_powers(r1, cosine, excitation_spacing, n_excitations)
    first, rest = decay(r1, before), decay(r1, after)
    steady = ((1.0 - first) * kept + added) * rest + (1.0 - rest)
    loop = inversion_efficiency * math.pow(cosine, n_excitations)
    steady = steady / (1.0 + loop * decay(r1, repetition_time))
    start = (1.0 - first) - inversion_efficiency * steady * first
    kept, added = train_powers(r1, cosine, excitation_spacing, half - 1.0)
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
        >>> import torch
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


@dataclass(frozen=True, kw_only=True)
class PublishedMprage(PublishedProtocol):
    """MPRAGE of qATLAS and qSynth, see ``published_mprage``.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the middle of the train, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per inversion, not always whole.
        flip_angle: Flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_mprage"
    contrasts: ClassVar[Mapping[str, str]] = {"T1w": "T1w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR", "IR")

    weighting: str = "T1w"
    inversion_time: float
    excitation_spacing: float
    n_excitations: float
    flip_angle: float
    inversion_efficiency: float = 0.96

    def _positive(self) -> dict[str, float]:
        names = ("inversion_time", "excitation_spacing", "n_excitations", "flip_angle")
        return {**super()._positive(), **{name: getattr(self, name) for name in names}}

    def _check_scanner(self) -> None:
        half = 0.5 * self.n_excitations * self.excitation_spacing
        check_delays(
            {
                "the inversion and the train": self.inversion_time - half,
                "the train and the next inversion": self.repetition_time - self.inversion_time - half,
                "an echo and the next excitation": self.excitation_spacing - self.echo_time,
            }
        )

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published_mprage(**arguments)
