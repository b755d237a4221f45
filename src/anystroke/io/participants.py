"""Participants tables: what is known of each patient, and which scans are theirs."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anystroke.core.config import ConfigError
from anystroke.core.tables import Row, TableError, read_rows
from anystroke.io.folders import walk
from anystroke.io.formats import SCAN_SUFFIXES
from anystroke.io.kinds import reason_by_name, sidecar_of

log = logging.getLogger(__name__)

_ID = "participant_id"
_MISSING = ("", "n/a", "na", "nan")
_MOST_CLASSES = 20


@dataclass(frozen=True)
class Participant:
    """A patient with a label.

    Attributes:
        name: As in the table.
        label: Text of the column.
        scans: Files.
    """

    name: str
    label: str
    scans: tuple[Path, ...]


def participants_by_id(table: Path) -> dict[str, Row]:
    r"""Read a participants table by its ids, which begin with ``sub-`` as those of files do.

    Args:
        table: With a column ``participant_id``.

    Returns:
        The other cells of each participant.

    Raises:
        TableError: As `anystroke.core.tables.read_rows`; or two rows have one id.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "participants.tsv"
        >>> _ = file.write_text("participant_id\tage\n01\t67\n")
        >>> participants_by_id(file)
        {'sub-01': {'age': '67'}}
    """
    people: dict[str, Row] = {}
    for row in read_rows(table, needed=("participant_id",)):
        name = f"sub-{row.pop('participant_id').removeprefix('sub-')}"
        if name in people:
            raise TableError(f"{table} has two rows of {name}; leave one")
        people[name] = row
    return people


def labelled_participants(table: Path, column: str, scans: Sequence[Path]) -> list[Participant]:
    """Match a participants table with scans.

    A scan is a participant's if a part of its path (a folder, or its name up to ``_`` or ``.``) is the
    participant's id, with or without ``sub-``.

    Args:
        table: TSV with ``participant_id``.
        column: Of the table; participants without a value are left out.
        scans: Files, or folders that are searched for them. What is found in folders of derivatives, or is no
            scan by its name (masks, label maps, quantitative maps), is left out, which is logged.

    Returns:
        Participants with a label and at least one scan, sorted by name.

    Raises:
        ConfigError: The table cannot be read, lacks the column or has one class in it or hundreds, or no scan
            is one of its participants.
    """
    try:
        rows = read_rows(table)
    except TableError as error:
        raise ConfigError(str(error)) from error
    columns = list(rows[0]) if rows else []
    for wanted in (_ID, column):
        if wanted not in columns:
            raise ConfigError(
                f"expected a column {wanted!r} in {table}, but it has {', '.join(columns) or 'no rows'}; "
                "name another"
            )
    labels = {row[_ID]: row[column] for row in rows if row[column].strip().lower() not in _MISSING}
    found = _scans_of(labels, _files(scans))
    with_scans = sorted((name, files) for name, files in found.items() if files)
    people = [Participant(name, labels[name], tuple(files)) for name, files in with_scans]
    if not people:
        raise ConfigError(
            f"expected scans of the participants of {table}, such as {next(iter(labels), 'none')!r}, but no "
            "path among those given has such an id; name the folder of their scans"
        )
    classes = sorted({person.label for person in people})
    if len(classes) < 2:
        raise ConfigError(
            f"expected at least two classes in the column {column!r} of {table} among participants with "
            f"scans, but all {len(people)} have {classes[0]!r}; name another column or more scans"
        )
    if len(classes) > _MOST_CLASSES:
        raise ConfigError(
            f"expected at most {_MOST_CLASSES} classes in the column {column!r} of {table}, but there are "
            f"{len(classes)}; a column of numbers is not for telling classes apart"
        )
    return people


def _files(scans: Iterable[Path]) -> list[Path]:
    found = []
    left_out: Counter[str] = Counter()
    for path in scans:
        if path.is_dir():
            for each in walk(path):
                if each.name.lower().endswith(SCAN_SUFFIXES):
                    if reason := _reason_to_leave(each, path):
                        left_out[reason] += 1
                    else:
                        found.append(each)
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"expected a scan or a folder at {path}, but there is none; check the path")
    for reason, count in sorted(left_out.items()):
        log.warning("left out %d files: %s", count, reason)
    return found


def _reason_to_leave(path: Path, folder: Path) -> str | None:
    if "derivatives" in path.relative_to(folder).parts:
        return "they are derivatives"
    return reason_by_name(path, sidecar_of(path))


def _scans_of(labels: Iterable[str], files: Iterable[Path]) -> dict[str, list[Path]]:
    by_id = {name.removeprefix("sub-"): name for name in labels}
    found: dict[str, list[Path]] = {name: [] for name in by_id.values()}
    for path in files:
        for part in reversed(path.parts):
            name = by_id.get(re.split(r"[_.]", part)[0].removeprefix("sub-"))
            if name is not None:
                found[name].append(path)
                break
    return found
