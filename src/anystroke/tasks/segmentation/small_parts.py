"""Small parts of a mask of which the network is certain, drawn at a higher probability than the others.

Around a small bright lesion, such as an embolus on a diffusion-weighted scan, the probability falls over as
many voxels as around a large one. At a threshold that is low enough for the faint borders of large lesions
the part is then much larger than the lesion.
"""

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from anystroke.core.config import StrictModel

_NEIGHBOURS = np.ones((3, 3, 3))  # 26 neighbours: voxels that share a corner are connected


class SmallParts(StrictModel):
    """Which parts are drawn anew, and where.

    Attributes:
        below_ml: They are smaller than this [ml].
        certain: Probability that they reach somewhere.
        threshold: Probability from which their voxels stay.
    """

    below_ml: float = Field(gt=0)
    certain: float = Field(gt=0, lt=1)
    threshold: float = Field(gt=0, lt=1)


def mask_at(
    probability: Tensor, threshold: float, small_parts: SmallParts | None, *, voxel_ml: float
) -> Tensor:
    """Return the voxels that reach a threshold, less the rims of small parts of which the network is certain.

    Args:
        probability: Lesion probability, (X, Y, Z).
        threshold: Of all voxels.
        small_parts: Connected parts (26 neighbours) with a threshold of their own; None for none.
        voxel_ml: Volume of a voxel [ml].

    Returns:
        Boolean mask (X, Y, Z).

    Example:
        >>> rule = SmallParts(below_ml=5.0, certain=0.9, threshold=0.5)
        >>> line = torch.tensor([0.2, 0.95, 0.2, 0.0, 0.2, 0.8, 0.2]).view(-1, 1, 1)
        >>> mask_at(line, 0.1, rule, voxel_ml=0.008).flatten().int().tolist()
        [0, 1, 0, 0, 1, 1, 1]
    """
    mask = probability >= threshold
    if small_parts is None or small_parts.threshold <= threshold or not bool(mask.any()):
        return mask
    [box] = ndimage.find_objects(mask.numpy().astype(np.uint8))
    values = probability.numpy()[box]
    labels, count = ndimage.label(values >= threshold, structure=_NEIGHBOURS)
    certain = np.zeros(count + 1, dtype=bool)
    certain[labels[values >= small_parts.certain]] = True
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml
    cut = certain & (sizes < small_parts.below_ml)
    cut[0] = False
    mask[box] &= torch.from_numpy(~(cut[labels] & (values < small_parts.threshold)))
    return mask
