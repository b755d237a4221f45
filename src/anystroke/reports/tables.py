"""Write the papers' tables: rows of stratum and model, best bold, second underlined, third italic."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from anystroke.evaluation.metrics.measure import METRICS
from anystroke.evaluation.statistics import Centre
from anystroke.evaluation.summaries import Summary

Style = Literal["markdown", "latex", "html"]
Interval = Literal["t", "bootstrap", "none"]

_MARKS: Mapping[Style, tuple[tuple[str, str], ...]] = {
    "markdown": (("**", "**"), ("<u>", "</u>"), ("*", "*")),
    "latex": ((r"\textbf{", "}"), (r"\underline{", "}"), (r"\textit{", "}")),
    "html": (("<b>", "</b>"), ("<u>", "</u>"), ("<i>", "</i>")),
}
_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "^": r"\^{}"}


@dataclass(frozen=True)
class TableLook:
    """What a table shows.

    Attributes:
        centre: Median or mean.
        interval: Which interval is in brackets.
        counts: Whether each cell says how many cases it leaves out.
    """

    centre: Centre = "median"
    interval: Interval = "t"
    counts: bool = True


def paper_table(summaries: Sequence[Summary], style: Style, look: TableLook | None = None) -> str:
    """Write summaries as a table.

    Args:
        summaries: Of one kind of strata; any number of metrics.
        style: Markdown, LaTeX (a ``tabular``) or HTML (a ``table``).
        look: What it shows.

    Returns:
        The table's text; numbers with rank 1 to 3 among the models of a stratum are marked.
    """
    look = look or TableLook()
    metrics = list(dict.fromkeys(one.metric for one in summaries))
    strata = list(dict.fromkeys(one.stratum.name for one in summaries))
    models = list(dict.fromkeys(one.model for one in summaries))
    kind = summaries[0].stratum.kind if summaries else ""
    cells = {(one.stratum.name, one.model, one.metric): one for one in summaries}
    header = [kind, "model", "cases", *(column_title(metric) for metric in metrics)]
    rows = []
    for stratum in strata:
        size = len(next(one.stratum.cases for one in summaries if one.stratum.name == stratum))
        ranks = {m: _ranks({x: _centre(cells[stratum, x, m], look) for x in models}, m) for m in metrics}
        for model in models:
            row = [_escape(stratum, style), _escape(model, style), str(size)]
            for metric in metrics:
                text = _cell(cells[stratum, model, metric], look, style)
                row.append(_marked(text, ranks[metric].get(model), style))
            rows.append(row)
    return _assemble([_escape(text, style) for text in header], rows, style)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], style: Style) -> str:
    """Write any cells as a table."""
    return _assemble(
        [_escape(text, style) for text in header],
        [[_escape(text, style) for text in row] for row in rows],
        style,
    )


def figure(value: float, metric: str) -> str:
    """Write a score: three decimals for shares, one for mm, and so on; Inf and n/a by name."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "Inf"
    bounded = METRICS[metric].bounds[1] <= 1
    return f"{value:.3f}" if bounded else f"{value:.1f}" if METRICS[metric].unit == "mm" else f"{value:.2f}"


def _ranks(centres: Mapping[str, float], metric: str) -> dict[str, int]:
    """Rank models from 0, equal ones alike; nothing to rank with one model or no direction."""
    best = METRICS[metric].best
    known = {model: value for model, value in centres.items() if not math.isnan(value)}
    if best is None or len(centres) < 2:
        return {}
    # What is printed alike is ranked alike.
    printed = {model: figure(value, metric) for model, value in known.items()}
    keys = {text: math.inf if text == "Inf" else float(text) for text in printed.values()}
    order = sorted(keys, key=keys.__getitem__, reverse=best == "high")
    better = {text: sum(printed[m] in order[:k] for m in printed) for k, text in enumerate(order)}
    return {model: better[text] for model, text in printed.items()}


def _centre(one: Summary, look: TableLook) -> float:
    return one.median if look.centre == "median" else one.mean


def _cell(one: Summary, look: TableLook, style: Style) -> str:
    dash = "--" if style == "latex" else "–"
    text = figure(_centre(one, look), one.metric)
    if look.interval != "none":
        low, high = one.t if look.interval == "t" else one.bootstrap
        if not math.isnan(low):
            text += f" ({figure(low, one.metric)}{dash}{figure(high, one.metric)})"
    left = [
        f"{n} {what}"
        for n, what in ((one.undefined, "undef."), (one.failed, "failed"), (one.infinite, "Inf"))
        if n
    ]
    return f"{text} [{', '.join(left)}]" if look.counts and left else text


def _marked(text: str, rank: int | None, style: Style) -> str:
    if rank is None or rank > 2:
        return text
    before, after = _MARKS[style][rank]
    number, space, rest = text.partition(" ")
    return f"{before}{number}{after}{space}{rest}"


def column_title(metric: str) -> str:
    """Return a metric's short name with its unit."""
    described = METRICS[metric]
    return f"{described.title} [{described.unit}]" if described.unit else described.title


def _escape(text: str, style: Style) -> str:
    if style == "html":
        return html.escape(text)
    if style == "latex":
        return "".join(_LATEX.get(letter, letter) for letter in text)
    return text.replace("|", r"\|")


def _assemble(header: Sequence[str], rows: Sequence[Sequence[str]], style: Style) -> str:
    if style == "markdown":
        lines = ["| " + " | ".join(line) + " |" for line in (header, *rows)]
        return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"
    if style == "latex":
        lines = [" & ".join(line) + r" \\" for line in (header, *rows)]
        start = [rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\hline", lines[0], r"\hline"]
        return "\n".join([*start, *lines[1:], r"\hline", r"\end{tabular}"]) + "\n"
    head = "".join(f"<th>{text}</th>" for text in header)
    body = "\n".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
