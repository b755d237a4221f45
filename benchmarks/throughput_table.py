"""The table of `training_throughput`."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Row:
    """One line of a table.

    Attributes:
        name: What was measured.
        cases: Cases a second.
        steps: Steps a second.
        ratio: Of ``cases`` to those that the table's title says.
        waiting: Share of the time that training waits for cases [%].
        memory: Of this process or a worker [GiB].
        cuda: Of the card [GiB].
        operations: On fields, for each case, see `operations`.
    """

    name: str
    cases: float | None = None
    steps: float | None = None
    ratio: float | None = None
    waiting: float | None = None
    memory: float | None = None
    cuda: float | None = None
    operations: float | None = None


_HEADINGS = {
    "cases": "cases/s",
    "steps": "steps/s",
    "ratio": "ratio",
    "waiting": "waiting %",
    "memory": "GiB",
    "cuda": "GiB on card",
    "operations": "operations a case",
}


def shown(title: str, rows: Iterable[Row], base: float | None = None) -> list[Row]:
    """Print a table in Markdown row by row; return its rows.

    Args:
        title: Stands above it.
        rows: Measured as they are asked for.
        base: Cases per second that ratios are to; those of the first row by default.
    """
    print(f"\n{title}\n\n| | {' | '.join(_HEADINGS.values())} |\n|---|{'---|' * len(_HEADINGS)}", flush=True)
    kept = []
    for row in rows:
        base = base or row.cases
        row.ratio = row.cases / base if row.cases and base else None
        values = [getattr(row, name) for name in _HEADINGS]
        print(f"| {row.name} | {' | '.join('' if v is None else f'{v:.2f}' for v in values)} |", flush=True)
        kept.append(row)
    return kept
