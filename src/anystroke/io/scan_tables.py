"""A table with a row for each scan."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anystroke.core.tables import Cell, write_table
from anystroke.core.volume import Volume
from anystroke.io.names import image_stem


def write_scan_table(
    scans: Sequence[Path], found_in: Callable[[str, Volume], Mapping[str, Cell]], table: Path
) -> Path:
    """Look at scans, and write what was found in a table.

    Args:
        scans: NIfTI and the like.
        found_in: Takes the name of a scan and the scan; returns the same columns for each.
        table: TSV to write, its first column ``scan``; its folder is made.

    Returns:
        The table.

    Raises:
        VolumeError: A scan cannot be used.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Cell]] = []
    for path in scans:
        name = image_stem(path)
        rows.append({"scan": name, **found_in(name, Volume.load(path))})
    write_table(table, tuple(rows[0]) if rows else ("scan",), rows)
    return table
