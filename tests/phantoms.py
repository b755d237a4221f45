"""A small patient made of ellipsoids, and a spherical lesion: all that a generator needs."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionMask, save_bank
from anystroke.anatomy.tissues.anatomies import Anatomy, save_anatomies
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import LabelField


def _ellipsoid(
    points: Tensor, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Tensor:
    scaled = [(points[k] - centre[k]) / radii[k] for k in range(3)]
    return scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2 <= 1


def ellipsoid_anatomy(*, head: bool = True, spacing: float = 4.0) -> Anatomy:
    shape = tuple(round(side / spacing) for side in (200, 240, 200))
    affine = torch.diag(torch.tensor([spacing] * 3 + [1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-100.0, -138.0, -92.0])
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")).double()
    points = index * spacing + affine[:3, 3].reshape(3, 1, 1, 1)
    centre = (0.0, -18.0, 8.0)
    labels = torch.zeros(shape, dtype=torch.int64)
    layers: tuple[tuple[str, tuple[float, float, float]], ...] = (
        *((("fat", (92.0, 108.0, 92.0)), ("cortical_bone", (84.0, 100.0, 84.0))) if head else ()),
        ("sulcal_csf", (76.0, 92.0, 74.0)),
        ("cortical_grey_matter", (70.0, 86.0, 68.0)),
        ("white_matter", (58.0, 72.0, 56.0)),
        ("ventricular_csf", (12.0, 28.0, 14.0)),
    )
    for tissue, radii in layers:
        labels[_ellipsoid(points, centre, radii)] = TISSUES.index(tissue)
    field = LabelField(labels.to(torch.uint8), affine)
    return Anatomy("ellipsoids", field, torch.eye(4, dtype=torch.float64))


def sphere_lesion(centre: tuple[float, float, float] = (38.0, -18.0, 8.0), radius: int = 14) -> LesionMask:
    side = 2 * radius + 1
    axes = torch.meshgrid(*(torch.arange(side) - radius,) * 3, indexing="ij")
    mask = (axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2) <= radius**2
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = torch.tensor(centre, dtype=torch.float64) - radius
    return LesionMask("sphere", mask, affine)


def pack_phantoms(folder: Path) -> None:
    """Write what training reads, and what it is judged on: heads, one of them bare, and spherical lesions."""
    folder.mkdir(parents=True)
    bare = replace(ellipsoid_anatomy(head=False), name="bare")
    save_anatomies([ellipsoid_anatomy(), bare], folder / "anatomies.safetensors")
    save_anatomies([ellipsoid_anatomy()], folder / "held_out_anatomies.safetensors")
    save_bank([sphere_lesion()], folder / "lesions.safetensors")
    save_bank([sphere_lesion(radius=18)], folder / "held_out_lesions.safetensors")
