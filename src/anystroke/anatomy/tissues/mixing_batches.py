"""Mixing of hard labels in torch operations, for several patients at once.

Each voxel is a row of eight labels, and what is wanted of it the sum of eight rows of its patient's table: an
embedding bag. So a batch takes as many operations as a single patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import SamplingGrid
from anystroke.anatomy.tissues.grid_batches import of_like_size, stacked_points
from anystroke.anatomy.tissues.texture import Texture
from anystroke.core.fields import GridShape
from anystroke.core.gathering import gathered

_PARTS = 8
# Parts of voxels that are looked up at once: 1 GB of indices.
_MOST_PARTS = 2**26
# Less than a vote, so that of equals the smaller class wins.
_LATER = 1e-3


class Labels(Protocol):
    """A label map, or one that has been read on a grid."""

    @property
    def labels(self) -> Tensor:
        """(I, J, K) uint8."""

    @property
    def affine(self) -> Tensor:
        """(4, 4) label voxel -> the patient's RAS+ mm."""


@dataclass(frozen=True)
class LabelReading:
    """Asks for the labels of the parts of a grid's voxels.

    Attributes:
        field: The label map.
        grid: Where to read, on the device of the labels.
    """

    field: Labels
    grid: SamplingGrid


@dataclass(frozen=True)
class Mixing:
    """Asks for the means of a table over the parts of voxels; see ``anystroke.anatomy.tissues.mixing.mix``.

    Attributes:
        field: The label map; with ``parts`` (X, Y, Z, 8) if it has been read on the grid.
        grid: Where to read.
        table: (T, C).
        texture: Noise to add.
        floor: Smallest value.
        classes: (T,), a class below 8 for each label.
    """

    field: Labels
    grid: SamplingGrid
    table: Tensor
    texture: Texture | None
    floor: float | None
    classes: Tensor

    @property
    def rows(self) -> Tensor:
        """(T, K): the table, the texture's SDs if any, and votes for classes."""
        votes = torch.nn.functional.one_hot(self.classes.long(), 8).float()
        votes *= 1 - _LATER * torch.arange(8)
        columns = [self.table.float()] if self.texture is None else [self.table.float(), self.texture.sd]
        return torch.cat([torch.cat(columns, dim=1).cpu() / _PARTS, votes], dim=1)

    @property
    def kind(self) -> tuple[object, ...]:
        """Requests of one kind are answered at once."""
        tile = None if self.texture is None else tuple(self.texture.tiles.shape)
        read = self.grid.shape if hasattr(self.field, "parts") else None
        return read, self.table.shape, tile, self.floor, self.field.labels.device


def part_steps() -> Tensor:
    """Return (8, 3), the parts' centres relative to the voxel's, in voxels."""
    return torch.cartesian_prod(*(torch.tensor([-0.25, 0.25], dtype=torch.float64),) * 3)


