"""Typed settings read from TOML; an unknown key is an error that names the nearest known one."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from anystroke.core.errors import AnystrokeError

Settings = TypeVar("Settings", bound=BaseModel)


class ConfigError(AnystrokeError):
    """Settings that cannot be used; the message says which key, what came and what to do."""


class StrictModel(BaseModel):
    """Base of all settings: immutable, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: If the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a settings file at {path}, but there is none; check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"expected a settings file at {path}, but it is a folder; name the file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; mend the file") from None


def apply_overrides(data: dict[str, Any], overrides: list[str]) -> None:
    """Change nested plain values in place.

    Args:
        data: What to change.
        overrides: Each ``"section.key=value"`` with the value in TOML; a number is an element of a list.

    Raises:
        ConfigError: If an override has no value or leads nowhere.
    """
    for override in overrides:
        _override(data, override)


def validate(data: dict[str, Any], model: type[Settings], *, source: str) -> Settings:
    """Fill a settings model from a dictionary, with errors in one sentence.

    Args:
        data: Nested plain values.
        model: The pydantic model to fill.
        source: Where the values come from, for the message.

    Raises:
        ConfigError: If a key is unknown, missing, or its value does not fit.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            nearest = _nearest(key, _known_keys(model))
            raise ConfigError(f"{source}: unknown key '{key}'; did you mean '{nearest}'?") from None
        came = "" if first["type"] == "missing" else f", but it is {first['input']!r}"
        raise ConfigError(f"{source}: '{key}': {first['msg'][0].lower()}{first['msg'][1:]}{came}") from None


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"expected an override of the form section.key=value, but got {text!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, last = key.strip().split(".")
    place: Any = data
    for section in sections:
        place = _step(place, section, text) if isinstance(place, list) else place.setdefault(section, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"the override {text!r} goes into '{section}', which is a value, not a section")
    if isinstance(place, list):
        _step(place, last, text)
        place[int(last)] = parsed
    else:
        place[last] = parsed


def _step(values: list[Any], index: str, text: str) -> Any:
    if not index.isdigit() or int(index) >= len(values):
        raise ConfigError(
            f"the override {text!r} needs a number from 0 to {len(values) - 1} where it has '{index}'"
        )
    return values[int(index)]


def _known_keys(annotation: Any, parent: str = "") -> list[str]:
    """Return the keys of a model and of all models within its fields, each as an override would write it."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        within = f"{parent}0." if get_origin(annotation) in (list, tuple) else parent
        return [key for part in get_args(annotation) for key in _known_keys(part, within)]
    keys: list[str] = []
    for name, field in annotation.model_fields.items():
        keys += [parent + name, *_known_keys(field.annotation, f"{parent}{name}.")]
    return keys


def _nearest(key: str, known: list[str]) -> str:
    """Return the key of the most similar last part and, among equals, the most similar whole."""

    def likeness(candidate: str) -> tuple[float, float]:
        pairs = ((_last(key), _last(candidate)), (key, candidate))
        last, whole = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return last, whole

    return max(known, key=likeness)


def _last(key: str) -> str:
    return key.rpartition(".")[2]
