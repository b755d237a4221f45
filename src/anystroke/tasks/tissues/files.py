"""Tissues of scans in files: a label map of each, and a table of volumes."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell, write_table
from anystroke.core.volume import Volume
from anystroke.io.names import image_stem
from anystroke.tasks.tissues.predict import TissueModel, segment_tissues
from anystroke.tasks.tissues.sources import LEARNT_TISSUES

TABLE = "tissues.tsv"


def write_tissues(scans: Sequence[Path], model: TissueModel, folder: Path) -> Path:
    """Segment scans, and write what was found.

    Args:
        scans: NIfTI and the like.
        model: Tells tissues apart.
        folder: Gets ``NAME_tissues.nii.gz`` for each scan and a table of volumes in ml.

    Returns:
        The table.

    Raises:
        VolumeError: A scan cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Cell]] = []
    for path in scans:
        found = segment_tissues(Volume.load(path), model)
        found.save(folder / f"{image_stem(path)}_tissues.nii.gz")
        voxel = float(found.affine[:3, :3].det().abs()) / 1000
        volumes: dict[str, Cell] = {
            f"{name}_ml": float((found.data == number).sum()) * voxel
            for number, name in enumerate(LEARNT_TISSUES)
            if number
        }
        rows.append({"scan": image_stem(path), **volumes})
    columns = ("scan", *(f"{name}_ml" for name in LEARNT_TISSUES[1:]))
    write_table(folder / TABLE, columns, rows)
    return folder / TABLE
