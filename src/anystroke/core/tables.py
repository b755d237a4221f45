"""Tables of tab-separated values, as BIDS has them: a header, and n/a for what is not known."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path

Cell = str | float | int | bool | None


class TableError(AnystrokeError):
    """A table that cannot be used; the message says why and what to do."""


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    r"""Write a table, whole or not at all, in place of an earlier one.

    Args:
        path: The file; its folder must exist.
        columns: Names, in order.
        rows: Values by column; what is missing, None or NaN becomes n/a.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.tsv"
        >>> write_table(file, ("id", "dice"), [{"id": "sub-1", "dice": 0.5}, {"id": "sub-2"}])
        >>> file.read_text()
        'id\tdice\nsub-1\t0.5\nsub-2\tn/a\n'
    """
    lines = ["\t".join(columns)]
    lines += ["\t".join(_text(row.get(name)) for name in columns) for row in rows]
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table.

    Args:
        path: The file.

    Returns:
        One dictionary a row, with the cells' text.

    Raises:
        TableError: It is missing, is not text, has no header or two columns of one name, or a row has another
            number of cells.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise TableError(f"expected a table at {path}, but there is none; check the path") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise TableError(f"{path} is not a table of text; give a TSV file") from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise TableError(f"{path} is empty, expected a header and rows separated by tabs")
    header = lines[0].split("\t")
    if len(set(header)) < len(header):
        raise TableError(f"{path} has two columns of one name ({', '.join(header)}); rename one")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(header):
            raise TableError(
                f"{path}: line {number} has {len(cells)} cells, expected {len(header)} as in the header; "
                "separate them by tabs"
            )
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def number(text: str) -> float:
    """Read a cell as a number; n/a is NaN.

    Raises:
        ValueError: It is neither.
    """
    return math.nan if text == "n/a" else float(text)


def _text(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.8g}"
    return " ".join(str(value).split()) or "n/a"
