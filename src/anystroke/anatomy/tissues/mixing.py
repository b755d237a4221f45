"""Read hard or soft labels on a deformed grid: each output voxel is the mean over the tissues that it covers.

With hard labels, an output voxel is cut into 2 x 2 x 2 equal parts; each part has the label nearest to its
centre. What is wanted of a voxel, be it a map or the share of a tissue, is the mean over its parts of a table
with one row per label. So the cost does not grow with the number of tissues, and no array of tissue shares is
ever made. Soft labels are weighted with the table first and interpolated afterwards.

On the CPU the loop over hard labels is compiled; elsewhere torch operations do the same arithmetic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anystroke.anatomy.tissues.deformation import SamplingGrid, sample_at
from anystroke.anatomy.tissues.mixing_batches import LabelReading, Mixing, mixed, part_steps, read_parts
from anystroke.anatomy.tissues.mixing_loops import PAD, mix_planes, read_planes
from anystroke.anatomy.tissues.texture import Texture
from anystroke.core.arrays import Array
from anystroke.core.compiled import compiled
from anystroke.core.fields import GridShape
from anystroke.core.threads import in_threads

_PARTS = 8
_GROUP = 4


@dataclass(frozen=True)
class LabelField:
    """A label map ready to be read.

    Attributes:
        labels: (I, J, K) uint8, below 128.
        affine: (4, 4) label voxel -> the patient's RAS+ mm.

    Raises:
        ValueError: If a label is above 127.
    """

    labels: Tensor
    affine: Tensor
    _copies: dict[torch.device, "LabelField"] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.uint8 or int(self.labels.max()) > 127:
            raise ValueError("expected uint8 labels from 0 to 127; renumber the label map")

    @property
    def shape(self) -> GridShape:
        """Voxels along each axis."""
        x, y, z = self.labels.shape
        return x, y, z

    @cached_property
    def highest(self) -> int:
        """The largest label."""
        return int(self.labels.max())

    @cached_property
    def marked(self) -> Tensor:
        """The labels padded with zeros, the highest bit set where all 26 neighbours have the same label."""
        array = np.pad(self.labels.cpu().numpy(), PAD)
        uniform = np.ones(array.shape, dtype=bool)
        for axis in range(3):
            _keep_alike(array, uniform, axis)
        return torch.from_numpy(array | (uniform.view(np.uint8) << 7))

    def to(self, device: torch.device | str) -> "LabelField":
        """Return the field on a device."""
        device = torch.device(device)
        if self.labels.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = LabelField(self.labels.to(device), self.affine)
        return self._copies[device]

    def amount(self, rows: Sequence[int]) -> float:
        """Return the volume of some labels together, in voxels."""
        counts = torch.bincount(self.labels.flatten(), minlength=max(rows) + 1)
        return float(counts[list(rows)].sum())


@dataclass(frozen=True)
class ShareField:
    """Soft labels: the share of each label in each voxel.

    Attributes:
        shares: (T - 1, I, J, K) float32, labels from 1 on; what is missing to one is label 0.
        affine: (4, 4) voxel -> the patient's RAS+ mm.
    """

    shares: Tensor
    affine: Tensor

    @property
    def shape(self) -> GridShape:
        """Voxels along each axis."""
        _, x, y, z = self.shares.shape
        return x, y, z

    def to(self, device: torch.device | str) -> "ShareField":
        """Return the field on a device."""
        return ShareField(self.shares.to(device), self.affine)

    def amount(self, rows: Sequence[int]) -> float:
        """Return the volume of some labels together, in voxels; label 0 counts nothing."""
        return float(self.shares[[row - 1 for row in rows if row > 0]].sum())


@dataclass(frozen=True)
class ReadField:
    """A label map that has been read on one grid, so that mixing there takes tables alone; see `read_once`.

    Attributes:
        field: The label map, which other grids are read from.
        grid: The grid.
        hits: (X, Y, Z) uint8, the label of each voxel, its highest bit set where all eight parts have it;
            empty where no compiled loop reads it.
        parts: (X, Y, Z, 8) uint8, the labels of the parts of the other voxels, or of all.
    """

    field: LabelField
    grid: SamplingGrid
    hits: Tensor
    parts: Tensor

    @property
    def labels(self) -> Tensor:
        """The label map."""
        return self.field.labels

    @property
    def highest(self) -> int:
        """The largest label."""
        return self.field.highest

    @property
    def affine(self) -> Tensor:
        """(4, 4) label voxel -> the patient's RAS+ mm."""
        return self.field.affine

    @property
    def shape(self) -> GridShape:
        """Voxels along each axis."""
        return self.field.shape

    def to(self, device: torch.device | str) -> "LabelField | ReadField":
        """Return the field on a device; on another than its own it has to be read again."""
        return self if torch.device(device) == self.labels.device else self.field.to(device)

    def amount(self, rows: Sequence[int]) -> float:
        """Return the volume of some labels together, in voxels."""
        return self.field.amount(rows)


