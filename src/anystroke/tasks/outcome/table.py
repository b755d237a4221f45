"""Tables of patients: ids, columns to predict from, and the target."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel
from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import read_rows

TargetKind = Literal["number", "two_classes", "ordered"]

_MISSING = {"", "n/a", "na", "nan", "none", "null", ".", "-", "unknown", "missing"}
_ID_COLUMNS = ("participant_id", "subject_id", "patient_id", "subject", "patient", "id")
_MOST_LEVELS = 8
_FEWEST_OF_LEVEL = 3
_MOST_GRADES = 10
# Columns that are known only afterwards, or that a prediction should not rest on.
_AFTERWARDS = re.compile(
    r"rankin|(^|_)mrs($|_)|nihss|barthel|(^|_)aq($|_)|death|dead|died|mortality|discharge|outcome|follow|"
    r"length_of_stay|(^|_)los($|_)|(^|_)90d?",
    re.IGNORECASE,
)
_UNWANTED = re.compile(
    r"race|ethnic|religion|insurance|postcode|zip|(^|_)id$|session|date|site|name", re.IGNORECASE
)


class OutcomeError(AnystrokeError):
    """A table, mask or model that cannot be used; the message says why and what to do."""


class Column(StrictModel):
    """How a column becomes numbers.

    Attributes:
        name: Of the column.
        levels: Texts that it holds, of which each but the first becomes a column of 0 and 1; empty for
            numbers.
        logarithm: Whether the logarithm is taken, as of numbers that span decades.
    """

    name: str
    levels: tuple[str, ...] = ()
    logarithm: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of numbers."""
        return tuple(f"{self.name}={level}" for level in self.levels[1:]) or (self.name,)


class Target(StrictModel):
    """What is predicted.

    Attributes:
        name: Column of the table.
        kind: A number, two classes or ordered classes.
        classes: Their names, in order; of two classes the second is the one that the probability is of.
        above: Numbers above this are the second class.
        at_least: Numbers from this on are the second class.
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...] = ()
    above: float | None = None
    at_least: float | None = None


@dataclass(frozen=True, eq=False)
class PatientTable:
    """A table of one row a patient.

    Attributes:
        ids: Of the patients, each once.
        rows: Cells by column.
        source: The file.
    """

    ids: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    source: Path

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.rows[0])

    def cells(self, column: str) -> list[str]:
        """Return the text of a column, '' where it is missing.

        Raises:
            OutcomeError: There is no such column.
        """
        if column not in self.columns:
            raise OutcomeError(
                f"expected the column {column!r} in {self.source}, which has {', '.join(self.columns)}; name "
                "one of these"
            )
        return ["" if is_missing(row[column]) else row[column].strip() for row in self.rows]

    def only(self, ids: Sequence[str]) -> "PatientTable":
        """Return the rows of some patients, in the table's order."""
        wanted = set(ids)
        kept = [k for k, each in enumerate(self.ids) if each in wanted]
        return PatientTable(tuple(self.ids[k] for k in kept), tuple(self.rows[k] for k in kept), self.source)


def read_table(path: Path) -> PatientTable:
    """Read a table of patients, separated by tabs, commas or semicolons.

    Raises:
        OutcomeError: It has no column of ids, no rows, or an id twice.
        TableError: It is no table.
    """
    rows = read_rows(path)
    if not rows:
        raise OutcomeError(f"{path} has a header and no patients; add a row for each")
    lower = {name.lower(): name for name in rows[0]}
    column = next((lower[name] for name in _ID_COLUMNS if name in lower), None)
    if column is None:
        raise OutcomeError(
            f"expected a column participant_id in {path}, got {', '.join(rows[0])}; name the ids so"
        )
    ids = [row[column].strip() for row in rows]
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    if twice:
        raise OutcomeError(
            f"{path} has {len(twice)} ids more than once ({first_few(twice)}), expected a row a patient; "
            "keep one "
            "of each"
        )
    if any(is_missing(name) for name in ids):
        raise OutcomeError(f"{path} has a row without an id in {column}; fill it in or leave the row out")
    rest = tuple({name: text for name, text in row.items() if name != column} for row in rows)
    return PatientTable(tuple(ids), rest, path)


def is_missing(text: str) -> bool:
    """Tell whether a cell says that nothing is known.

    Example:
        >>> is_missing("n/a"), is_missing("0")
        (True, False)
    """
    return text.strip().lower() in _MISSING


