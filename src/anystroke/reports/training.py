"""Pictures of a training: its curves, and samples of what it learns from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from anystroke.core.files import atomic_path
from anystroke.reports.slices import Cut, Shown, panel

VALIDATION_HEADINGS = {
    "set": "patients",
    "median_dice": "median Dice",
    "mean_dice": "mean Dice",
    "mean_f1": "mean lesion-wise F1",
    "score": "score",
    "median_volume_error_ml": "median volume error (ml)",
    "mean_accuracy": "1 - relative error",
    "retrieved": "found again by another contrast",
    "same_patient": "cosine, same patient",
    "other_patient": "cosine, other patients",
    "noisy_psnr": "PSNR of noisy scans (dB)",
    "psnr": "PSNR (dB)",
    "balanced_accuracy": "balanced accuracy",
}
"""What a page calls the columns of a validation."""


def draw_curves(
    rows: Sequence[Mapping[str, str]], validations: Sequence[Mapping[str, str]], path: Path, criterion: str
) -> None:
    """Draw the loss of each step, and the validations.

    Args:
        rows: Of the log: ``step`` and ``loss``.
        validations: ``step``, ``set``, ``group`` and the criterion; those of the group ``all`` are drawn.
        path: PNG.
        criterion: Column of validations to draw.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps = np.array([int(row["step"]) for row in rows])
    losses = np.array([float(row["loss"]) for row in rows])
    left.plot(steps, losses, color="0.8", linewidth=0.5)
    width = max(1, len(losses) // 50)
    if len(losses) >= width:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        left.plot(steps[width - 1 :], smooth, color="tab:blue", label=f"mean of {width} steps")
        left.legend()
    left.set(xlabel="step", ylabel="loss", yscale="log")
    totals = [
        row for row in validations if row["group"] == "all" and row["set"] != "healthy" and row.get(criterion)
    ]
    for of in sorted({row["set"] for row in totals}):
        points = [(int(row["step"]), float(row[criterion])) for row in totals if row["set"] == of]
        right.plot(*zip(*points, strict=True), marker="o", label=f"{of} patients")
    if totals:
        right.legend()
    shares = all(0 <= float(row[criterion]) <= 1 for row in totals)
    right.set(
        xlabel="step",
        ylabel=f"{VALIDATION_HEADINGS.get(criterion, criterion)} of validation",
        ylim=(0, 1) if shares else None,
    )
    with atomic_path(path, overwrite=True) as part:
        figure.savefig(part, dpi=110)


def sample_sheet(cases: Sequence[tuple[Tensor, Tensor, Tensor, str]], path: Path) -> None:
    """Draw the largest lesion slice of each case beside its target and the predicted probability.

    Args:
        cases: ``(image, lesion, probability, title)``: three (X, Y, Z) tensors in RAS+ order and a caption.
        path: PNG to write; its folder is made.
    """
    figure = Figure(figsize=(6, 2.4 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, (image, lesion, probability, title) in zip(axes, cases, strict=True):
        area = lesion.sum((0, 1))
        z = int(area.argmax()) if float(area.max()) > 0 else lesion.shape[2] // 2
        shown = ((image, None), (lesion.float(), 1.0), (probability, 1.0))
        for axis, (volume, top) in zip(row, shown, strict=True):
            limits = None if top is None else (0.0, top)
            panel(axis, Shown(volume.numpy(), limits=limits), Cut(2, z), mirrored=False)
        row[0].set_title(title, fontsize=7, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def map_sheet(
    image: Tensor, truth: Tensor, found: Tensor, names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw the middle slice of a scan, and of each true map beside the estimated one.

    Args:
        image: (X, Y, Z) in RAS+ order.
        truth: (K, X, Y, Z).
        found: Likewise.
        names: Of the maps.
        path: PNG to write; its folder is made.
        title: Caption.
    """
    figure = Figure(figsize=(2.2 * (len(names) + 1), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(names) + 1, squeeze=False)
    z = image.shape[2] // 2
    for row, maps in zip(axes, (truth, found), strict=True):
        panel(row[0], Shown(image.numpy(), limits=None), Cut(2, z), mirrored=False)
        for axis, name, volume, true in zip(row[1:], names, maps, truth, strict=True):
            top = float(true.flatten().kthvalue(max(int(0.98 * true.numel()), 1)).values)
            shown = Shown(volume.numpy(), limits=(0.0, top or 1.0), colours="viridis")
            panel(axis, shown, Cut(2, z), mirrored=False)
            axis.set_title(name, fontsize=7)
    axes[0][0].set_title(title, fontsize=7, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def view_sheet(views: Tensor, clean: Tensor | None, remade: Tensor | None, path: Path, *, title: str) -> None:
    """Draw the middle slice of two views of patients, of what they should be, and of what was made of them.

    Args:
        views: (B, 2, X, Y, Z).
        clean: Likewise; None to leave it out.
        remade: Likewise.
        path: PNG to write; its folder is made.
        title: Caption.
    """
    named = [("view", views), ("without artefacts", clean), ("made again", remade)]
    shown = [(name, images) for name, images in named if images is not None]
    columns = 2 * len(shown)
    figure = Figure(figsize=(1.8 * columns, 1.9 * len(views)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(views), columns, squeeze=False)
    middle = views.shape[-1] // 2
    for patient, row in enumerate(axes):
        for number in range(2):
            for place, (name, images) in enumerate(shown):
                axis = row[number * len(shown) + place]
                axis.imshow(images[patient, number, :, :, middle].T.numpy(), cmap="gray", origin="lower")
                axis.set_axis_off()
                if patient == 0:
                    axis.set_title(f"{name} {number + 1}", fontsize=7)
    figure.suptitle(title, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def picture_sheet(columns: Mapping[str, Tensor], path: Path, *, title: str) -> None:
    """Draw the middle slice of each case, a column for each kind of picture.

    Args:
        columns: Name of a column -> (B, X, Y, Z).
        path: PNG to write; its folder is made.
        title: Caption.
    """
    count = len(next(iter(columns.values())))
    figure = Figure(figsize=(2.0 * len(columns), 2.2 * count), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, len(columns), squeeze=False)
    for case, row in enumerate(axes):
        for axis, (name, images) in zip(row, columns.items(), strict=True):
            middle = images.shape[-1] // 2
            axis.imshow(images[case, :, :, middle].T.numpy(), cmap="gray", origin="lower")
            axis.set_axis_off()
            if case == 0:
                axis.set_title(name, fontsize=7)
    figure.suptitle(title, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
