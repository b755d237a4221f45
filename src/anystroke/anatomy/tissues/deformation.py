"""Random affine and elastic deformation, computed on the output grid only."""

import math
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from anystroke.anatomy.tissues.grid_batches import of_like_size, stacked_points
from anystroke.core.compiled import compiled
from anystroke.core.fields import GridShape, apply_separable, spline_matrix
from anystroke.core.gathering import gathered
from anystroke.core.rng import chance, integer, uniform


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


Box = tuple[slice, slice, slice]
_MOST_POINTS = 2**25


@dataclass(frozen=True)
class SamplingGrid:
    """Where in the patient each voxel of the output is read: an affine plus a cubic B-spline displacement.

    Attributes:
        shape: The output grid.
        linear: (4, 4) float64, output voxel -> the patient's own RAS+ mm, before the displacement.
        control: (3, a, b, c) control points of the displacement, mm.
        splines: One (n, a) matrix per axis, see ``anystroke.core.fields.spline_matrix``.
        affine: (4, 4) affine of the output grid: voxel -> the deformed patient's RAS+ mm.
    """

    shape: GridShape
    linear: Tensor
    control: Tensor
    splines: tuple[Tensor, Tensor, Tensor]
    affine: Tensor

    def points(self) -> Tensor:
        """Return (3, X, Y, Z), each voxel's position in the patient's RAS+ mm."""
        device = self.control.device
        if not compiled(device):
            return _points(self)
        axes = [torch.arange(n, device=device, dtype=torch.float32) for n in self.shape]
        nx, ny, nz = (spline.to(device) for spline in self.splines)
        points = apply_separable(self.control, (nx, ny, nz))
        for k in range(3):
            x, y, z = (float(self.linear[k, j]) * axes[j] for j in range(3))
            points[k] += x[:, None, None] + y[None, :, None]
            points[k] += z + float(self.linear[k, 3])
        return points

    def crop(self, box: Box) -> "SamplingGrid":
        """Return the part of the grid in a box of whole, non-negative bounds."""
        corner = torch.tensor([part.start for part in box], dtype=torch.float64)
        linear, affine = self.linear.clone(), self.affine.clone()
        linear[:3, 3] += linear[:3, :3] @ corner
        affine[:3, 3] += affine[:3, :3] @ corner
        x, y, z = (spline[part] for spline, part in zip(self.splines, box, strict=True))
        return SamplingGrid((len(x), len(y), len(z)), linear, self.control, (x, y, z), affine)

    def coarse(self, factor: int) -> "SamplingGrid":
        """Return the grid whose voxels each hold ``factor`` voxels of this one along every axis."""
        if factor == 1:
            return self
        grow = torch.diag(torch.tensor([factor, factor, factor, 1.0], dtype=torch.float64))
        grow[:3, 3] = (factor - 1) / 2
        x, y, z = (_pool_rows(spline, factor) for spline in self.splines)
        return SamplingGrid(
            (len(x), len(y), len(z)), self.linear @ grow, self.control, (x, y, z), self.affine @ grow
        )

    def largest_displacement(self) -> float:
        """Return a bound in mm on how far the displacement moves any voxel along any axis."""
        x, y, z = (spline[::4].to(self.control) for spline in self.splines)
        seen = float(apply_separable(self.control, (x, y, z)).abs().amax())
        # Between the points looked at, a field this smooth gains little.
        return min(1.2 * seen + 0.5, float(self.control.abs().amax()))

    def around(self, points: Tensor, margin: float) -> Box | None:
        """Find the voxels that may lie near given points.

        Args:
            points: (3, N) in the patient's RAS+ mm.
            margin: Distance in mm.

        Returns:
            The smallest box with all voxels that are within the margin of the points' bounding box, whatever
            the displacement; None if there is none.
        """
        reach = margin + self.largest_displacement()
        low, high = points.double().amin(1) - reach, points.double().amax(1) + reach
        corners = torch.cartesian_prod(*torch.stack([low, high], dim=1))
        inverse = torch.linalg.inv(self.linear)
        index = corners @ inverse[:3, :3].T + inverse[:3, 3]
        first = index.amin(0).floor().long().clamp(min=0)
        last = torch.minimum(index.amax(0).ceil().long() + 1, torch.tensor(self.shape))
        if bool((last <= first).any()):
            return None
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return x, y, z


@gathered
def _points(grids: list[SamplingGrid]) -> list[Tensor]:
    """Return where the voxels of each grid are; equal or nearly equal grids at once."""
    answers: dict[int, Tensor] = {}
    for group in of_like_size([grid.shape for grid in grids], _MOST_POINTS):
        chosen = [grids[k] for k in group]
        stacked = stacked_points(
            [each.control for each in chosen],
            [each.splines for each in chosen],
            [each.linear for each in chosen],
        )
        for k, (x, y, z), points in zip(group, (each.shape for each in chosen), stacked, strict=True):
            answers[k] = points[:, :x, :y, :z].contiguous()
    return [answers[k] for k in range(len(grids))]


def _pool_rows(matrix: Tensor, factor: int) -> Tensor:
    groups = -(-len(matrix) // factor)
    padded = torch.cat([matrix, matrix[-1:].expand(groups * factor - len(matrix), -1)])
    return padded.reshape(groups, factor, matrix.shape[1]).mean(1)


def boxes_of(found: Tensor, factor: int, shape: GridShape) -> tuple[Box, Box]:
    """Return the box of a coarse mask's voxels, and the same on the grid that is ``factor`` times finer."""
    plane = found.any(0)
    lines = [torch.nonzero(line).flatten() for line in (found.flatten(1).any(1), plane.any(1), plane.any(0))]
    spans = [(int(line[0]), int(line[-1]) + 1) for line in lines]
    x, y, z = (slice(first, last) for first, last in spans)
    fine = [
        slice(first * factor, min(last * factor, n)) for (first, last), n in zip(spans, shape, strict=True)
    ]
    return (x, y, z), (fine[0], fine[1], fine[2])


def still_grid(shape: GridShape, linear: Tensor) -> SamplingGrid:
    """Return a grid without displacement.

    Args:
        shape: Output voxels.
        linear: (4, 4) output voxel -> the patient's RAS+ mm, which is the output's affine too.
    """
    x, y, z = (spline_matrix(n, 4) for n in shape)
    return SamplingGrid(shape, linear.double(), torch.zeros((3, 4, 4, 4)), (x, y, z), linear.double())


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
    device: torch.device | str | None = None,
) -> SamplingGrid:
    """Draw a random deformation and evaluate it on an output grid.

    Args:
        shape: Output voxels.
        spacing: Output voxel size in mm.
        centre: (3,) point of the patient, RAS+ mm, that falls on the middle of the grid before the shift.
        settings: Ranges.
        rng: Random stream.
        device: Where the displacement is; that of the stream if None.

    Returns:
        The grid.
    """
    to_world = grid_affine(shape, spacing)
    total = random_affine(settings, rng) @ to_world
    total[:3, 3] += centre.double()
    sd = uniform(rng, 0.0, settings.elastic)
    control = integer(rng, 5, 9)
    displacement = sd * torch.randn((3, control, control, control), generator=rng, device=rng.device)
    displacement = displacement.to(device or rng.device)
    x, y, z = (spline_matrix(n, control) for n in shape)
    return SamplingGrid(shape, total, displacement, (x, y, z), to_world)


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
