"""Random affine and elastic deformation, computed on the output grid only."""

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from anystroke.fields import GridShape, smooth_noise
from anystroke.rng import chance, integer, uniform


class DeformationSettings(BaseModel):
    """How far anatomies are moved, turned, scaled and bent.

    Attributes:
        rotation: Largest rotation about each axis in degrees.
        scaling: Largest relative change of size along each axis.
        shear: Largest shear between axes.
        translation: Largest shift along each axis in mm.
        elastic: Largest standard deviation of the elastic displacement in mm.
        mirror: Probability of exchanging left and right.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rotation: float = 15.0
    scaling: float = 0.15
    shear: float = 0.05
    translation: float = 12.0
    elastic: float = 4.0
    mirror: float = 0.5


@dataclass(frozen=True)
class SamplingGrid:
    """Where in the patient each voxel of the output is read.

    Attributes:
        points: (3, X, Y, Z) positions in the patient's own RAS+ coordinates, mm.
        affine: (4, 4) affine of the output grid: voxel -> the deformed patient's RAS+ mm.
    """

    points: Tensor
    affine: Tensor

    @property
    def shape(self) -> GridShape:
        """The output grid."""
        x, y, z = self.points.shape[1:]
        return x, y, z


def rotation_matrix(degrees: tuple[float, float, float]) -> Tensor:
    """Return the (3, 3) rotation about x, then y, then z."""
    result = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        result = turn @ result
    return result


def random_affine(settings: DeformationSettings, rng: torch.Generator) -> Tensor:
    """Draw a (4, 4) affine about the origin: rotation, scaling, shear, shift, mirror."""
    r, s, h, t = settings.rotation, settings.scaling, settings.shear, settings.translation
    linear = rotation_matrix((uniform(rng, -r, r), uniform(rng, -r, r), uniform(rng, -r, r)))
    size = 1 + uniform(rng, -s, s)
    for axis in range(3):
        linear[:, axis] *= size * (1 + uniform(rng, -s, s) / 3)
    shear = torch.eye(3, dtype=torch.float64)
    shear[0, 1], shear[0, 2], shear[1, 2] = uniform(rng, -h, h), uniform(rng, -h, h), uniform(rng, -h, h)
    linear = linear @ shear
    if chance(rng, settings.mirror):
        linear[:, 0] *= -1
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = linear
    affine[:3, 3] = torch.tensor([uniform(rng, -t, t) for _ in range(3)], dtype=torch.float64)
    return affine


def grid_affine(shape: GridShape, spacing: float) -> Tensor:
    """Return the (4, 4) affine of an isotropic RAS+ grid whose centre is the origin."""
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-spacing * (n - 1) / 2 for n in shape], dtype=torch.float64)
    return affine


def sampling_grid(
    shape: GridShape,
    spacing: float,
    *,
    centre: Tensor,
    settings: DeformationSettings,
    rng: torch.Generator,
) -> SamplingGrid:
    """Draw a random deformation and evaluate it on an output grid.

    Args:
        shape: Output voxels.
        spacing: Output voxel size in mm.
        centre: (3,) point of the patient, RAS+ mm, that falls on the middle of the grid before the shift.
        settings: Ranges.
        rng: Random stream.

    Returns:
        The grid, on the device of ``rng``.
    """
    device = rng.device
    to_world = grid_affine(shape, spacing)
    total = random_affine(settings, rng) @ to_world
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    points = torch.empty((3, *shape), device=device)
    for k in range(3):
        x, y, z = (float(total[k, j]) * axes[j] for j in range(3))
        points[k] = x[:, None, None] + y[None, :, None] + (z + float(total[k, 3] + centre[k]))[None, None, :]
    sd = uniform(rng, 0.0, settings.elastic)
    control = integer(rng, 5, 9)
    if sd > 0:
        points += sd * smooth_noise(shape, (control,) * 3, rng=rng, channels=3)
    return SamplingGrid(points, to_world)


def sample_at(image: Tensor, affine: Tensor, points: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Read an image at given points; outside of it is zero.

    Args:
        image: (C, I, J, K), floating point.
        affine: (4, 4) voxel -> mm.
        points: (3, X, Y, Z) in mm.
        mode: ``"bilinear"`` (trilinear) or ``"nearest"``.

    Returns:
        (C, X, Y, Z).
    """
    inverse = torch.linalg.inv(affine.double())
    size = torch.tensor(image.shape[1:], dtype=torch.float64)
    scale = 2 / (size - 1)
    linear = (inverse[:3, :3] * scale[:, None]).flip(0).to(points)
    offset = (inverse[:3, 3] * scale - 1).flip(0).to(points)
    grid = points.reshape(3, -1).T @ linear.T + offset
    return torch.nn.functional.grid_sample(
        image[None],
        grid.reshape(1, *points.shape[1:], 3),
        mode=mode,
        padding_mode="zeros",
        align_corners=True,
    )[0]
