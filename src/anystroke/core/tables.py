"""Tables of text, tab-separated as BIDS has them or with commas: a header, and n/a for what is not known."""

import codecs
import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import write_text

Cell = str | float | int | bool | None
Row = dict[str, str]

TABLE_ENDINGS = (".tsv", ".csv")
MISSING = "n/a"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = ("\t", ";", ",")


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
        path: The file: UTF-8, UTF-16 or the code page of Western Windows; its cells are separated by what the
            header has most of: tabs, semicolons or commas.
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
    check_columns(path, header, needed)
    for number, cells in lines:
        if len(cells) != len(header):
            raise TableError(
                f"{path}: line {number} has {len(cells)} cells, expected {len(header)} as in the header; "
                "separate them as there"
            )
    return [dict(zip(header, cells, strict=True)) for _, cells in lines]


def read_cells(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    r"""Read a table that people wrote: short rows are filled with nothing, what is beyond the header is left.

    Args:
        path: As for `read_rows`.

    Returns:
        The columns; and of each row the number of its line and its cells.

    Raises:
        TableError: It is no table, or two columns have one name.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.tsv"
        >>> _ = file.write_text("id\timage\n\n1\n")
        >>> read_cells(file)
        (['id', 'image'], [(3, {'id': '1', 'image': ''})])
    """
    header, lines = _parse(path)
    rows = []
    for number, cells in lines:
        filled = [*cells, *[""] * (len(header) - len(cells))]
        rows.append((number, {name: cell for name, cell in zip(header, filled, strict=False) if name}))
    return header, rows


def check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Make sure that a table has some columns.

    Raises:
        TableError: It lacks one.
    """
    if missing := [name for name in needed if name not in columns]:
        raise TableError(
            f"{path} has no column {' and no column '.join(missing)}, its columns are "
            f"{', '.join(columns) or 'none'}; name them in the first line"
        )


def _parse(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the number and the cells of each line below it."""
    text, separator = _table_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error as error:
        raise TableError(f"{path} is damaged ({error}); save it again") from error
    if not lines:
        raise TableError(f"{path} is empty, expected a header and rows separated by tabs")
    (_, header), *rows = lines
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise TableError(f"{path} has two columns of one name ({', '.join(header)}); rename one")
    return header, rows


def _table_text(path: Path) -> tuple[str, str]:
    """Return the text of a table and what separates its cells.

    UTF-8, UTF-16 with its mark, and the code page of Western Windows are read; the cells are separated by
    what the header has most of: tabs, semicolons or commas.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise TableError(f"expected a table at {path}, but there is none; check the path") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read as a table ({error.strerror}); check it") from error
    if raw.startswith(b"PK\x03\x04"):
        raise TableError(f"{path} is a workbook, expected a table of text; save it as CSV")
    text = _decoded(raw, path)
    first, rest = text.partition("\n")[::2]
    if first.strip().lower().startswith("sep=") and len(first.strip()) <= 5:
        return rest, first.strip()[4:] or ","
    header = next((line for line in text.splitlines() if line.strip()), "")
    counts = {separator: len(next(csv.reader([header], delimiter=separator))) for separator in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda separator: counts[separator])
    return text, best if counts[best] > 1 else ("\t" if path.suffix.lower() == ".tsv" else ",")


def _decoded(raw: bytes, path: Path) -> str:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise TableError(f"{path} is not a table of text ({error}); save it again") from error
    if b"\0" in raw:
        raise TableError(f"{path} is not a table of text; give a TSV or CSV file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


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
        return [dict(zip(header, cells, strict=True)) for _, cells in lines]

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
