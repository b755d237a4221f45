"""What long simulations have found so far, in a file of JSON lines: they go on where they were killed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import write_text

_FIRST, _NUMBER = "of", "number"
_BEGINNING = f'{{"{_FIRST}": '


class KeptRowsError(AnystrokeError):
    """A file that holds something else; the message says what to do."""


def read_rows(path: Path, depends: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """Read the rows of a simulation by number; a last line that was cut off is taken away.

    Args:
        path: The file; need not be there.
        depends: What the rows depend on; those of others are left out.

    Raises:
        KeptRowsError: The file holds something else. It stays as it is.
        OSError: It cannot be read or written.
    """
    if not path.is_file():
        return {}
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = {}
    try:
        for line in lines:
            row = json.loads(line)
            if row.pop(_FIRST) == list(depends):
                found[int(row.pop(_NUMBER))] = row
        strange = rest[: len(_BEGINNING)] != _BEGINNING[: len(rest)]
    except (ValueError, KeyError, TypeError, AttributeError):
        strange = True
    if strange:
        raise KeptRowsError(f"{path} holds no observations of an earlier run; name another file for them")
    if rest:
        write_text(path, "".join(f"{line}\n" for line in lines))
    return found


def add_row(path: Path, depends: Sequence[Any], number: int, row: Mapping[str, Any]) -> None:
    """Add a row to the file.

    Args:
        path: The file; made if missing.
        depends: What the row depends on.
        number: Of the row.
        row: Plain values, none of them NaN or infinite.
    """
    line = json.dumps({_FIRST: list(depends), _NUMBER: number, **row}, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
