"""Pages about models of outcomes: what training found, and how models compare."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.reports.theme import write_page

SCORE_WORDS: Mapping[str, str] = {
    "r": "r, correlation",
    "spearman": "Spearman's rank correlation",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2, share of the variance that is explained",
    "auc": "AUC, area under the receiver operating characteristic",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy, mean over the classes",
    "f1": "F1 of the second class",
    "ece": "ECE, expected calibration error",
    "brier": "Brier score, mean squared error of the probability",
    "within_one": "share within one grade",
}
"""Scores of outcome models in words."""

OutcomeRow = Mapping[str, Any]

_COLOUR = "#34699a"
_RED = "#c0392b"


def figure_text(value: Any) -> str:
    """Write a cell of a table.

    Example:
        >>> figure_text(0.12345), figure_text(float("nan")), figure_text("a")
        ('0.123', 'n/a', 'a')
    """
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def write_training_page(path: Path, evaluation: Mapping[str, Any], rows: Sequence[OutcomeRow]) -> Path:
    """Write what is known of a trained model.

    Args:
        path: The page.
        evaluation: As `tasks.outcome.train` makes it.
        rows: ``target`` and out-of-fold ``prediction`` of each patient.

    Returns:
        The page.
    """
    target = np.array([float(row["target"]) for row in rows])
    predicted = np.array([float(row["prediction"]) for row in rows])
    kind = evaluation["target"]["kind"]
    picture = (
        scatter(predicted, target) if kind == "number" else strips(predicted, target, evaluation["target"])
    )
    groups = evaluation["subgroups"]
    columns = [name for name in (groups[0] if groups else {}) if name not in ("by", "group")]
    write_page(
        path,
        "outcome_training.html",
        words=SCORE_WORDS,
        evaluation=evaluation,
        picture=picture,
        groups=groups,
        columns=columns,
        figure=figure_text,
    )
    return path


def write_comparison_page(path: Path, made: Mapping[str, Any]) -> Path:
    """Write how models compare.

    Args:
        path: The page.
        made: As `tasks.outcome.comparison` makes it.

    Returns:
        The page.
    """
    main = made["main_score"]
    names = [row["model"] for row in made["models"]]
    values = [float(row[main]) for row in made["models"]]
    spans = [(float(row["low"]), float(row["high"])) for row in made["models"]]
    picture = bars(names, values, spans=spans, label=main)
    write_page(path, "outcome_comparison.html", made=made, picture=picture, figure=figure_text)
    return path


def scatter(predicted: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> str:
    """Draw numbers over their predictions; returns a PNG in base64."""
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.add_subplot()
    axes.scatter(predicted, target, s=16, alpha=0.6, color=_COLOUR, edgecolors="none")
    low, high = float(min(predicted.min(), target.min())), float(max(predicted.max(), target.max()))
    axes.plot([low, high], [low, high], color="grey", linewidth=0.8)
    axes.set_xlabel("predicted for a patient held out")
    axes.set_ylabel("true")
    return embedded(figure)


def strips(predicted: np.ndarray[Any, Any], target: np.ndarray[Any, Any], facts: Mapping[str, Any]) -> str:
    """Draw the predictions of each class; returns a PNG in base64."""
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.add_subplot()
    present = [k for k in range(len(facts["classes"])) if (target == k).any()]
    axes.boxplot([predicted[target == k] for k in present], orientation="horizontal", widths=0.6)
    axes.set_yticks(range(1, len(present) + 1), [facts["classes"][k] for k in present])
    words = (
        "probability of " + str(facts["classes"][-1]) if facts["kind"] == "two_classes" else "expected class"
    )
    axes.set_xlabel(f"{words}, for a patient held out")
    axes.set_ylabel("true")
    return embedded(figure)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    *,
    spans: Sequence[tuple[float, float]] = (),
    label: str = "",
    signed: bool = False,
) -> str:
    """Draw horizontal bars, the first on top; returns a PNG in base64.

    Args:
        names: Of the bars.
        values: Their lengths.
        spans: Ends of intervals.
        label: Of the axis.
        signed: Colour those below zero otherwise.
    """
    figure = Figure(figsize=(7.0, 0.32 * len(names) + 0.9))
    axes = figure.add_subplot()
    places = np.arange(len(names))[::-1]
    colours = [_RED if signed and value > 0 else _COLOUR for value in values]
    axes.barh(places, values, color=colours, height=0.65)
    for place, (low, high) in zip(places, spans, strict=False):
        axes.plot([low, high], [place, place], color="black", linewidth=1.2)
    axes.set_yticks(places, names, fontsize=8)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel(label)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return embedded(figure)


def embedded(figure: Figure) -> str:
    """Return a figure as a PNG in base64."""
    buffer = io.BytesIO()
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(buffer)
    return base64.b64encode(buffer.getvalue()).decode()
