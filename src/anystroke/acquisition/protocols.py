"""Protocols: one frozen dataclass per sequence, and presets, which are distributions over protocols.

A protocol checks its own timing when it is made, knows which maps its sequence needs and calls the function
in ``anystroke.acquisition.sequences``. Times are seconds, angles degrees, field strengths tesla.
"""

import dataclasses
import math
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from anystroke import rng as random
from anystroke import units
from anystroke.acquisition import sequences, timing
from anystroke.acquisition.blocks import in_blocks
from anystroke.acquisition.distributions import Distribution, PresetError, Value

WEIGHTINGS = ("T1w", "T2w", "PDw", "FLAIR", "DWI", "T2starw")

_MAX_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """What all protocols share.

    Attributes:
        weighting: The contrast it is meant to give, one of ``WEIGHTINGS``.
        field_strength: Static field, T.
        dimensions: 2 for a stack of slices, 3 for a volume acquisition.
        name: Name of the preset entry it was drawn from, if any.

    Raises:
        ValueError: At construction, if a field is not a number where it must be, or out of range;
            ``TimingError`` (a ``ValueError``) if no scanner can play the sequence.
    """

    sequence: ClassVar[str]

    weighting: str
    field_strength: float = 3.0
    dimensions: int = 3
    name: str = ""

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"dimensions must be 2 or 3, got {self.dimensions!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{field.name} must be a number, got {value!r}")
        for name in ("field_strength", "mt_scale", "incidental_mt"):
            value = getattr(self, name, 1.0)
            if not 0.0 <= value < math.inf or (name == "field_strength" and value == 0.0):
                raise ValueError(f"{name} must be finite and not negative, a field above 0 T, got {value!r}")
        self._check()

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""

    @abstractmethod
    def _check(self) -> None:
        """Raise ``TimingError`` if the sequence cannot be played."""

    @abstractmethod
    def _play(self, arguments: dict[str, Any]) -> Tensor:
        """Call the signal function with maps, parameters, ``b1_plus`` and ``signed``."""

    def _parameters(self) -> dict[str, Any]:
        """The fields that the timing check and the signal function take, by their names."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if name not in _NOT_PLAYED}

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
            Signal in the units of ``proton_density``.

        Raises:
            ValueError: If a map that the sequence needs is missing.

        Example:
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
        return in_blocks(lambda block: self._play({**parameters, **block}), needed)

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as plain data that JSON can hold; ``from_dict`` reads it back.

        Example:
            >>> protocol = DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0)
            >>> from_dict(protocol.to_dict()) == protocol
            True
        """
        return {"sequence": self.sequence, **dataclasses.asdict(self)}

    def describe(self) -> str:
        """Return one line for people: weighting, sequence, field and parameters.

        Example:
            >>> DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0).describe()
            'DWI dwi 3D at 3 T: TR 4 s, TE 80 ms, b 1000 s/mm^2'
        """
        parts = [text for key, value in dataclasses.asdict(self).items() if (text := _describe(key, value))]
        label = self.name or f"{self.weighting} {self.sequence} {self.dimensions}D"
        return f"{label} at {self.field_strength:g} T: {', '.join(parts)}"


_NOT_PLAYED = ("weighting", "field_strength", "dimensions", "name", "mt_scale", "incidental_mt")
_TIMES = {
    "repetition_time": "TR",
    "inversion_time": "TI",
    "echo_time": "TE",
    "echo_spacing": "ESP",
    "excitation_spacing": "TX",
}
_OTHERS = {
    "echo_train_length": "ETL {:d}",
    "n_excitations": "n {:d}",
    "flip_angle": "FA {:.3g} deg",
    "inversion_efficiency": "inversion {:.3g}",
    "b_value": "b {:g} s/mm^2",
}
_IF_SET = {
    "centre_index": "centre {:d}",
    "mt_scale": "MT x {:.3g}",
    "incidental_mt": "incidental MT {:.3g}/p.u.",
}


def _describe(key: str, value: Any) -> str:
    """Word one field; empty if the line does not need it."""
    if key in _TIMES:
        long = value >= 1.0
        return f"{_TIMES[key]} " + (
            f"{value:.4g} s" if long else f"{units.seconds_to_milliseconds(value):.4g} ms"
        )
    if key in _IF_SET:
        return _IF_SET[key].format(value) if value else ""
    return _OTHERS[key].format(value) if key in _OTHERS else ""


