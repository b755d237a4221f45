"""Pictures of a mask on its scan."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume, VolumeError

Convention = Literal["radiological", "neurological"]

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_LAYOUT = ("axial",) * 12 + ("coronal",) * 3 + ("sagittal",) * 3
_COLUMNS = 6
_PANEL = 2.0  # inches
_HEADER = 0.4
_COLOUR = (1.0, 0.25, 0.2)
_SIDES = {"sagittal": ("P", "A"), "coronal": ("L", "R"), "axial": ("L", "R")}
_STATEMENT = {
    "radiological": "radiological view: the patient's left is on the right",
    "neurological": "neurological view: the patient's left is on the left",
}


def mosaic(
    scan: Volume,
    mask: Volume,
    path: str | Path,
    *,
    title: str = "",
    convention: Convention = "radiological",
    overwrite: bool = False,
) -> None:
    """Draw axial, coronal and sagittal slices of a scan with a mask on them, as a PNG.

    The slices go through the mask, or through the whole head where the mask is empty. Pixels keep their
    proportions in mm.

    Args:
        scan: One channel.
        mask: Non-zero where to colour; on the grid of ``scan``.
        path: The PNG to write; its folder must exist.
        title: A line above the picture.
        convention: On which side the patient's left is; it is stated on the picture.
        overwrite: Whether an existing file may be replaced.

    Raises:
        VolumeError: Scan and mask have different grids.
        FileExistsError: ``path`` exists and ``overwrite`` is False.

    Example:
        >>> import tempfile
        >>> scan = Volume(torch.rand(1, 16, 16, 16), torch.eye(4))
        >>> mask = Volume((scan.data > 0.9).to(torch.uint8), scan.affine)
        >>> mosaic(scan, mask, Path(tempfile.mkdtemp()) / "mosaic.png")
    """
    if scan.shape != mask.shape or not torch.allclose(scan.affine, mask.affine, atol=1e-3):
        raise VolumeError(
            f"a picture needs scan and mask on one grid, got {scan.shape} and {mask.shape}; resample the "
            f"mask first"
        )
    scan, mask = scan.reorient("RAS"), mask.reorient("RAS")
    intensity, lesion = _display(scan.data[0]), (mask.data[0] != 0).numpy()
    box = _bounding_box(intensity > 0.1)
    positions = {
        view: iter(_positions(lesion, axis, box, _LAYOUT.count(view))) for view, axis in _AXES.items()
    }
    size = (_COLUMNS * _PANEL, len(_LAYOUT) // _COLUMNS * _PANEL + _HEADER)
    figure = Figure(figsize=size, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    header = "   ".join(part for part in (title, _STATEMENT[convention]) if part)
    figure.text(
        0.01, 1 - 0.5 * _HEADER / size[1], header, color="white", fontsize=9, va="center", parse_math=False
    )
    for i, view in enumerate(_LAYOUT):
        position = next(positions[view], None)
        if position is None:
            continue
        row, column = divmod(i, _COLUMNS)
        bottom = 1 - (_HEADER + (row + 1) * _PANEL) / size[1]
        axes = figure.add_axes((column / _COLUMNS, bottom, 1 / _COLUMNS, _PANEL / size[1]))
        mirrored = convention == "radiological" and view != "sagittal"
        _draw(axes, intensity, lesion, (view, position), box, scan, mirrored)
    with atomic_path(path, overwrite=overwrite) as temporary:
        canvas.print_figure(str(temporary), dpi=100, format="png", pil_kwargs={"compress_level": 3})


def _display(data: Tensor) -> Array:
    """Scale intensities to 0..1 for the eye."""
    values: Array = data.to(torch.float32).numpy()
    foreground = values[values > values.min()]
    if foreground.size == 0:
        return np.zeros_like(values)
    low, high = np.percentile(foreground[:: max(1, foreground.size // 200_000)], (1.0, 99.5))
    low = min(low, float(values.min()) + 0.2 * (high - float(values.min())))
    scaled: Array = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    return scaled


def _bounding_box(foreground: Array) -> list[tuple[int, int]]:
    """Find the first and last index of the foreground along each axis; everything if there is none."""
    box = []
    for axis, size in enumerate(foreground.shape):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(foreground.any(axis=others))
        box.append((int(filled[0]), int(filled[-1])) if filled.size else (0, size - 1))
    return box


def _positions(lesion: Array, axis: int, box: list[tuple[int, int]], count: int) -> list[int]:
    """Choose at most ``count`` slices: through the lesion, its largest area included, or the head."""
    first, last = box[axis]
    area = lesion.sum(axis=tuple(a for a in range(3) if a != axis))
    slices = np.flatnonzero(area)
    if slices.size == 0:
        margin = (last - first) // 8
        slices = np.arange(first + margin, last - margin + 1)
    elif slices.size < count:
        middle = int(slices[slices.size // 2])
        start = max(0, min(middle - count // 2, len(area) - count))
        slices = np.union1d(slices, np.arange(start, min(start + count, len(area))))
    count = min(count, slices.size)
    chosen = slices[((np.arange(count) + 0.5) * slices.size / count).astype(int)]
    largest = int(area.argmax())
    if area.any() and largest not in chosen:
        chosen[np.abs(chosen - largest).argmin()] = largest
    return [int(k) for k in chosen]


def _draw(
    axes: Axes,
    intensity: Array,
    lesion: Array,
    at: tuple[str, int],
    box: list[tuple[int, int]],
    scan: Volume,
    mirrored: bool,
) -> None:
    """Draw one slice in mm, the first remaining axis to the right and the second upwards."""
    view, position = at
    axis = _AXES[view]
    across, up = (a for a in range(3) if a != axis)
    window = tuple(
        slice(position, position + 1) if a == axis else slice(box[a][0], box[a][1] + 1) for a in range(3)
    )
    picture, coloured = (values[window].squeeze(axis).T for values in (intensity, lesion))
    extent = (0.0, picture.shape[1] * scan.spacing[across], 0.0, picture.shape[0] * scan.spacing[up])
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent, interpolation="nearest")
    if coloured.any():
        overlay = np.zeros((*coloured.shape, 4))
        overlay[coloured] = (*_COLOUR, 0.3)
        axes.imshow(overlay, origin="lower", extent=extent, interpolation="nearest")
        padded = np.pad(coloured.astype(float), 1)
        x = (np.arange(padded.shape[1]) - 0.5) * scan.spacing[across]
        y = (np.arange(padded.shape[0]) - 0.5) * scan.spacing[up]
        axes.contour(x, y, padded, levels=[0.5], colors=[_COLOUR], linewidths=0.8)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_aspect("equal")
    axes.axis("off")
    low, high = _SIDES[view]
    if mirrored:
        axes.invert_xaxis()
        low, high = high, low
    _write(axes, 0.01, 0.5, low, ha="left")
    _write(axes, 0.99, 0.5, high, ha="right")
    centre = torch.tensor([*((n - 1) / 2 for n in scan.shape), 1.0], dtype=torch.float64)
    centre[axis] = position
    place = float((scan.affine @ centre)[axis])
    _write(axes, 0.5, 0.02, f"{'xyz'[axis]} = {place:.0f} mm", ha="center")


def _write(axes: Axes, x: float, y: float, text: str, *, ha: str) -> None:
    """Write white on a black outline, readable on any tissue."""
    outline = [withStroke(linewidth=2, foreground="black")]
    axes.text(
        x,
        y,
        text,
        color="white",
        fontsize=7,
        ha=ha,
        va="bottom",
        transform=axes.transAxes,
        path_effects=outline,
    )
