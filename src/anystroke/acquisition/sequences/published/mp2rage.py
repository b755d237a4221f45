"""MP2RAGE as published."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystroke.acquisition.relaxation import TINY, decay
from anystroke.acquisition.sequences.published.shared import (
    PublishedProtocol,
    check_delays,
    check_published,
    train_powers,
)
from anystroke.core import units


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
        train_powers(r1, cosine, excitation_spacing, n_excitations) for cosine in cosines
    )
    steady = ((1.0 - before) * kept1 + added1) * between + (1.0 - between)
    steady = (steady * kept2 + added2) * after + (1.0 - after)
    loop = inversion_efficiency * math.pow(cosines[0] * cosines[1], n_excitations)
    steady = steady / (1.0 + loop * decay(r1, repetition_time))
    start = (1.0 - before) - inversion_efficiency * steady * before
    second = (start * kept1 + added1) * between + (1.0 - between)
    received = gain * proton_density * decay(r2star, echo_time)
    kept1, added1 = train_powers(r1, cosines[0], excitation_spacing, half - 1.0)
    kept2, added2 = train_powers(r1, cosines[1], excitation_spacing, half)
    one = (math.sin(angles[0]) * (start * kept1 + added1)).abs()
    two = (math.sin(angles[1]) * (second * kept2 + added2)).abs()
    uni = one * two / (one.square() + two.square() + TINY)
    return received * one, received * two, torch.where(uni.isfinite(), uni, 0.0)


@dataclass(frozen=True, kw_only=True)
class PublishedMp2rage(PublishedProtocol):
    """MP2RAGE of the published program, see ``published_mp2rage``; ``signal`` gives its uniform image.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the middle of each train, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per train, not always whole.
        flip_angles: Flip angle of each train, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion.
        gain: Factor on the two images; cancels in the uniform one.
    """

    sequence: ClassVar[str] = "published_mp2rage"
    contrasts: ClassVar[Mapping[str, str]] = {"UNIT1": "UNIT1"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR", "IR")

    weighting: str = "UNIT1"
    inversion_times: tuple[float, float]
    excitation_spacing: float
    n_excitations: float
    flip_angles: tuple[float, float]
    inversion_efficiency: float = 0.96

    def _positive(self) -> dict[str, float]:
        pairs = {
            **{f"inversion_times[{index}]": time for index, time in enumerate(self.inversion_times)},
            **{f"flip_angles[{index}]": angle for index, angle in enumerate(self.flip_angles)},
        }
        names = ("excitation_spacing", "n_excitations")
        return {**super()._positive(), **{name: getattr(self, name) for name in names}, **pairs}

    def _check_scanner(self) -> None:
        train = self.n_excitations * self.excitation_spacing
        first, second = self.inversion_times
        check_delays(
            {
                "the inversion and the first train": first - 0.5 * train,
                "the two trains": second - first - train,
                "the second train and the next inversion": self.repetition_time - second - 0.5 * train,
                "an echo and the next excitation": self.excitation_spacing - self.echo_time,
            }
        )

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published_mp2rage(**arguments)[2]
