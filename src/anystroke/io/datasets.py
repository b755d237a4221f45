"""Local folders of label maps and lesion masks, and which of them training must not see."""

import hashlib
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.io.folders import is_junk

DATA_VARIABLE = "ANYSTROKE_DATA"
"""Environment variable that names the folder of development data."""

IMAGE_ENDINGS = (".nii", ".nii.gz", ".mgz")


class DatasetError(AnystrokeError):
    """A data folder that cannot be used; the message says why and what to do."""


def images_in(folder: Path | str) -> list[Path]:
    """Return the image files directly inside a folder, sorted by name.

    Raises:
        DatasetError: If the folder is missing or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"expected a folder of images at {folder}, but there is none; check the path")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(IMAGE_ENDINGS) and not is_junk(path.name)
    )
    if not found:
        raise DatasetError(f"expected {', '.join(IMAGE_ENDINGS)} files in {folder}, but there are none")
    return found


def is_held_out(name: str, share: float, split: str = "") -> bool:
    """Say whether a case is kept from training, by a hash of its name.

    Args:
        name: Identifier of the case.
        share: Share of cases held out, 0 to 1.
        split: Name of the split; another name holds out other cases.

    Example:
        >>> 100 < sum(is_held_out(f"sub-{i}", 0.15) for i in range(1000)) < 200
        True
    """
    digest = hashlib.sha256(f"{split}{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share
