"""Scans without their noise, in files."""

from collections.abc import Sequence
from pathlib import Path

from anystroke.core.volume import Volume
from anystroke.io.names import image_stem
from anystroke.tasks.denoising.predict import NoiseModel, denoise


def write_denoised(scans: Sequence[Path], model: NoiseModel, folder: Path) -> list[Path]:
    """Take the noise out of scans, and write what is left.

    Args:
        scans: NIfTI and the like.
        model: Finds noise.
        folder: Gets ``NAME_denoised.nii.gz`` for each.

    Returns:
        The files.

    Raises:
        VolumeError: A scan cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in scans:
        target = folder / f"{image_stem(path)}_denoised.nii.gz"
        denoise(Volume.load(path), model).save(target)
        written.append(target)
    return written
