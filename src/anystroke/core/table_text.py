"""Read the text of tables as spreadsheets write it: commas, semicolons or tabs, UTF-8 or not."""

import codecs
import csv
import io
from pathlib import Path

from anystroke.core.errors import AnystrokeError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = ("\t", ";", ",")


class TableTextError(AnystrokeError):
    """A file that is no table; the message says why and what to do."""


def table_text(path: Path) -> tuple[str, str]:
    r"""Return the text of a table and what separates its cells.

    Args:
        path: The file. UTF-8, UTF-16 with its mark, and the code page of Western Windows are read; the cells
            are separated by what the header has most of: tabs, semicolons or commas.

    Raises:
        TableTextError: It is missing, a folder, or no text.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = file.write_bytes(codecs.BOM_UTF8 + "id;name\r\n1;Zoë\r\n".encode())
        >>> table_text(file)
        ('id;name\r\n1;Zoë\r\n', ';')
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise TableTextError(f"expected a table at {path}, but there is none; check the path") from None
    except OSError as error:
        raise TableTextError(f"{path} cannot be read as a table ({error.strerror}); check it") from error
    if raw.startswith(b"PK\x03\x04"):
        raise TableTextError(f"{path} is a workbook, expected a table of text; save it as CSV")
    text = _decoded(raw, path)
    first, rest = text.partition("\n")[::2]
    if first.strip().lower().startswith("sep=") and len(first.strip()) <= 5:
        return rest, first.strip()[4:] or ","
    header = next((line for line in text.splitlines() if line.strip()), "")
    counts = {separator: len(next(csv.reader([header], delimiter=separator))) for separator in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda separator: counts[separator])
    return text, best if counts[best] > 1 else ("\t" if path.suffix.lower() == ".tsv" else ",")


def read_cells(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    r"""Read a table's columns and rows; cells without spaces around them, short rows filled with nothing.

    Args:
        path: As for `table_text`.

    Raises:
        TableTextError: It is no table.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.tsv"
        >>> _ = file.write_text("id\timage\n1\ta.nii\n")
        >>> read_cells(file)
        (['id', 'image'], [{'id': '1', 'image': 'a.nii'}])
    """
    text, separator = table_text(path)
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(line)]
    except csv.Error as error:
        raise TableTextError(f"{path} is damaged ({error}); save it again") from error
    if not lines:
        return [], []
    header = [cell.strip() for cell in lines[0]]
    rows = []
    for line in lines[1:]:
        cells = [cell.strip() for cell in line] + [""] * (len(header) - len(line))
        rows.append({name: cell for name, cell in zip(header, cells, strict=False) if name})
    return header, rows


def _decoded(raw: bytes, path: Path) -> str:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise TableTextError(f"{path} is not a table of text ({error}); save it again") from error
    if b"\0" in raw:
        raise TableTextError(f"{path} is not a table of text; give a TSV or CSV file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")
