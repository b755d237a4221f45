"""The MNI152 brain as an anatomy to simulate from, made of the maps that nilearn's wheel holds.

Source: ICBM 2009a nonlinear symmetric template (Fonov et al., NeuroImage 54:313, 2011).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.labels import TISSUES, coarse_affine
from anystroke.anatomy.tissues.mixing import ShareField


@dataclass(frozen=True)
class _Region:
    """A box or an ellipsoid in MNI mm, on both sides of the midline."""

    tissue: str
    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    box: bool = False


# Rough places of the deep nuclei; only what the template calls grey matter there is taken. It calls the
# pallidum white matter.
_NUCLEI = (
    _Region("putamen", (27, 2, 1), (7, 20, 13)),
    _Region("caudate", (13, 13, 8), (8, 15, 17)),
    _Region("caudate", (17, -6, 20), (6, 12, 7)),
    _Region("thalamus", (12, -19, 8), (13, 17, 11)),
)
# Boxes that hold the fluid deep inside: lateral ventricles front and back, third, fourth, and the cistern
# behind the midbrain, which is no ventricle but as far from the surface.
_VENTRICLES = (
    _Region("ventricular_csf", (16, 6, 12), (16, 28, 17), box=True),
    _Region("ventricular_csf", (25, -40, 12), (15, 20, 14), box=True),
    _Region("ventricular_csf", (0, -14, 4), (8, 18, 12), box=True),
    _Region("ventricular_csf", (0, -41, -31), (12, 8, 14), box=True),
    _Region("ventricular_csf", (0, -48, 2), (16, 17, 14), box=True),
)


@cache
def mni_anatomy(spacing: float = 2.0) -> Anatomy:
    """Make the MNI152 brain an anatomy: brain and the fluid within its mask, without skull and scalp.

    Grey and white matter are the template's own maps; what its brain mask holds besides is fluid. Deep nuclei
    and ventricles are told from cortex and sulci by rough boxes in MNI space.

    Args:
        spacing: Voxel size of the shares in mm, a whole number.

    Returns:
        The anatomy; ``to_mni`` is the identity. Calls with the same spacing share it.

    Raises:
        ValueError: If ``spacing`` is not a whole number of at least 1.

    Example:
        >>> mni_anatomy(4.0).tissues.shares.shape
        torch.Size([19, 50, 59, 48])
    """
    factor = round(spacing)
    if factor < 1 or factor != spacing:
        raise ValueError(f"expected a spacing of a whole number of mm, got {spacing}; try 2")
    template, grey, white, affine = _maps()
    fluid = (template > 0) * (1 - grey - white).clamp(min=0)
    grey, white, fluid = _sharpened(grey, white, fluid)
    fractions = torch.zeros((len(TISSUES) - 1, *(-(-n // factor) for n in grey.shape)))

    def add(tissue: str, share: Tensor) -> None:
        pooled = avg_pool3d(share[None, None], factor, ceil_mode=True, count_include_pad=False)[0, 0]
        fractions[TISSUES.index(tissue) - 1] += pooled

    add("white_matter", white)
    for whole, regions, rest in (
        (grey, _NUCLEI, "cortical_grey_matter"),
        (fluid, _VENTRICLES, "sulcal_csf"),
    ):
        for region in regions:
            inside = whole * _inside(region, affine, whole.shape)
            whole -= inside
            add(region.tissue, inside)
        add(rest, whole)
    field = ShareField(fractions, coarse_affine(affine, factor))
    return Anatomy("mni152", field, torch.eye(4, dtype=torch.float64))


def _sharpened(*shares: Tensor) -> list[Tensor]:
    """Square shares and make them sum to what they summed to.

    The maps are means over 152 people, so borders between tissues are smeared; this makes them about as
    sharp as those of one person.
    """
    squares = [share * share for share in shares]
    scale = sum(shares[1:], shares[0]) / sum(squares[1:], squares[0]).clamp(min=1e-6)
    return [square * scale for square in squares]


def _maps() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read template, grey and white matter (each (X, Y, Z), 0 to 1) and their affine, at 1 mm."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    loaders = (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    images = [loader(resolution=1) for loader in loaders]
    template, grey, white = (
        torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)).clone() for image in images
    )
    return template, grey, white, torch.from_numpy(images[0].affine.astype(np.float64))


def _inside(region: _Region, affine: Tensor, shape: torch.Size) -> Tensor:
    """Mark a region on a grid whose axes are those of MNI space, (X, Y, Z) bool."""
    distances = []
    for axis in range(3):
        position = torch.arange(shape[axis]) * float(affine[axis, axis]) + float(affine[axis, 3])
        offset = (position.abs() if axis == 0 else position) - region.centre[axis]
        distances.append((offset / region.radius[axis]).abs())
    x, y, z = distances[0][:, None, None], distances[1][None, :, None], distances[2][None, None, :]
    return (x <= 1) & (y <= 1) & (z <= 1) if region.box else x**2 + y**2 + z**2 <= 1
