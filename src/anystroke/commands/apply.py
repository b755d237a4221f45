"""The verb ``apply``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder
from anystroke.commands.options import Debug, Output, Overwrite


def apply(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder that 'train' made.")],
    scans: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="NIfTI and the like.")],
    output: Output,
    overwrite: Overwrite = False,
    _debug: Debug = False,
) -> int:
    """Write what a model of another task finds in scans: tissues, less noise, a class, or features.

    Example: anystroke apply runs/tissues/model scan.nii.gz -o tissues
    """
    check_folder(output)
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ArgumentError(f"{output} is not empty; name another folder or use --overwrite")
    if missing := [path for path in scans if not path.is_file()]:
        raise ArgumentError(f"expected scans that are files, but {missing[0]} is none; check the path")
    from anystroke.tasks.use import use_model

    typer.echo(f"table: {use_model(model, scans, output)}")
    return OK
