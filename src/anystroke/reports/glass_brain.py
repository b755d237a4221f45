"""Lesions in MNI space on nilearn's glass brain."""

from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
from torch import Tensor

from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume

_RED = ("#fbb4ae", "#c0392b", "#67000d")
_STATEMENT = "MNI space; the patient's left is on the left"


def overlap(maps: Iterable[Volume]) -> Volume:
    """Sum lesions on one grid: in how many scans each voxel is lesion.

    Args:
        maps: (1, X, Y, Z) each, the share of a voxel that is lesion; of one grid.

    Returns:
        float32 of that grid.

    Raises:
        ValueError: There is no map.

    Example:
        >>> import torch
        >>> overlap([Volume(torch.ones(1, 4, 4, 4), torch.eye(4))] * 2).data.max()
        tensor(2.)
    """
    total: Volume | None = None
    for each in maps:
        inside = _inside(each)
        total = Volume(inside if total is None else total.data + inside, each.affine, 4)
    if total is None:
        raise ValueError("expected at least one map of a lesion, got none")
    return total


def glass_brain(values: Volume, path: str | Path, *, title: str = "", count: int = 0) -> None:
    """Draw the largest values along each axis of MNI space, seen from the side, the back and above, as a PNG.

    Args:
        values: Not negative: the share of each voxel that is lesion, or in how many scans it is.
        path: The PNG to write.
        title: A line above the picture.
        count: Number of scans; with a scale of how many are lesion. 0 draws one lesion in one colour.

    Example:
        >>> glass_brain(Volume.load("lesion_in_mni.nii.gz"), "glass.png")  # doctest: +SKIP
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # with nilearn's, seconds
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from nilearn.plotting import plot_glass_brain

    data = values.data[0].float() if count else _inside(values)[0]
    most = max(float(data.max()), 1.0)
    figure = Figure(figsize=(9.6, 3.4), facecolor="white")
    canvas = FigureCanvasAgg(figure)
    words = "   ".join(part for part in (title, _STATEMENT) if part)
    figure.text(0.01, 0.95, words, fontsize=9, va="center", parse_math=False)
    colours = LinearSegmentedColormap.from_list("lesion", _RED if count else _RED[1:2] * 2)
    drawn = bool(data.any())
    plot_glass_brain(
        nib.Nifti1Image(data.numpy(), values.affine.numpy()) if drawn else None,
        figure=figure,
        axes=(0.0, 0.0, 0.9 if count else 1.0, 0.9),
        threshold=0.5 if drawn else "auto",
        cmap=colours,
        vmin=0.0 if count else None,
        vmax=most,
        colorbar=False,
        plot_abs=False,
    )
    if count:
        scale = ScalarMappable(Normalize(0.0, most), colours)
        place = figure.add_axes((0.93, 0.12, 0.015, 0.66))
        figure.colorbar(scale, cax=place, ticks=MaxNLocator(5, integer=True), label="scans")
    with atomic_path(Path(path), overwrite=True) as temporary:
        canvas.print_figure(str(temporary), dpi=100, format="png")


def _inside(share: Volume) -> Tensor:
    """Mark what is lesion: half of a voxel or more, or as much as there is of one that is nowhere larger."""
    least = min(0.5, float(share.data.max()))
    return ((share.data >= least) & (share.data > 0)).float()
