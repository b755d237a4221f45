"""A slice of a volume with outlines on it, as every picture of this program shows one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke

from anystroke.core.arrays import Array

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

PREDICTED = "#ff4033"
TRUE = "#2fd6ff"
RADIOLOGICAL = "the patient's left is on the right"

_SIDES = (("P", "A"), ("L", "R"), ("L", "R"))


@dataclass(frozen=True, eq=False)
class Shown:
    """What slices are cut of.

    Attributes:
        values: (X, Y, Z) in RAS order.
        spacing: Voxel size in mm.
        limits: Values that are black and white; those of the slice itself if None.
        colours: Name of a colour map of matplotlib.
        interpolation: Between voxels, as matplotlib names it.
    """

    values: Array
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    limits: tuple[float, float] | None = (0.0, 1.0)
    colours: str = "gray"
    interpolation: str = "antialiased"


@dataclass(frozen=True)
class Cut:
    """Which slice.

    Attributes:
        axis: 0 sagittal, 1 coronal, 2 axial.
        index: Of the slice along it.
        bounds: First voxel and the one behind the last along each axis; the whole volume if None.
    """

    axis: int
    index: int
    bounds: Bounds | None = None


@dataclass(frozen=True, eq=False)
class Outline:
    """A mask to draw on a slice.

    Attributes:
        mask: (X, Y, Z) bool.
        colour: Of the outline.
        width: Of the outline, points.
        fill: Opacity within it.
    """

    mask: Array
    colour: str
    width: float = 0.9
    fill: float = 0.0


def panel(
    axes: Axes,
    shown: Shown,
    cut: Cut,
    outlines: Sequence[Outline] = (),
    *,
    mirrored: bool | None = None,
    sides: bool = False,
    caption: str = "",
) -> None:
    """Draw a slice in mm, the first remaining axis to the right and the second upwards, with outlines.

    Args:
        axes: Where.
        shown: The volume.
        cut: The slice.
        outlines: Masks on the volume's grid, the last on top; one that the slice does not cross is not drawn.
        mirrored: Whether the first remaining axis runs to the left; if None, so that the patient's left is on
            the right.
        sides: Whether letters say which side is which.
        caption: A line at the bottom.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().add_subplot()
        >>> panel(axes, Shown(np.zeros((4, 5, 6)), (1.0, 1.0, 2.0)), Cut(axis=1, index=2))
        >>> [float(end) for end in (*axes.get_xlim(), *axes.get_ylim())]
        [4.0, 0.0, 0.0, 12.0]
    """
    across, up = (axis for axis in range(3) if axis != cut.axis)
    steps = (shown.spacing[across], shown.spacing[up])
    picture = _taken(shown.values, cut)
    extent = (0.0, picture.shape[1] * steps[0], 0.0, picture.shape[0] * steps[1])
    low, high = shown.limits or (None, None)
    axes.imshow(
        picture, cmap=shown.colours, vmin=low, vmax=high, origin="lower", extent=extent,
        interpolation=shown.interpolation,
    )  # fmt: skip
    for outline in outlines:
        _outline(axes, outline, _taken(outline.mask, cut), steps)
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    axes.set_aspect("equal")
    axes.axis("off")
    first, last = _SIDES[cut.axis]
    if cut.axis != 0 if mirrored is None else mirrored:
        axes.invert_xaxis()
        first, last = last, first
    if sides:
        _write(axes, 0.01, 0.5, first, ha="left")
        _write(axes, 0.99, 0.5, last, ha="right")
    if caption:
        _write(axes, 0.5, 0.02, caption, ha="center")


def for_the_eye(values: Array) -> Array:
    """Scale intensities to 0..1: what is darkest and brightest in the foreground is cut off.

    Args:
        values: Of any range; the background is what is lowest.

    Example:
        >>> for_the_eye(np.array([0.0, 0.0, 1.0, 2.0, 3.0])).round(1)
        array([0. , 0. , 0.2, 0.6, 1. ])
    """
    lowest = float(values.min())
    foreground = values[values > lowest]
    if foreground.size == 0:
        return np.zeros_like(values)
    low, high = np.percentile(foreground[:: max(1, foreground.size // 200_000)], (1.0, 99.5))
    low = min(low, lowest + 0.2 * (high - lowest))
    scaled: Array = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    return scaled


def _taken(values: Array, cut: Cut) -> Array:
    """Return the slice with the second remaining axis first."""
    window = [slice(*ends) for ends in cut.bounds] if cut.bounds else [slice(None)] * 3
    taken: Array = values[tuple(cut.index if axis == cut.axis else window[axis] for axis in range(3))].T
    return taken


def _outline(axes: Axes, outline: Outline, mask: Array, steps: tuple[float, float]) -> None:
    if not mask.any():
        return
    padded = np.pad(mask.astype(float), 1)
    x, y = ((np.arange(n) - 0.5) * step for n, step in zip(padded.shape[::-1], steps, strict=True))
    if outline.fill:
        extent = (0.0, mask.shape[1] * steps[0], 0.0, mask.shape[0] * steps[1])
        rgba = np.zeros((*mask.shape, 4))
        rgba[mask.astype(bool)] = (*to_rgb(outline.colour), outline.fill)
        axes.imshow(rgba, origin="lower", extent=extent, interpolation="nearest")
    axes.contour(x, y, padded, levels=[0.5], colors=[outline.colour], linewidths=outline.width)


def _write(axes: Axes, x: float, y: float, text: str, *, ha: str) -> None:
    """Write white on a black outline, readable on any tissue."""
    stroke = [withStroke(linewidth=2, foreground="black")]
    axes.text(
        x,
        y,
        text,
        color="white",
        fontsize=7,
        ha=ha,
        va="bottom",
        transform=axes.transAxes,
        path_effects=stroke,
    )
