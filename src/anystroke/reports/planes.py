"""A picture of a predicted mask beside the true one."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume, VolumeError
from anystroke.reports.slices import PREDICTED, TRUE, Cut, Outline, Shown, for_the_eye, panel

_COLUMNS = ("scan", "predicted", "true")
_WIDTH = 2.6  # inches per panel


def comparison(
    scan: Volume, prediction: Volume, truth: Volume, path: str | Path, *, overwrite: bool = False
) -> None:
    """Draw the axial, coronal and sagittal slice with the largest lesion: scan, predicted mask, true mask.

    The patient's left is on the right, as in radiology.

    Args:
        scan: One channel.
        prediction: Non-zero in the predicted mask; on the grid of ``scan``.
        truth: Non-zero in the true mask; on the grid of ``scan``.
        path: The PNG to write; its folder must exist.
        overwrite: Whether an existing file may be replaced.

    Raises:
        VolumeError: The volumes are on different grids.
        FileExistsError: ``path`` exists and ``overwrite`` is False.

    Example:
        >>> import tempfile, torch
        >>> scan = Volume(torch.rand(1, 16, 16, 16), torch.eye(4))
        >>> mask = Volume(scan.data > 0.9, scan.affine)
        >>> comparison(scan, mask, mask, Path(tempfile.mkdtemp()) / "comparison.png")
    """
    if not scan.shape == prediction.shape == truth.shape:
        raise VolumeError(
            f"a picture needs scan and masks on one grid, got {scan.shape}, {prediction.shape} and "
            f"{truth.shape}; resample the masks first"
        )
    views = [volume.reorient("RAS") for volume in (scan, prediction, truth)]
    spacing = views[0].spacing
    values = for_the_eye(views[0].data[0].float().numpy())
    predicted, true = ((view.data[0] != 0).numpy() for view in views[1:])
    shown = Shown(values, spacing)
    slices = [(axis, _largest(true if true.any() else predicted, axis)) for axis in (2, 1, 0)]

    heights = [spacing[1 if axis == 2 else 2] * values.shape[1 if axis == 2 else 2] for axis, _ in slices]
    widths = [spacing[1 if axis == 0 else 0] * values.shape[1 if axis == 0 else 0] for axis, _ in slices]
    ratios = [height / width for height, width in zip(heights, widths, strict=True)]
    figure = Figure(
        figsize=(3 * _WIDTH, sum(ratios) * _WIDTH + 0.35), facecolor="black", layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(3, 3, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for row, (axis, index) in enumerate(slices):
        marks = ((None, ""), (predicted, PREDICTED), (true, TRUE))
        for column, (mask, colour) in enumerate(marks):
            outlines = () if mask is None else (Outline(mask, colour, width=1.2, fill=0.25),)
            panel(panels[row, column], shown, Cut(axis, index), outlines, sides=axis != 0)
            if row == 0:
                panels[row, column].set_title(_COLUMNS[column], color=colour or "white", fontsize=10)
    with atomic_path(path, overwrite=overwrite) as temporary:
        canvas.print_figure(str(temporary), dpi=90, format="png")


def _largest(mask: Array, axis: int) -> int:
    """Find the slice with most of the mask; the middle one if it is empty."""
    if not mask.any():
        return int(mask.shape[axis]) // 2
    return int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax())