@dataclass(frozen=True, kw_only=True)
class _EchoTrain(Protocol):
    """What the sequences with a train of spin echoes share."""

    repetition_time: float
    echo_time: float
    echo_spacing: float
    echo_train_length: int
    incidental_mt: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2", *(("mt_saturation",) if self.incidental_mt else ()))

    def _check(self) -> None:
        timing.check_echo_train(**self._parameters())

    @abstractmethod
    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        """Call the signal function."""

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        """Neighbouring slices' and refocusing pulses are MT pulses too: scale by 1 - kappa MT."""
        saturation = arguments.pop("mt_saturation", None)
        signal = self._echo(arguments)
        return signal if saturation is None else signal * (1.0 - self.incidental_mt * saturation)


@dataclass(frozen=True, kw_only=True)
class TurboSpinEcho(_EchoTrain):
    """Turbo spin echo: T2w and PDw, in 2D or 3D (there ``echo_time`` is the T2-equivalent one).

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        incidental_mt: Fraction of the signal lost per p.u. of MT saturation.
    """

    sequence: ClassVar[str] = "tse"

    weighting: str = "T2w"

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return sequences.turbo_spin_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class Flair(_EchoTrain):
    """Inversion-recovery turbo spin echo: FLAIR, and T1-FLAIR at short inversion and echo times.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Effective echo time, s.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        incidental_mt: Fraction of the signal lost per p.u. of MT saturation.
    """

    sequence: ClassVar[str] = "flair"

    weighting: str = "FLAIR"
    inversion_time: float
    inversion_efficiency: float = 0.95

    def _echo(self, arguments: dict[str, Any]) -> Tensor:
        return sequences.flair(**arguments)


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

    weighting: str = "T1w"
    repetition_time: float
    echo_time: float
    flip_angle: float
    mt_scale: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star", *(("mt_saturation",) if self.mt_scale else ()))

    def _check(self) -> None:
        timing.check_gradient_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        if self.mt_scale:
            arguments["mt_saturation"] = arguments["mt_saturation"] * self.mt_scale
        return sequences.spoiled_gradient_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class Mprage(Protocol):
    """MPRAGE (IR-SPGR, TFE): inversion-prepared gradient-echo train.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the excitation at the centre of k-space, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per inversion.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation fills the centre of k-space; half of them come before it if None.
    """

    sequence: ClassVar[str] = "mprage"

    weighting: str = "T1w"
    repetition_time: float
    inversion_time: float
    excitation_spacing: float
    n_excitations: int
    flip_angle: float
    echo_time: float
    inversion_efficiency: float = 0.95
    centre_index: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star")

    def _check(self) -> None:
        timing.check_mprage(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return sequences.mprage(**arguments)


@dataclass(frozen=True, kw_only=True)
class DiffusionWeighted(Protocol):
    """Diffusion-weighted spin echo, trace image; ``b_value = 0`` gives the T2w companion image.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b_value: Diffusion weighting, s/mm^2.
    """

    sequence: ClassVar[str] = "dwi"

    weighting: str = "DWI"
    repetition_time: float
    echo_time: float
    b_value: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2", "adc")

    def _check(self) -> None:
        timing.check_spin_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return sequences.diffusion_weighted(**arguments)


SEQUENCES: dict[str, type[Protocol]] = {
    cls.sequence: cls for cls in (TurboSpinEcho, Flair, SpoiledGradientEcho, Mprage, DiffusionWeighted)
}


def _sequence_class(name: Any, *, where: str) -> type[Protocol]:
    if name not in SEQUENCES:
        raise ValueError(f"{where}: sequence must be one of {', '.join(SEQUENCES)}, got {name!r}")
    return SEQUENCES[name]


def from_dict(data: Mapping[str, Any]) -> Protocol:
    """Make a protocol from the data that ``Protocol.to_dict`` wrote.

    Args:
        data: ``sequence`` and the protocol's fields.

    Returns:
        The protocol.

    Raises:
        ValueError: If the sequence or a field is unknown, a field is missing, or the timing is impossible.

    Example:
        >>> data = {"sequence": "dwi", "repetition_time": 4.0, "echo_time": 0.08, "b_value": 1000.0}
        >>> from_dict(data).weighting
        'DWI'
    """
    fields = dict(data)
    cls = _sequence_class(fields.pop("sequence", None), where="protocol")
    _check_keys(cls, set(fields), where=f"{cls.__name__} protocol")
    return cls(**fields)


def _check_keys(cls: type[Protocol], keys: set[str], *, where: str) -> None:
    """Refuse keys that the class does not have, and the lack of those that it cannot do without."""
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
    if unknown := sorted(keys - set(known)):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    if missing := sorted(name for name, required in known.items() if required and name not in keys):
        raise ValueError(f"{where}: missing {', '.join(missing)}")


@dataclass(frozen=True, kw_only=True)
class PresetEntry:
    """One line of a preset: a sequence, how often it is drawn, and how its parameters are.

    Attributes:
        name: Its name.
        sequence: Key of ``SEQUENCES``.
        weight: How often it is drawn, relative to the other entries.
        fixed: Fields that are not drawn (weighting, dimensions).
        parameters: Distributions of the others, in the order in which they are drawn.
        max_echo_fraction: Largest echo time as a fraction of the repetition time.
    """

    name: str
    sequence: str
    weight: float
    fixed: Mapping[str, Any]
    parameters: Mapping[str, Distribution]
    max_echo_fraction: float = 1.0

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "PresetEntry":
        """Read an entry from TOML data; ``presets/realistic.toml`` shows the keys.

        Raises:
            PresetError: If a key is unknown or missing or a distribution cannot be understood.

        Example:
            >>> parameters = {"repetition_time": 4.0, "echo_time": 0.08, "b_value": 0.0}
            >>> PresetEntry.parse({"name": "b0", "sequence": "dwi", "weighting": "T2w", "weight": 1.0,
            ...                    "parameters": parameters}).fixed["weighting"]
            'T2w'
        """
        where = f"preset entry {data.get('name', '(no name)')!r}"
        required = {"name", "sequence", "weighting", "weight", "parameters"}
        allowed = required | {"dimensions", "field_strength", "max_echo_fraction"}
        if unknown := sorted(set(data) - allowed):
            raise PresetError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(allowed))}")
        if missing := sorted(required - set(data)):
            raise PresetError(f"{where}: missing {', '.join(missing)}")
        raw = dict(data["parameters"])
        if "field_strength" in data:
            raw = {"field_strength": data["field_strength"], **raw}
        fixed = {key: data[key] for key in ("name", "weighting", "dimensions") if key in data}
        try:
            sequence = _sequence_class(data["sequence"], where=where)
            _check_keys(sequence, set(raw) | set(fixed), where=where)
        except ValueError as error:
            raise PresetError(str(error)) from error
        parameters: dict[str, Distribution] = {}
        for key, value in raw.items():
            parameters[key] = Distribution.parse(value, where=f"{where}, {key}")
            _check_references(parameters[key], list(parameters)[:-1], where=f"{where}, {key}")
        if data["weighting"] not in WEIGHTINGS or not data["weight"] > 0:
            raise PresetError(
                f"{where}: needs a weighting among {', '.join(WEIGHTINGS)} and a weight above 0, got "
                f"{data['weighting']!r} and {data['weight']!r}"
            )
        return cls(
            name=data["name"],
            sequence=data["sequence"],
            weight=float(data["weight"]),
            fixed=fixed,
            parameters=parameters,
            max_echo_fraction=float(data.get("max_echo_fraction", 1.0)),
        )

    def draw(self, rng: torch.Generator) -> Protocol:
        """Draw a protocol; parameters that cannot be played are drawn anew.

        Args:
            rng: The random stream.

        Returns:
            A protocol whose timing is possible.

        Raises:
            RuntimeError: If 100 draws in a row were impossible.
        """
        reason: Exception | None = None
        for _ in range(_MAX_TRIES):
            try:
                return self._draw_once(rng)
            except timing.TimingError as error:
                reason = error
        raise RuntimeError(
            f"preset entry {self.name!r}: {_MAX_TRIES} draws in a row were impossible; last: {reason}"
        )

    def _draw_once(self, rng: torch.Generator) -> Protocol:
        drawn: dict[str, Value] = {}
        for key, distribution in self.parameters.items():
            value = distribution.draw(rng)
            if distribution.times_null_of_t1 is not None:
                value *= sequences.null_inversion_time(
                    t1=distribution.times_null_of_t1,
                    repetition_time=drawn["repetition_time"],
                    echo_spacing=drawn["echo_spacing"],
                    echo_train_length=int(drawn["echo_train_length"]),
                    inversion_efficiency=drawn["inversion_efficiency"],
                )
            drawn[key] = distribution.finish(value, drawn)
        fields: dict[str, Any] = {**self.fixed, **drawn}
        protocol = SEQUENCES[self.sequence](**fields)
        fraction = drawn["echo_time"] / drawn["repetition_time"]
        if fraction > self.max_echo_fraction:
            raise timing.TimingError(f"echo_time is {fraction:.2f} of repetition_time")
        return protocol


