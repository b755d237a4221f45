"""What the verbs of the command share: exit codes, one kind of error, a progress bar."""

from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anystroke.core.errors import AnystrokeError
from anystroke.core.text import readable

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class ArgumentError(AnystrokeError):
    """Arguments that cannot be used, found after parsing; the message is one sentence."""


def check_folder(path: Path) -> None:
    """Raise ArgumentError if an output folder is a file."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"--output must be a folder, but {path} is a file; name another")


def progress_bar() -> Progress:
    """Return a progress bar on stderr that shows where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def complain(text: str) -> None:
    """Print to stderr."""
    typer.echo(readable(text), err=True)
