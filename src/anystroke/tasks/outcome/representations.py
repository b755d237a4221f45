"""Pictures that networks see of a patient: stitched sections, canvases of regions, with symbols or without.

After White et al., NeuroImage: Clinical 2024: 64 axial sections in 8 x 8 cells on 256 x 256 pixels; a
canvas of 12
cells, each packed with what a region shows in the sections; symbols for severity, lesion size and time.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import label, map_coordinates

from anystroke.anatomy.regions.grid import REGION_SHAPE
from anystroke.anatomy.regions.regions import region_labels, region_names
from anystroke.core.arrays import Array

PIXELS = 256
SECTIONS = 64
VOLUME_SHAPE = (45, 54, 45)
_CELLS = 8
_CELL_PIXELS = PIXELS // _CELLS
_FIRST_SECTION = 12
"""Of the 91 sections of the grid; 64 from here on hold the brain from the medulla's top to the vertex."""
_SHOWN = slice(_FIRST_SECTION, _FIRST_SECTION + SECTIONS)

ROI_NAMES = (
    "superior_temporal", "middle_temporal", "inferior_frontal_triangular", "postcentral", "supramarginal",
    "inferior_frontal_opercular", "insula", "caudate", "superior_temporal_pole", "inferior_parietal",
    "middle_frontal", "hippocampus",
)  # fmt: skip
"""Left regions of the canvas, in the published order; the best published model has the first eight."""

# Rows and columns of the published cells, first and last.
_CANVAS_CELLS = (
    (0, 68, 0, 84), (0, 68, 85, 169), (0, 68, 170, 255),
    (69, 139, 0, 85), (69, 139, 86, 169), (69, 97, 170, 238),
    (140, 187, 0, 85), (140, 179, 86, 169), (140, 254, 170, 199), (180, 254, 0, 86), (188, 254, 87, 169),
    (98, 139, 170, 248),
)  # fmt: skip
_CANVAS_SYMBOLS = (200, 200, 52)
"""Row, column and side of the square of symbols of the canvas."""


@dataclass(frozen=True)
class Symbols:
    """What symbols show.

    Attributes:
        severity: Initial severity from 0 to 1; None if not known.
        size: Lesion size from 0 to 1.
        time: Time since the stroke from 0 to 1; None if not known.
    """

    severity: float | None = None
    size: float = 0.0
    time: float | None = None


