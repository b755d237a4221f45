"""Typed settings read from TOML; an unknown key is an error that names the nearest known one."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


class ConfigError(ValueError):
    """Settings that cannot be used; the message says which key, what came and what to do."""


class StrictModel(BaseModel):
    """Base of all settings: immutable, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_toml(path: Path | str, model: type[Settings], overrides: list[str] | None = None) -> Settings:
    """Read settings from a TOML file.

    Args:
        path: The file.
        model: The pydantic model to fill.
        overrides: Changes on top of the file, each ``"section.key=value"`` with the value in TOML.

    Returns:
        The validated settings.

    Raises:
        ConfigError: If the file is missing, is not TOML, or does not fit the model.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a settings file at {path}, but there is none; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; mend the file") from None
    for override in overrides or []:
        _override(data, override)
    return validate(data, model, source=str(path))


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
            nearest = _nearest(str(first["loc"][-1]), _known_keys(model))
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
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"the override {text!r} goes into '{section}', which is a value, not a section")
    data[last] = parsed


def _known_keys(model: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys.extend(_known_keys(field.annotation))
    return keys


def _nearest(word: str, known: list[str]) -> str:
    return max(known, key=lambda candidate: difflib.SequenceMatcher(None, word, candidate).ratio())
