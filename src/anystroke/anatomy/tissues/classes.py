"""The classes of simulated targets, and what share of each voxel they have."""

import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import Box, SamplingGrid
from anystroke.anatomy.tissues.labels import TISSUES, segmentation_class
from anystroke.anatomy.tissues.mixing import TissueField, mix

CLASSES = ("background", "grey_matter", "white_matter", "csf", "lesion")
"""Classes of the target, in the order of its numbers."""

CLASS_OF_TISSUE = torch.tensor(
    [CLASSES.index(segmentation_class(tissue)) for tissue in TISSUES], dtype=torch.uint8
)
"""(T,) the class of each tissue."""

LESION = CLASSES.index("lesion")


def class_shares(
    tissues: TissueField, grid: SamplingGrid, membership: Tensor | None = None, box: Box | None = None
) -> Tensor:
    """Return the share that each class has of each voxel.

    Args:
        tissues: The healthy anatomy.
        grid: Output voxels.
        membership: (x, y, z) of the lesion in the box, in [0, 1]; it takes its share from the others alike.
        box: Where on the grid; needed with a membership.

    Returns:
        (5, X, Y, Z) float32, in the order of ``CLASSES``; they sum to one in each voxel.

    Example:
        >>> from anystroke.anatomy.tissues.deformation import still_grid
        >>> from anystroke.anatomy.tissues.mixing import LabelField
        >>> white = torch.full((4, 4, 4), TISSUES.index("white_matter"), dtype=torch.uint8)
        >>> field = LabelField(white, torch.eye(4, dtype=torch.float64))
        >>> class_shares(field, still_grid((4, 4, 4), field.affine))[:, 1, 1, 1]
        tensor([0., 0., 1., 0., 0.])
    """
    columns = torch.nn.functional.one_hot(CLASS_OF_TISSUE.long(), len(CLASSES))[:, :LESION].float()
    healthy, _ = mix(tissues, grid, columns, floor=0.0)
    shares = torch.cat([healthy, torch.zeros_like(healthy[:1])])
    if membership is not None and box is not None:
        inside = shares[(slice(None), *box)]
        inside *= 1 - membership
        inside[LESION] = membership
    return shares