@cache
def _stitch_places() -> Array:
    """Return where each pixel of a stitched picture lies in the grid, float64 (3, 256, 256), in voxels."""
    row, column = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS), indexing="ij")
    section = (row // _CELL_PIXELS) * _CELLS + column // _CELL_PIXELS
    # Pixel 0 of a cell is the front left of the section, which is turned by 90 degrees.
    x = ((column % _CELL_PIXELS) + 0.5) / _CELL_PIXELS * REGION_SHAPE[0] - 0.5
    y = REGION_SHAPE[1] - 0.5 - ((row % _CELL_PIXELS) + 0.5) / _CELL_PIXELS * REGION_SHAPE[1]
    return np.stack([x, y, _FIRST_SECTION + section.astype(np.float64)])


def stitched(volume: Array) -> Array:
    """Stitch axial sections to one picture.

    Args:
        volume: float32 (91, 109, 91) on the grid of MNI space.

    Returns:
        float32 (256, 256): section 0, the lowest, at the top left; front up, left on the left.

    Example:
        >>> stitched(np.ones((91, 109, 91), dtype=np.float32)).mean().round(3)
        np.float32(1.0)
    """
    picture: Array = map_coordinates(volume, _stitch_places(), order=1, mode="nearest", output=np.float32)
    return picture


def unstitched(picture: Array) -> Array:
    """Map a stitched picture back to the grid: each voxel gets the pixel it is nearest to.

    Args:
        picture: (256, 256).

    Returns:
        float32 (91, 109, 91); 0 below and above the 64 sections.
    """
    x = np.minimum(
        (np.arange(REGION_SHAPE[0]) + 0.5) / REGION_SHAPE[0] * _CELL_PIXELS, _CELL_PIXELS - 1
    ).astype(int)
    y = np.minimum(
        (REGION_SHAPE[1] - np.arange(REGION_SHAPE[1]) - 0.5) / REGION_SHAPE[1] * _CELL_PIXELS,
        _CELL_PIXELS - 1,
    ).astype(int)
    volume = np.zeros(REGION_SHAPE, dtype=np.float32)
    for section in range(SECTIONS):
        row, column = divmod(section, _CELLS)
        cell = picture[
            row * _CELL_PIXELS : (row + 1) * _CELL_PIXELS, column * _CELL_PIXELS : (column + 1) * _CELL_PIXELS
        ]
        volume[:, :, _FIRST_SECTION + section] = cell[np.ix_(y, x)].T
    return volume


def stitch_exactly(volume: Array, columns: int = _CELLS) -> Array:
    """Stitch whole sections without a change of size, 632 x 760 pixels for 64 of 79 x 95 voxels.

    Args:
        volume: (X, Y, Z); Z is a multiple of ``columns``.
        columns: Cells in a row.

    Returns:
        (Z / columns * Y, columns * X): sections turned by 90 degrees.

    Raises:
        ValueError: The sections do not fill the rows.

    Example:
        >>> volume = np.arange(24.0).reshape(2, 3, 4)
        >>> bool((unstitch_exactly(stitch_exactly(volume, 2), volume.shape) == volume).all())
        True
    """
    x, y, z = volume.shape
    if z % columns:
        raise ValueError(f"expected sections for whole rows of {columns} cells, got {z}; add or cut sections")
    turned = volume.transpose(2, 1, 0)[:, ::-1]
    return (
        turned.reshape(z // columns, columns, y, x)
        .transpose(0, 2, 1, 3)
        .reshape(z // columns * y, columns * x)
    )


def unstitch_exactly(picture: Array, shape: tuple[int, int, int]) -> Array:
    """Undo `stitch_exactly`."""
    x, y, z = shape
    columns = picture.shape[1] // x
    turned = picture.reshape(z // columns, y, columns, x).transpose(0, 2, 1, 3).reshape(z, y, x)
    return turned[:, ::-1].transpose(2, 1, 0)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A connected piece of a region in stitched sections: its box, its pixels, its place on the canvas."""

    rows: slice
    columns: slice
    inside: Array
    to_rows: slice
    to_columns: slice


@cache
def _pieces(name: str) -> tuple[tuple[slice, slice, Array], ...]:
    """Find the connected pieces of a left region in whole stitched sections, the tallest first."""
    number = region_names().index(name) + 1
    left = (region_labels() == number) & (np.arange(REGION_SHAPE[0]) < REGION_SHAPE[0] // 2)[:, None, None]
    numbered, count = label(stitch_exactly(left[:, :, _SHOWN]))
    found = []
    for k in range(1, count + 1):
        rows, columns = np.nonzero(numbered == k)
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        found.append((*box, numbered[box] == k))
    return tuple(sorted(found, key=lambda piece: -len(piece[2])))


@cache
def _placed(rois: int) -> tuple[_Piece, ...]:
    """Pack the pieces of regions into the cells of the canvas, row by row; what does not fit is left out."""
    placed = []
    for name, (top, bottom, left, right) in zip(ROI_NAMES[:rois], _CANVAS_CELLS, strict=False):
        row, column, height = top, left, 0
        for rows, columns, inside in _pieces(name):
            tall, wide = inside.shape
            if column + wide > right + 1:
                row, column, height = row + height, left, 0
            if row + tall > bottom + 1 or column + wide > right + 1:
                continue
            to_rows, to_columns = slice(row, row + tall), slice(column, column + wide)
            placed.append(_Piece(rows, columns, inside, to_rows, to_columns))
            column, height = column + wide, max(height, tall)
    return tuple(placed)


def canvas(volume: Array, rois: int = 8) -> Array:
    """Show left regions alone, packed into cells; outside of a region is 0.

    Args:
        volume: As for `stitched`.
        rois: How many of ``ROI_NAMES``.

    Returns:
        float32 (256, 256).
    """
    picture = stitch_exactly(volume[:, :, _SHOWN])
    found = np.zeros((PIXELS, PIXELS), dtype=np.float32)
    for piece in _placed(rois):
        found[piece.to_rows, piece.to_columns] = np.where(piece.inside, picture[piece.rows, piece.columns], 0)
    return found


def uncanvas(picture: Array, rois: int = 8) -> Array:
    """Map a canvas back to the grid, float32 (91, 109, 91); 0 where no region is shown."""
    rows = SECTIONS // _CELLS
    found = np.zeros((rows * REGION_SHAPE[1], _CELLS * REGION_SHAPE[0]), dtype=np.float32)
    for piece in _placed(rois):
        shown = picture[piece.to_rows, piece.to_columns]
        found[piece.rows, piece.columns] += np.where(piece.inside, shown, 0)
    volume = np.zeros(REGION_SHAPE, dtype=np.float32)
    volume[:, :, _SHOWN] = unstitch_exactly(found, (REGION_SHAPE[0], REGION_SHAPE[1], SECTIONS))
    return volume


def with_symbols(picture: Array, symbols: Symbols, *, on_canvas: bool = False) -> Array:
    """Draw symbols into a picture: severity an ellipse, lesion size a pentagon, time a slice of a pie.

    The area of each grows with its value, so that a picture of more has more in it; a value that is not known
    is not drawn.

    Args:
        picture: float32 (256, 256), from 0 to 1.
        symbols: What to show.
        on_canvas: Whether the picture is a canvas, whose symbols have a corner of their own; in a stitched
            picture they take the bottom right cells, the highest sections.

    Returns:
        A new picture.

    Example:
        >>> empty = np.zeros((256, 256), dtype=np.float32)
        >>> small, large = (with_symbols(empty, Symbols(size=s)).sum() for s in (0.1, 0.9))
        >>> bool(small < large)
        True
    """
    found = picture.copy()
    top, left, side = _square(on_canvas)
    found[symbol_square(on_canvas=on_canvas)] = 0
    quarter = side // 4
    row, column = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS), indexing="ij")
    y, x = row - (top + quarter), column - (left + quarter)
    _draw(found, _polygon(y, x, 5, quarter * (0.25 + 0.7 * min(max(symbols.size, 0.0), 1.0))), symbols.size)
    if symbols.severity is not None:
        value = min(max(symbols.severity, 0.0), 1.0)
        radius = quarter * (0.2 + 0.75 * value)
        ellipse = ((x - 2 * quarter) / radius) ** 2 + (y / (0.7 * radius)) ** 2 <= 1
        _draw(found, ellipse, value)
    if symbols.time is not None:
        value = min(max(symbols.time, 0.0), 1.0)
        angle = np.degrees(np.arctan2(x - quarter, -(y - 2 * quarter))) % 360
        away = np.hypot(x - quarter, y - 2 * quarter)
        _draw(found, (away <= 0.9 * quarter) & (angle <= 15 + 255 * value), value)
    return found


def symbol_square(*, on_canvas: bool = False) -> tuple[slice, slice]:
    """Return the rows and columns that symbols take; arguments as for `with_symbols`."""
    top, left, side = _square(on_canvas)
    return slice(top, top + side), slice(left, left + side)


def _square(on_canvas: bool) -> tuple[int, int, int]:
    corner = PIXELS - 2 * _CELL_PIXELS
    return _CANVAS_SYMBOLS if on_canvas else (corner, corner, 2 * _CELL_PIXELS)


def _draw(picture: Array, inside: Array, value: float) -> None:
    picture[inside] = 0.4 + 0.6 * min(max(value, 0.0), 1.0)


def _polygon(y: Array, x: Array, corners: int, radius: float) -> Array:
    """Mark a regular polygon about the origin."""
    angle = (np.arctan2(x, -y) + np.pi / corners) % (2 * np.pi / corners) - np.pi / corners
    inside: Array = np.hypot(x, y) * np.cos(angle) <= radius * np.cos(np.pi / corners)
    return inside


def halved(volume: Array) -> Array:
    """Return a volume of half the size along each axis, float32 (45, 54, 45)."""
    x, y, z = VOLUME_SHAPE
    cut = volume[: 2 * x, : 2 * y, : 2 * z]
    pooled: Array = cut.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    return pooled
