"""Where output voxels and lesions lie: between a patient's own space and that of MNI."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionMask
from anystroke.anatomy.tissues.anatomies import BRAIN_TISSUES, Anatomy
from anystroke.anatomy.tissues.deformation import Box, SamplingGrid
from anystroke.anatomy.tissues.labels import tissue_groups
from anystroke.anatomy.tissues.mixing import TissueField, mix
from anystroke.core.fields import smooth

_SURROUNDINGS_MM = 3.0


def mni_points(anatomy: Anatomy, grid: SamplingGrid) -> Tensor:
    """Return (3, X, Y, Z), the position of each voxel of a grid in MNI RAS+ mm."""
    points = grid.points()
    matrix = anatomy.to_mni.to(points)
    flat = matrix[:3, :3] @ points.reshape(3, -1) + matrix[:3, 3:]
    return flat.reshape(points.shape)


def lesion_box(anatomy: Anatomy, grid: SamplingGrid, lesions: Sequence[LesionMask]) -> Box | None:
    """Return a box of output voxels outside of which no lesion can reach, whatever shape it is given.

    Args:
        anatomy: The patient.
        grid: Output voxels.
        lesions: Zero or more masks.

    Returns:
        The box; None if there is no lesion, or none on the grid.
    """
    corners = []
    for lesion in lesions:
        ends = torch.tensor([[-1.0, n] for n in lesion.shape], dtype=torch.float64)
        ends = torch.cartesian_prod(*ends)
        mni = lesion.affine[:3, :3] @ ends.T + lesion.affine[:3, 3:]
        centre = mni.mean(1, keepdim=True)
        # Random turns, growth and shifts of a mask about its own centre.
        corners.append(centre + 1.3 * (mni - centre) + 10 * torch.sign(mni - centre))
    if not corners:
        return None
    inverse = torch.linalg.inv(anatomy.to_mni)
    return grid.around(inverse[:3, :3] @ torch.cat(corners, 1) + inverse[:3, 3:], 0.0)


def lesion_area(
    tissues: TissueField, grid: SamplingGrid, spacing: float, *, ventricles: bool = False
) -> Tensor:
    """Return where lesions may be: brain tissue, and the fluid of sulci that brain tissue surrounds.

    Args:
        tissues: Of the patient.
        grid: Output voxels.
        spacing: Their size in mm.
        ventricles: Count the ventricles in, which makes it the brain.

    Returns:
        (X, Y, Z) in [0, 1].
    """
    shares, _ = mix(tissues, grid, tissue_groups(BRAIN_TISSUES, ("sulcal_csf",), ("ventricular_csf",)))
    tissue, sulcus, ventricle = shares.unbind()
    surrounded = smooth(tissue, _SURROUNDINGS_MM / spacing).sub_(0.45).mul_(5).clamp_(0, 1)
    area = tissue.addcmul_(sulcus, surrounded)
    return (area.add_(ventricle) if ventricles else area).clamp_(0, 1)
