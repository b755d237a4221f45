"""Data of one's own in place of those that a recipe names."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anystroke.core.config import ConfigError
from anystroke.io.pairing import pairs_of_folders, write_pairs
from anystroke.learning.recipe import read_recipe

log = logging.getLogger(__name__)

PAIRS = "pairs.tsv"
"""Table of a run's scans and the masks that were found for them."""


PACKAGE_LESIONS = 200
"""Made-up lesions where nobody gives any."""


@dataclass(frozen=True)
class OwnData:
    """Folders that take the place of a recipe's.

    Attributes:
        anatomies: Of label maps.
        lesions: Of lesion masks in MNI space.
        scans: Data sets of scans with masks.
        masks: Folder of the masks of the one folder in ``scans``, named alike; None if they are in it.
        maps: Of quantitative maps with lesion masks.
    """

    anatomies: tuple[Path, ...] = ()
    lesions: tuple[Path, ...] = ()
    scans: tuple[Path, ...] = ()
    masks: Path | None = None
    maps: tuple[Path, ...] = ()


def own_overrides(recipe: str | Path, own: OwnData, folder: Path) -> list[str]:
    """Return the changes of a recipe that put data of one's own in the place of its own.

    Args:
        recipe: A file or the name of a shipped recipe.
        own: The data; what is not given stays as it is.
        folder: Of the run; gets a table of pairs if masks are in a folder of their own.

    Raises:
        ConfigError: The recipe learns nothing from such data, or cannot be read.
        LabelledScanError: Scans and masks do not go together.

    Example:
        >>> own = OwnData(lesions=(Path("my_lesions"),))
        >>> own_overrides("qsynth-small", own, Path("run"))
        ['data.lesions=["my_lesions"]']
    """
    values = read_recipe(Path(recipe))
    sources = values.get("sources", [])
    kinds = [str(part.get("kind")) if isinstance(part, dict) else "" for part in sources]
    changes = [
        f"data.{name}={_listed(paths)}"
        for name, paths in (("anatomies", own.anatomies), ("lesions", own.lesions))
        if paths
    ]
    scans: Sequence[Path] = own.scans
    if own.masks is not None:
        table = folder / PAIRS
        for sentence in write_pairs(pairs_of_folders(own.scans[0], own.masks), table):
            log.warning("%s", sentence)
        scans = (table,)
    for kind, paths in (("scans", scans), ("maps", own.maps)):
        if not paths:
            continue
        places = [number for number, each in enumerate(kinds) if each == kind]
        if not places:
            raise ConfigError(
                f"the recipe {recipe} learns from {', '.join(sorted(set(kinds)))}, not from {kind}; "
                f"leave out --{kind}, or name another recipe ('anystroke recipes' lists them)"
            )
        changes += [f"sources.{number}.{kind}.data={_listed(paths)}" for number in places]
    if (scans or own.maps) and not (own.anatomies or own.lesions):
        changes += _package_instead(values.get("data", {}))
    return changes


def _package_instead(data: object) -> list[str]:
    """Take the package's own brain where the folders that a recipe names are missing."""
    named = data if isinstance(data, dict) else {}
    folders = [Path(str(each)) for name in ("anatomies", "lesions") for each in named.get(name, ())]
    if not folders or any(folder.is_dir() for folder in folders):
        return []
    log.warning(
        "there are no label maps and lesion masks in %s, as the recipe says: the package's own brain and "
        "made-up lesions take their place; --anatomies DIR and --lesions DIR name yours",
        ", ".join(map(str, folders)),
    )
    return ["data.anatomies=[]", "data.lesions=[]", f"data.package={PACKAGE_LESIONS}"]


def _listed(paths: Sequence[Path]) -> str:
    """Write paths as a list of TOML."""
    return json.dumps([str(path) for path in paths], ensure_ascii=False)
