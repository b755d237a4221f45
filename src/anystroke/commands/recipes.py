"""The verb ``recipes``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import OK, ArgumentError


def recipes(
    copy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Copy this one into the current folder, to change it.")
    ] = None,
) -> int:
    """List the recipes that come with the program, by the names that 'train' takes.

    A copy may be changed and given to 'train' as a file; its base stays that of the program.

    Example: anystroke recipes --copy qsynth-small
    """
    from anystroke.core.files import write_text
    from anystroke.learning.shipped_recipes import find_recipe, recipe_comment, shipped_recipes, task_name

    if copy is not None:
        source = find_recipe(copy)
        target = Path(source.name)
        if target.exists():
            raise ArgumentError(f"{target} is there already; move it away, or copy in another folder")
        write_text(target, source.read_text(encoding="utf-8"))
        typer.echo(f"{target}: train it with 'anystroke train {target} -o DIR'")
        return OK
    known = shipped_recipes()
    width = max(map(len, known))
    for name, path in known.items():
        task = task_name(path)
        what = "" if task == "segmentation" else f" [{task}]"
        typer.echo(f"{name.ljust(width)}  {recipe_comment(path)}{what}")
    return OK