@gathered
def read_parts(asked: list[LabelReading]) -> list[Tensor]:
    """Read the labels of the parts of each voxel, (X, Y, Z, 8) uint8 for each request."""
    answers: dict[int, Tensor] = {}
    for group in of_like_size([each.grid.shape for each in asked], _MOST_PARTS // _PARTS):
        parts = _read([asked[k] for k in group])
        for k, found in zip(group, parts, strict=True):
            answers[k] = found[_within(asked[k].grid.shape)]
    return [answers[k] for k in range(len(asked))]


@gathered
def mixed(asked: list[Mixing]) -> list[tuple[Tensor, Tensor]]:
    """Average tables over the parts of voxels; values (C, X, Y, Z) and winners (X, Y, Z) for each request."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for k, each in enumerate(asked):
        kinds.setdefault(each.kind, []).append(k)
    answers: dict[int, tuple[Tensor, Tensor]] = {}
    for members in kinds.values():
        shapes = [asked[k].grid.shape for k in members]
        for group in of_like_size(shapes, _MOST_PARTS // _PARTS):
            chosen = [asked[members[place]] for place in group]
            values, winners = _mix(chosen)
            for place, each, some, won in zip(group, chosen, values, winners, strict=True):
                within = _within(each.grid.shape)
                answers[members[place]] = some[(slice(None), *within)].contiguous(), won[within].contiguous()
    return [answers[k] for k in range(len(asked))]


def _within(shape: GridShape) -> tuple[slice, slice, slice]:
    return slice(shape[0]), slice(shape[1]), slice(shape[2])


def _read(asked: Sequence[LabelReading]) -> Tensor:
    """Return (B, X, Y, Z, 8) uint8, the labels of parts, 0 outside of the maps."""
    grids = [each.grid for each in asked]
    device = asked[0].field.labels.device
    points = stacked_points(
        [grid.control for grid in grids], [grid.splines for grid in grids], [grid.linear for grid in grids]
    )
    inverses = torch.stack([torch.linalg.inv(each.field.affine.double()) for each in asked])
    turn = inverses[:, :3, :3]
    linears = torch.stack([grid.linear[:3, :3] for grid in grids])
    steps = (part_steps() @ (turn @ linears).mT).float().to(device)
    # Half a voxel is added, so that cutting off decimals gives the nearest voxel.
    offsets = (inverses[:, :3, 3:] + 0.5).float().to(device)
    position = torch.baddbmm(offsets, turn.float().to(device), points.flatten(2))
    maps, starts = _joined([each.field.labels for each in asked])
    facts = [[*each.field.labels.shape, start] for each, start in zip(asked, starts, strict=True)]
    size = torch.tensor(facts, dtype=torch.int64).to(device)[:, :, None]
    found = torch.empty((*position[:, 0].shape, _PARTS), dtype=torch.uint8, device=device)
    at_once = max(_MOST_PARTS // position[:, 0].numel(), 1)
    for first in range(0, _PARTS, at_once):
        shift = steps[:, first : first + at_once].mT[:, :, None]
        index = (position[..., None] + shift).floor_().long()
        inside = ((index >= 0) & (index < size[:, :3, :, None])).all(1)
        x, y, z = index.unbind(1)
        rows, columns, start = (size[:, k, :, None] for k in (1, 2, 3))
        place = x.mul_(rows).add_(y).mul_(columns).add_(z).add_(start).mul_(inside)
        found[..., first : first + at_once] = maps[place] * inside
    return found.view(*points.shape[:1], *points.shape[2:], _PARTS)


def _joined(maps: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return label maps one after another, each once, and where each begins."""
    starts: dict[int, int] = {}
    parts, length = [], 0
    for each in maps:
        if id(each) not in starts:
            starts[id(each)] = length
            parts.append(each.reshape(-1))
            length += each.numel()
    return torch.cat(parts) if len(parts) > 1 else parts[0], [starts[id(each)] for each in maps]


def _mix(asked: Sequence[Mixing]) -> tuple[Tensor, Tensor]:
    """Return (B, C, X, Y, Z) and (B, X, Y, Z)."""
    first, device = asked[0], asked[0].field.labels.device
    read = [getattr(each.field, "parts", None) for each in asked]
    known = [parts for parts in read if parts is not None]
    parts = torch.stack(known) if known else _read([LabelReading(each.field, each.grid) for each in asked])
    tables = torch.stack([each.rows for each in asked])
    rows = tables.flatten(0, 1).to(device)
    starts = torch.arange(0, len(rows), tables.shape[1], dtype=torch.int32).to(device)
    index = parts.flatten(1, 3).int().add_(starts[:, None, None]).flatten(0, 1)
    sums = torch.nn.functional.embedding_bag(index, rows, mode="sum").view(*parts.shape[:4], -1)
    sums = sums.movedim(-1, 1)
    votes = sums[:, -8 : -8 + int(max(each.classes.max() for each in asked)) + 1]
    winners = votes.argmax(1).to(torch.uint8)
    columns = first.table.shape[1]
    values = sums[:, :columns].contiguous()
    if first.texture is not None:
        textures = [each.texture for each in asked if each.texture is not None]
        shape = (values.shape[2], values.shape[3], values.shape[4])
        values.addcmul_(sums[:, columns : 2 * columns], stacked_noise(textures, shape))
    return values if first.floor is None else values.clamp_(min=first.floor), winners


def stacked_noise(textures: Sequence[Texture], shape: GridShape) -> Tensor:
    """Return (B, C, X, Y, Z), the noise of textures whose tiles have one size on the whole of a grid."""
    tiles = torch.stack([each.tiles for each in textures])
    device, side = tiles.device, tiles.shape[2]
    starts = torch.tensor([each.start for each in textures])
    x, y, z = (((starts[:, axis, None] + torch.arange(n)) % side).to(device) for axis, n in enumerate(shape))
    patients = torch.arange(len(textures), device=device)[:, None, None, None, None]
    columns = torch.arange(tiles.shape[1], device=device)[:, None, None, None]
    return tiles[
        patients, columns, x[:, None, :, None, None], y[:, None, None, :, None], z[:, None, None, None]
    ]
