"""Names of contrasts, without the physics, so that help is quick."""

import tomllib
from collections.abc import Iterable
from importlib import resources

COMMON = ("T1w", "T2w", "PDw", "FLAIR", "DWI", "T2starw")
"""The contrasts of everyday scans, which come first wherever contrasts are listed."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort contrasts: the common ones first, then by name.

    Args:
        names: Of contrasts; what is named twice comes once.

    Example:
        >>> in_order(["STIR", "FLAIR", "ADC", "T1w", "FLAIR"])
        ('T1w', 'FLAIR', 'ADC', 'STIR')
    """
    places = {name: place for place, name in enumerate(COMMON)}
    return tuple(sorted(set(names), key=lambda name: (places.get(name, len(COMMON)), name)))


def preset_weightings(preset: str) -> tuple[str, ...]:
    """Read which contrasts a preset of the package gives.

    Args:
        preset: Name of a file of ``anystroke.acquisition.presets``, without its ending.

    Raises:
        FileNotFoundError: There is no such preset.

    Example:
        >>> preset_weightings("estimator")
        ('T1w',)
    """
    path = resources.files("anystroke.acquisition") / "presets" / f"{preset}.toml"
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["protocol"]
    return in_order(entry["weighting"] for entry in entries)


def listed(names: Iterable[str]) -> str:
    """Write contrasts as a sentence does.

    Example:
        >>> listed(["T1w", "T2w", "DIR"])
        'T1w, T2w or DIR'
    """
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
