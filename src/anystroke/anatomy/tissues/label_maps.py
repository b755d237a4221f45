"""Files of label maps: a NIfTI file in FreeSurfer numbers, or the Colin27 head model of MRiLab."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError, matfile_version

from anystroke.anatomy.tissues.labels import COLIN27, SYNTHSEG, LabelScheme
from anystroke.core.volume import Volume, VolumeError

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
    anatomy = _mat_variables(path).get("Anatomy")
    if anatomy is None or anatomy.ndim != 3:
        came = "there is none" if anatomy is None else f"it has the shape {anatomy.shape}"
        raise VolumeError(f"{path}: expected a 3-D variable 'Anatomy', as of MRiLab's head model, but {came}")
    return Volume(torch.from_numpy(anatomy.astype(np.int32))[None], _COLIN27_AFFINE), COLIN27


def _mat_variables(path: Path) -> dict[str, Any]:
    """Read the variable ``Anatomy`` of a MATLAB file, if it has one."""
    try:
        hdf5 = matfile_version(path)[0] == 2
        variables: dict[str, Any] = {} if hdf5 else loadmat(path, variable_names=["Anatomy"])
    except (OSError, ValueError, MatReadError, zlib.error) as error:
        raise VolumeError(f"{path} is missing, damaged or no MATLAB file ({error}); replace it") from error
    if hdf5:
        raise VolumeError(f"{path} is a MATLAB 7.3 file, which cannot be read; save it with -v7 in MATLAB")
    return variables
