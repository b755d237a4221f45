"""Tissues of scans in files: a label map of each, and a table of volumes."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell
from anystroke.core.volume import Volume
from anystroke.io.scan_tables import write_scan_table
from anystroke.tasks.tissues.predict import TissueModel, segment_tissues
from anystroke.tasks.tissues.sources import LEARNT_TISSUES

TABLE = "tissues.tsv"


def write_tissues(scans: Sequence[Path], model: TissueModel, folder: Path) -> Path:
    """Segment scans, and write what was found, see `write_scan_table`.

    Args:
        scans: Files.
        model: Tells tissues apart.
        folder: Gets ``NAME_tissues.nii.gz`` for each scan and a table of volumes in ml, whose path is
            returned.
    """

    def found_in(name: str, scan: Volume) -> dict[str, Cell]:
        found = segment_tissues(scan, model)
        found.save(folder / f"{name}_tissues.nii.gz")
        voxel = float(found.affine[:3, :3].det().abs()) / 1000
        return {
            f"{tissue}_ml": float((found.data == number).sum()) * voxel
            for number, tissue in enumerate(LEARNT_TISSUES)
            if number
        }

    return write_scan_table(scans, found_in, folder / TABLE)
