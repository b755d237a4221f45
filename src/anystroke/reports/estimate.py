"""The page and the picture of maps that were estimated of a scan."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.reports.slices import RADIOLOGICAL, Bounds, Cut, Shown, panel
from anystroke.reports.theme import embed, write_page

_PANEL = 2.0  # inches
_HEADER = 0.35
_AROUND = 25.0  # mm of the head that is shown around the brain
_HEIGHT = 0.6  # of the axial slice within the brain


def draw_maps(
    panels: Mapping[str, Shown], brain: Array, path: str | Path, *, title: str, overwrite: bool = False
) -> None:
    """Draw an axial and a coronal slice of images and maps side by side, as a PNG.

    Args:
        panels: What to draw under which words, all of one grid.
        brain: (X, Y, Z) bool, which the slices go through; with some brain.
        path: The PNG to write; its folder must exist.
        title: A line above the picture.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is False.

    Example:
        >>> import tempfile
        >>> volume = np.random.default_rng(1).random((8, 8, 8))
        >>> draw_maps({"R1": Shown(volume)}, volume > 0.5, Path(tempfile.mkdtemp()) / "a.png", title="sub-01")
    """
    spacing = next(iter(panels.values())).spacing
    first, second, third = (_around(brain, axis, spacing[axis]) for axis in range(3))
    window: Bounds = (first, second, third)
    cuts = []
    for axis, share in ((2, _HEIGHT), (1, 0.5)):
        low, high = _ends(brain, axis)
        cuts.append(Cut(axis, int(low + share * (high - low)), window))
    sides = [(stop - start) * step for (start, stop), step in zip(window, spacing, strict=True)]
    tall = [sides[1] / sides[0], sides[2] / sides[0]]
    size = (_PANEL * len(panels), _PANEL * sum(tall) + 2 * _HEADER)
    figure = Figure(figsize=size, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    words = f"{title}   {RADIOLOGICAL}" if title else RADIOLOGICAL
    figure.text(
        0.005, 1 - 0.5 * _HEADER / size[1], words, color="white", fontsize=9, va="center", parse_math=False
    )
    bottom = size[1] - 2 * _HEADER
    for cut, ratio in zip(cuts, tall, strict=True):
        bottom -= _PANEL * ratio
        for column, (name, shown) in enumerate(panels.items()):
            place = (column / len(panels), bottom / size[1], 1 / len(panels), _PANEL * ratio / size[1])
            axes = figure.add_axes(place)
            panel(axes, shown, cut)
            if cut.axis == 2:
                axes.set_title(name, color="white", fontsize=8)
    with atomic_path(path, overwrite=overwrite) as temporary:
        canvas.print_figure(str(temporary), dpi=90, format="png")


def _ends(brain: Array, axis: int) -> tuple[int, int]:
    """Return the first and the last voxel of the brain along an axis."""
    inside = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
    return int(inside[0]), int(inside[-1])


def _around(brain: Array, axis: int, spacing: float) -> tuple[int, int]:
    """Return the first voxel that is shown along an axis, and the one behind the last."""
    first, last = _ends(brain, axis)
    margin = int(_AROUND / spacing)
    return max(0, first - margin), min(brain.shape[axis], last + margin + 1)


def write_estimate_report(
    path: Path,
    *,
    name: str,
    picture: Path,
    facts: Sequence[tuple[str, str]],
    maps: Sequence[Sequence[str]],
    warnings: Sequence[str] = (),
    assumed: Mapping[str, str] | None = None,
) -> None:
    """Write the page of one scan whose maps were estimated.

    Args:
        path: The HTML file.
        name: Of the scan.
        picture: PNG that is put into the page.
        facts: What to say about it, in two columns.
        maps: For each map its name, file, unit, and lower quartile, median and upper quartile in the brain.
        warnings: Sentences.
        assumed: What of the protocol was not told, and what was taken instead.

    Raises:
        OSError: A file cannot be read or written.
    """
    write_page(
        path,
        "estimate.html",
        name=name,
        picture=embed(picture),
        facts=facts,
        maps=maps,
        warnings=warnings,
        assumed=dict(assumed or {}),
    )
