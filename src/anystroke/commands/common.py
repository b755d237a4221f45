"""What the verbs of the command share: exit codes, one kind of error, a progress bar."""

from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from anystroke.io.results import Outcome

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class ArgumentError(AnystrokeError):
    """Arguments that cannot be used, found after parsing; the message is one sentence."""


def check_folder(path: Path) -> None:
    """Raise ArgumentError if an output folder is a file."""
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"--output must be a folder, but {path} is a file; name another")


def check_new(path: Path, overwrite: bool) -> None:
    """Raise ArgumentError if a result is there already and may not be replaced."""
    if path.exists() and not overwrite:
        raise ArgumentError(f"{path} exists already; name another or use --overwrite")


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


def compute_on(device: str, threads: int | None = None) -> None:
    """Let networks compute on a device, and torch with so many threads.

    Raises:
        DeviceError: There is no such device.
    """
    import torch

    from anystroke.models.passes import use_device

    use_device(device)
    if threads is not None:
        torch.set_num_threads(threads)


def tell_trouble(outcome: "Outcome", debug: bool) -> bool:
    """Print what was wrong with an input, with its traceback if asked for; return whether it failed."""
    if outcome.status == "failed":
        complain(f"{outcome.traceback if debug else ''}error: {outcome.message}")
        return True
    for text in outcome.messages:
        complain(f"warning: {outcome.name}: {text}")
    return False


def complain(text: str) -> None:
    """Print to stderr."""
    typer.echo(readable(text), err=True)
