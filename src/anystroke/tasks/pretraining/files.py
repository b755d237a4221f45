"""Features of scans in a table."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell, write_table
from anystroke.core.volume import Volume
from anystroke.io.names import image_stem
from anystroke.tasks.pretraining.predict import FeatureModel

TABLE = "features.tsv"


def write_features(scans: Sequence[Path], model: FeatureModel, folder: Path) -> Path:
    """Write the pooled features of scans, a row for each.

    Args:
        scans: NIfTI and the like.
        model: The encoder.
        folder: Gets the table.

    Returns:
        The table.

    Raises:
        VolumeError: A scan cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Cell]] = []
    columns: list[str] = []
    for path in scans:
        features = model.of_scan(Volume.load(path)).tolist()
        columns = [f"feature_{number}" for number in range(len(features))]
        rows.append({"scan": image_stem(path), **dict(zip(columns, features, strict=True))})
    write_table(folder / TABLE, ("scan", *columns), rows)
    return folder / TABLE
