"""Picture the worst cases: a row of slices each, with the predicted and the true outline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.core.volume import Volume, VolumeError
from anystroke.evaluation.masks import read_mask, resampled_mask
from anystroke.reports.slices import (
    PREDICTED,
    RADIOLOGICAL,
    TRUE,
    Cut,
    Outline,
    Shown,
    for_the_eye,
    panel,
)

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
        0.1, 1 - height / 2, f"radiological view: {RADIOLOGICAL}",
        color="white", fontsize=9, va="center",
    )  # fmt: skip
    step = (1 - height) / len(rows)
    for number, (title, scan, predicted, true, spacing) in enumerate(rows):
        top = 1 - height - number * step
        share = step * 0.3 / (_PANEL * 1.2 + 0.3)
        figure.text(0.005, top - share / 2, title, color="white", fontsize=8, va="center", parse_math=False)
        for column, index in enumerate(_slices(predicted | true)):
            axes = figure.add_axes((column / _SLICES, top - step, 1 / _SLICES, step - share))
            outlines = (Outline(true, TRUE), Outline(predicted, PREDICTED))
            panel(axes, Shown(scan, spacing), Cut(2, index), outlines)
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
    return for_the_eye(scan), first, second, views[0].spacing


def _slices(mask: Array) -> list[int]:
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    if filled.size == 0:
        filled = np.arange(mask.shape[2] // 4, 3 * mask.shape[2] // 4)
    chosen = np.linspace(0, filled.size - 1, min(_SLICES, filled.size)).round().astype(int)
    return [int(index) for index in filled[chosen]]
