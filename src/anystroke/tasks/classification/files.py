"""Classes of scans in a table."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell, write_table
from anystroke.core.volume import Volume
from anystroke.io.names import image_stem
from anystroke.tasks.classification.predict import ClassModel

TABLE = "classes.tsv"


def write_classes(scans: Sequence[Path], model: ClassModel, folder: Path) -> Path:
    """Classify scans, and write the probability of each class.

    Args:
        scans: NIfTI and the like.
        model: The classifier.
        folder: Gets the table.

    Returns:
        The table.

    Raises:
        VolumeError: A scan cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Cell]] = []
    for path in scans:
        found = model.of_scan(Volume.load(path))
        rows.append({"scan": image_stem(path), "class": max(found, key=lambda name: found[name]), **found})
    write_table(folder / TABLE, ("scan", "class", *model.config.classes), rows)
    return folder / TABLE
