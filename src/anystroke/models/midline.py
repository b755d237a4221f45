"""The plane between the halves of a head, whatever the contrast, and what differs between them.

The healthy half shows what the other one should look like. A reader of scans compares them without thinking;
a network of convolutions cannot, since both places are far apart. So it is given the comparison.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool3d, grid_sample, max_pool3d

# Voxels are averaged over cubes of these sides where the plane is looked for, the coarsest first.
_COARSE, _MEDIUM, _FINE = 6, 4, 3
_OFFSETS = 4.0, 3
_ANGLES = math.radians(9.0), 2
_PLANES_KEPT = 3
# Differences count up to here, in standard deviations of the image: a lesion is not to turn the plane.
_LARGEST_DIFFERENCE = 1.5
_DARKEST, _BRIGHTEST = -2.5, 3.0
_REACH = 3


@dataclass(frozen=True)
class Midline:
    """A plane between left and right.

    Attributes:
        offset: From the centre of the grid along the normal [voxels].
        yaw: Turn of the normal about the third axis [rad].
        roll: Turn about the second axis, before the yaw [rad].
    """

    offset: float
    yaw: float
    roll: float


def find_midline(image: Tensor) -> Midline:
    """Find the plane about which an image is most like its mirror image.

    The sum of squared differences to the mirror image, each counted up to a limit, is least: at first on a
    lattice of planes up to 12 voxels and 18 degrees from the middle, then by Gauss-Newton steps.

    Args:
        image: (X, Y, Z), standardised, isotropic voxels of about 2 mm; the first axis goes to the right.

    Returns:
        The plane. The same image gives the same.

    Source: after S. Prima, S. Ourselin and N. Ayache, Computation of the mid-sagittal plane in 3-D brain
    images, IEEE Trans Med Imaging 21:122-138 (2002), who trim the differences likewise.

    Example:
        >>> x = torch.linspace(-1, 1, 48)
        >>> head = torch.exp(-4 * (x[:, None, None] - 0.2) ** 2 - 2 * x[:, None] ** 2 - x**2)
        >>> plane = find_midline((head - head.mean()) / head.std())
        >>> abs(plane.offset - 0.2 * 47 / 2) < 0.3
        True
    """
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        image = image.to(torch.float32).clamp(_DARKEST, _BRIGHTEST)[None, None]
        coarse, medium, fine = (_averaged(image, side) for side in (_COARSE, _MEDIUM, _FINE))
        steps = torch.arange(-_OFFSETS[1], _OFFSETS[1] + 1, dtype=torch.float64) * _OFFSETS[0]
        turns = torch.arange(-_ANGLES[1], _ANGLES[1] + 1, dtype=torch.float64) * _ANGLES[0]
        lattice = torch.cartesian_prod(steps, turns, turns)
        parts = torch.split(lattice, len(turns) ** 2)
        costs = torch.cat([_cost(coarse, part, _COARSE) for part in parts])
        kept = lattice[costs.topk(_PLANES_KEPT, largest=False).indices.cpu()]
        ends = [_descend(medium, plane, _MEDIUM, steps=6) for plane in kept]
        plane, _ = _descend(fine, min(ends, key=lambda end: end[1])[0], _FINE, steps=4)
    return Midline(*(float(value) for value in plane))


def reflect(image: Tensor, midline: Midline) -> Tensor:
    """Mirror an image about a plane, linearly interpolated; what lies beyond it is as its border.

    Args:
        image: (K, X, Y, Z).
        midline: The plane, on the grid of the image.

    Returns:
        Likewise.
    """
    plane = torch.tensor([[midline.offset, midline.yaw, midline.roll]], dtype=torch.float64)
    return _reflected(image[None].to(torch.float32), plane, 1)[0]


def asymmetry(image: Tensor) -> Tensor:
    """Give an image its mirror image, and by how much it is brighter or darker than all there.

    The latter is zero where the image lies between the least and the largest value of its mirror image within
    one voxel, so that halves that are a little unlike do not count.

    Args:
        image: (B, 1, X, Y, Z), as `find_midline` takes it.

    Returns:
        (B, 3, X, Y, Z) float32: the image, its mirror image and the excess.

    Example:
        >>> tuple(asymmetry(torch.randn(1, 1, 32, 32, 32)).shape)
        (1, 3, 32, 32, 32)
    """
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        image = image.to(torch.float32)
        mirrored = torch.stack([reflect(head, find_midline(head[0])) for head in image])
        brightest = max_pool3d(mirrored, _REACH, stride=1, padding=_REACH // 2)
        darkest = max_pool3d(-mirrored, _REACH, stride=1, padding=_REACH // 2).neg_()
        excess = image - torch.maximum(torch.minimum(image, brightest), darkest)
    return torch.cat([image, mirrored, excess], dim=1)


def _averaged(image: Tensor, side: int) -> Tensor:
    """Average over cubes; sides that are no multiple lose as much at either end."""
    for axis in (2, 3, 4):
        rest = image.shape[axis] % side
        image = image.narrow(axis, rest // 2, image.shape[axis] - rest)
    return avg_pool3d(image, side)


def _reflected(image: Tensor, planes: Tensor, side: int) -> Tensor:
    """Mirror (1, K, X, Y, Z) about planes (N, 3) in voxels `side` times finer; (N, K, X, Y, Z)."""
    offset, yaw, roll = planes.to(torch.float64).unbind(1)
    normal = torch.stack([yaw.cos() * roll.cos(), yaw.sin() * roll.cos(), -roll.sin()], dim=1)
    turn = torch.eye(3, dtype=torch.float64) - 2 * normal[:, :, None] * normal[:, None, :]
    half = torch.tensor(image.shape[2:], dtype=torch.float64) * (side / 2)
    scaled = turn * half / half[:, None]
    moved = 2 * offset[:, None] * normal / half
    theta = torch.cat([scaled, moved[:, :, None]], dim=2)
    # The grid counts its axes from the last.
    theta = torch.cat([theta[:, :, :3].flip(2), theta[:, :, 3:]], dim=2).flip(1)
    shape = [len(planes), *image.shape[1:]]
    grid = affine_grid(theta.to(image), shape, align_corners=False)
    image = image.expand(len(planes), -1, -1, -1, -1)
    return grid_sample(image, grid, align_corners=False, padding_mode="border")


def _cost(image: Tensor, planes: Tensor, side: int) -> Tensor:
    """Return the mean squared difference to each mirror image (N), limited."""
    limit = _LARGEST_DIFFERENCE
    return (_reflected(image, planes, side) - image).clamp_(-limit, limit).square_().flatten(1).mean(1)


def _descend(image: Tensor, plane: Tensor, side: int, *, steps: int) -> tuple[Tensor, float]:
    """Lower the cost by damped Gauss-Newton steps; the plane and its cost."""
    width = torch.tensor([side / 4, math.radians(1.0), math.radians(1.0)], dtype=torch.float64)
    around = torch.cat([torch.zeros(1, 3, dtype=torch.float64), torch.diag(width), -torch.diag(width)])
    cost = float(_cost(image, plane[None], side))
    damping = 1e-3
    for _ in range(steps):
        mirrored = _reflected(image, plane + around, side).flatten(1)
        residual = mirrored[0] - image.flatten()
        slopes = (mirrored[1:4] - mirrored[4:]) / 2
        counted = slopes * (residual.abs() < _LARGEST_DIFFERENCE)
        curvature = (counted @ slopes.T).to("cpu", torch.float64) / residual.numel()
        gradient = (counted @ residual).to("cpu", torch.float64) / residual.numel()
        bend = torch.diag(curvature.diagonal() * damping + 1e-9)
        step = torch.linalg.solve(curvature + bend, -gradient) * width
        lower = float(_cost(image, (plane + step)[None], side))
        if lower >= cost:
            damping *= 30
            continue
        plane, cost, damping = plane + step, lower, damping / 3
        if bool((step.abs() < width / 20).all()):
            break
    return plane, cost
