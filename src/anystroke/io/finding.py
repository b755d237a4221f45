"""Find the scans in whatever the user names: files, folders, DICOM, BIDS data sets, tables."""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from anystroke.io.bids_input import find_bids_scans, is_bids
from anystroke.io.dicom import convert_dicom, holds_dicom, is_dicom
from anystroke.io.inputs import Found, IntakeError, ScanSource, is_image_name

_IMAGE_COLUMNS = ("image", "path", "file")
_PATIENT_COLUMNS = ("participant_id", "patient", "subject")
_MISSING = ("", "n/a")


def find_scans(inputs: Sequence[str | Path], work: Path, *, allow_ct: bool = False) -> Found:
    """Find the scans to segment.

    Args:
        inputs: Image files; folders of images, of DICOM files or of a BIDS data set; .tsv or .csv tables with
            a column ``image``, and ``participant_id`` and ``session_id`` if wanted.
        work: Where converted DICOM goes; made when it is needed.
        allow_ct: Take CT too.

    Returns:
        Scans, what is left out, and what cannot be used; one bad input does not hide the others.

    Example:
        >>> [scan.path.name for scan in find_scans(["a.nii"], Path("work")).scans]
        ['a.nii']
    """
    found = Found()
    for item in map(Path, inputs):
        try:
            found.add(_find(item, work, allow_ct))
        except (IntakeError, OSError) as error:
            found.problems.append((str(item), str(error)))
    return found


def _find(item: Path, work: Path, allow_ct: bool) -> Found:
    if item.is_file() and item.suffix.lower() in (".tsv", ".csv"):
        return Found(scans=_read_table(item))
    if item.is_file() and not is_image_name(item) and is_dicom(item):
        raise IntakeError(f"{item} is a single DICOM file, expected a whole series; name its folder")
    if not item.is_dir():
        return Found(scans=[ScanSource.of_file(item)])
    if is_bids(item):
        return find_bids_scans(item)
    images = sorted(path for path in item.iterdir() if path.is_file() and is_image_name(path))
    if images:
        return Found(scans=[ScanSource.of_file(path) for path in images])
    if holds_dicom(item):
        return convert_dicom(item, work, allow_ct=allow_ct)
    raise IntakeError(
        f"{item} is a folder without images, DICOM files or sub-* folders, expected one of these; "
        "name the scans"
    )


def _read_table(path: Path) -> list[ScanSource]:
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise IntakeError(f"{path} is no table in UTF-8 ({error}); save it as one") from error
    column = next((name for name in _IMAGE_COLUMNS if name in columns), None)
    if column is None:
        raise IntakeError(
            f"{path} has no column image, its columns are {', '.join(columns) or 'none'}; name it in the "
            "first line"
        )
    scans = []
    for number, row in enumerate(rows, start=2):
        cells = {
            key: (value or "").strip() for key, value in row.items() if key and not isinstance(value, list)
        }
        if cells.get(column, "") in _MISSING:
            raise IntakeError(f"{path}: line {number} names no image, expected a path; fill it in")
        image = path.parent / cells[column]
        patient = next((cells[name] for name in _PATIENT_COLUMNS if cells.get(name, "") not in _MISSING), "")
        session = cells.get("session_id", "")
        parts = [part for part in (patient, session) if part not in _MISSING]
        folder = PurePosixPath(*(_plain(part) for part in parts))
        scans.append(ScanSource(image, str(image), folder, "_".join(parts), image.as_posix()))
    if not scans:
        raise IntakeError(f"{path} names no image at all, expected one a line; fill it in")
    return scans


def _plain(text: str) -> str:
    """Make a folder's name of a label."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).lstrip(".") or "unnamed"
