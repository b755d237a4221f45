"""A BIDS sidecar as protocols read it: what kind of sequence it tells of, its numbers, and notes on them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property
from typing import Any

from anystroke.core.errors import AnystrokeError

_EFFICIENCY = 0.95


class SidecarError(AnystrokeError):
    """A sidecar does not describe a sequence that can be simulated."""


class Evidence(IntEnum):
    """What a sequence recognises its own sidecar by; the strongest wins."""

    FAMILY = 1
    """``ScanningSequence``, inversion times and echo train."""
    READOUT = 2
    """The readout, such as echo-planar."""
    NAME = 3
    """The sequence's name."""
    SUFFIX = 4
    """The suffix of an image that no other sequence gives."""


class Family(Enum):
    """What is read: spin echoes, gradient echoes or echo-planar images."""

    SPIN_ECHO = "spin echo"
    GRADIENT_ECHO = "gradient echo"
    ECHO_PLANAR = "echo-planar"
    UNKNOWN = "unknown"


@dataclass
class Sidecar:
    """A sidecar's fields, and the notes taken while reading them.

    Attributes:
        data: The fields.
        suffix: BIDS suffix of the image, empty if it is not known.
        b_value: b-value of a diffusion-weighted image that is known otherwise, s/mm^2.
        used: For each field of the protocol that was read, the sidecar's field.
        assumed: For each that the sidecar does not tell, what was assumed and why.

    Example:
        >>> sidecar = Sidecar({"ScanningSequence": "GR_IR", "InversionTime": 0.9, "EchoTime": 0.003})
        >>> sidecar.family.value, sidecar.inversions, sidecar.require("echo_time", "EchoTime"), sidecar.used
        ('gradient echo', 1, 0.003, {'echo_time': 'EchoTime'})
    """

    data: Mapping[str, Any]
    suffix: str = ""
    b_value: float | None = None
    used: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def family(self) -> Family:
        """What is read, by ``ScanningSequence``, or by the suffix where that is missing."""
        words, nameless = self.words("ScanningSequence"), not self.words("ScanningSequence")
        if self.suffix == "dwi" or ("EP" in words and not self.inversions):
            return Family.ECHO_PLANAR
        typical = "T1w" if self.inversions else "T2starw"
        if "GR" in words or (nameless and self.suffix == typical):
            return Family.GRADIENT_ECHO
        if "SE" in words or self.inverted or self.suffix in ("T2w", "PDw"):
            return Family.SPIN_ECHO
        return Family.UNKNOWN

    @cached_property
    def inverted(self) -> bool:
        """Whether an inversion comes first."""
        words = self.words("ScanningSequence")
        return "IR" in words or self.inversions > 0 or (not words and self.suffix == "FLAIR")

    @cached_property
    def inversions(self) -> int:
        """Number of inversion times above 0."""
        return sum(time > 0.0 for time in self.numbers("InversionTime"))

    @property
    def name(self) -> str:
        """What the sequence is called, in lower case; empty if that is not told."""
        keys = ("PulseSequenceType", "SequenceName", "PulseSequenceDetails")
        return "".join(str(self.data.get(key, "")) for key in keys).lower()

    @property
    def dimensions(self) -> int:
        """2 for a stack of slices, 3 for a volume acquisition."""
        return 2 if self.words("MRAcquisitionType") == {"2D"} else 3

    def words(self, key: str) -> set[str]:
        """Split a field's text, or list of texts, into words in capital letters."""
        value = self.data.get(key) or ""
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        return set(text.upper().replace("\\", " ").replace("_", " ").replace("/", " ").split())

    def numbers(self, key: str) -> list[float]:
        """Read a field of one number or several; none if it is missing.

        Raises:
            SidecarError: It holds something else.
        """
        value = self.data.get(key)
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, (int, float)) and math.isfinite(one) for one in values):
            raise SidecarError(f"{key} must be a number, got {value!r}")
        return [float(one) for one in values]

    def number(self, key: str) -> float | None:
        """Read a field of one number; None if it is missing.

        Raises:
            SidecarError: It holds several numbers or something else.
        """
        values = self.numbers(key)
        if len(values) > 1:
            raise SidecarError(f"{key} must be one number for this sequence, got {values}")
        return values[0] if values else None

    def pair(self, name: str, key: str) -> tuple[float, float]:
        """Read a protocol's field of two numbers.

        Raises:
            SidecarError: The sidecar's field does not hold two numbers.
        """
        values = self.numbers(key)
        if len(values) != 2:
            raise SidecarError(f"{key} must be two numbers for this sequence, got {values}")
        self.used[name] = key
        return values[0], values[1]

    def take(self, name: str, *keys: str, limit: float = math.inf) -> float | None:
        """Read a protocol's field from the first sidecar field that is there; None if none is.

        Args:
            name: The protocol's field.
            *keys: The sidecar's.
            limit: What cannot be exceeded in SI units.

        Raises:
            SidecarError: The sidecar's field is above the limit or not one number.
        """
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
        """Read a protocol's field as ``take`` does.

        Raises:
            SidecarError: As in ``take``, or if none of the sidecar's fields is there.
        """
        value = self.take(name, *keys, limit=limit)
        if value is None:
            raise SidecarError(f"the sidecar has no {' or '.join(keys)}; add it, in s or degrees")
        return value

    def assume(self, name: str, value: float, reason: str) -> float:
        """Note a value that the sidecar does not tell, and return it."""
        self.assumed[name] = f"{value:g}: {reason}"
        return value

    def assume_inversion_efficiency(self) -> float:
        """Note the efficiency of the inversion, which no sidecar tells, and return it."""
        return self.assume("inversion_efficiency", _EFFICIENCY, "usual for adiabatic pulses")

    def require_times(self, *repetition: str) -> dict[str, Any]:
        """Read ``repetition_time`` from the first of these fields that is there, and ``echo_time``.

        Raises:
            SidecarError: One is missing, too long or not a number.
        """
        return {
            "repetition_time": self.require("repetition_time", *repetition, limit=60.0),
            "echo_time": self.require("echo_time", "EchoTime", limit=2.0),
        }
