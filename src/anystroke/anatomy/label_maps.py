"""Files of label maps: a NIfTI file in FreeSurfer numbers, or the Colin27 head model of MRiLab."""

import zlib
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from anystroke.anatomy.labels import COLIN27, SYNTHSEG, LabelScheme
from anystroke.volume import Volume, VolumeError

# The file holds no geometry. Its axes run to the back, to the right and down. The head tells the first and
# the last; the second is the one of two for which the tissues agree with the scan of the same man on the ch2
# template (correlation 0.76 against 0.50 in the brain). The origin puts the brain where MNI152 has it.
_COLIN27_AFFINE = torch.tensor(
    [[0, 1, 0, -90], [-1, 0, 0, 89], [0, 0, -1, 107], [0, 0, 0, 1]], dtype=torch.float64
)


def load_label_map(path: Path) -> tuple[Volume, LabelScheme]:
    """Read a label map and tell the scheme of its labels.

    Args:
        path: A .mat file is read as the head model of MRiLab (variable ``Anatomy``, 1 mm); any other file as
            an image of FreeSurfer numbers.

    Returns:
        The label map, int32 (1, X, Y, Z) with its affine, and the scheme of its labels.

    Raises:
        VolumeError: The file cannot be read as such.

    Example:
        >>> volume, scheme = load_label_map(Path("BrainModel.mat"))  # doctest: +SKIP
    """
    if path.suffix.lower() != ".mat":
        return Volume.load(path, dtype=torch.int32), SYNTHSEG
    try:
        anatomy = loadmat(path, variable_names=["Anatomy"])["Anatomy"]
    # All that scipy raises for a damaged file or another kind; NotImplementedError means MATLAB 7.3.
    except (OSError, KeyError, ValueError, NotImplementedError, MatReadError, zlib.error) as error:
        raise VolumeError(
            f"{path} is not the head model of MRiLab: expected a MATLAB 5 file with a variable 'Anatomy', "
            f"got {error!r}"
        ) from error
    if anatomy.ndim != 3:
        raise VolumeError(f"{path}: expected a 3-D variable 'Anatomy', got shape {anatomy.shape}")
    return Volume(torch.from_numpy(anatomy.astype(np.int32))[None], _COLIN27_AFFINE), COLIN27