TissueField = LabelField | ShareField | ReadField
"""What an anatomy is made of; labels are indices into ``anystroke.anatomy.tissues.labels.TISSUES``."""


def mix(
    field: TissueField,
    grid: SamplingGrid,
    table: Tensor,
    *,
    texture: Texture | None = None,
    floor: float | None = None,
    classes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Average the table's columns over the labels that each voxel covers.

    Args:
        field: Hard or soft labels; outside of them is label 0.
        grid: Where to read.
        table: (T, C) float32, one row per label.
        texture: Noise to add, scaled with its own table.
        floor: Smallest value of the result; None for no limit.
        classes: (T,) uint8, a class below 8 for each label; all 0 if None.

    Returns:
        ``(values, winners)``: (C, X, Y, Z) float32, and (X, Y, Z) uint8, the class that has most of a voxel
        (of equals, the smaller number). Both are on the device of the labels.

    Raises:
        ValueError: If a label has no row in the tables, or a class is above 7.

    Example:
        >>> from anystroke.anatomy.tissues.deformation import still_grid
        >>> field = LabelField(torch.ones((4, 4, 4), dtype=torch.uint8), torch.eye(4, dtype=torch.float64))
        >>> table = torch.tensor([[0.0], [5.0]])
        >>> mix(field, still_grid((4, 4, 4), field.affine), table)[0][0, 1, 1, 1]
        tensor(5.)
    """
    if classes is None:
        classes = torch.zeros(len(table), dtype=torch.uint8)
    highest = len(field.shares) if isinstance(field, ShareField) else field.highest
    for rows in (table, classes):
        if highest >= len(rows):
            raise ValueError(f"expected labels from 0 to {len(rows) - 1}, one per table row, got {highest}")
    if int(classes.max()) > 7:
        raise ValueError(f"expected classes from 0 to 7, got {int(classes.max())}")
    if isinstance(field, ShareField):
        return _mix_shares(field, grid, table, texture, floor, classes)
    if isinstance(field, ReadField) and field.grid is not grid:
        field = field.field
    if not compiled(field.labels.device):
        return mixed(Mixing(field, grid, table, texture, floor, classes))
    if isinstance(field, LabelField):
        field = _read(field, grid)
    values = torch.empty((table.shape[1], *grid.shape))
    winners = torch.empty(grid.shape, dtype=torch.uint8)
    for first in range(0, table.shape[1], _GROUP):
        chosen = slice(first, first + _GROUP)
        part = None
        if texture is not None:
            part = Texture(texture.sd[:, chosen], texture.tiles[chosen], texture.start)
        _run(field, table[:, chosen], part, floor, classes, (values[chosen], winners))
    return values, winners


def read_once(field: TissueField, grid: SamplingGrid) -> TissueField:
    """Read hard labels on a grid where `mix` will be called more than once; what it returns is the same.

    Args:
        field: Hard or soft labels; soft ones stay as they are.
        grid: The grid; it is recognised by being the same object.
    """
    if isinstance(field, ReadField):
        field = field.field
    if isinstance(field, ShareField):
        return field
    if compiled(field.labels.device):
        return _read(field, grid)
    return ReadField(field, grid, field.labels[:0], read_parts(LabelReading(field, grid)))


def _keep_alike(array: Array, alike: NDArray[np.bool_], axis: int) -> None:
    """Unmark voxels that differ from a neighbour along an axis, or one of whose neighbours is not marked."""
    labels, marks = np.moveaxis(array, axis, 0), np.moveaxis(alike, axis, 0)
    same = labels[1:] == labels[:-1]
    before = marks.copy()
    for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        marks[here] &= same
        marks[here] &= before[there]


def _read(field: LabelField, grid: SamplingGrid) -> ReadField:
    found = ReadField(
        field,
        grid,
        torch.empty(grid.shape, dtype=torch.uint8),
        torch.empty((*grid.shape, _PARTS), dtype=torch.uint8),
    )
    geometry = _geometry(field.affine, grid)
    # With parts less than one label voxel from the centre, the marks decide for all of them.
    trusted = bool(np.abs(geometry[2]).max() < 1)
    marked, arrays = field.marked.numpy(), (found.hits.numpy(), found.parts.numpy())
    in_threads(lambda planes: read_planes(marked, geometry, trusted, arrays, planes), _pieces(grid.shape[0]))
    return found


def _run(
    found: ReadField,
    table: Tensor,
    texture: Texture | None,
    floor: float | None,
    classes: Tensor,
    result: tuple[Tensor, Tensor],
) -> None:
    columns = table.shape[1]
    rows = torch.zeros((len(table), 2 * _GROUP))
    rows[:, :columns] = table / _PARTS
    tiles, start = torch.zeros((1, 1, 1, 1)), (0, 0, 0)
    if texture is not None:
        rows[:, _GROUP : _GROUP + columns] = texture.sd / _PARTS
        tiles, start = texture.tiles.contiguous(), texture.start
    votes = torch.ones((), dtype=torch.int64) << (8 * classes.long())
    read = found.hits.numpy(), found.parts.numpy()

    def work(planes: tuple[int, int]) -> None:
        mix_planes(
            read,
            (rows.numpy(), votes.numpy(), classes.numpy()),
            (tiles.numpy(), np.array(start, dtype=np.int64), texture is not None),
            np.float32(-np.inf if floor is None else floor),
            (result[0].numpy(), result[1].numpy()),
            planes,
        )

    in_threads(work, _pieces(found.hits.shape[0]))


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """Cut planes into more pieces than threads: those through the head take longer than those beside it."""
    pieces = min(4 * torch.get_num_threads(), count)
    return pairwise([k * count // pieces for k in range(pieces + 1)])


def _geometry(affine: Tensor, grid: SamplingGrid) -> tuple[Array, ...]:
    """Return what maps output voxels to label voxels: matrix, offset, parts, displacement and its splines."""
    inverse = torch.linalg.inv(affine.double())
    total = inverse @ grid.linear
    control = torch.einsum("ij,jabc->iabc", inverse[:3, :3], grid.control.double().cpu())
    tensors = (
        total[:3, :3],
        # Half a voxel is added, so that cutting off decimals gives the nearest voxel.
        total[:3, 3] + 0.5,
        part_steps() @ total[:3, :3].T,
        control,
        grid.splines[0],
        grid.splines[1],
        grid.splines[2].T,
    )
    return tuple(one.float().contiguous().cpu().numpy() for one in tensors)


def _mix_shares(
    field: ShareField,
    grid: SamplingGrid,
    table: Tensor,
    texture: Texture | None,
    floor: float | None,
    classes: Tensor,
) -> tuple[Tensor, Tensor]:
    votes = torch.nn.functional.one_hot(classes.long(), int(classes.max()) + 1).float()
    columns = [table, votes] if texture is None else [table, texture.sd.to(table), votes]
    rows = torch.cat(columns, dim=1).to(field.shares)
    # Label 0 is what the others leave, outside the field too, so it is the origin of every column.
    mixed = torch.tensordot((rows[1:] - rows[0]).T, field.shares, dims=1)
    values = sample_at(mixed, field.affine, grid.points()) + rows[0].reshape(-1, 1, 1, 1)
    winners = values[-votes.shape[1] :].argmax(0).to(torch.uint8)
    return _finish(values[: -votes.shape[1]], texture, floor), winners


def _finish(values: Tensor, texture: Texture | None, floor: float | None) -> Tensor:
    """Add the texture: columns of means come first, then those of standard deviations."""
    if texture is not None:
        columns = len(values) // 2
        x, y, z = values.shape[1:]
        noise = texture.read((slice(0, x), slice(0, y), slice(0, z)))
        values[:columns].addcmul_(values[columns:], noise.to(values))
        values = values[:columns]
    return values if floor is None else values.clamp_(min=floor)
