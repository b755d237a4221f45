"""Protocols read from BIDS sidecars, with a note of which field gave what and what had to be assumed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.sequences.catalogue import SEQUENCES
from anystroke.acquisition.timing import TimingError
from anystroke.core.errors import AnystrokeError

EQUIVALENT_ECHO_SHARE = 0.28
"""Equivalent over nominal echo time of 3-D trains with variable flip angles; 0.22 to 0.35 in simulations."""

_SHOT_TIME, _EXCITATION_SPACING = 2.45, 0.0075
_EFFICIENCY, _FIELD_STRENGTH, _B_VALUE = 0.95, 3.0, 1000.0
_LONGEST_EXCITATION_SPACING, _LONGEST_EQUIVALENT_ECHO = 0.05, 0.2
_SUFFIXES = {
    "T1w": "T1w",
    "T2w": "T2w",
    "PDw": "PDw",
    "FLAIR": "FLAIR",
    "dwi": "DWI",
    "T2starw": "T2starw",
    "ADC": "ADC",
    "UNIT1": "UNIT1",
    "STIR": "STIR",
    "DIR": "DIR",
    "MTw": "MTw",
    "bSSFP": "bSSFP",
}
_BALANCED = ("balanced", "bssfp", "trufi", "truefisp", "fiesta", "bffe", "tfi2d", "tfi3d")


class SidecarError(AnystrokeError):
    """A sidecar does not describe a sequence that can be simulated."""


@dataclass
class SidecarReading:
    """A protocol and where its numbers come from.

    Attributes:
        protocol: The protocol.
        used: For each field that was read, the sidecar's field, with the rule that changed it if one did.
        assumed: For each field that the sidecar does not tell, what was assumed and why.
    """

    protocol: Protocol
    used: dict[str, str]
    assumed: dict[str, str]


@dataclass
class _Sidecar:
    """A sidecar's numbers, and the notes taken while reading them."""

    data: Mapping[str, Any]
    used: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)

    def numbers(self, key: str) -> list[float]:
        value = self.data.get(key)
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, (int, float)) and math.isfinite(one) for one in values):
            raise SidecarError(f"{key} must be a number, got {value!r}")
        return [float(one) for one in values]

    def number(self, key: str) -> float | None:
        values = self.numbers(key)
        if len(values) > 1:
            raise SidecarError(f"{key} must be one number for this sequence, got {values}")
        return values[0] if values else None

    def take(self, name: str, *keys: str, limit: float = math.inf) -> float | None:
        """Read a protocol's field from the first sidecar field that is there."""
        for key in keys:
            value = self.number(key)
            if value is not None:
                if value > limit:
                    raise SidecarError(
                        f"{key} is {value:g}, too long for seconds (at most {limit:g}); BIDS times are in s"
                    )
                self.used[name] = key
                return value
        return None

    def require(self, name: str, *keys: str, limit: float = math.inf) -> float:
        value = self.take(name, *keys, limit=limit)
        if value is None:
            raise SidecarError(f"the sidecar has no {' or '.join(keys)}; add it, in s or degrees")
        return value

    def assume(self, name: str, value: float, reason: str) -> float:
        self.assumed[name] = f"{value:g}: {reason}"
        return value

    def words(self, key: str) -> set[str]:
        value = self.data.get(key) or ""
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        return set(text.upper().replace("\\", " ").replace("_", " ").replace("/", " ").split())


