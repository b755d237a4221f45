"""Turbo spin echo as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition.relaxation import decay, regrowth
from anystroke.acquisition.sequences.published.shared import PublishedProtocol, check_published


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
        >>> import torch
        >>> one = torch.ones(1)
        >>> published_turbo_spin_echo(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=3.0,
        ...                           echo_time=0.08)
        tensor([19.1845])
    """
    check_published(repetition_time=repetition_time, echo_time=echo_time)
    return gain * proton_density * regrowth(r1, repetition_time) * decay(r2star, echo_time)


@dataclass(frozen=True, kw_only=True)
class PublishedTurboSpinEcho(PublishedProtocol):
    """Turbo spin echo of qATLAS and qSynth, see ``published_turbo_spin_echo``.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Echo time, s.
        gain: Factor on the image.
    """

    sequence: ClassVar[str] = "published_tse"
    contrasts: ClassVar[Mapping[str, str]] = {"T2w": "T2w", "PDw": "PDw"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE",)

    weighting: str = "T2w"

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published_turbo_spin_echo(**arguments)
