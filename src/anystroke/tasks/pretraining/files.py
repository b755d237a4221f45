"""Features of scans in a table."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell
from anystroke.core.volume import Volume
from anystroke.io.scan_tables import write_scan_table
from anystroke.tasks.pretraining.predict import FeatureModel

TABLE = "features.tsv"


def write_features(scans: Sequence[Path], model: FeatureModel, folder: Path) -> Path:
    """Write the pooled features of scans, a row for each, see `write_scan_table`.

    Args:
        scans: Files.
        model: The encoder.
        folder: Gets the table, whose path is returned.
    """

    def found_in(_: str, scan: Volume) -> dict[str, Cell]:
        return {f"feature_{number}": value for number, value in enumerate(model.of_scan(scan).tolist())}

    return write_scan_table(scans, found_in, folder / TABLE)
