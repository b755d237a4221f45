"""The recipes that come with the package, by name."""

import difflib
import re
from itertools import takewhile
from pathlib import Path

from anystroke.core.config import ConfigError, read_toml

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
_PARTS = "parts"


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes inside the package by name; those in folders have names such as ``compared/synth``.

    Parts that are no recipes of their own are left out.

    Example:
        >>> "qsynth-small" in shipped_recipes(), "parts/small" in shipped_recipes()
        (True, False)
    """
    paths = sorted(RECIPES.rglob("*.toml"))
    names = {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}
    return {name: path for name, path in names.items() if not name.startswith(f"{_PARTS}/")}


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path; or the name of a shipped recipe, with or without ``.toml``, if there is no such file.

    Raises:
        ConfigError: There is neither.

    Example:
        >>> find_recipe("qsynth-small").name
        'qsynth-small.toml'
    """
    path = Path(name)
    if path.exists():
        return path
    wanted = str(name).removesuffix(".toml")
    for place in (f"{wanted}.toml", f"{_PARTS}/{wanted}.toml"):
        if (RECIPES / place).is_file():
            return RECIPES / place
    known = list(shipped_recipes())
    near = difflib.get_close_matches(wanted.rpartition("/")[2], known, n=1, cutoff=0.0)
    raise ConfigError(
        f"expected a settings file at {name}, or the name of a recipe, but there is none; "
        f"did you mean {near[0]!r}? 'anystroke recipes' lists all"
    )


def recipe_comment(path: Path) -> str:
    """Return the first sentence of a recipe's comment.

    Example:
        >>> recipe_comment(find_recipe("synth"))
        'Random contrasts, as SynthStroke without real scans ("Synth" of the qATLAS paper).'
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=\.) ", comment)[0]


def task_name(path: Path) -> str:
    """Return what a recipe trains a network to do, as it or the first of its bases says.

    Example:
        >>> task_name(find_recipe("estimator-longer")), task_name(find_recipe("synth"))
        ('qmri', 'segmentation')
    """
    data = read_toml(path)
    if "task" in data:
        return str(data["task"])
    bases = data.get("base", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if (found := task_name(find_base(path, base))) != "segmentation":
            return found
    return "segmentation"


def find_base(path: Path, name: str) -> Path:
    """Return the file of a base: beside the recipe that names it, or a shipped recipe.

    Args:
        path: The recipe.
        name: As its ``base`` says.

    Raises:
        ConfigError: There is no such file.
    """
    beside = path.parent / name
    if beside.exists() or path.is_relative_to(RECIPES):
        return beside
    try:
        return find_recipe(name)
    except ConfigError:
        raise ConfigError(
            f"expected a settings file at {beside}, or a recipe of that name, as {path} has it for its base, "
            "but there is none; mend 'base'"
        ) from None
