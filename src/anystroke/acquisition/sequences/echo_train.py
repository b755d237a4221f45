"""What the sequences with a train of spin echoes share."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.relaxation import TINY, decay, sin_and_versine
from anystroke.acquisition.sidecars.sidecar import Sidecar, SidecarError

EQUIVALENT_ECHO_SHARE = 0.28
"""Equivalent over nominal echo time of 3-D trains with variable flip angles; 0.22 to 0.35 in simulations."""

_LONGEST_EQUIVALENT_ECHO = 0.2
_USUAL_SPACING, _USUAL_LENGTH = {2: 0.010, 3: 0.004}, {2: 16, 3: 150}


def after_train(
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


def excite_train(
    magnetisation: Tensor, whole: Tensor, b1_plus: Tensor | None, echo_train_length: int, feedback: float
) -> Tensor:
    """Tip the magnetisation by 90 ``b1_plus`` degrees; what is left upright feeds the next repetition."""
    if b1_plus is None:
        return magnetisation
    sine, versine = sin_and_versine(90.0, b1_plus)
    parity = feedback if echo_train_length % 2 == 0 else -feedback
    denominator = (1.0 - parity) + parity * (versine + (1.0 - versine) * (1.0 - whole))
    return sine * (magnetisation / (denominator + TINY))


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
        >>> import torch
        >>> incidental_mt_factor(mt_saturation=torch.tensor([0.0, 1.5]), sensitivity=0.1)
        tensor([1.0000, 0.8500])
    """
    if not 0.0 <= sensitivity < math.inf:
        raise ValueError(f"sensitivity must be finite and not negative, got {sensitivity!r}")
    return 1.0 - sensitivity * mt_saturation


@dataclass(frozen=True, kw_only=True)
class EchoTrain(Protocol):
    """What the sequences with a train of spin echoes share."""

    decays: ClassVar[Mapping[str, str]] = {"r2": "echo_time"}
    not_played: ClassVar[tuple[str, ...]] = ("incidental_mt",)
    not_negative: ClassVar[tuple[str, ...]] = ("incidental_mt",)
    words: ClassVar[Mapping[str, str]] = {"incidental_mt": "incidental MT {:.3g}/p.u."}
    repetition_keys: ClassVar[tuple[str, ...]] = ("RepetitionTimePreparation", "RepetitionTime")

    repetition_time: float
    echo_time: float
    echo_spacing: float
    echo_train_length: int
    incidental_mt: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2", *(("mt_saturation",) if self.incidental_mt else ()))

    @property
    def losses(self) -> Mapping[str, float]:
        """For each map ``M`` that takes away signal as ``1 - s M``, the ``s``."""
        return {"mt_saturation": self.incidental_mt} if self.incidental_mt else {}

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields from a sidecar; those that do not tell the echo spacing get the usual one."""
        fields = sidecar.require_times(*cls.repetition_keys)
        repetition, echo = fields["repetition_time"], fields["echo_time"]
        if echo >= repetition:
            raise SidecarError(f"EchoTime {echo:g} s is not below RepetitionTime {repetition:g} s")
        if sidecar.dimensions == 3 and echo > _LONGEST_EQUIVALENT_ECHO:
            sidecar.used["echo_time"] += f" {echo:g} s, which is nominal, x {EQUIVALENT_ECHO_SHARE:g}"
            echo *= EQUIVALENT_ECHO_SHARE
        inversion, waiting = cls._read_inversion(sidecar)
        usual, reason = _USUAL_SPACING[sidecar.dimensions], f"usual in {sidecar.dimensions}D"
        count = sidecar.take("echo_train_length", "EchoTrainLength")
        if count is None or count < 2.0:
            needed = max(math.ceil(echo / usual), _USUAL_LENGTH[sidecar.dimensions])
            count = sidecar.assume("echo_train_length", float(needed), reason)
        spacing = sidecar.take("echo_spacing", "EchoSpacing")
        if spacing is None:
            fitting = min(usual, 0.9 * (repetition - waiting) / count)
            spacing = sidecar.assume("echo_spacing", max(fitting, echo / count), reason)
        train = {"echo_spacing": spacing, "echo_train_length": round(count)}
        return {**fields, "echo_time": echo, **inversion, **train}

    @classmethod
    def _read_inversion(cls, sidecar: Sidecar) -> tuple[dict[str, Any], float]:
        """Return the fields of inversions, and the time that they take before the excitation, s."""
        return {}, 0.0

    def _check(self) -> None:
        timing.check_echo_train(**self._parameters())

    @abstractmethod
    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        """Call the signal function."""

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        """Neighbouring slices' and refocusing pulses are MT pulses too."""
        saturation = arguments.pop("mt_saturation", None)
        signal = self._echo(arguments)
        if saturation is None:
            return signal
        return signal * incidental_mt_factor(mt_saturation=saturation, sensitivity=self.incidental_mt)
