"""Which lesions of a simulated scan anybody could see: contrast to noise of each connected lesion."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import find_objects
from scipy.ndimage import label as label_components
from torch import Tensor

from anystroke.anatomy.tissues.deformation import Box

_NEIGHBOURS = np.ones((3, 3, 3))
_AROUND_MM = 12.0
_FEWEST = 40
_NORMAL_MAD = 1.4826


@dataclass(frozen=True)
class VisibleTruth:
    """How well each connected lesion can be seen.

    Attributes:
        unseen: (X, Y, Z) bool, voxels of lesions that nobody could see.
        lesions: For each connected lesion its volume ``ml``, its ``contrast_to_noise`` and whether it is
            ``seen``, the largest first; plain values.
    """

    unseen: Tensor
    lesions: list[dict[str, Any]]


def contrast_band(ratio: float | None) -> str:
    """Return the band of a contrast-to-noise ratio that results are summed up by; None is no lesion.

    Example:
        >>> [contrast_band(ratio) for ratio in (None, 0.3, 1.0, 25.0)]
        ['no lesion', 'below 1', '1 to 2', 'above 4']
    """
    if ratio is None:
        return "no lesion"
    bounds = ((1.0, "below 1"), (2.0, "1 to 2"), (4.0, "2 to 4"))
    return next((name for bound, name in bounds if ratio < bound), "above 4")


def visible_truth(
    lesion: Tensor,
    change: Tensor,
    image: Tensor,
    reference: Tensor,
    *,
    spacing: float,
    visible_from: float,
) -> VisibleTruth:
    """Tell the lesions that can be seen from those that noise and texture hide.

    The contrast of a lesion is the median size of what it changes in its voxels. The noise is the spread of
    the scan's white matter within 12 mm of it (1.4826 times the median absolute deviation, which voxels at
    the border of other tissues do not move), so it holds noise, texture, artefacts and shading alike. Where
    there are fewer than 40 voxels of it, the white matter of the whole scan counts.

    Args:
        lesion: (X, Y, Z) bool.
        change: (X, Y, Z), what the lesions change in the noise-free image, after the scanner's blur, slices
            and shading.
        image: (X, Y, Z), the scan.
        reference: (X, Y, Z) bool, healthy white matter.
        spacing: Voxel size in mm.
        visible_from: The least contrast-to-noise ratio of a lesion that counts as seen.

    Example:
        >>> lesion = torch.zeros(16, 16, 16, dtype=torch.bool)
        >>> lesion[4:6, 4:6, 4:6] = lesion[10:12, 10:12, 10:12] = True
        >>> change = lesion * 2.0
        >>> change[10:] *= 0.1
        >>> noise = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(1))
        >>> seen = visible_truth(lesion, change, 50 + noise + change, ~lesion, spacing=2.0, visible_from=1.0)
        >>> [round(each["contrast_to_noise"], 1) for each in seen.lesions]
        [2.0, 0.2]
        >>> int(seen.unseen.sum())
        8
    """
    parts = label_components(lesion.cpu().numpy(), structure=_NEIGHBOURS)[0]
    unseen = np.zeros(parts.shape, dtype=bool)
    found = []
    for number, box in enumerate(find_objects(parts), start=1):
        inside = parts[box] == number
        contrast = float(np.median(np.abs(change[box].cpu().numpy()[inside])))
        noise = _spread(image, reference, _widened(box, spacing, parts.shape))
        ratio = contrast / noise if noise > 0 else float(contrast > 0) * 1e6
        seen = ratio >= visible_from
        if not seen:
            unseen[box] |= inside
        ml = float(inside.sum()) * spacing**3 / 1000
        found.append({"ml": round(ml, 4), "contrast_to_noise": round(min(ratio, 1e6), 4), "seen": seen})
    found.sort(key=lambda each: -float(each["ml"]))
    return VisibleTruth(torch.from_numpy(unseen).to(lesion.device), found)


def _widened(box: Box, spacing: float, shape: tuple[int, ...]) -> Box:
    margin = round(_AROUND_MM / spacing)
    x, y, z = (
        slice(max(part.start - margin, 0), min(part.stop + margin, n))
        for part, n in zip(box, shape, strict=True)
    )
    return x, y, z


def _spread(image: Tensor, reference: Tensor, box: Box) -> float:
    values = image[box][reference[box]]
    if values.numel() < _FEWEST:
        values = image[reference]
    if not values.numel():
        values = image.flatten()
    return _NORMAL_MAD * float((values - values.median()).abs().median())
