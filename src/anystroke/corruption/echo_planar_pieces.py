"""The shift and piling up of echo-planar imaging in torch operations, all voxels at once.

Sums are of whole numbers, whose order does not matter: a GPU adds in another one each time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from anystroke.corruption.echo_planar_loops import HALF

# Parts of the largest value; a line of 2^20 voxels cannot exceed 64 bits.
_STEPS = 2.0**40
_BITS = 24


class Piece(NamedTuple):
    """Where one part of each voxel comes to lie, (X, Y, Z) each, phase encoding along Y.

    Attributes:
        place: Index along Y of the voxel that is reached.
        share: Of the voxel, in [0, 1]; 0 where it has no such part.
        covered: Share of the reached voxel that this part covers.
    """

    place: Tensor
    share: Tensor
    covered: Tensor


def pieces_between(edges: Tensor) -> list[Piece]:
    """Cut voxels into the parts that lie in one voxel each.

    Args:
        edges: (X, Y + 1, Z), how far the edges of voxels move along Y [voxels].

    Returns:
        As many as the longest voxel reaches.
    """
    count = edges.shape[1] - 1
    edges = edges + torch.arange(count + 1, device=edges.device)[:, None]
    low, high = torch.minimum(edges[:, :-1], edges[:, 1:]), torch.maximum(edges[:, :-1], edges[:, 1:])
    first, last = low.floor(), high.floor()
    width = (high - low).clamp_(min=1e-6)
    whole = first == last
    found = []
    for step in range(int((last - first).max()) + 1):
        place = first + step
        covered = torch.minimum(high, place + 1) - torch.maximum(low, place)
        share = torch.where(whole, float(step == 0), covered / width)
        inside = (place <= last) & (place >= 0) & (place < count)
        found.append(Piece(place.long().clamp_(0, count - 1), share * inside, covered * inside))
    return found


def pushed_lines(lines: Tensor, pieces: list[Piece]) -> Tensor:
    """Add up what comes to lie in each voxel.

    Args:
        lines: (..., X, Y, Z) float32.
        pieces: Of these voxels.
    """
    largest = lines.abs().amax().double().clamp_(min=1e-300)
    total = torch.zeros(lines.shape, dtype=torch.int64, device=lines.device)
    for piece in pieces:
        parts = (piece.share * lines).double().mul_(_STEPS / largest).round_().long()
        total.scatter_add_(-2, piece.place.expand(lines.shape), parts)
    return total.double().mul_(largest / _STEPS).float()


def carried_lines(lines: Tensor, pieces: list[Piece]) -> Tensor:
    """Give each voxel the label of which most came to lie in it, 0 where all cover less than half of it.

    Args:
        lines: (X, Y, Z) uint8.
        pieces: Of these voxels.
    """
    some, labels = lines > 0, lines.long()
    # Of equal shares the first counts.
    order = torch.arange(lines.shape[1], 0, -1, device=lines.device)[:, None] * len(pieces)
    best = torch.zeros_like(labels)
    cover = torch.zeros_like(labels)
    for step, piece in enumerate(pieces):
        share = piece.share * some
        # The bits of numbers of one sign are in the order of the numbers.
        rank = share.view(torch.int32).long() << (_BITS + 8)
        key = torch.where(share > 0, rank | ((order - step) << 8) | labels, 0)
        best.scatter_reduce_(1, piece.place, key, "amax")
        cover.scatter_add_(1, piece.place, (piece.covered * some).double().mul_(_STEPS).round_().long())
    found = best.bitwise_and_(255).to(torch.uint8)
    return found.mul_(cover.double().div_(_STEPS).float() >= float(HALF))
