"""The picture of the benchmark: what each change costs each model."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.files import atomic_path
from anystroke.reports.plots import COLOURS
from anystroke.studies.benchmark.effects import Effect


def effects_plot(effects: Sequence[Effect], path: Path) -> None:
    """Draw the change of Dice by each change of the scan, with its bootstrap interval, a panel a sequence.

    Args:
        effects: Those of all models and sequences.
        path: The PNG.
    """
    drawn = [effect for effect in effects if effect.metric == "dice"]
    models = list(dict.fromkeys(effect.model for effect in drawn))
    sequences = list(dict.fromkeys(effect.sequence for effect in drawn))
    levels = list(dict.fromkeys((effect.factor, effect.level) for effect in drawn))
    figure = Figure(
        figsize=(2.2 + 2.4 * max(1, len(sequences)), 1.2 + 0.45 * max(1, len(levels))), layout="constrained"
    )
    panels = figure.subplots(1, max(1, len(sequences)), sharey=True, sharex=True, squeeze=False)[0]
    step = 0.7 / max(1, len(models))
    for axes, sequence in zip(panels, sequences, strict=False):
        for effect in (one for one in drawn if one.sequence == sequence):
            if math.isnan(effect.difference):
                continue
            number = models.index(effect.model)
            height = levels.index((effect.factor, effect.level)) + (number - (len(models) - 1) / 2) * step
            colour = COLOURS[number % len(COLOURS)]
            if not math.isnan(effect.low):
                axes.plot([effect.low, effect.high], [height, height], color=colour, linewidth=1.5)
            axes.plot(effect.difference, height, "o", color=colour, markersize=4)
        axes.axvline(0, color="#999", linewidth=0.8)
        axes.set_title("all sequences" if sequence == "all" else sequence, fontsize=9)
        axes.set_xlabel("change of Dice", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(levels)), [f"{factor}: {level}" for factor, level in levels])
    panels[0].invert_yaxis()
    for number, model in enumerate(models):
        panels[-1].plot([], [], "o-", color=COLOURS[number % len(COLOURS)], label=model)
    if models:
        panels[-1].legend(frameon=False, fontsize=8, loc="best")
    canvas = FigureCanvasAgg(figure)
    with atomic_path(path, overwrite=True) as temporary:
        canvas.print_figure(str(temporary), dpi=110, format="png")
