"""A phantom head and a network that needs no training: it calls the brightest tissue lesion."""

import math

import torch
from torch import Tensor, nn

from anystroke.core.volume import Volume
from anystroke.models.volume_interval import VolumeErrors
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.risk import RiskCurves, RiskModel

CONFIG = SegmentationConfig(
    name="stand-in",
    architecture="none",
    classes=("background", "tissue", "lesion"),
    spacing=4.0,
    divisor=8,
    volume_errors=VolumeErrors(rate=0.9, edges=(), low=(-0.2,), high=(0.2,), patients=100),
)
NOTHING = RiskCurves(signs=(), usual=(), edges=(), odds=(), intercept=0.0)
ONE_SIGN = RiskModel(
    marked=NOTHING.model_copy(
        update={"signs": ("volume",), "usual": (0.0,), "edges": ((),), "odds": ((0.0,),)}
    ),
    empty=NOTHING,
    threshold=0.5,
    sensitivity=0.8,
    specificity=0.8,
    auc=0.9,
    auc_interval=(0.8, 1.0),
    auc_marked=0.95,
    patients=100,
    failed=30,
    patients_empty=20,
    failed_empty=10,
)
"""A risk that depends on nothing."""


class Brightest(nn.Module):
    """Logits of background, tissue and lesion from the intensity alone."""

    def forward(self, image: Tensor) -> Tensor:
        level = image / image.amax()
        return torch.cat([torch.zeros_like(level), 8.0 * level, 40.0 * (level - 0.5)], dim=1)


class SaysAgain(nn.Module):
    """A second network that says what the first has said."""

    def forward(self, both: Tensor) -> Tensor:
        odds = 3 * both[:, 1:]
        return torch.cat([torch.zeros_like(odds), torch.full_like(odds, -20.0), odds], dim=1)


def stand_in_model() -> Model:
    return Model(Brightest(), CONFIG, sha256="0" * 64)


def phantom(affine: Tensor, shape: tuple[int, int, int]) -> Volume:
    """A head in air with a bright lesion in its left front, rendered on any grid."""
    x, y, z = _world(affine, shape)
    head = _inside(x / 70.0, y / 85.0, z / 70.0, 70.0)
    lesion = _inside((x + 25.0) / 22.0, (y - 25.0) / 26.0, (z - 10.0) / 24.0, 22.0)
    shading = 1.0 + 0.1 * torch.sin(y / 30.0)
    return Volume((100.0 * head * shading + 200.0 * lesion)[None].to(torch.float32), affine)


def lesion_truth(affine: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The lesion's voxels, boolean (1, X, Y, Z)."""
    x, y, z = _world(affine, shape)
    inside: Tensor = ((x + 25.0) / 22.0) ** 2 + ((y - 25.0) / 26.0) ** 2 + ((z - 10.0) / 24.0) ** 2 < 1.0
    return inside[None]


def axial_affine(*spacing: float, shape: tuple[int, int, int]) -> Tensor:
    """RAS axes with the world's origin in the middle of the grid."""
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = -0.5 * torch.tensor([(n - 1) * s for n, s in zip(shape, spacing, strict=True)])
    return affine


def rotation(degrees_x: float, degrees_z: float) -> Tensor:
    """Rotation about the x axis, then about the z axis, (4, 4)."""
    a, b = math.radians(degrees_x), math.radians(degrees_z)
    about_x = torch.eye(4, dtype=torch.float64)
    about_x[1:3, 1:3] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    about_z = torch.eye(4, dtype=torch.float64)
    about_z[:2, :2] = torch.tensor([[math.cos(b), -math.sin(b)], [math.sin(b), math.cos(b)]])
    return about_z @ about_x


def dice(first: Tensor, second: Tensor) -> float:
    first, second = first.bool(), second.bool()
    return 2.0 * float((first & second).sum()) / float(first.sum() + second.sum())


def _world(affine: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    i, j, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    x, y, z = (row[0] * i + row[1] * j + row[2] * k + row[3] for row in affine[:3])
    return x, y, z


def _inside(x: Tensor, y: Tensor, z: Tensor, radius: float) -> Tensor:
    """1 inside the unit ball, 0 outside, with an edge about 3 mm wide where ``radius`` is in mm."""
    depth = (1.0 - (x**2 + y**2 + z**2).sqrt()) * radius
    return (0.5 + depth / 3.0).clamp(0.0, 1.0)