def as_number(text: str) -> float:
    """Read a cell as a number; a bound such as 89+ or >89 counts as its value, a missing cell is NaN.

    Raises:
        ValueError: It is text.

    Example:
        >>> as_number("89+"), as_number("<1")
        (89.0, 1.0)
    """
    if is_missing(text):
        return math.nan
    value = float(text.strip().rstrip("+").lstrip("<>=≥≤ ").replace(",", "."))
    if math.isinf(value):
        raise ValueError(f"expected a finite number, got {text!r}")
    return value


def first_few(names: Sequence[str], most: int = 8) -> str:
    """Name a few of many.

    Example:
        >>> first_few(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def choose_columns(
    table: PatientTable, target: str, wanted: Sequence[str] | None
) -> tuple[tuple[Column, ...], list[str]]:
    """Choose the columns to predict from.

    Args:
        table: Of the patients that are trained on.
        target: Column that is predicted.
        wanted: Names; all columns that are known at admission and hold numbers or a few levels, if None.

    Returns:
        The columns, and notes about those that are left out.

    Raises:
        OutcomeError: A wanted column is the target, missing, or free text.
    """
    if wanted is not None:
        if target in wanted:
            raise OutcomeError(
                f"--columns names the target {target!r}, which would predict itself; leave it out"
            )
        return tuple(_column(table, name) for name in dict.fromkeys(wanted)), []
    chosen, notes = [], []
    family = target.split("_")[0]
    for name in table.columns:
        if name == target or not any(table.cells(name)):
            continue
        if _AFTERWARDS.search(name) or (name.split("_")[0] == family and "_" in target):
            notes.append(f"column {name} is left out, as it may be known only with the outcome")
        elif _UNWANTED.search(name):
            notes.append(f"column {name} is left out by default; name it in --columns to use it")
        elif len(set(table.cells(name)) - {""}) > 1:
            try:
                chosen.append(_column(table, name))
            except OutcomeError:
                notes.append(f"column {name} is left out, as it is free text")
    return tuple(chosen), notes


def encode(table: PatientTable, columns: Sequence[Column]) -> Array:
    """Make numbers of columns.

    Returns:
        float64 (patients, features); NaN where a cell is missing or a level is not one of the training.

    Raises:
        OutcomeError: A column is missing, or holds text where numbers were trained on.
    """
    absent = [column.name for column in columns if column.name not in table.columns]
    if absent:
        raise OutcomeError(
            f"{table.source} has no column {first_few(absent)}, which the model predicts from; add it, "
            "with n/a where it is not known"
        )
    parts = [_encoded(table, column) for column in columns]
    return np.concatenate(parts, axis=1) if parts else np.empty((len(table.ids), 0))


def _encoded(table: PatientTable, column: Column) -> Array:
    cells = table.cells(column.name)
    if column.levels:
        known = np.array([cell in column.levels for cell in cells])
        flags = np.array([[float(cell == level) for level in column.levels[1:]] for cell in cells])
        return np.where(known[:, None], flags.reshape(len(cells), -1), np.nan)
    try:
        values = np.array([as_number(cell) for cell in cells])
    except ValueError:
        text = next(cell for cell in cells if not _is_number(cell))
        raise OutcomeError(
            f"expected numbers in the column {column.name} of {table.source}, got {text!r}; write n/a "
            "where it "
            "is not known"
        ) from None
    if column.logarithm:
        values = np.log(np.where(values > 0, values, np.nan))
    return values[:, None]


def read_target(
    table: PatientTable,
    name: str,
    *,
    kind: TargetKind | None = None,
    above: float | None = None,
    at_least: float | None = None,
) -> tuple[Target, Array]:
    """Read what is predicted, and find out whether it is a number, two classes or grades.

    Args:
        table: Of patients.
        name: Column.
        kind: What it is; found out if None: two levels are two classes, three to ten whole numbers grades.
        above: Makes two classes of numbers: those above this, and the others.
        at_least: Likewise: those from this on.

    Returns:
        The target, and float64 (patients,): numbers, or the number of the class from 0; NaN where missing.

    Raises:
        OutcomeError: The column has one value, text of more than two levels, or a class of fewer than 4.
    """
    cells = table.cells(name)
    present = [cell for cell in cells if cell]
    if len(set(present)) < 2:
        what = f"only {present[0]!r}" if present else "no value"
        raise OutcomeError(
            f"the target {name} has {what} in {table.source}, expected at least two; name another"
        )
    if all(_is_number(cell) for cell in present):
        values = np.array([as_number(cell) for cell in cells])
        found = _numeric_target(name, values, kind, above, at_least)
    else:
        levels = sorted(set(present))
        if len(levels) > 2 or above is not None or at_least is not None or kind == "number":
            raise OutcomeError(
                f"the target {name} is text with {len(levels)} levels ({first_few(levels, 4)}), expected "
                "numbers or "
                "two levels; code it as numbers"
            )
        target = Target(name=name, kind="two_classes", classes=tuple(levels))
        found = target, np.array([levels.index(cell) if cell else math.nan for cell in cells])
    _check_classes(*found)
    return found


def _numeric_target(
    name: str, values: Array, kind: TargetKind | None, above: float | None, at_least: float | None
) -> tuple[Target, Array]:
    known = ~np.isnan(values)
    if above is not None or at_least is not None:
        high = values > above if above is not None else values >= at_least
        words = (f"at most {above:g}", f"above {above:g}") if above is not None else (
            f"below {at_least:g}", f"at least {at_least:g}"
        )  # fmt: skip
        target = Target(name=name, kind="two_classes", classes=words, above=above, at_least=at_least)
        return target, np.where(known, high.astype(float), math.nan)
    levels = np.unique(values[known])
    whole = bool((levels == np.rint(levels)).all())
    if kind is None:
        few = 3 <= len(levels) <= _MOST_GRADES and whole
        kind = "two_classes" if len(levels) == 2 else "ordered" if few else "number"
    if kind == "number":
        return Target(name=name, kind=kind), values
    if (kind == "two_classes" and len(levels) != 2) or len(levels) > _MOST_GRADES:
        raise OutcomeError(
            f"the target {name} has {len(levels)} different values, expected 2 classes or at most "
            f"{_MOST_GRADES} grades; use --kind number, or make two classes with --above"
        )
    classes = tuple(f"{level:g}" for level in levels)
    number = np.searchsorted(levels, values).astype(float)
    return Target(name=name, kind=kind, classes=classes), np.where(known, number, math.nan)


def apply_target(table: PatientTable, target: Target) -> Array:
    """Read the target of other patients as it was trained; NaN where it is missing or of no such class."""
    if target.name not in table.columns:
        return np.full(len(table.ids), math.nan)
    cells = table.cells(target.name)
    numbers = np.array([as_number(cell) if _is_number(cell) else math.nan for cell in cells])
    if target.above is not None or target.at_least is not None:
        high = numbers > target.above if target.above is not None else numbers >= (target.at_least or 0.0)
        return np.where(np.isnan(numbers), math.nan, high.astype(float))
    if target.kind == "number":
        return numbers
    place = {name: float(k) for k, name in enumerate(target.classes)}
    written = [f"{as_number(cell):g}" if _is_number(cell) and cell else cell for cell in cells]
    return np.array([place.get(cell, math.nan) for cell in written])


def _check_classes(target: Target, values: Array) -> None:
    """Refuse classes with hardly a patient, and a target of one value."""
    known = values[~np.isnan(values)]
    if target.kind == "number":
        return
    counts = [int((known == k).sum()) for k in range(len(target.classes))]
    few = [f"{name} ({count})" for name, count in zip(target.classes, counts, strict=True) if count < 4]
    if few:
        raise OutcomeError(
            f"expected at least 4 patients of each class of {target.name}, got {', '.join(few)}; join "
            "classes, for "
            "example with --above"
        )


def _column(table: PatientTable, name: str) -> Column:
    """Find out what a column holds."""
    cells = [cell for cell in table.cells(name) if cell]
    if not cells:
        raise OutcomeError(f"the column {name} of {table.source} is empty; leave it out of --columns")
    if all(_is_number(cell) for cell in cells):
        values = np.array([as_number(cell) for cell in cells])
        return Column(name=name, logarithm=bool(values.min() > 0 and values.max() > 50 * values.min()))
    counts = Counter(cells)
    levels = sorted(level for level, count in counts.items() if count >= _FEWEST_OF_LEVEL)
    if len(counts) > _MOST_LEVELS or len(levels) < 2:
        raise OutcomeError(
            f"the column {name} of {table.source} is text with {len(counts)} levels, expected numbers or "
            "2 to "
            f"{_MOST_LEVELS} levels of at least {_FEWEST_OF_LEVEL} patients; code it or leave it out of "
            "--columns"
        )
    return Column(name=name, levels=tuple(levels))


def _is_number(text: str) -> bool:
    try:
        as_number(text)
    except ValueError:
        return False
    return True
