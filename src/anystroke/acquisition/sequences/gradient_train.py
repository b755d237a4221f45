"""Trains of excitations: what the sequences share that read gradient echoes after an inversion."""

import math
from typing import Any, NamedTuple

from torch import Tensor

from anystroke.acquisition.relaxation import TINY, Angle, decay, power, regrowth
from anystroke.acquisition.sidecars.sidecar import Sidecar

_SHOT_TIME, _EXCITATION_SPACING = 2.45, 0.0075
_LONGEST_EXCITATION_SPACING = 0.05


class ExcitationTrain(NamedTuple):
    """A train of excitations: each takes Mz to ``x Mz + 1 - E``, towards ``driven`` = (1 - E) / (1 - x).

    Attributes:
        sine: Sine of the flip angle.
        driven: Mz that the train does not change.
        to_centre: ``x ** centre``.
        to_end: ``x ** n``.
    """

    sine: Angle
    driven: Tensor
    to_centre: Tensor
    to_end: Tensor

    def at_centre(self, start: Tensor) -> Tensor:
        """Mz at the centre of k-space, of Mz at the first excitation."""
        return self.driven - self.to_centre * (self.driven - start)

    def through(self, start: Tensor) -> Tensor:
        """Mz after the train, of Mz at the first excitation."""
        return self.driven - self.to_end * (self.driven - start)


def excitation_train(
    r1: Tensor, excitation_spacing: float, n_excitations: int, centre: int, rotation: tuple[Angle, Angle]
) -> ExcitationTrain:
    """Sum up a train of excitations.

    Args:
        r1: Longitudinal relaxation rate, 1/s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations.
        centre: Which of them (from 0) fills the centre of k-space.
        rotation: Sine and versine of the flip angle, see ``sin_and_versine``.

    Example:
        >>> import torch
        >>> train = excitation_train(torch.ones(1), 0.006, 160, 80, (0.1564, 0.0123))
        >>> bool(train.through(torch.ones(1)) < 1)
        True
    """
    sine, versine = rotation
    cosine = 1.0 - versine
    regrown = regrowth(r1, excitation_spacing)
    driven = regrown / (regrown * cosine + (versine + TINY))
    to_centre = decay(r1, centre * excitation_spacing) * power(cosine, centre)
    if n_excitations == 2 * centre:
        to_end = to_centre * to_centre
    else:
        to_end = decay(r1, n_excitations * excitation_spacing) * power(cosine, n_excitations)
    return ExcitationTrain(sine, driven, to_centre, to_end)


def read_gradient_train(sidecar: Sidecar, *, pair: bool) -> dict[str, Any]:
    """Read an inversion-prepared gradient-echo train, whose vendors disagree on what its times mean.

    Args:
        sidecar: What tells of it.
        pair: Whether two trains follow each inversion.

    Returns:
        Fields of ``Mprage``, or those of ``Mp2rage``.

    Raises:
        SidecarError: A field is missing or not a number.
    """
    echo = sidecar.require("echo_time", "EchoTime", limit=2.0)
    repetition = sidecar.number("RepetitionTime")
    short = repetition is not None and repetition < _LONGEST_EXCITATION_SPACING
    shot_keys = ("RepetitionTimePreparation",) if short else ("RepetitionTimePreparation", "RepetitionTime")
    shot = sidecar.take("repetition_time", *shot_keys, limit=60.0)
    if shot is None:
        shot = sidecar.assume("repetition_time", _SHOT_TIME, "the middle of what is usual, 1.9 to 3.0 s")
    keys = ("RepetitionTimeExcitation", "RepetitionTime") if short else ("RepetitionTimeExcitation",)
    spacing = sidecar.take("excitation_spacing", *keys, limit=1.0)
    if spacing is None:
        usual = max(_EXCITATION_SPACING, 2.0 * echo)
        spacing = sidecar.assume("excitation_spacing", usual, "usual, and twice the echo time at least")
    times = sidecar.pair("inversion_times", "InversionTime") if pair else None
    first = times[0] if times else sidecar.require("inversion_time", "InversionTime", limit=20.0)
    to_start = not pair and "GE" in sidecar.words("Manufacturer")
    count = sidecar.take("n_excitations", "NumberShots")
    if count is None:
        room = shot - first if to_start else min(2.0 * first, 2.0 * (shot - first))
        if times:
            room = min(room, times[1] - times[0], 2.0 * (shot - times[1]))
        fits = 2.0 * math.floor(room / spacing / 2.0 + 1e-9)
        count = sidecar.assume("n_excitations", max(min(160.0, fits), 1.0), "usual, as far as they fit")
    fields: dict[str, Any] = {
        "repetition_time": shot,
        "echo_time": echo,
        "excitation_spacing": spacing,
        "n_excitations": round(count),
        "inversion_efficiency": sidecar.assume_inversion_efficiency(),
    }
    if times:
        angles = sidecar.pair("flip_angles", "FlipAngle")
        return {**fields, "inversion_times": times, "flip_angles": angles}
    if to_start:
        sidecar.used["inversion_time"] += f" {first:g} s to the start of the train (GE), to its centre here"
        first += round(count) // 2 * spacing
    angle = sidecar.require("flip_angle", "FlipAngle")
    return {**fields, "inversion_time": first, "flip_angle": angle}
