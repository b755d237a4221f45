"""What all verbs of the command share: exit codes, complaints, progress."""

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class ArgumentError(Exception):
    """Arguments that cannot be used, found after parsing; the message is one sentence."""


def check_folder(path: Path) -> None:
    """Refuse an output that is a file.

    Raises:
        ArgumentError: It is.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"--output must be a folder, but {path} is a file; name another")


def complain(text: str) -> None:
    """Say something to the user beside the results."""
    typer.echo(text, err=True)


def progress() -> Progress:
    """Make a bar that is shown on terminals alone and disappears."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
