"""Files that appear together: written into a hidden folder, then moved to their places."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STAGING = ".anystroke-"


@contextmanager
def staged(folder: Path, *, last: str = "") -> Iterator[Path]:
    """Give a folder whose files move to the same places under ``folder`` when the block ends without error.

    Args:
        folder: Made if missing.
        last: Name of the file that says that all are there: an earlier one goes first, and it comes last,
            just after those that begin like it.

    Yields:
        An empty folder in it, which is gone afterwards.

    Raises:
        OSError: The folder cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with staged(folder) as staging:
        ...     _ = (staging / "a.txt").write_text("whole")
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=staging_prefix(), dir=folder))
    try:
        yield staging
        begin = last.rpartition(".")[0] or last
        files = sorted(
            files_below(staging),
            key=lambda path: (bool(last) and path.name.startswith(begin), path.name == last),
        )
        for path in files:
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        if last:
            (folder / last).unlink(missing_ok=True)
        for path in files:
            place = folder / path.relative_to(staging)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder at any depth, by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def staging_prefix() -> str:
    """Return the begin of the names of this process's hidden folders; they go when it is no more.

    Example:
        >>> staging_prefix().startswith(".anystroke-")
        True
    """
    return f"{_STAGING}{socket.gethostname()}-{os.getpid()}-"


def remove_left_behind(folder: Path) -> None:
    """Remove the hidden folders of processes of this machine that are no more.

    Args:
        folder: What they lie in.
    """
    prefix = f"{_STAGING}{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*-*"):
        number = path.name.removeprefix(prefix).split("-")[0]
        if number.isdecimal() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
