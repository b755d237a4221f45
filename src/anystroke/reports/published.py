"""Figures that papers report, to print beside one's own."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from anystroke.core.errors import OptionError
from anystroke.evaluation.metrics.measure import METRICS
from anystroke.reports.tables import Style, figure, plain_table


@dataclass(frozen=True, eq=False)
class PublishedTable:
    """One table of a paper.

    Attributes:
        name: Short name.
        title: Paper and data set.
        source: Where it was printed.
        note: How its numbers were made, and what makes them hard to compare.
        cases: Number of cases.
        rows: (sequence, model, values by metric); volumes in ml.
    """

    name: str
    title: str
    source: str
    note: str
    cases: int
    rows: tuple[tuple[str, str, Mapping[str, float]], ...]

    def table(self, style: Style) -> str:
        """Write it in Markdown, LaTeX or HTML."""
        metrics = [m for m in METRICS if any(m in values for _, _, values in self.rows)]
        titles = [
            f"{METRICS[m].title} [{METRICS[m].unit}]" if METRICS[m].unit else METRICS[m].title
            for m in metrics
        ]
        rows = [
            (sequence, model, *(figure(values.get(m, math.nan), m) for m in metrics))
            for sequence, model, values in self.rows
        ]
        return plain_table(("sequence", "model", *titles), rows, style)


def published_tables() -> tuple[str, ...]:
    """Return the names of all tables.

    Example:
        >>> "qatlas-atlas" in published_tables()
        True
    """
    return tuple(_content()["table"])


def published_table(name: str) -> PublishedTable:
    """Return a table.

    Args:
        name: One of `published_tables`.

    Raises:
        OptionError: There is no such table.

    Example:
        >>> table = published_table("qatlas-atlas")
        >>> table.cases, table.rows[0][1], table.rows[0][2]["dice"]
        (131, 'Baseline', 0.575)
    """
    content = _content()
    if name not in content["table"]:
        raise OptionError(f"expected a table among {', '.join(content['table'])}, got {name!r}")
    entry = content["table"][name]
    paper = content["paper"][entry["paper"]]
    metrics, scales = paper["metrics"], paper["scales"]
    rows = [
        (
            sequence,
            model,
            {m: float(v) * s for m, v, s in zip(metrics, values, scales, strict=True) if v != "-"},
        )
        for sequence, models in entry["rows"].items()
        for model, values in models.items()
    ]
    title = f"{paper['title']}, {entry['data']} (N = {entry['cases']})"
    return PublishedTable(name, title, paper["source"], paper["note"], entry["cases"], tuple(rows))


@lru_cache(maxsize=1)
def _content() -> dict[str, Any]:
    text = (resources.files("anystroke.reports") / "published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
