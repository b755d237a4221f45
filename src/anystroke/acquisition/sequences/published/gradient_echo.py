"""Gradient echo and SPGR as published."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition.relaxation import decay, regrowth
from anystroke.acquisition.sequences.published.shared import PublishedProtocol, check_published
from anystroke.core import units


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
        >>> import torch
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


@dataclass(frozen=True, kw_only=True)
class PublishedGradientEcho(PublishedProtocol):
    """Gradient echo of qATLAS and qSynth, see ``published_gradient_echo``.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        flip_angle: Flip angle, degrees.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_gre"
    contrasts: ClassVar[Mapping[str, str]] = {"T2starw": "T2starw"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR",)

    weighting: str = "T2starw"
    flip_angle: float

    def sidecar_fields(self) -> dict[str, Any]:
        """Return what the sidecar of an image says beside what all protocols say."""
        return {"RepetitionTimeExcitation": self.repetition_time, "MTState": False}

    def _positive(self) -> dict[str, float]:
        return {**super()._positive(), "flip_angle": self.flip_angle}

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published_gradient_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class PublishedSpgr(PublishedGradientEcho):
    """SPGR of the published program, see ``published_gradient_echo``: MT in p.u. taken for a fraction.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        flip_angle: Flip angle, degrees.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_spgr"
    contrasts: ClassVar[Mapping[str, str]] = {"T1w": "T1w"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR",)
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2star", "mt_saturation")

    weighting: str = "T1w"
