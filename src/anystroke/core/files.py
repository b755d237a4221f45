"""Write files whole or not at all, and name their content."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path that becomes ``path`` when the block ends without an error.

    A reader never sees half a file: the content is flushed to disk before the one rename that publishes it.
    When the block raises, the temporary file is removed and an existing ``path`` stays as it was. The
    temporary name ends like the final one (in lower case), so that writers which look at the suffix do the
    right thing.

    Args:
        path: The file to make; its folder must exist.
        overwrite: Whether an existing ``path`` may be replaced.

    Yields:
        The path to write to.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is False.
        FileNotFoundError: The folder of ``path`` does not exist, or the block wrote nothing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> (folder / "note.txt").read_text()
        'whole'
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another output or allow overwriting")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {path.parent} does not exist; create it before writing {path.name}"
        )
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    temporary = path.parent / f".{secrets.token_hex(8)}{suffix}"
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Compute the SHA-256 of a file's bytes, in hexadecimal.

    Args:
        path: The file to read.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "empty"
        >>> file.touch()
        >>> sha256(file)[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all, in place of an earlier one.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object, *, indent: int = 2) -> None:
    r"""Write plain values as JSON that people can read, as `write_text` does.

    Args:
        path: The file.
        content: Plain values; numbers that are not finite are refused.
        indent: Spaces of each level.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(file, {"Units": "%"})
        >>> file.read_text()
        '{\n  "Units": "%"\n}\n'
    """
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")
