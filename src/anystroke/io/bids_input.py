"""The scans of a BIDS data set, chosen as BIDS-Apps let choose."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from anystroke.core.volume import VolumeError
from anystroke.io.bids import IMAGE_SUFFIXES, BidsFile
from anystroke.io.inputs import Found, IntakeError, ScanSource

_FOLDERS = ("anat", "dwi", "swi", "ct")
_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "run": "run",
    "echo": "echo",
    "part": "part",
    "ceagent": "ce",
    "inversion": "inv",
    "direction": "dir",
    "description": "desc",
    "space": "space",
}
Query = Mapping[str, Any]


def is_bids(folder: Path) -> bool:
    """Tell whether a folder has subjects.

    Example:
        >>> is_bids(Path("nowhere"))
        False
    """
    return folder.is_dir() and any(path.is_dir() for path in folder.glob("sub-*"))


def read_filter(path: Path) -> list[Query]:
    """Read a file of filters as fMRIPrep takes: a name for each query, and what its files must have.

    Args:
        path: JSON such as ``{"t1w": {"datatype": "anat", "suffix": "T1w", "session": ["1", "2"]}}``. A value
            is text, a list of which one must fit, null (the entity must be absent) or ``"*"`` (any value).

    Returns:
        The queries; a scan is taken if one of them fits.

    Raises:
        IntakeError: The file cannot be read, or names an unknown entity.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntakeError(f"{path} is no JSON file of BIDS filters ({error}); check it") from error
    if not (isinstance(content, dict) and all(isinstance(query, dict) for query in content.values())):
        raise IntakeError(
            f"{path} holds no BIDS filters, expected a dictionary such as "
            '{"t1w": {"datatype": "anat", "suffix": "T1w"}}; check it'
        )
    known = {"datatype", "suffix", "extension", *_SHORT, *_SHORT.values()}
    for name, query in content.items():
        if unknown := sorted(set(query) - known):
            raise IntakeError(
                f"{path}: the filter {name!r} names {unknown[0]!r}, expected one of "
                f"{', '.join(sorted(known))}"
            )
    return list(content.values())


def find_bids_scans(
    root: Path,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    filters: Sequence[Query] = (),
) -> Found:
    """Find the scans of a data set; derivatives are left alone.

    Args:
        root: The folder with ``sub-*`` folders.
        participants: Labels to take, with or without ``sub-``; all if empty.
        sessions: Labels to take, with or without ``ses-``; all if empty.
        filters: Queries of `read_filter`; all scans if empty.

    Returns:
        The scans, by name, and a word on images of several volumes.

    Raises:
        IntakeError: There is no subject, or a participant or session is not there.

    Example:
        >>> find_bids_scans(Path("ds004884"), participants=["M2001"]).scans  # doctest: +SKIP
        [ScanSource(...)]
    """
    if not is_bids(root):
        raise IntakeError(f"{root} is no BIDS data set: expected folders sub-* in it; check the path")
    subjects = _wanted(root, "sub", participants, [path.name for path in root.glob("sub-*") if path.is_dir()])
    found = Found()
    seen: set[str] = set()
    wanted = [label.removeprefix("ses-") for label in sessions]
    for subject in subjects:
        for path in sorted((root / subject).rglob("*")):
            file = BidsFile.parse(path)
            if not (path.name.lower().endswith((".nii", ".nii.gz")) and _is_scan(file)):
                continue
            session = file.entities.get("ses", "")
            seen.add(session)
            if (wanted and session not in wanted) or not _passes(file, filters):
                continue
            _take(file, root, found)
    if missing := [label for label in wanted if label not in seen]:
        raise IntakeError(
            f"{root} has no session {missing[0]!r}, expected one of "
            f"{', '.join(sorted(seen - {''})) or 'none'}; check --session-label"
        )
    return found


def _wanted(root: Path, entity: str, labels: Sequence[str], present: Sequence[str]) -> list[str]:
    if not labels:
        return sorted(present)
    chosen = [f"{entity}-{label.removeprefix(f'{entity}-')}" for label in labels]
    if missing := [name for name in chosen if name not in present]:
        shown = ", ".join(sorted(present)[:10])
        raise IntakeError(f"{root} has no {missing[0]}, it has {shown}; check --participant-label")
    return sorted(set(chosen))


def _is_scan(file: BidsFile) -> bool:
    return file.path.parent.name in _FOLDERS and (
        (file.suffix in IMAGE_SUFFIXES and "label" not in file.entities) or file.suffix == "ct"
    )


def _take(file: BidsFile, root: Path, found: Found) -> None:
    relative = file.path.relative_to(root)
    try:
        count = file.grid.count
    except VolumeError as error:
        found.problems.append((str(file.path), str(error)))
        return
    if count > 1:
        found.skipped.append(f"{file.path} is left out: it holds {count} volumes, expected one")
        return
    found.scans.append(
        ScanSource(
            file.path,
            str(file.path),
            PurePosixPath(relative.parent.as_posix()),
            "_".join(f"{key}-{file.entities[key]}" for key in ("sub", "ses") if key in file.entities),
            f"bids:raw:{relative.as_posix()}",
        )
    )


def _passes(file: BidsFile, filters: Sequence[Query]) -> bool:
    return not filters or any(
        all(_fits(_value(file, key), wanted) for key, wanted in query.items()) for query in filters
    )


def _value(file: BidsFile, key: str) -> str | None:
    if key == "datatype":
        return file.path.parent.name
    if key == "suffix":
        return file.suffix
    if key == "extension":
        return ".nii.gz" if file.path.name.endswith(".gz") else ".nii"
    return file.entities.get(_SHORT.get(key, key))


def _fits(value: str | None, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_fits(value, one) for one in wanted)
    if wanted is None or value is None:
        return wanted is None and value is None
    text = str(wanted)
    return (
        text == "*" or value == text or (value.isdecimal() and text.isdecimal() and int(value) == int(text))
    )