def _check_references(distribution: Distribution, earlier: list[str], *, where: str) -> None:
    """Refuse a modifier that refers to a parameter which is not drawn before."""
    wanted = [name for name in (distribution.times, distribution.divided_by) if name is not None]
    if distribution.times_null_of_t1 is not None:
        wanted += ["repetition_time", "echo_spacing", "echo_train_length", "inversion_efficiency"]
    if absent := [name for name in wanted if name not in earlier]:
        raise PresetError(f"{where}: refers to {absent[0]!r}, which must be listed before it")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A distribution over protocols.

    Attributes:
        name: Its name.
        entries: What it is a mixture of.
    """

    name: str
    entries: tuple[PresetEntry, ...]

    @property
    def weightings(self) -> tuple[str, ...]:
        """The weightings that the preset can give, in the order of ``WEIGHTINGS``."""
        present = {entry.fixed["weighting"] for entry in self.entries}
        return tuple(weighting for weighting in WEIGHTINGS if weighting in present)

    def sample(self, rng: torch.Generator, *, weighting: str | None = None) -> Protocol:
        """Draw a protocol.

        Args:
            rng: The random stream; the same stream gives the same protocol.
            weighting: Draw among the entries of this weighting only.

        Returns:
            A protocol whose timing is possible.

        Raises:
            ValueError: If the preset has no entry of that weighting.

        Example:
            >>> from anystroke.rng import stream
            >>> load_preset("realistic").sample(stream(1), weighting="FLAIR").sequence
            'flair'
        """
        entries = [entry for entry in self.entries if weighting in (None, entry.fixed["weighting"])]
        if not entries:
            known = ", ".join(self.weightings)
            raise ValueError(f"preset {self.name!r} has no weighting {weighting!r}; it has {known}")
        return entries[random.choice(rng, [entry.weight for entry in entries])].draw(rng)


def load_preset(name_or_path: str | Path) -> Preset:
    """Load a preset that comes with the package, or one of your own from a TOML file.

    Args:
        name_or_path: ``"realistic"``, or the path of a file that ends in ``.toml``.

    Returns:
        The preset.

    Raises:
        PresetError: If there is no such preset or its data cannot be understood.

    Example:
        >>> load_preset("realistic").weightings
        ('T1w', 'T2w', 'PDw', 'FLAIR', 'DWI', 'T2starw')
    """
    folder = resources.files("anystroke.acquisition") / "presets"
    source = Path(name_or_path) if str(name_or_path).endswith(".toml") else folder / f"{name_or_path}.toml"
    if not source.is_file():
        known = ", ".join(sorted(item.name.removesuffix(".toml") for item in folder.iterdir()))
        raise PresetError(f"there is no preset {str(name_or_path)!r}; known: {known}, or give a .toml file")
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PresetError(f"{source} is not valid TOML: {error}") from error
    if unknown := sorted(set(data) - {"name", "protocol"}):
        raise PresetError(f"{source}: unknown key {unknown[0]!r}; known: name, protocol")
    entries = tuple(PresetEntry.parse(entry) for entry in data.get("protocol", []))
    if not entries:
        raise PresetError(f"{source}: no [[protocol]] entry")
    return Preset(name=str(data.get("name", name_or_path)), entries=entries)
