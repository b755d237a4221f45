"""Presets: distributions over protocols, as data."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.catalogue import SEQUENCES, WEIGHTINGS, check_keys, sequence_class
from anystroke.acquisition.presets.distributions import Distribution, PresetError, Value
from anystroke.acquisition.sequences.flair import null_inversion_time
from anystroke.acquisition.weightings import in_order
from anystroke.core import rng as random

POLICIES = ("redraw", "refuse", "keep")
"""What a preset does with timing that no scanner can play: draw anew, raise, or play it as published."""

_MAX_TRIES = 100
_REQUIRED = ("name", "sequence", "weighting", "weight", "parameters")
_CHOICES = tuple(dict.fromkeys(choice for cls in SEQUENCES.values() for choice in cls.choices))
_FIXED = ("name", "weighting", "dimensions", *_CHOICES)
_OPTIONAL = ("dimensions", *_CHOICES, "field_strength", "max_echo_fraction")


@dataclass(frozen=True, kw_only=True)
class PresetEntry:
    """One line of a preset: a sequence, how often it is drawn, and how its parameters are.

    Attributes:
        name: Its name.
        sequence: Key of ``SEQUENCES``.
        weight: How often it is drawn, relative to the other entries.
        fixed: Fields that are not drawn (weighting, dimensions).
        parameters: Distributions of the others, in the order in which they are drawn; two for a pair.
        max_echo_fraction: Largest echo time as a fraction of the repetition time.
        infeasible: What to do with impossible timing, one of ``POLICIES``.
    """

    name: str
    sequence: str
    weight: float
    fixed: Mapping[str, Any]
    parameters: Mapping[str, Distribution | tuple[Distribution, ...]]
    max_echo_fraction: float = 1.0
    infeasible: str = "redraw"

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, infeasible: str = "redraw") -> "PresetEntry":
        """Read an entry from TOML data; ``presets/realistic.toml`` shows the keys.

        Args:
            data: The entry.
            infeasible: What to do with impossible timing, one of ``POLICIES``.

        Raises:
            PresetError: If a key is unknown or missing or a distribution cannot be understood.

        Example:
            >>> parameters = {"repetition_time": 4.0, "echo_time": 0.08, "b_value": 0.0}
            >>> PresetEntry.parse({"name": "b0", "sequence": "dwi", "weighting": "T2w", "weight": 1.0,
            ...                    "parameters": parameters}).fixed["weighting"]
            'T2w'
        """
        where = f"preset entry {data.get('name', '(no name)')!r}"
        allowed = {*_REQUIRED, *_OPTIONAL}
        if unknown := sorted(set(data) - allowed):
            raise PresetError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(allowed))}")
        if missing := sorted(set(_REQUIRED) - set(data)):
            raise PresetError(f"{where}: missing {', '.join(missing)}")
        raw = dict(data["parameters"])
        if "field_strength" in data:
            raw = {"field_strength": data["field_strength"], **raw}
        fixed = {key: data[key] for key in _FIXED if key in data}
        try:
            check_keys(sequence_class(data["sequence"], where=where), set(raw) | set(fixed), where=where)
        except ValueError as error:
            raise PresetError(str(error)) from error
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
            parameters=_parse_parameters(raw, where=where),
            max_echo_fraction=float(data.get("max_echo_fraction", 1.0)),
            infeasible=infeasible,
        )

    def draw(self, rng: torch.Generator) -> Protocol:
        """Draw a protocol; what happens if it cannot be played is up to ``infeasible``.

        Args:
            rng: The random stream.

        Returns:
            A protocol, whose timing is possible unless ``infeasible`` is ``"keep"``.

        Raises:
            TimingError: If the draw was impossible and ``infeasible`` is ``"refuse"``.
            RuntimeError: If 100 draws in a row were impossible.
        """
        reason: Exception | None = None
        for _ in range(_MAX_TRIES):
            try:
                protocol = self._draw_once(rng)
                if self.infeasible != "keep" and protocol.impossible:
                    raise timing.TimingError(protocol.impossible)
                return protocol
            except timing.TimingError as error:
                if self.infeasible == "refuse":
                    raise timing.TimingError(f"preset entry {self.name!r}: {error}") from error
                reason = error
        raise RuntimeError(
            f"preset entry {self.name!r}: {_MAX_TRIES} draws in a row were impossible; last: {reason}"
        )

    def is_feasible(self, rng: torch.Generator) -> bool:
        """Draw once and tell whether a scanner could play it.

        Args:
            rng: The random stream.
        """
        try:
            return not self._draw_once(rng).impossible
        except timing.TimingError:
            return False

    def _draw_once(self, rng: torch.Generator) -> Protocol:
        drawn: dict[str, Any] = {}
        for key, distribution in self.parameters.items():
            if isinstance(distribution, tuple):
                drawn[key] = tuple(_draw_value(one, drawn, rng) for one in distribution)
            else:
                drawn[key] = _draw_value(distribution, drawn, rng)
        protocol = SEQUENCES[self.sequence](**self.fixed, **drawn)
        if self.max_echo_fraction < 1.0:
            fraction = drawn["echo_time"] / drawn["repetition_time"]
            if fraction > self.max_echo_fraction:
                raise timing.TimingError(f"echo_time is {fraction:.2f} of repetition_time")
        return protocol


def _draw_value(distribution: Distribution, drawn: Mapping[str, Value], rng: torch.Generator) -> Value:
    value = distribution.draw(rng)
    if distribution.times_null_of_t1 is not None:
        value *= null_inversion_time(
            t1=distribution.times_null_of_t1,
            repetition_time=drawn["repetition_time"],
            echo_spacing=drawn["echo_spacing"],
            echo_train_length=int(drawn["echo_train_length"]),
            inversion_efficiency=drawn["inversion_efficiency"],
        )
    return distribution.finish(value, drawn)


def _parse_parameters(
    raw: Mapping[str, Any], *, where: str
) -> dict[str, Distribution | tuple[Distribution, ...]]:
    parameters: dict[str, Distribution | tuple[Distribution, ...]] = {}
    for key, value in raw.items():
        place = f"{where}, {key}"
        parts = [
            Distribution.parse(one, where=place) for one in (value if isinstance(value, list) else [value])
        ]
        for part in parts:
            _check_references(part, list(parameters), where=place)
        parameters[key] = tuple(parts) if isinstance(value, list) else parts[0]
    return parameters


def _check_references(distribution: Distribution, earlier: list[str], *, where: str) -> None:
    """Refuse a modifier that refers to a parameter which is not drawn before."""
    named = (distribution.times, distribution.plus, distribution.divided_by)
    wanted = [name for name in named if name is not None]
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
        return in_order(entry.fixed["weighting"] for entry in self.entries)

    def sample(
        self, rng: torch.Generator, *, weighting: str | None = None, field_strength: float | None = None
    ) -> Protocol:
        """Draw a protocol.

        Args:
            rng: The random stream; the same stream gives the same protocol.
            weighting: Draw among the entries of this weighting only.
            field_strength: Draw until the scanner is one of this field [T]. A preset that has none such (a
                sequence of another field, or fields drawn from a range) gives a protocol of another field.

        Returns:
            A protocol, whose timing is possible unless the preset says ``infeasible = "keep"``.

        Raises:
            ValueError: If the preset has no entry of that weighting.
            TimingError: If the draw was impossible and the preset says ``infeasible = "refuse"``.

        Example:
            >>> from anystroke.core.rng import stream
            >>> load_preset("realistic").sample(stream(1), weighting="FLAIR").sequence
            'flair'
        """
        protocol = self._choose(rng, weighting).draw(rng)
        for _ in range(_MAX_TRIES):
            if field_strength in (None, protocol.field_strength):
                break
            protocol = self._choose(rng, weighting).draw(rng)
        return protocol

    def infeasible_share(
        self, rng: torch.Generator, *, weighting: str | None = None, draws: int = 1000
    ) -> float:
        """Estimate which share of single draws no scanner could play: what "redraw" throws away.

        Args:
            rng: The random stream.
            weighting: Among the entries of this weighting only.
            draws: How many draws to try.

        Returns:
            The share, 0 to 1.

        Raises:
            ValueError: If the preset has no entry of that weighting, or ``draws`` is not above 0.

        Example:
            >>> from anystroke.core.rng import stream
            >>> load_preset("realistic").infeasible_share(stream(1), weighting="DWI", draws=10)
            0.0
        """
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        tried = (self._choose(rng, weighting).is_feasible(rng) for _ in range(draws))
        return 1.0 - sum(tried) / draws

    def _choose(self, rng: torch.Generator, weighting: str | None) -> PresetEntry:
        entries = [entry for entry in self.entries if weighting in (None, entry.fixed["weighting"])]
        if not entries:
            known = ", ".join(self.weightings)
            raise ValueError(f"preset {self.name!r} has no weighting {weighting!r}; it has {known}")
        return entries[random.choice(rng, [entry.weight for entry in entries])]


def load_preset(name_or_path: str | Path) -> Preset:
    """Load a preset that comes with the package, or one of your own from a TOML file.

    ``"realistic"`` is clinical and research practice, ``"typical"`` one protocol of each contrast at 3 T,
    ``"estimator"`` the MPRAGE that estimators of maps are trained on. ``"paper"``, ``"paper_code"`` and
    ``"qatlas"`` repeat what was published, impossible timing included: the equations and distributions that
    the qSynth paper prints, those that its program ran, and the MPRAGE of the qATLAS estimator.
    ``"six_sequences"`` has those of sequence-invariant pre-training, with playable timing.

    Args:
        name_or_path: One of these names, or the path of a file that ends in ``.toml``.

    Returns:
        The preset.

    Raises:
        PresetError: If there is no such preset or its data cannot be understood.

    Example:
        >>> load_preset("realistic").weightings[:6]
        ('T1w', 'T2w', 'PDw', 'FLAIR', 'DWI', 'T2starw')
    """
    folder = resources.files("anystroke.acquisition") / "presets"
    source = Path(name_or_path) if str(name_or_path).endswith(".toml") else folder / f"{name_or_path}.toml"
    if not source.is_file():
        names = (item.name for item in folder.iterdir() if item.name.endswith(".toml"))
        known = ", ".join(sorted(name.removesuffix(".toml") for name in names))
        raise PresetError(f"there is no preset {str(name_or_path)!r}; known: {known}, or give a .toml file")
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PresetError(f"{source} is not valid TOML: {error}") from error
    if unknown := sorted(set(data) - {"name", "infeasible", "protocol"}):
        raise PresetError(f"{source}: unknown key {unknown[0]!r}; known: name, infeasible, protocol")
    infeasible = data.get("infeasible", "redraw")
    if infeasible not in POLICIES:
        raise PresetError(f"{source}: infeasible must be one of {', '.join(POLICIES)}, got {infeasible!r}")
    entries = tuple(_entries(data, infeasible))
    if not entries:
        raise PresetError(f"{source}: no [[protocol]] entry")
    return Preset(name=str(data.get("name", name_or_path)), entries=entries)


def _entries(data: Mapping[str, Any], infeasible: str) -> Iterator[PresetEntry]:
    for entry in data.get("protocol", []):
        yield PresetEntry.parse(entry, infeasible=infeasible)
