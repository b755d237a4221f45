"""Tables of text, tab-separated as BIDS has them or with commas: a header, and n/a for what is not known."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import write_text
from anystroke.core.table_text import TableTextError, table_text

Cell = str | float | int | bool | None
Row = dict[str, str]

TABLE_ENDINGS = (".tsv", ".csv")
MISSING = "n/a"


class TableError(AnystrokeError):
    """A table that cannot be used; the message says why and what to do."""


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    r"""Write a table, whole or not at all, in place of an earlier one.

    Args:
        path: The file; its folder must exist.
        columns: Names, in order.
        rows: Values by column; what is missing, None or NaN becomes n/a, and spaces in texts become one.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.tsv"
        >>> write_table(file, ("id", "dice"), [{"id": "sub-1", "dice": 0.5}, {"id": "sub-2"}])
        >>> file.read_text()
        'id\tdice\nsub-1\t0.5\nsub-2\tn/a\n'
    """
    cells = ([_quoted(_text(row.get(name))) for name in columns] for row in rows)
    lines = ["\t".join(columns), *("\t".join(row) for row in cells)]
    write_text(path, "\n".join(lines) + "\n")


def read_rows(path: Path, *, needed: Sequence[str] = ()) -> list[Row]:
    r"""Read a table.

    Args:
        path: The file; its cells are separated by tabs, commas or semicolons, whichever its header has.
        needed: Columns that it must have.

    Returns:
        One dictionary a row, with the cells' text, without spaces around it.

    Raises:
        TableError: It is missing, is not text, has no header, two columns of one name or not those needed,
            or a row has another number of cells.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = file.write_text('image,site\na.nii,"Basel, CH"\n')
        >>> read_rows(file)
        [{'image': 'a.nii', 'site': 'Basel, CH'}]
    """
    header, lines = _parse(path)
    if missing := [name for name in needed if name not in header]:
        raise TableError(
            f"{path} has no column {' and no column '.join(missing)}, its columns are {', '.join(header)}; "
            "name them in the first line"
        )
    return [dict(zip(header, cells, strict=True)) for cells in lines]


def _parse(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of each row."""
    try:
        text, separator = table_text(path)
    except TableTextError as error:
        raise TableError(str(error)) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error as error:
        raise TableError(f"{path} is damaged ({error}); save it again") from error
    if not lines:
        raise TableError(f"{path} is empty, expected a header and rows separated by tabs")
    header = lines[0][1]
    if len(set(header)) < len(header):
        raise TableError(f"{path} has two columns of one name ({', '.join(header)}); rename one")
    between = {"\t": "tabs", ",": "commas", ";": "semicolons"}.get(separator, repr(separator))
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise TableError(
                f"{path}: line {number} has {len(cells)} cells, expected {len(header)} as in the header; "
                f"separate them by {between}"
            )
    return header, [cells for _, cells in lines[1:]]


class GrowingTable:
    """A table that gets its rows one after the other, and keeps those of earlier runs.

    Args:
        path: The file; it may be missing.
        columns: Names, in order.

    Raises:
        TableError: The file is another table, or none.

    Example:
        >>> import tempfile
        >>> table = GrowingTable(Path(tempfile.mkdtemp()) / "a.tsv", ("id", "ml"))
        >>> table.put([{"id": "a", "ml": "1"}, {"id": "b", "ml": "2"}], key="id")
        >>> table.put([{"id": "a", "ml": "3"}], key="id")
        >>> table.read()
        [{'id': 'b', 'ml': '2'}, {'id': 'a', 'ml': '3'}]
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.read()

    def read(self) -> list[Row]:
        """Return the rows, as the file has them now.

        Raises:
            TableError: The file is another table, or none.
        """
        if not self.path.exists():
            return []
        header, lines = _parse(self.path)
        if tuple(header) != self.columns:
            raise TableError(f"{self.path} is not a table of anystroke (its columns differ); move it away")
        return [dict(zip(header, cells, strict=True)) for cells in lines]

    def put(self, rows: Sequence[Mapping[str, Cell]], *, key: str | Callable[[Row], bool]) -> None:
        """Add rows at the end, in place of earlier ones.

        Args:
            rows: Values by column.
            key: The column whose value says which rows are replaced, or a test of the earlier row.

        Raises:
            OSError: The file cannot be written.
        """
        new = [{name: _text(row.get(name)) for name in self.columns} for row in rows]
        if isinstance(key, str):
            values, column = {row[key] for row in new}, key
            kept = [row for row in self.read() if row[column] not in values]
        else:
            kept = [row for row in self.read() if not key(row)]
        write_table(self.path, self.columns, [*kept, *new])


def number(text: str) -> float:
    """Read a cell as a number; n/a is NaN.

    Raises:
        ValueError: It is neither.
    """
    return math.nan if text == MISSING else float(text)


def _text(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.8g}"
    return " ".join(str(value).split()) or MISSING


def _quoted(text: str) -> str:
    """Quote what a reader would take for quoted: a cell that begins with a quotation mark."""
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text
