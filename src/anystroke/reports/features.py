"""Features of scans as pictures: each scan a point, scans with like features near each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from anystroke.core.files import atomic_path
from anystroke.reports import theme

PAGE = "report.html"
_PERPLEXITY = 30.0
_SEED = 33
_MOST_NAMED = 12


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features that one encoder gives scans.

    Attributes:
        name: Of the encoder.
        features: (N, D), one row for each scan.
        facts: What is known of each scan, such as ``patient`` and ``weighting``.
    """

    name: str
    features: NDArray[np.floating]
    facts: Sequence[Mapping[str, str]]


def embed_in_plane(features: NDArray[np.floating]) -> NDArray[np.floating]:
    """Place scans in a plane, near those with like features, by t-SNE of standardised features.

    Perplexity (30, or a third of the scans if that is less) and seed (33) are those of arXiv 2501.12057.

    Args:
        features: (N, D) with N at least 4.

    Returns:
        (N, 2).

    Raises:
        ValueError: There are fewer scans.
    """
    from sklearn.manifold import TSNE

    if len(features) < 4:
        raise ValueError(f"expected features of at least 4 scans to draw, got {len(features)}; give more")
    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    placed: NDArray[np.floating] = TSNE(perplexity=perplexity, random_state=_SEED, init="pca").fit_transform(
        standard
    )
    return placed


def draw_plane(placed: NDArray[np.floating], of: FeatureSet, by: Sequence[str], path: Path) -> None:
    """Draw the scans in the plane once for each fact, coloured by it.

    Args:
        placed: (N, 2).
        of: What is drawn.
        by: Names of facts.
        path: PNG.
    """
    figure = Figure(figsize=(4.4 * len(by), 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(by), squeeze=False)[0], by, strict=True):
        values = [fact.get(name, "") for fact in of.facts]
        kinds = sorted(set(values))
        for number, kind in enumerate(kinds):
            chosen = np.array([value == kind for value in values])
            label = (kind or "real scans") if len(kinds) <= _MOST_NAMED else None
            colour = f"C{number % 10}" if len(kinds) <= _MOST_NAMED else _hue(number, len(kinds))
            marker = "*" if kind == "" else "o"
            axes.scatter(
                *placed[chosen].T, s=60 if marker == "*" else 16, color=colour, marker=marker, label=label
            )
        axes.set_title(f"{of.name}, by {name}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        if len(kinds) <= _MOST_NAMED:
            axes.legend(fontsize=7, frameon=False)
    with atomic_path(path, overwrite=True) as temporary:
        canvas.print_figure(str(temporary), dpi=100, format="png")


def _hue(number: int, count: int) -> tuple[float, float, float]:
    from matplotlib.colors import hsv_to_rgb

    red, green, blue = hsv_to_rgb((number / count, 0.8, 0.85))
    return float(red), float(green), float(blue)


def write_feature_page(
    folder: Path,
    sets: Sequence[FeatureSet],
    tables: Mapping[str, Sequence[Mapping[str, str]]],
    *,
    by: Sequence[str],
    notes: Sequence[str],
) -> Path:
    """Write a page of pictures and tables.

    Args:
        folder: Gets the page and a picture for each encoder.
        sets: Features of each encoder.
        tables: Heading -> rows.
        by: Facts that pictures are coloured by.
        notes: Sentences about what was done.

    Returns:
        The page.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for each in sets:
        path = folder / f"tsne_{each.name}.png"
        draw_plane(embed_in_plane(each.features), each, by, path)
        pictures.append((each.name, theme.embed(path)))
    theme.write_page(
        folder / PAGE,
        "features.html",
        names=[each.name for each in sets],
        scans=len(sets[0].facts),
        pictures=pictures,
        tables=tables,
        notes=list(notes),
    )
    return folder / PAGE
