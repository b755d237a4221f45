"""Distributions over one parameter, written as data: ``{ uniform = [2.5, 8.0] }``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from anystroke.core import rng as random
from anystroke.core.errors import AnystrokeError

Value: TypeAlias = float | int

_KINDS = ("constant", "uniform", "log_uniform", "normal", "log10_normal", "choice", "even_integer")
_PAIRS = ("uniform", "log_uniform", "normal", "log10_normal", "even_integer")
_MODIFIERS = (
    "weights",
    "clip",
    "absolute",
    "reflect_above",
    "times",
    "plus",
    "divided_by",
    "times_null_of_t1",
    "integer",
)


class PresetError(AnystrokeError):
    """A preset's data cannot be understood."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How one protocol parameter is drawn.

    Attributes:
        kind: One of constant, uniform, log_uniform, normal, log10_normal, choice, even_integer.
        values: Its numbers: low and high, mean and SD, median and SD in decades, or the choices.
        weights: Relative weights of the choices; empty for equal ones.
        clip: Lowest and highest value, applied to the draw itself.
        absolute: Drop the draw's sign.
        reflect_above: Mirror what is drawn above this value to below it.
        times: Name of an earlier parameter that the draw is multiplied by.
        plus: Name of an earlier parameter that is added to the draw.
        divided_by: Name of an earlier parameter that the draw is divided by.
        times_null_of_t1: T1 (s) whose null inversion time the draw is multiplied by.
        integer: Round the result to a whole number.
    """

    kind: str
    values: tuple[float, ...]
    weights: tuple[float, ...] = ()
    clip: tuple[float, float] | None = None
    absolute: bool = False
    reflect_above: float | None = None
    times: str | None = None
    plus: str | None = None
    divided_by: str | None = None
    times_null_of_t1: float | None = None
    integer: bool = False

    @classmethod
    def parse(cls, data: Any, *, where: str) -> "Distribution":
        """Read a distribution from TOML data: a plain number, or a table with one kind and its modifiers.

        Args:
            data: For example ``4`` or ``{"normal": [0.95, 0.03], "clip": [0.85, 1.0]}``.
            where: What the error message calls the place.

        Returns:
            The distribution.

        Raises:
            PresetError: If a key is unknown or numbers do not fit the kind.

        Example:
            >>> Distribution.parse({"uniform": [1, 2]}, where="repetition_time").values
            (1.0, 2.0)
        """
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return cls(kind="constant", values=(float(data),), integer=isinstance(data, int))
        if not isinstance(data, Mapping):
            raise PresetError(f"{where}: expected a number or a table with a distribution, got {data!r}")
        kinds = [key for key in data if key in _KINDS]
        if unknown := sorted(set(data) - set(kinds) - set(_MODIFIERS)):
            known = ", ".join((*_KINDS, *_MODIFIERS))
            raise PresetError(f"{where}: unknown key {unknown[0]!r}; known: {known}")
        if len(kinds) != 1:
            raise PresetError(f"{where}: expected exactly one of {', '.join(_KINDS)}, got {kinds or 'none'}")
        kind = kinds[0]
        values = data[kind] if isinstance(data[kind], list) else [data[kind]]
        if not all(isinstance(value, (int, float)) for value in values):
            raise PresetError(f"{where}: expected numbers, got {values}")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in data.items()
            if key != kind
        }
        parsed = cls(kind=kind, values=tuple(float(value) for value in values), **fields)
        parsed._check(where)
        return parsed

    def _check(self, where: str) -> None:
        size = 2 if self.kind in _PAIRS else 1 if self.kind == "constant" else None
        if not self.values or (size is not None and len(self.values) != size):
            raise PresetError(f"{where}: {self.kind} needs {size or 'some'} numbers, got {list(self.values)}")
        low, high = self.values[0], self.values[-1]
        if self.kind in ("uniform", "log_uniform", "even_integer") and not low <= high:
            raise PresetError(f"{where}: {self.kind} needs low <= high, got {list(self.values)}")
        if self.kind in ("log_uniform", "log10_normal") and low <= 0.0:
            raise PresetError(f"{where}: {self.kind} needs numbers above 0, got {list(self.values)}")
        if self.kind == "even_integer" and (low % 2 or high % 2):
            raise PresetError(f"{where}: even_integer needs even numbers, got {list(self.values)}")
        if self.kind in ("normal", "log10_normal") and high < 0.0:
            raise PresetError(f"{where}: {self.kind} needs an SD of at least 0, got {high:g}")
        if self.weights and (len(self.weights) != len(self.values) or min(self.weights) < 0.0):
            raise PresetError(f"{where}: weights must be one number >= 0 per choice, got {self.weights}")
        if self.clip is not None and (len(self.clip) != 2 or not self.clip[0] <= self.clip[1]):
            raise PresetError(f"{where}: clip must be [low, high], got {list(self.clip)}")

    def draw(self, rng: torch.Generator) -> float:
        """Draw a number before modifiers that depend on other parameters.

        Args:
            rng: The random stream.

        Returns:
            One number, its sign dropped, reflected and clipped as asked.

        Example:
            >>> from anystroke.core.rng import stream
            >>> 1.0 <= Distribution(kind="uniform", values=(1.0, 2.0)).draw(stream(1)) <= 2.0
            True
        """
        first, last = self.values[0], self.values[-1]
        match self.kind:
            case "uniform":
                value = random.uniform(rng, first, last)
            case "log_uniform":
                value = random.log_uniform(rng, first, last)
            case "normal":
                value = random.normal(rng, first, last)
            case "log10_normal":
                value = first * 10.0 ** random.normal(rng, 0.0, last)
            case "choice":
                value = self.values[random.choice(rng, list(self.weights or [1.0] * len(self.values)))]
            case "even_integer":
                value = float(2 * random.integer(rng, int(first) // 2, int(last) // 2))
            case _:
                value = first
        value = abs(value) if self.absolute else value
        if self.reflect_above is not None and value > self.reflect_above:
            value = 2.0 * self.reflect_above - value
        return value if self.clip is None else min(max(value, self.clip[0]), self.clip[1])

    def finish(self, value: float, drawn: Mapping[str, Value]) -> Value:
        """Apply the modifiers that refer to parameters drawn earlier, and round if asked to.

        Args:
            value: The number drawn.
            drawn: The parameters drawn so far.

        Returns:
            The parameter's value.

        Example:
            >>> half = Distribution(kind="constant", values=(0.5,), times="excitation_spacing")
            >>> half.finish(0.5, {"excitation_spacing": 0.008})
            0.004
        """
        if self.times is not None:
            value *= drawn[self.times]
        if self.plus is not None:
            value += drawn[self.plus]
        if self.divided_by is not None:
            value /= drawn[self.divided_by]
        return round(value) if self.integer or self.kind == "even_integer" else value
