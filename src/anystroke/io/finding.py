"""Find the scans in whatever the user names: files, folders, DICOM, BIDS data sets, tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from anystroke.core.tables import TableError, read_cells
from anystroke.core.text import readable
from anystroke.core.volume import SUFFIXES, Grid, VolumeError
from anystroke.io.bids_input import find_bids_scans, is_bids
from anystroke.io.dicom import convert_dicom, holds_dicom, is_dicom
from anystroke.io.diffusion import find_b_values, write_diffusion_images
from anystroke.io.folders import walk
from anystroke.io.inputs import HERE, Found, Input, IntakeError, is_image_name
from anystroke.io.kinds import reason_by_name

_IMAGE_COLUMNS = ("image", "path", "file", "scan", "filename")
_PATIENT_COLUMNS = ("participant_id", "patient", "subject")
_MISSING = ("", "n/a")


def find_scans(inputs: Sequence[str | Path], work: Path, *, allow_ct: bool = False) -> Found:
    """Find the scans to segment.

    Args:
        inputs: Image files; folders of images, of DICOM files or of a BIDS data set; .tsv or .csv tables with
            a column ``image``, and ``participant_id`` and ``session_id`` if wanted.
        work: Where converted DICOM and the images of diffusion series go; made when it is needed.
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
        except (IntakeError, TableError, OSError) as error:
            found.problems.append((readable(item), readable(str(error))))
    return prepared(found, work)


def prepared(found: Found, work: Path) -> Found:
    """Make scans of what holds several, and give files names that can be written.

    Args:
        found: What was found.
        work: Where to write; made when it is needed.

    Returns:
        The same, with each diffusion series replaced by its images, and other series of several volumes left
        out with a word.
    """
    result = Found(skipped=list(found.skipped), problems=list(found.problems))
    taken = {str(source.folder / source.stem).casefold() for source in found.scans}
    for number, source in enumerate(found.scans):
        try:
            result.scans += _images_of(source, work / f"{number:04d}", taken, result)
        except VolumeError as error:
            text = readable(str(error))
            words = text if source.title in text else f"{source.title}: {text}"
            result.problems.append((source.title, words))
    return result


def _images_of(source: Input, work: Path, taken: set[str], found: Found) -> list[Input]:
    """Return the scans in one file: itself, or the images of a diffusion series."""
    path = source.path
    if readable(path) != str(path):
        work.mkdir(parents=True, exist_ok=True)
        path = work / readable(path.name)
        path.unlink(missing_ok=True)
        path.symlink_to(source.path.absolute())
        source = replace(source, path=path)
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        return [source]
    try:
        count = Grid.of_file(path).count
    except VolumeError:
        return [source]  # said when it is its turn
    if count == 1:
        return [source]
    b_values = find_b_values(source.path)
    if b_values is None:
        raise VolumeError(
            f"{source.title} holds {count} volumes and has no b-values (.bval) beside it, expected one "
            "volume or a diffusion series; extract what you need"
        )
    files, words = write_diffusion_images(path, b_values, work, title=source.title)
    made = []
    for name, file in files.items():
        one = replace(source, path=file, made=True, fused=source.title)
        if str(one.folder / one.stem).casefold() in taken:
            found.skipped.append(f"{name} of {source.title} is left out: there is such an image already")
        else:
            made.append(one)
    found.skipped.append(readable(words))
    return made


def _find(item: Path, work: Path, allow_ct: bool) -> Found:
    if item.is_file() and item.suffix.lower() in (".tsv", ".csv"):
        return Found(scans=_read_table(item))
    if item.is_file() and not is_image_name(item) and is_dicom(item):
        raise IntakeError(f"{item} is a single DICOM file, expected a whole series; name its folder")
    if not item.is_dir():
        return Found(scans=[Input.of_file(item)])
    if is_bids(item):
        return find_bids_scans(item)
    found = Found()
    files = walk(item, on_error=lambda error: found.problems.append((readable(item), str(error))))
    images = [path for path in files if is_image_name(path)]
    found.add(_images_in(item, images))
    if holds_dicom(files):
        found.add(convert_dicom(item, work, allow_ct=allow_ct, files=files))
    if not (images or found.scans or found.problems):
        raise IntakeError(
            f"{item} is a folder without images, DICOM files or sub-* folders, expected one of these; "
            "name the scans"
        )
    if not (found.scans or found.problems):
        found.problems.append((readable(item), f"{readable(item)} holds no scan to segment; name the scans"))
    return found


def _images_in(folder: Path, images: Sequence[Path]) -> Found:
    """Take the image files of a folder, those of folders in it under their names."""
    found = Found()
    results = [path.parent for path in images if path.parent != folder and _is_results(path.parent, folder)]
    apart: dict[str, list[str]] = {}
    for path in images:
        within = path.relative_to(folder)
        if any(place in path.parents for place in results):
            apart.setdefault("they are results of another program", []).append(str(within))
        elif path.is_symlink() and not path.exists():
            words = (
                f"{path} is a link whose target is missing ({path.readlink()}); fetch it, for example with"
            )
            found.problems.append((readable(path), readable(f"{words} 'datalad get'")))
        elif reason := reason_by_name(path, Input.of_file(path).sidecar):
            found.skipped.append(readable(f"{path} is left out: {reason}"))
        else:
            parent = PurePosixPath(readable(within.parent.as_posix()))
            source = Input.of_file(path)
            if parent != HERE:
                source = replace(source, folder=parent, patient=str(parent))
            found.scans.append(source)
    for reason, names in apart.items():
        found.skipped.append(readable(f"{len(names)} images below {folder} are left out: {reason}"))
    return found


def _is_results(place: Path, root: Path) -> bool:
    """Tell a folder of results: of derivatives, or of this program."""
    while place != root:
        if place.name == "derivatives" or (place / "volumes.tsv").is_file():
            return True
        place = place.parent
    return False


def _read_table(path: Path) -> list[Input]:
    columns, rows = read_cells(path)
    column = next((name for name in _IMAGE_COLUMNS if name in columns), None)
    if column is None:
        raise IntakeError(
            f"{path} has no column image, its columns are {', '.join(columns) or 'none'}; name it in the "
            "first line"
        )
    scans = []
    for number, cells in rows:
        if cells.get(column, "") in _MISSING:
            raise IntakeError(f"{path}: line {number} names no image, expected a path; fill it in")
        image = path.parent / cells[column]
        if not image.exists() and "\\" in cells[column]:
            image = path.parent / cells[column].replace("\\", "/")
        patient = next((cells[name] for name in _PATIENT_COLUMNS if cells.get(name, "") not in _MISSING), "")
        session = cells.get("session_id", "")
        parts = [part for part in (patient, session) if part not in _MISSING]
        folder = PurePosixPath(*(_plain(part) for part in parts))
        scans.append(Input(image, readable(image), folder, "_".join(parts), readable(image.as_posix())))
    if not scans:
        raise IntakeError(f"{path} names no image at all, expected one a line; fill it in")
    return scans


def _plain(text: str) -> str:
    """Make a folder's name of a label."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).lstrip(".") or "unnamed"
