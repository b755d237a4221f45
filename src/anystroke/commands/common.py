"""What the verbs of the command share: exit codes, one kind of error, a progress bar."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anystroke.core.errors import AnystrokeError
from anystroke.core.text import readable

if TYPE_CHECKING:
    from anystroke.io.results import Outcome

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

Item = TypeVar("Item")
_MINUTE = 60.0


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


class ProgressLines(Progress):
    """Progress where nobody watches a bar, such as in the log of a queue: a line a minute on stderr.

    Args:
        now: A clock that never goes back [s].
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(disable=True, get_time=now)
        self._next: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task, and tell of it."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Bring a task on, and tell of it."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def track(
        self,
        sequence: Iterable[Item],
        total: float | None = None,
        completed: int = 0,
        task_id: TaskID | None = None,
        description: str = "done",
        update_period: float = 0.1,
    ) -> Iterator[Item]:
        """Yield items, and tell how many were taken."""
        if total is None and isinstance(sequence, Sequence):
            total = len(sequence)
        if task_id is None:
            task_id = self.add_task(description, total=total, completed=completed)
        for item in sequence:
            yield item
            self.advance(task_id)

    def _tell(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        elapsed = task.elapsed or 0.0
        if elapsed < self._next.setdefault(task_id, _MINUTE) or task.finished:
            return
        self._next[task_id] = elapsed + _MINUTE
        of, left = "", ""
        if task.total and task.completed:
            of = f" of {task.total:g}"
            left = f", {elapsed / 60 * (task.total / task.completed - 1):.0f} min left"
        typer.echo(f"{task.description}: {task.completed:g}{of} in {elapsed / 60:.0f} min{left}", err=True)


def progress_bar() -> Progress:
    """Return a progress bar on stderr where that is a terminal, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return ProgressLines()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


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