def read_sidecar(
    data: Mapping[str, Any], *, suffix: str = "", b_value: float | None = None
) -> SidecarReading:
    """Make the protocol that a BIDS sidecar describes.

    Rules beyond the fields' own meaning: in an inversion-prepared gradient echo, a ``RepetitionTime`` below
    50 ms (Philips, GE) is the time between excitations, and the time between inversions comes from
    ``RepetitionTimePreparation`` or is assumed; GE's inversion time ends at the start of the train and not at
    its centre; an ``EchoTime`` above 0.2 s of a 3-D spin echo is nominal, and the equivalent one is 0.28 of
    it. ``ScanningSequence`` decides the family (GR IR: MPRAGE, SE IR or IR: FLAIR, STIR, T1-FLAIR; SE: by
    ``EchoTrainLength``; EP: diffusion), and the suffix where it is missing.

    Args:
        data: The sidecar.
        suffix: BIDS suffix of the image, such as ``"T1w"``; decides the weighting if known.
        b_value: b-value of a diffusion-weighted image, s/mm^2; ``DiffusionBValue`` of the sidecar if None.

    Returns:
        The protocol, the fields used and what was assumed.

    Raises:
        SidecarError: If a field is missing or not a number, the sequence cannot be told, or no scanner could
            play the timing (such as an echo after the next excitation).

    Source:
        Brain Imaging Data Structure 1.11; rules from the sidecars of OpenNeuro ds004889 and ds004884.

    Example:
        >>> data = {"MagneticFieldStrength": 3, "ScanningSequence": "SE", "RepetitionTime": 4.0,
        ...         "EchoTime": 0.1, "EchoTrainLength": 16, "MRAcquisitionType": "2D"}
        >>> reading = read_sidecar(data, suffix="T2w")
        >>> reading.protocol.sequence, reading.used["echo_time"], reading.assumed
        ('tse', 'EchoTime', {'echo_spacing': '0.01: usual in 2D'})
    """
    sidecar = _Sidecar(data)
    sequence = _family(sidecar, suffix)
    fields: dict[str, Any] = {"dimensions": 2 if sidecar.words("MRAcquisitionType") == {"2D"} else 3}
    strength = sidecar.take("field_strength", "MagneticFieldStrength")
    if strength is None:
        strength = sidecar.assume("field_strength", _FIELD_STRENGTH, "MagneticFieldStrength is missing")
    elif strength > 20.0:
        raise SidecarError(f"MagneticFieldStrength is {strength:g}, too high for tesla; BIDS fields are in T")
    fields["field_strength"] = strength
    match sequence:
        case "mprage" | "mp2rage":
            fields |= _gradient_train(sidecar, pair=sequence == "mp2rage")
        case "tse" | "flair" | "dir":
            fields |= _spin_train(sidecar, sequence, fields["dimensions"])
        case _:
            fields |= _simple(sidecar, sequence, b_value)
    fields["weighting"] = _SUFFIXES.get(suffix) or _weighting(sequence, fields)
    try:
        protocol = SEQUENCES[sequence](**fields)
    except TimingError as error:
        raise SidecarError(f"the sidecar describes a {sequence} that cannot be played: {error}") from error
    return SidecarReading(protocol, sidecar.used, sidecar.assumed)


def _family(sidecar: _Sidecar, suffix: str) -> str:
    """Tell the sequence by ScanningSequence, inversion times and echo train, else by the suffix."""
    if suffix in ("ADC", "UNIT1"):
        return {"ADC": "adc", "UNIT1": "mp2rage"}[suffix]
    words = sidecar.words("ScanningSequence")
    inversions = len([time for time in sidecar.numbers("InversionTime") if time > 0.0])
    names = "".join(
        str(sidecar.data.get(key, ""))
        for key in ("PulseSequenceType", "SequenceName", "PulseSequenceDetails")
    )
    if any(word in names.lower() for word in _BALANCED):
        return "bssfp"
    if suffix == "dwi" or ("EP" in words and not inversions):
        return "dwi"
    gradient = "GR" in words or (not words and suffix == "T1w" and bool(inversions))
    if gradient and ("IR" in words or inversions):
        return "mp2rage" if inversions > 1 else "mprage"
    length = sidecar.number("EchoTrainLength")
    if "IR" in words or inversions or (not words and suffix == "FLAIR"):
        return "dir" if inversions > 1 else "ir_se" if length == 1.0 else "flair"
    if gradient or (not words and suffix == "T2starw"):
        return "spgr"
    if "SE" in words or suffix in ("T2w", "PDw"):
        long = length is None and suffix == "T2w"
        return "tse" if long or (length or 1.0) > 1.0 else "se"
    raise SidecarError(
        f"cannot tell the sequence: ScanningSequence is {sidecar.data.get('ScanningSequence')!r} and the "
        f"suffix {suffix!r}; add ScanningSequence (GR, SE, IR, EP)"
    )


def _simple(sidecar: _Sidecar, sequence: str, b_value: float | None) -> dict[str, Any]:
    """Read sequences without a train."""
    keys = ("RepetitionTimeExcitation", "RepetitionTime")
    keys = keys if sequence in ("spgr", "bssfp") else keys[::-1]
    fields: dict[str, Any] = {"repetition_time": sidecar.require("repetition_time", *keys, limit=60.0)}
    if sequence != "bssfp":
        fields["echo_time"] = sidecar.require("echo_time", "EchoTime", limit=2.0)
    if sequence in ("spgr", "bssfp"):
        fields["flip_angle"] = sidecar.require("flip_angle", "FlipAngle")
    if sequence == "spgr" and sidecar.data.get("MTState") is True:
        sidecar.used["mt_scale"] = "MTState"
        fields["mt_scale"] = sidecar.assume("mt_scale", 1.0, "the saturation of the MT map's own pulse")
    if sequence == "ir_se":
        fields["inversion_time"] = sidecar.require("inversion_time", "InversionTime", limit=20.0)
        fields["inversion_efficiency"] = _efficiency(sidecar)
    if sequence in ("dwi", "adc"):
        value = sidecar.take("b_value", "DiffusionBValue") if b_value is None else b_value
        if value is None:
            value = sidecar.assume("b_value", _B_VALUE, "DiffusionBValue is missing")
        fields["b_value"] = value
    return fields


