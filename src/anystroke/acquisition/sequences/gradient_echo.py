"""Spoiled gradient echo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, finish, regrowth, sin_and_versine
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar
from anystroke.core import units

_LONGEST_T1W_ECHO = 0.012


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
        >>> import torch
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


@dataclass(frozen=True, kw_only=True)
class SpoiledGradientEcho(Protocol):
    """Spoiled gradient echo: T1w SPGR and FLASH, PDw, T2*w.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        flip_angle: Nominal flip angle, degrees.
        mt_scale: Saturation of the MT pulse that is played, relative to the map's own; 0 if none is played.
    """

    sequence: ClassVar[str] = "spgr"
    contrasts: ClassVar[Mapping[str, str]] = {
        "T1w": "T1w",
        "PDw": "PDw",
        "T2starw": "T2starw",
        "MTw": "acq-MT_PDw",
    }
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR",)
    not_played: ClassVar[tuple[str, ...]] = ("mt_scale",)
    not_negative: ClassVar[tuple[str, ...]] = ("mt_scale",)
    words: ClassVar[Mapping[str, str]] = {"mt_scale": "MT x {:.3g}"}

    weighting: str = "T1w"
    repetition_time: float
    echo_time: float
    flip_angle: float
    mt_scale: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star", *(("mt_saturation",) if self.mt_scale else ()))

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {} if self.mt_scale else {"r2star": self.echo_time}

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        plain = sidecar.family is Family.GRADIENT_ECHO and not sidecar.inverted
        return Evidence.FAMILY if plain else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        fields = sidecar.require_times("RepetitionTimeExcitation", "RepetitionTime")
        fields["flip_angle"] = sidecar.require("flip_angle", "FlipAngle")
        if sidecar.data.get("MTState") is True:
            sidecar.used["mt_scale"] = "MTState"
            fields["mt_scale"] = sidecar.assume("mt_scale", 1.0, "the saturation of the MT map's own pulse")
        return fields

    @classmethod
    def usual_weighting(cls, fields: Mapping[str, Any]) -> str:
        """Name the contrast that these fields give."""
        if fields.get("mt_scale"):
            return "MTw"
        return "T2starw" if fields["echo_time"] > _LONGEST_T1W_ECHO else "T1w"

    def sidecar_fields(self) -> dict[str, Any]:
        """Return what the sidecar of an image says beside what all protocols say."""
        return {"RepetitionTimeExcitation": self.repetition_time, "MTState": bool(self.mt_scale)}

    def _check(self) -> None:
        timing.check_gradient_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        if self.mt_scale:
            arguments["mt_saturation"] = arguments["mt_saturation"] * self.mt_scale
        return spoiled_gradient_echo(**arguments)
