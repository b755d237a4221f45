"""Where lesion masks in MNI space can lie."""

import torch

from anystroke.anatomy.lesions.bank import LesionMask

MNI_BRAIN_MM = ((-75.0, 75.0), (-112.0, 80.0), (-75.0, 85.0))
"""From left to right, back to front and bottom to top: the box around the brain of MNI152 with 3 mm to spare
(ICBM 2009a symmetric, Fonov et al., NeuroImage 54:313, 2011)."""

LEAST_INSIDE = 0.9
"""Share of a mask's voxels that must lie in the box."""


def why_outside(lesion: LesionMask) -> str | None:
    """Say why a mask cannot be one of a brain in MNI space.

    Args:
        lesion: The mask.

    Returns:
        A part of a sentence; None if at least nine tenths of it lie where the brain is.

    Example:
        >>> far = torch.eye(4, dtype=torch.float64)
        >>> far[:3, 3] = torch.tensor([20.0, 20.0, 200.0])
        >>> why_outside(LesionMask("far", torch.ones(4, 4, 4, dtype=torch.bool), far))
        'its middle is at (22, 22, 202) mm and 0 % of it lie where the brain of MNI space is'
    """
    voxels = lesion.mask.nonzero().double()
    if not len(voxels):
        return None
    where = voxels @ lesion.affine[:3, :3].double().T + lesion.affine[:3, 3].double()
    low, high = torch.tensor(MNI_BRAIN_MM, dtype=torch.float64).T
    inside = float(((where >= low) & (where <= high)).all(1).double().mean())
    if inside >= LEAST_INSIDE:
        return None
    x, y, z = (round(value) for value in where.mean(0).tolist())
    share = f"{100 * inside:.0f} %"
    return f"its middle is at ({x}, {y}, {z}) mm and {share} of it lie where the brain of MNI space is"
