"""Files of label maps: a NIfTI file in FreeSurfer numbers, or the Colin27 head model of MRiLab."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError, matfile_version
from torch import Tensor

from anystroke.anatomy.tissues.labels import COLIN27, SYNTHSEG, LabelScheme
from anystroke.core.volume import Volume, VolumeError

# Parts by number, and what they are parts of; 29 is white matter of no side.
_PARTS = {
    **dict.fromkeys((86, 192, 250, 251, 252, 253, 254, 255), 29),
    **dict.fromkeys((78, 79, 80, 81, 82), 77),
    **dict.fromkeys((170, 171, 172, 173, 174, 175), 16),
    **{1: 0, 40: 0, 6: 0, 45: 0, 9: 10, 48: 49, 19: 3, 55: 42, 20: 3, 56: 42, 27: 28, 59: 60},
}
_RANGES = {
    **{(1000, 1999): 3, (2000, 2999): 42, (3000, 3999): 2, (4000, 4999): 41, (5001, 5001): 2},
    **{(5002, 5002): 41, (11100, 11199): 3, (12100, 12199): 42, (13100, 13199): 2, (14100, 14199): 41},
}
# The corpus callosum on the parcels' surface.
_WITHIN_RANGES = {1004: 2, 2004: 41, 3004: 2, 4004: 41}
_LAST_PLAIN = 999

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
        found = Volume.load(path, dtype=torch.int32)
        return Volume(base_numbers(found.data), found.affine, found.space_code), SYNTHSEG
    anatomy = _mat_variables(path).get("Anatomy")
    if anatomy is None or anatomy.ndim != 3:
        came = "there is none" if anatomy is None else f"it has the shape {anatomy.shape}"
        raise VolumeError(f"{path}: expected a 3-D variable 'Anatomy', as of MRiLab's head model, but {came}")
    return Volume(torch.from_numpy(anatomy.astype(np.int32))[None], _COLIN27_AFFINE), COLIN27


def label_map_problem(path: Path) -> str | None:
    """Say why an anatomy cannot be made of a label map, as far as a quick look at it tells.

    Args:
        path: The file.

    Returns:
        A sentence; None if it looks right: isotropic voxels, known numbers, the left half on the left.

    Example:
        >>> label_map_problem(Path("missing.nii.gz"))
        'missing.nii.gz does not exist; check the path'
    """
    try:
        volume, scheme = load_label_map(path)
    except VolumeError as error:
        return str(error)
    spacing = volume.spacing
    if max(spacing) - min(spacing) > 0.01 * spacing[0]:
        sides = " x ".join(f"{side:.3g}" for side in spacing)
        return (
            f"{path} has voxels of {sides} mm, expected isotropic ones; resample it with nearest neighbours"
        )
    labels = volume.reorient("RAS").data[0]
    numbers = [int(value) for value in torch.unique(labels).tolist()]
    if unknown := [value for value in numbers if value not in scheme.labels]:
        listed = ", ".join(map(str, unknown[:6])) + (" ..." if len(unknown) > 6 else "")
        return (
            f"{path} holds the numbers {listed}, which are none of FreeSurfer's that are known here; "
            "is it a label map?"
        )
    if not set(numbers) & set(scheme.brain_ids):
        return f"{path} holds no label of the brain, but {numbers[:6]}; is it a label map?"
    left, right = (
        torch.isin(labels, torch.tensor(ids, dtype=labels.dtype)) for ids in zip(*scheme.pairs, strict=True)
    )
    if bool(left.any()) and bool(right.any()) and _middle(left) > _middle(right):
        return f"{path} has the left half of the brain on the right side; mend the orientation of its file"
    return None


def _middle(mask: Tensor) -> float:
    """Return where a mask (X, Y, Z) lies along the first axis."""
    count = mask.sum((1, 2)).double()
    return float((count * torch.arange(len(count))).sum() / count.sum())


def base_numbers(labels: Tensor) -> Tensor:
    """Replace FreeSurfer's numbers of parts by those of what they are parts of.

    Parcels of the cortex (aparc, Destrieux), of white matter (wmparc) and of the corpus callosum, and kinds
    of hypointensity.

    Args:
        labels: int32 of any shape.

    Returns:
        int32; numbers that are no such parts stay as they are.

    Source:
        FreeSurferColorLUT.txt of FreeSurfer 7.

    Example:
        >>> base_numbers(torch.tensor([251, 1022, 3, 4035], dtype=torch.int32)).tolist()
        [29, 3, 3, 41]
    """
    if labels.numel() == 0 or (int(labels.max()) <= _LAST_PLAIN and not _is_among(labels, _PARTS)):
        return labels
    result = labels.clone()
    for number, whole in _PARTS.items():
        result[labels == number] = whole
    for (first, last), whole in _RANGES.items():
        result[(labels >= first) & (labels <= last)] = whole
    for number, whole in _WITHIN_RANGES.items():
        result[labels == number] = whole
    return result


def _is_among(labels: Tensor, numbers: Mapping[int, int]) -> bool:
    return bool(torch.isin(labels, torch.tensor(list(numbers), dtype=labels.dtype)).any())


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
