"""What all protocols share."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition.fast.blocks import in_blocks
from anystroke.acquisition.fast.tabulated import can_tabulate, tabulated_signal
from anystroke.acquisition.sidecars.sidecar import Evidence, Sidecar, SidecarError
from anystroke.acquisition.weightings import in_order
from anystroke.core import units

REGISTERED: "dict[str, type[Protocol]]" = {}
"""Protocol classes by the name of their sequence, as far as their files are imported."""

_COMMON_FIELDS = ("weighting", "field_strength", "dimensions", "name")
_TIMES = {
    "repetition_time": "TR",
    "inversion_time": "TI",
    "inversion_times": "TI",
    "echo_time": "TE",
    "echo_spacing": "ESP",
    "excitation_spacing": "TX",
}
_OTHERS = {
    "echo_train_length": "ETL {:d}",
    "n_excitations": "n {:g}",
    "flip_angle": "FA {:.3g} deg",
    "flip_angles": "FA {:.3g} deg",
    "inversion_efficiency": "inversion {:.3g}",
    "b_value": "b {:g} s/mm^2",
}
_IF_SET = {"centre_index": "centre {:d}"}


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """What all protocols share, and what a class says about its sequence.

    A class that says which ``contrasts`` it gives is known to ``catalogue``, presets, sidecars and the
    command as soon as it is defined. It says as class data:

    * ``sequence``: its name in presets and records;
    * ``contrasts``: each contrast it gives, the usual one first, with the name that BIDS has for such images:
      a suffix, or ``acq-NAME_SUFFIX`` with the nearest suffix where BIDS has none;
    * ``scanning_sequence``: ``ScanningSequence`` of its sidecars;
    * ``takes``: the maps that its signal equation takes;
    * ``decays``: for each of them in which the signal decays as ``exp(-t R)``, the field that is ``t``;
    * ``choices``: fields that presets fix rather than draw, and that the signal equation does not take;
    * ``not_played``: other fields that the timing check and the signal equation do not take;
    * ``not_negative``: fields that must be finite and not negative;
    * ``words``: how ``describe`` words fields of its own, as a format, where they are not 0;

    and may override ``claims``, ``read`` and ``usual_weighting`` (without which no sidecar is read as this
    sequence) and ``sidecar_fields``.

    Attributes:
        weighting: The contrast it is meant to give, one of ``catalogue.WEIGHTINGS``.
        field_strength: Static field, T.
        dimensions: 2 for a stack of slices, 3 for a volume acquisition.
        name: Name of the preset entry it was drawn from, if any.

    Raises:
        ValueError: At construction, if a field is not a number where it must be, or out of range;
            ``TimingError`` (a ``ValueError``) if no scanner can play the sequence.
        TypeError: At the definition of a class, if its name is taken, or it names the images of a contrast
            otherwise than another class.
    """

    sequence: ClassVar[str]
    contrasts: ClassVar[Mapping[str, str]]
    scanning_sequence: ClassVar[tuple[str, ...]]
    takes: ClassVar[tuple[str, ...]] = ()
    decays: ClassVar[Mapping[str, str]] = {}
    choices: ClassVar[tuple[str, ...]] = ()
    not_played: ClassVar[tuple[str, ...]] = ()
    not_negative: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[Mapping[str, str]] = {}

    weighting: str
    field_strength: float = 3.0
    dimensions: int = 3
    name: str = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "contrasts" in cls.__dict__:
            _register(cls)

    def __post_init__(self) -> None:
        known = bids_names()
        if self.weighting not in known:
            raise ValueError(f"weighting must be one of {', '.join(known)}, got {self.weighting!r}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"dimensions must be 2 or 3, got {self.dimensions!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and not _is_number(value):
                raise ValueError(f"{field.name} must be a number, got {value!r}")
            if field.type == tuple[float, float]:
                if not (isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))):
                    raise ValueError(f"{field.name} must be two numbers, got {value!r}")
                object.__setattr__(self, field.name, tuple(value))
        for name in ("field_strength", *self.not_negative):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf or (name == "field_strength" and value == 0.0):
                raise ValueError(f"{name} must be finite and not negative, a field above 0 T, got {value!r}")
        self._check()

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return self.takes

    @property
    def additive(self) -> bool:
        """Whether the signed signals of the parts of a voxel add up to that of the voxel."""
        return True

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``.

        Empty unless the signed signal is ``PD S(R1, B1+)`` times these decays and the ``losses``.
        """
        return {name: getattr(self, time) for name, time in self.decays.items()}

    @property
    def losses(self) -> Mapping[str, float]:
        """For each map ``M`` that takes away signal as ``1 - s M``, the ``s``."""
        return {}

    @property
    def impossible(self) -> str:
        """Why no scanner can play the sequence; empty if one can, as with all but published variants."""
        return ""

    @property
    def measured(self) -> "tuple[Protocol, ...]":
        """The protocols of the images that are measured: itself, or those that the scanner computes it of.

        All of them need the same maps.
        """
        return (self,)

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        return None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, other than dimensions and field strength.

        Raises:
            SidecarError: One is missing or not a number, or sidecars do not describe this sequence.
        """
        raise SidecarError(f"a {cls.sequence} cannot be read from a sidecar; give its protocol as a preset")

    @classmethod
    def usual_weighting(cls, fields: Mapping[str, Any]) -> str:
        """Name the contrast that these fields give, of an image whose suffix does not tell."""
        return next(iter(cls.contrasts))

    def sidecar_fields(self) -> dict[str, Any]:
        """Return what the sidecar of an image says beside what all protocols say."""
        return {}

    @abstractmethod
    def _check(self) -> None:
        """Raise ``TimingError`` if the sequence cannot be played."""

    @abstractmethod
    def _play(self, arguments: dict[str, Any]) -> Tensor:
        """Call the signal function with maps, parameters, ``b1_plus`` and ``signed``."""

    def _parameters(self) -> dict[str, Any]:
        """The fields that the timing check and the signal function take, by their names."""
        fields = (field.name for field in dataclasses.fields(self))
        left_out = {*_COMMON_FIELDS, *self.choices, *self.not_played}
        return {name: getattr(self, name) for name in fields if name not in left_out}

    def signal(
        self, maps: Mapping[str, Tensor], *, b1_plus: Tensor | None = None, signed: bool = False
    ) -> Tensor:
        """Make the image that this protocol gives of quantitative maps.

        Args:
            maps: Tensors of one broadcastable shape by name; those that the sequence does not need are not
                touched. ``proton_density`` and ``mt_saturation`` in p.u., ``r1``, ``r2``, ``r2star`` in 1/s,
                ``adc`` in mm^2/s.
            b1_plus: Actual over nominal flip angle, same shape; 1 everywhere if None.
            signed: Keep the sign instead of returning the magnitude.

        Returns:
            Signal in the units of ``proton_density``, of large float32 maps on the CPU within 1e-4 of the
            largest signal, else as exact as its type; for maps that scanners compute (uniform image, ADC) the
            units that the protocol's class states.

        Raises:
            ValueError: If a map that the sequence needs is missing.

        Example:
            >>> import torch
            >>> from anystroke.acquisition.sequences.mprage import Mprage
            >>> one = torch.ones(1)
            >>> protocol = Mprage(repetition_time=2.3, inversion_time=0.9, excitation_spacing=0.006,
            ...                   n_excitations=160, flip_angle=9.0, echo_time=0.003)
            >>> bool(protocol.signal({"proton_density": 70 * one, "r1": one, "r2star": 20 * one}) > 0)
            True
        """
        present = set(maps)
        if missing := [name for name in self.needs if name not in present]:
            raise ValueError(
                f"{self.weighting} {self.sequence} needs the maps {', '.join(self.needs)}; "
                f"missing: {', '.join(missing)} (got {', '.join(sorted(present)) or 'none'})"
            )
        needed = {name: maps[name] for name in self.needs}
        if b1_plus is not None:
            needed["b1_plus"] = b1_plus
        parameters = {**self._parameters(), "signed": signed}

        def play(part: Mapping[str, Tensor], **changed: bool) -> Tensor:
            return self._play({**parameters, **part, **changed})

        if self.decay_times and can_tabulate(needed):
            image = tabulated_signal(
                lambda nodes: play(nodes, signed=True),
                needed,
                decay_times=self.decay_times,
                losses=self.losses,
            )
            return image if signed else image.abs_()
        return in_blocks(play, needed)

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as plain data that JSON can hold; ``from_dict`` reads it back.

        Example:
            >>> from anystroke.acquisition.catalogue import from_dict
            >>> from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
            >>> protocol = DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0)
            >>> from_dict(protocol.to_dict()) == protocol
            True
        """
        values = dataclasses.asdict(self).items()
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values}
        return {"sequence": self.sequence, **plain}

    def describe(self) -> str:
        """Return one line for people: weighting, sequence, field and parameters.

        Example:
            >>> from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
            >>> DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0).describe()
            'DWI dwi 3D at 3 T: TR 4 s, TE 80 ms, b 1000 s/mm^2'
        """
        parts = [
            text
            for key, value in dataclasses.asdict(self).items()
            if (text := _describe(key, value, self.words))
        ]
        label = self.name or f"{self.weighting} {self.sequence} {self.dimensions}D"
        return f"{label} at {self.field_strength:g} T: {', '.join(parts)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _describe(key: str, value: Any, words: Mapping[str, str]) -> str:
    """Word one field; empty if the line does not need it."""
    if isinstance(value, tuple):
        return " / ".join(_describe(key, one, words) for one in value)
    if key in _TIMES:
        long = value >= 1.0
        return f"{_TIMES[key]} " + (
            f"{value:.4g} s" if long else f"{units.seconds_to_milliseconds(value):.4g} ms"
        )
    if key in _OTHERS:
        return _OTHERS[key].format(value)
    if_set = {**_IF_SET, **words}
    return if_set[key].format(value) if key in if_set and value else ""


def bids_names() -> dict[str, str]:
    """Return what BIDS calls the images of each contrast that a known sequence gives.

    Example:
        >>> import anystroke.acquisition.sequences
        >>> bids_names()["DWI"], bids_names()["STIR"]
        ('dwi', 'acq-STIR_T2w')
    """
    names = {weighting: name for cls in REGISTERED.values() for weighting, name in cls.contrasts.items()}
    return {weighting: names[weighting] for weighting in in_order(names)}


def _register(cls: type[Protocol]) -> None:
    """Take a class into ``REGISTERED``."""
    if cls.sequence in REGISTERED:
        raise TypeError(f"two protocols are called {cls.sequence!r}: {REGISTERED[cls.sequence]} and {cls}")
    known = bids_names()
    for weighting, name in cls.contrasts.items():
        if known.get(weighting, name) != name:
            raise TypeError(f"{cls} names images of {weighting} {name!r}, others {known[weighting]!r}")
    REGISTERED[cls.sequence] = cls
