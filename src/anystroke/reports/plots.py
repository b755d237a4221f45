"""Plots of scores: boxes with every case, Bland-Altman, Dice over lesion size, reliability."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.evaluation.metrics.calibration import Reliability
from anystroke.evaluation.statistics import stars
from anystroke.evaluation.summaries import Difference, Judged
from anystroke.reports.tables import column_title

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Colour-blind safe (Okabe and Ito 2008)."""
_SWARM_BINS = 40
_HALF_WIDTH = 0.32


def box_plot(models: Sequence[Judged], tests: Sequence[Difference], metric: str, path: Path) -> None:
    """Draw a box and every case of each model, and a bracket for each pair that differs.

    Args:
        models: Whose scores.
        tests: Comparisons; those of this metric in all cases are drawn where the corrected p is at most 0.05.
        metric: Name.
        path: The PNG.
    """
    scores = {model.name: _scores(model, metric) for model in models}
    figure = Figure(figsize=(max(4.0, 1.1 * len(models) + 2.0), 4.8), layout="constrained")
    axes = figure.add_subplot()
    shown = {name: values[np.isfinite(values)] for name, values in scores.items()}
    drawn = [values if values.size else np.array([math.nan]) for values in shown.values()]
    axes.boxplot(
        drawn,
        positions=range(len(models)),
        widths=2 * _HALF_WIDTH,
        showfliers=False,
        medianprops={"color": "black", "linewidth": 1.5},
    )
    top, bottom = 0.0, 0.0
    for place, (name, values) in enumerate(shown.items()):
        colour = COLOURS[place % len(COLOURS)]
        axes.scatter(place + _swarm(values), values, s=9, color=colour, alpha=0.6, linewidths=0, zorder=3)
        top = max(top, float(values.max(initial=0)))
        lost = scores[name].size - values.size
        if lost:
            axes.text(place, -0.13, f"{lost} undefined\nor infinite", ha="center", va="top", fontsize=7,
                      color="#a00", transform=axes.get_xaxis_transform())  # fmt: skip
    span = max(top - bottom, 1e-9)
    _brackets(axes, models, [t for t in tests if t.metric == metric], top, span)
    axes.set_xticks(range(len(models)), [model.name for model in models])
    axes.set_ylabel(column_title(metric))
    _plain(axes)
    _save(figure, path)


def bland_altman(models: Sequence[Judged], path: Path) -> None:
    """Draw the difference of predicted and true volume over their mean, with mean and 1.96 SD.

    Bland and Altman, Lancet 1 (1986) 307-310, doi:10.1016/S0140-6736(86)90837-8.
    """
    figure = Figure(figsize=(4.2 * len(models), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(models), sharey=True, squeeze=False)[0])
    for place, (axes, model) in enumerate(zip(panels, models, strict=True)):
        true, predicted = _scores(model, "truth_ml"), _scores(model, "predicted_ml")
        both = np.isfinite(true) & np.isfinite(predicted)
        mean, difference = (true + predicted)[both] / 2, (predicted - true)[both]
        axes.scatter(mean, difference, s=14, color=COLOURS[place % len(COLOURS)], alpha=0.7, linewidths=0)
        axes.axhline(0, color="#999", linewidth=0.8)
        if difference.size > 1:
            bias, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
            for height, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
                axes.axhline(height, color="black", linewidth=1, linestyle=style)
            axes.set_title(f"{model.name}: {bias:+.1f} ml, limits {bias - spread:.1f} to {bias + spread:.1f}",
                           fontsize=9)  # fmt: skip
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel("mean of true and predicted volume [ml]")
        _plain(axes)
    panels[0].set_ylabel("predicted - true volume [ml]")
    _save(figure, path)


def size_plot(models: Sequence[Judged], path: Path) -> None:
    """Draw Dice over the true volume, with the median of each fifth of the cases with a lesion."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for place, model in enumerate(models):
        colour = COLOURS[place % len(COLOURS)]
        volume, dice = _scores(model, "truth_ml"), _scores(model, "dice")
        chosen = np.isfinite(dice) & (volume > 0)
        volume, dice = volume[chosen], dice[chosen]
        axes.scatter(volume, dice, s=14, color=colour, alpha=0.5, linewidths=0)
        order = volume.argsort()
        groups = [part for part in np.array_split(order, min(5, max(1, order.size // 3))) if part.size]
        points = [(np.exp(np.log(volume[part]).mean()), np.median(dice[part])) for part in groups]
        axes.plot(*zip(*points, strict=True), color=colour, marker="s", markersize=4, label=model.name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("true volume [ml]")
    axes.set_ylabel("Dice")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    _save(figure, path)


def reliability_plot(sums: Mapping[str, Reliability], path: Path) -> None:
    """Draw the share of lesion over the predicted probability, and the number of voxels below."""
    figure = Figure(figsize=(4.6, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    above.plot([0, 1], [0, 1], color="#999", linewidth=0.8)
    for place, (name, one) in enumerate(sums.items()):
        colour = COLOURS[place % len(COLOURS)]
        filled = one.count > 0
        x, y = one.predicted[filled] / one.count[filled], one.true[filled] / one.count[filled]
        label = f"{name} (ECE {one.expected_calibration_error():.3f})"
        above.plot(x, y, color=colour, marker="o", markersize=4, label=label)
        below.step(x, one.count[filled], color=colour, where="mid")
    above.set_ylabel("share of voxels that are lesion")
    above.legend(frameon=False, fontsize=8)
    below.set_yscale("log")
    below.set_ylabel("voxels")
    below.set_xlabel("predicted probability")
    for axes in (above, below):
        _plain(axes)
    _save(figure, path)


def _scores(model: Judged, metric: str) -> Array:
    cases = dict.fromkeys(case for run in model.runs for case in run.cases)
    return np.array([model.score(case, metric) for case in cases if not model.failed(case)], dtype=np.float64)


def _swarm(values: Array) -> Array:
    """Return sideways shifts so that equal values lie side by side."""
    if values.size < 2 or values.max() == values.min():
        return np.linspace(-1, 1, values.size) * _HALF_WIDTH * min(1.0, values.size / 12)
    bins = np.minimum(((values - values.min()) / np.ptp(values) * _SWARM_BINS).astype(int), _SWARM_BINS - 1)
    largest = max(int(np.bincount(bins).max()), 8)
    shifts = np.zeros(values.size)
    for number in np.unique(bins):
        members = np.flatnonzero(bins == number)
        centred = np.arange(members.size) - (members.size - 1) / 2
        shifts[members] = centred * 2 * _HALF_WIDTH / largest
    return shifts


def _brackets(
    axes: Axes, models: Sequence[Judged], tests: Sequence[Difference], top: float, span: float
) -> None:
    names = [model.name for model in models]
    level = 0
    for test in tests:
        if test.stratum.kind != "all" or not test.corrected <= 0.05:
            continue
        left, right = sorted((names.index(test.first), names.index(test.second)))
        height = top + (0.05 + 0.075 * level) * span
        tick = 0.015 * span
        axes.plot([left, left, right, right], [height, height + tick, height + tick, height],
                  color="black", linewidth=0.9)  # fmt: skip
        axes.text(
            (left + right) / 2, height + tick, stars(test.corrected), ha="center", va="bottom", fontsize=9
        )
        level += 1


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _save(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    with atomic_path(path, overwrite=True) as temporary:
        canvas.print_figure(str(temporary), dpi=110, format="png")
