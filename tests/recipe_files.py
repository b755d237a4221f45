"""Recipes of tests as files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> Path:
    """Write a recipe as TOML; the file's path is returned."""
    plain = {key: value for key, value in recipe.items() if key != "sources"}
    parts = ["[[sources]]\n" + _lines(part) for part in recipe["sources"]]
    path.write_text(_lines(plain) + "".join(parts))
    return path


def _lines(table: Mapping[str, Any], within: str = "") -> str:
    found = ""
    for key, value in table.items():
        if isinstance(value, Mapping):
            found += _lines(value, f"{within}{key}.")
        elif value is not None:
            found += f"{within}{key} = {json.dumps(value)}\n"
    return found