def _efficiency(sidecar: _Sidecar) -> float:
    return sidecar.assume("inversion_efficiency", _EFFICIENCY, "usual for adiabatic pulses")


def _pair(sidecar: _Sidecar, name: str, key: str) -> tuple[float, float]:
    values = sidecar.numbers(key)
    if len(values) != 2:
        raise SidecarError(f"{key} must be two numbers for this sequence, got {values}")
    sidecar.used[name] = key
    return values[0], values[1]


def _gradient_train(sidecar: _Sidecar, *, pair: bool) -> dict[str, Any]:
    """Read an inversion-prepared gradient-echo train, whose vendors disagree on what its times mean."""
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
    times = _pair(sidecar, "inversion_times", "InversionTime") if pair else None
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
        "inversion_efficiency": _efficiency(sidecar),
    }
    if times:
        angles = _pair(sidecar, "flip_angles", "FlipAngle")
        return {**fields, "inversion_times": times, "flip_angles": angles}
    if to_start:
        sidecar.used["inversion_time"] += f" {first:g} s to the start of the train (GE), to its centre here"
        first += round(count) // 2 * spacing
    angle = sidecar.require("flip_angle", "FlipAngle")
    return {**fields, "inversion_time": first, "flip_angle": angle}


def _spin_train(sidecar: _Sidecar, sequence: str, dimensions: int) -> dict[str, Any]:
    """Read a train of spin echoes; sidecars do not tell the time between the echoes."""
    keys = ("RepetitionTimePreparation", "RepetitionTime")
    repetition = sidecar.require("repetition_time", *(keys[::-1] if sequence == "tse" else keys), limit=60.0)
    echo = sidecar.require("echo_time", "EchoTime", limit=2.0)
    if echo >= repetition:
        raise SidecarError(f"EchoTime {echo:g} s is not below RepetitionTime {repetition:g} s")
    if dimensions == 3 and echo > _LONGEST_EQUIVALENT_ECHO:
        sidecar.used["echo_time"] += f" {echo:g} s, which is nominal, x {EQUIVALENT_ECHO_SHARE:g}"
        echo *= EQUIVALENT_ECHO_SHARE
    fields: dict[str, Any] = {"repetition_time": repetition, "echo_time": echo}
    waiting = 0.0
    if sequence == "flair":
        waiting = fields["inversion_time"] = sidecar.require("inversion_time", "InversionTime", limit=20.0)
    if sequence == "dir":
        fields["inversion_times"] = _pair(sidecar, "inversion_times", "InversionTime")
        waiting = sum(fields["inversion_times"])
    if sequence != "tse":
        fields["inversion_efficiency"] = _efficiency(sidecar)
    usual = 0.010 if dimensions == 2 else 0.004
    count = sidecar.take("echo_train_length", "EchoTrainLength")
    if count is None or count < 2.0:
        needed = max(math.ceil(echo / usual), 16 if dimensions == 2 else 150)
        count = sidecar.assume("echo_train_length", float(needed), f"usual in {dimensions}D")
    spacing = sidecar.take("echo_spacing", "EchoSpacing")
    if spacing is None:
        fitting = min(usual, 0.9 * (repetition - waiting) / count)
        spacing = sidecar.assume("echo_spacing", max(fitting, echo / count), f"usual in {dimensions}D")
    return {**fields, "echo_spacing": spacing, "echo_train_length": round(count)}


def _weighting(sequence: str, fields: Mapping[str, Any]) -> str:
    """Name the contrast by the timing, for images without a suffix that tells it."""
    match sequence:
        case "flair":
            time = fields["inversion_time"]
            return "STIR" if time < 0.35 else "T1w" if time < 1.4 else "FLAIR"
        case "tse" | "se":
            if fields["echo_time"] > 0.04:
                return "T2w"
            return "T1w" if fields["repetition_time"] < 1.5 else "PDw"
        case "spgr":
            if fields.get("mt_scale"):
                return "MTw"
            return "T2starw" if fields["echo_time"] > 0.012 else "T1w"
        case "dwi":
            return "DWI" if fields["b_value"] > 0.0 else "T2w"
    defaults: dict[str, str] = {
        "mprage": "T1w",
        "mp2rage": "UNIT1",
        "dir": "DIR",
        "ir_se": "T1w",
        "bssfp": "bSSFP",
        "adc": "ADC",
    }
    return defaults[sequence]
