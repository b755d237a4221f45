"""The verb ``doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import FAILED, OK


def doctor(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write results to.")
    ] = Path(),
) -> int:
    """Say what this installation can do, and what is wrong with it.

    Example: anystroke doctor
    """
    from anystroke.studies.doctor import examine

    good = True
    for finding in examine(output):
        good = good and finding.good
        typer.echo(finding.text if finding.good else f"problem: {finding.text}")
    return OK if good else FAILED
