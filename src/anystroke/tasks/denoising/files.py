"""Scans without their noise, in files."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.tables import Cell
from anystroke.core.volume import Volume
from anystroke.io.scan_tables import write_scan_table
from anystroke.tasks.denoising.predict import NoiseModel, denoise

TABLE = "denoised.tsv"


def write_denoised(scans: Sequence[Path], model: NoiseModel, folder: Path) -> Path:
    """Take the noise out of scans, and write what is left, see `write_scan_table`.

    Args:
        scans: Files.
        model: Finds noise.
        folder: Gets ``NAME_denoised.nii.gz`` for each scan and a table of them, whose path is returned.
    """

    def found_in(name: str, scan: Volume) -> dict[str, Cell]:
        target = folder / f"{name}_denoised.nii.gz"
        denoise(scan, model).save(target)
        return {"file": target.name}

    return write_scan_table(scans, found_in, folder / TABLE)
