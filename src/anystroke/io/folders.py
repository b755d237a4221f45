"""Walk through folders as people have them: links followed, files of operating systems passed over."""

import os
from collections.abc import Callable
from pathlib import Path

_JUNK = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db")


def walk(folder: Path, *, on_error: Callable[[OSError], object] | None = None) -> list[Path]:
    """Return the files of a folder at any depth, by name; those behind links too.

    Hidden files and folders are passed over, with what macOS, Windows and network disks leave. A link whose
    target is missing counts as a file, so that it can be named; a link to a folder above itself is not
    followed.

    Args:
        folder: Where to begin.
        on_error: Called for each folder that cannot be read; by default its error is raised.

    Raises:
        OSError: A folder cannot be read, and there is no ``on_error``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "a.nii").touch(), (folder / "._a.nii").touch(), (folder / "b").mkdir()
        (None, None, None)
        >>> [path.name for path in walk(folder)]
        ['a.nii']
    """
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(folder), (os.path.realpath(folder),))]
    while waiting:
        place, above = waiting.pop()
        try:
            entries = [entry for entry in os.scandir(place) if not is_junk(entry.name)]
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        for entry in entries:
            path = place / entry.name
            if not path.is_dir():
                found.append(path)
            elif (real := os.path.realpath(path)) not in above:
                waiting.append((path, (*above, real)))
    return sorted(found)


def folders_in(folder: Path, begin: str = "") -> list[Path]:
    """Return the folders directly in a folder, also those behind links, by name.

    Args:
        folder: Where to look; it may be missing.
        begin: What their names begin with.
    """
    if not folder.is_dir():
        return []
    names = sorted(
        path for path in folder.iterdir() if path.name.startswith(begin) and not is_junk(path.name)
    )
    return [path for path in names if path.is_dir()]


def is_junk(name: str) -> bool:
    """Tell files and folders that operating systems leave, and hidden ones, by their names.

    Example:
        >>> is_junk("._sub-01_T2w.nii.gz"), is_junk("sub-01_T2w.nii.gz")
        (True, False)
    """
    return name.startswith(".") or name in _JUNK
