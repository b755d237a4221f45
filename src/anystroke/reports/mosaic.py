"""Pictures of a mask on its scan."""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume, VolumeError
from anystroke.reports.slices import (
    PREDICTED,
    RADIOLOGICAL,
    Bounds,
    Cut,
    Outline,
    Shown,
    for_the_eye,
    panel,
)

Convention = Literal["radiological", "neurological"]

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_LAYOUT = ("axial",) * 12 + ("coronal",) * 3 + ("sagittal",) * 3
_COLUMNS = 6
_PANEL = 2.0  # inches
_HEADER = 0.4
_STATEMENT = {
    "radiological": f"radiological view: {RADIOLOGICAL}",
    "neurological": "neurological view: the patient's left is on the left",
}


def mosaic_png(scan: Volume, mask: Volume, *, title: str = "") -> bytes:
    """Return the picture of `mosaic` as a PNG in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.png"
        mosaic(scan, mask, path, title=title)
        return path.read_bytes()


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
    intensity, lesion = for_the_eye(scan.data[0].to(torch.float32).numpy()), (mask.data[0] != 0).numpy()
    box = _bounding_box(intensity > 0.1)
    shown = Shown(intensity, scan.spacing, interpolation="nearest")
    outline = Outline(lesion, PREDICTED, width=0.8, fill=0.3)
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
        axis = _AXES[view]
        cut = Cut(axis, position, box)
        mirrored = convention == "radiological" and axis != 0
        height = f"{'xyz'[axis]} = {_height(scan, axis, position):.0f} mm"
        panel(axes, shown, cut, [outline], mirrored=mirrored, sides=True, caption=height)
    with atomic_path(path, overwrite=overwrite) as temporary:
        canvas.print_figure(str(temporary), dpi=100, format="png", pil_kwargs={"compress_level": 3})


def _bounding_box(foreground: Array) -> Bounds:
    """Find the first voxel of the foreground along each axis and the one behind the last; all without any."""
    first, second, third = (
        _ends(np.asarray(foreground.any(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)
    )
    return first, second, third


def _ends(filled: Array) -> tuple[int, int]:
    places = np.flatnonzero(filled)
    return (int(places[0]), int(places[-1]) + 1) if places.size else (0, len(filled))


def _positions(lesion: Array, axis: int, box: Bounds, count: int) -> list[int]:
    """Choose at most ``count`` slices: through the lesion, its largest area included, or the head."""
    first, last = box[axis][0], box[axis][1] - 1
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


def _height(scan: Volume, axis: int, index: int) -> float:
    """Return the world coordinate in mm of the middle of a slice along its axis."""
    centre = torch.tensor([*((n - 1) / 2 for n in scan.shape), 1.0], dtype=torch.float64)
    centre[axis] = index
    return float((scan.affine @ centre)[axis])
