"""The scans of a BIDS data set, chosen as BIDS-Apps let choose."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from anystroke.core.text import readable
from anystroke.core.volume import Grid, VolumeError
from anystroke.io.bids import IMAGE_SUFFIXES
from anystroke.io.folders import folders_in, is_junk, walk
from anystroke.io.inputs import Found, Input, IntakeError, is_image_name
from anystroke.io.kinds import reason_by_name
from anystroke.io.names import Name

_FOLDERS = ("anat", "dwi", "swi", "ct")
_OTHER_FOLDERS = ("func", "fmap", "perf", "pet", "eeg", "ieeg", "meg", "beh", "mrs", "micr", "nirs", "motion")
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
    return bool(folders_in(folder, "sub-"))


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
        The scans, by name, with a word on each image that is none, and on participants without any.

    Raises:
        IntakeError: There is no subject, or a participant or session is not there.

    Example:
        >>> find_bids_scans(Path("ds004884"), participants=["M2001"]).scans  # doctest: +SKIP
        [ScanSource(...)]
    """
    if not is_bids(root):
        raise IntakeError(f"{root} is no BIDS data set: expected folders sub-* in it; check the path")
    subjects = _wanted(root, "sub", participants, [path.name for path in folders_in(root, "sub-")])
    found = Found()
    seen: set[str] = set()
    wanted = [label.removeprefix("ses-") for label in sessions]
    for subject in subjects:
        added = _search(root, subject, wanted, filters, seen)
        if not (added.scans or added.problems or filters or wanted):
            place = readable(root / subject)
            added.problems.append((place, f"{place} holds nothing to segment; check its folders and names"))
        found.add(added)
    if missing := [label for label in wanted if label not in seen]:
        raise IntakeError(
            f"{root} has no session {missing[0]!r}, expected one of "
            f"{', '.join(sorted(seen - {''})) or 'none'}; check --session-label"
        )
    if not (found.scans or found.problems):
        name = readable(root)
        found.problems.append((name, f"{name}: no scan fits what was asked for; check the filters"))
    if beside := [path.name for path in root.iterdir() if is_image_name(path) and not is_junk(path.name)]:
        shown = ", ".join(sorted(beside)[:3])
        found.skipped.append(
            readable(f"{root}: {len(beside)} images beside the sub-* folders are left out ({shown})")
        )
    return found


def _search(
    root: Path, subject: str, sessions: Sequence[str], filters: Sequence[Query], seen: set[str]
) -> Found:
    """Take the scans of one participant, and note the sessions that there are."""
    found = Found()
    others: Counter[str] = Counter()
    files = walk(
        root / subject,
        on_error=lambda error: found.problems.append((readable(str(error.filename)), readable(str(error)))),
    )
    for path in filter(is_image_name, files):
        file = Name.parse(path)
        session = file.entities.get("ses", "")
        seen.add(session)
        if (sessions and session not in sessions) or not _passes(file, filters):
            continue
        if path.parent.name in _OTHER_FOLDERS:
            others[path.parent.name] += 1
        elif reason := _reason_to_skip(file):
            found.skipped.append(readable(f"{path} is left out: {reason}"))
        else:
            _take(file, root, found)
    for name, count in sorted(others.items()):
        images = "1 image" if count == 1 else f"{count} images"
        found.skipped.append(readable(f"{subject}: {images} in {name} left out: no structural scans"))
    return found


def _wanted(root: Path, entity: str, labels: Sequence[str], present: Sequence[str]) -> list[str]:
    if not labels:
        return sorted(present)
    chosen = [f"{entity}-{label.removeprefix(f'{entity}-')}" for label in labels]
    if missing := [name for name in chosen if name not in present]:
        shown = ", ".join(sorted(present)[:10])
        raise IntakeError(f"{root} has no {missing[0]}, it has {shown}; check --participant-label")
    return sorted(set(chosen))


def _reason_to_skip(file: Name) -> str | None:
    """Say why an image is none to segment, if it is none."""
    place = file.path.parent.name
    if not file.path.name.lower().endswith((".nii", ".nii.gz")):
        return "expected NIfTI, as BIDS has it"
    if reason := reason_by_name(file.path, Input.of_file(file.path).sidecar):
        return reason
    if file.suffix not in (*IMAGE_SUFFIXES, "ct"):
        return f"its name ends in {file.suffix or 'nothing'}, which is no scan to segment in BIDS"
    if place not in _FOLDERS and not place.startswith(("sub-", "ses-")):
        return f"it lies in {place}, expected one of {', '.join(_FOLDERS)}"
    return None


def _take(file: Name, root: Path, found: Found) -> None:
    relative = PurePosixPath(readable(file.path.relative_to(root).as_posix()))
    try:
        Grid.of_file(file.path)
    except VolumeError as error:
        found.problems.append((readable(file.path), readable(str(error))))
        return
    found.scans.append(
        Input(
            file.path,
            readable(file.path),
            relative.parent,
            "_".join(f"{key}-{file.entities[key]}" for key in ("sub", "ses") if key in file.entities),
            f"bids:raw:{relative}",
        )
    )


def _passes(file: Name, filters: Sequence[Query]) -> bool:
    return not filters or any(
        all(_fits(_value(file, key), wanted) for key, wanted in query.items()) for query in filters
    )


def _value(file: Name, key: str) -> str | None:
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
