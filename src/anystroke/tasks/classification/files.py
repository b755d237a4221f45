"""Classes of scans in a table."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell
from anystroke.core.volume import Volume
from anystroke.io.scan_tables import write_scan_table
from anystroke.tasks.classification.predict import ClassModel

TABLE = "classes.tsv"


def write_classes(scans: Sequence[Path], model: ClassModel, folder: Path) -> Path:
    """Classify scans, and write the probability of each class, see `write_scan_table`.

    Args:
        scans: Files.
        model: The classifier.
        folder: Gets the table, whose path is returned.
    """

    def found_in(_: str, scan: Volume) -> dict[str, Cell]:
        shares = model.of_scan(scan)
        return {"class": max(shares, key=lambda name: shares[name]), **shares}

    return write_scan_table(scans, found_in, folder / TABLE)
