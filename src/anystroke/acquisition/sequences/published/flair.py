"""FLAIR as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition.relaxation import decay
from anystroke.acquisition.sequences.inversion_recovery import check_inversion_recovery
from anystroke.acquisition.sequences.published.shared import PublishedProtocol, check_published


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
        >>> import torch
        >>> one = torch.ones(1)
        >>> published_flair(proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=5.0,
        ...                 inversion_time=1.0, echo_time=0.02)
        tensor([18.1643])
    """
    check_published(repetition_time=repetition_time, inversion_time=inversion_time, echo_time=echo_time)
    recovered = 1.0 - 2.0 * decay(r1, inversion_time) + decay(r1, repetition_time)
    signal = gain * proton_density * decay(r2star, echo_time) * recovered
    return signal if signed else signal.abs()


@dataclass(frozen=True, kw_only=True)
class PublishedFlair(PublishedProtocol):
    """FLAIR of qATLAS and qSynth, see ``published_flair``.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Echo time, s.
        gain: Factor on the image.
        magnitude: Drop the sign, which the published program keeps.
    """

    sequence: ClassVar[str] = "published_flair"
    contrasts: ClassVar[Mapping[str, str]] = {"FLAIR": "FLAIR"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("SE", "IR")
    choices: ClassVar[tuple[str, ...]] = ("magnitude",)

    weighting: str = "FLAIR"
    inversion_time: float
    magnitude: bool = False

    def _positive(self) -> dict[str, float]:
        return {**super()._positive(), "inversion_time": self.inversion_time}

    def _check_scanner(self) -> None:
        check_inversion_recovery(
            repetition_time=self.repetition_time,
            inversion_time=self.inversion_time,
            echo_time=self.echo_time,
        )

    def _image(self, arguments: dict[str, Any]) -> Tensor:
        return published_flair(**arguments, signed=not self.magnitude)
