"""Picture the worst cases: a row of slices each, with the predicted and the true outline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume, VolumeError
from anystroke.evaluation.masks import read_mask, resampled_mask
from anystroke.reports.slices import PREDICTED, TRUE

_SLICES = 7
_PANEL = 1.7  # inches


@dataclass(frozen=True, eq=False)
class PicturedCase:
    """A case to draw.

    Attributes:
        title: A line above it.
        prediction: File of the mask; None draws none.
        truth: File of the mask.
        scan: File of the scan; None draws the outlines on black.
        labels: Of the lesion in prediction and truth, where they are label maps.
        threshold: Where the prediction is probabilities.
    """

    title: str
    prediction: Path | None
    truth: Path
    scan: Path | None = None
    labels: tuple[str | None, str | None] = (None, None)
    threshold: float | None = None


def case_mosaics(cases: Sequence[PicturedCase], path: Path) -> list[str]:
    """Draw a row of axial slices for each case, from the lowest to the highest slice of either mask.

    Args:
        cases: What to draw.
        path: The PNG.

    Returns:
        Sentences about cases that could not be drawn.
    """
    rows, problems = [], []
    for case in cases:
        try:
            rows.append((case.title, *_load(case)))
        except (ValueError, OSError, VolumeError) as error:
            problems.append(f"{case.title}: {' '.join(str(error).split())}")
    if not rows:
        return problems
    figure = Figure(figsize=(_SLICES * _PANEL, len(rows) * (_PANEL * 1.2 + 0.3) + 0.3), facecolor="black")
    canvas = FigureCanvasAgg(figure)
    height = 0.3 / figure.get_figheight()
    figure.text(0.005, 1 - height / 2, "Predicted", color=PREDICTED, fontsize=9, va="center")
    figure.text(0.065, 1 - height / 2, "true", color=TRUE, fontsize=9, va="center")
    figure.text(
        0.1, 1 - height / 2, "radiological view: the patient's left is on the right",
        color="white", fontsize=9, va="center",
    )  # fmt: skip
    step = (1 - height) / len(rows)
    for number, (title, scan, predicted, true, spacing) in enumerate(rows):
        top = 1 - height - number * step
        share = step * 0.3 / (_PANEL * 1.2 + 0.3)
        figure.text(0.005, top - share / 2, title, color="white", fontsize=8, va="center", parse_math=False)
        for column, index in enumerate(_slices(predicted | true)):
            axes = figure.add_axes((column / _SLICES, top - step, 1 / _SLICES, step - share))
            extent = (0.0, scan.shape[0] * spacing[0], 0.0, scan.shape[1] * spacing[1])
            axes.imshow(scan[:, :, index].T, cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent)
            for mask, colour in ((true, TRUE), (predicted, PREDICTED)):
                _outline(axes, mask[:, :, index], spacing, colour)
            axes.set_aspect("equal")
            axes.invert_xaxis()
            axes.axis("off")
    with atomic_path(path, overwrite=True) as temporary:
        canvas.print_figure(str(temporary), dpi=90, format="png")
    return problems


def title_of(case: str, values: Mapping[str, float]) -> str:
    """Write what went wrong in one line."""
    return (
        f"{case}: Dice {values.get('dice', float('nan')):.3f}, true {values.get('truth_ml', 0):.1f} ml, "
        f"predicted {values.get('predicted_ml', 0):.1f} ml"
    )


def _load(case: PicturedCase) -> tuple[Array, Array, Array, tuple[float, float, float]]:
    """Return scan, masks and voxel size, in RAS on the grid of the truth."""
    truth = read_mask(case.truth, label=case.labels[1]).mask
    predicted = Volume(torch.zeros_like(truth.data), truth.affine)
    if case.prediction is not None:
        found = read_mask(case.prediction, label=case.labels[0], threshold=case.threshold).mask
        predicted = resampled_mask(found, truth.affine, truth.shape)[0]
    picture = Volume(torch.zeros(truth.data.shape), truth.affine)
    if case.scan is not None:
        picture = Volume.load(case.scan).resample_to(truth.affine, truth.shape)
    views = [volume.reorient("RAS") for volume in (picture, predicted, truth)]
    scan, first, second = (view.data[0].numpy() for view in views)
    low, high = np.percentile(scan, (1.0, 99.7))
    shown = np.clip((scan - low) / max(high - low, 1e-12), 0, 1)
    return shown, first, second, views[0].spacing


def _slices(mask: Array) -> list[int]:
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    if filled.size == 0:
        filled = np.arange(mask.shape[2] // 4, 3 * mask.shape[2] // 4)
    chosen = np.linspace(0, filled.size - 1, min(_SLICES, filled.size)).round().astype(int)
    return [int(index) for index in filled[chosen]]


def _outline(axes: Any, mask: Array, spacing: tuple[float, float, float], colour: str) -> None:
    if not mask.any():
        return
    padded = np.pad(mask.astype(float), 1)
    x = (np.arange(padded.shape[0]) - 0.5) * spacing[0]
    y = (np.arange(padded.shape[1]) - 0.5) * spacing[1]
    axes.contour(x, y, padded.T, levels=[0.5], colors=[colour], linewidths=0.9)
