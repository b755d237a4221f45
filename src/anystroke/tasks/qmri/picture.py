"""A picture of estimated maps beside their scan and what was simulated of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume
from anystroke.qmri.estimated_maps import MAP_OUTPUTS
from anystroke.simulation.patient_files import MAP_FILES
from anystroke.tasks.qmri.predict import QmriEstimate

_PANEL = 2.0  # inches
_HEADER = 0.35
_AROUND = 25.0  # mm of the head that is shown around the brain
_HEIGHT = 0.6  # of the axial slice within the brain
_BRIGHTEST = 1.6  # of a map, in units of what is typical


def draw_estimate(
    estimate: QmriEstimate,
    simulated: Mapping[str, Volume],
    path: str | Path,
    *,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Draw an axial and a coronal slice of scan, scan simulated again, maps and simulated images, as a PNG.

    Each map's grey levels run from 0 to a value that is written above it, the same for all scans; those of
    images from the 0.5th percentile to the brain's 99.5th.

    Args:
        estimate: What was found.
        simulated: Name -> image of it, on the grid of the scan.
        path: The PNG to write; its folder must exist.
        title: A line above the picture.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is False.
    """
    mask = estimate.brain.reorient("RAS")
    brain, spacing = (mask.data[0] > 0).numpy(), mask.spacing
    images = {"scan": estimate.scan, "simulated again": estimate.resimulated}
    panels = [_image(name, volume, brain) for name, volume in images.items()]
    for name, volume in estimate.maps.items():
        high = _BRIGHTEST * MAP_OUTPUTS[name].typical
        suffix, units, _ = MAP_FILES[name]
        panels.append((f"{suffix}, 0 to {high:.3g} {units}", _values(volume), (0.0, high)))
    panels += [_image(f"simulated {name}", volume, brain) for name, volume in simulated.items()]
    window = [_around(brain, axis, spacing[axis]) for axis in range(3)]
    rows = []
    for axis, share in ((2, _HEIGHT), (1, 0.5)):
        first, last = _ends(brain, axis)
        rows.append((axis, int(first + share * (last - first))))
    sides = [(stop - start) * step for (start, stop), step in zip(window, spacing, strict=True)]
    tall = [sides[1] / sides[0], sides[2] / sides[0]]
    size = (_PANEL * len(panels), _PANEL * sum(tall) + 2 * _HEADER)
    figure = Figure(figsize=size, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    words = (title, f"correlation {estimate.correlation:.3f}", "the patient's left is on the right")
    header = "   ".join(part for part in words if part)
    figure.text(
        0.005, 1 - 0.5 * _HEADER / size[1], header, color="white", fontsize=9, va="center", parse_math=False
    )
    bottom = size[1] - 2 * _HEADER
    for (axis, index), ratio in zip(rows, tall, strict=True):
        bottom -= _PANEL * ratio
        for column, (name, values, limits) in enumerate(panels):
            place = (column / len(panels), bottom / size[1], 1 / len(panels), _PANEL * ratio / size[1])
            axes = figure.add_axes(place)
            _slice(axes, values, (axis, index), (window, spacing), limits)
            if axis == 2:
                axes.set_title(name, color="white", fontsize=8)
    with atomic_path(path, overwrite=overwrite) as temporary:
        canvas.print_figure(str(temporary), dpi=90, format="png")


def _values(volume: Volume) -> Array:
    values: Array = replace(volume, data=volume.data[:1].to(torch.float32)).reorient("RAS").data[0].numpy()
    return values


def _image(name: str, volume: Volume, brain: Array) -> tuple[str, Array, tuple[float, float]]:
    values = _values(volume)
    return name, values, (float(np.percentile(values, 0.5)), float(np.percentile(values[brain], 99.5)))


def _ends(brain: Array, axis: int) -> tuple[int, int]:
    """Return the first and the last voxel of the brain along an axis."""
    inside = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
    return int(inside[0]), int(inside[-1])


def _around(brain: Array, axis: int, spacing: float) -> tuple[int, int]:
    """Return the first voxel that is shown along an axis, and the one behind the last."""
    first, last = _ends(brain, axis)
    margin = int(_AROUND / spacing)
    return max(0, first - margin), min(brain.shape[axis], last + margin + 1)


def _slice(
    axes: Axes,
    values: Array,
    at: tuple[int, int],
    window: tuple[list[tuple[int, int]], tuple[float, float, float]],
    limits: tuple[float, float],
) -> None:
    (axis, index), (bounds, spacing) = at, window
    across, up = (other for other in range(3) if other != axis)
    picture = values.take(index, axis)[slice(*bounds[across]), slice(*bounds[up])].T
    extent = (0.0, picture.shape[1] * spacing[across], 0.0, picture.shape[0] * spacing[up])
    axes.imshow(picture, cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower", extent=extent)
    axes.invert_xaxis()
    axes.axis("off")
