"""Folders of DICOM files: which series are scans of a head, checked and converted by dcm2niix.

Chris Rorden's dcm2niix (Li et al., J Neurosci Methods 264:47, 2016) comes as a wheel. Before it runs, the
headers are read by pydicom: two patients in a folder and missing slices are refused, and localisers, derived
images and what is not an image of a scanner are left out.
"""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anystroke.core.volume import Grid, VolumeError
from anystroke.io.inputs import Found, IntakeError, ScanSource

_LOCALISER = re.compile(r"locali[sz]er|scout|survey|three.?plane|3.?plane|smartbrain|aahead", re.IGNORECASE)
_LOOKED_AT = 40
# Slices of one scan lie evenly; a gap this much wider than the usual one means that a slice is missing.
_WIDEST_GAP = 1.5
_FEWEST_SLICES = 8
_TIMEOUT = 600.0


@dataclass
class Series:
    """The files of one series with what their headers say.

    Attributes:
        number: SeriesNumber.
        description: SeriesDescription.
        modality: MR, CT, SR ...
        image_type: Values of ImageType.
        files: In the order of their names.
        orientations: Direction cosines of each slice's rows and columns, rounded.
        positions: Distance of each slice along the slices' normal [mm].
    """

    number: int
    description: str
    modality: str
    image_type: tuple[str, ...]
    files: list[Path] = field(default_factory=list)
    orientations: set[tuple[float, ...]] = field(default_factory=set)
    positions: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"series {self.number} ({self.description or 'without a description'})"

    def reason_to_skip(self) -> str | None:
        """Say why this series is no scan to segment, if it is none."""
        kinds = {value.upper() for value in self.image_type}
        if self.modality not in ("MR", "CT"):
            return f"its modality is {self.modality or 'not given'}"
        if "LOCALIZER" in kinds or _LOCALISER.search(self.description) or len(self.orientations) > 1:
            return "it is a localiser"
        if "PHASE" in kinds or (kinds & {"P", "PHASE MAP"}):
            return "it is a phase image"
        if "DERIVED" in kinds and not kinds & {"DIFFUSION", "ADC", "TRACEW", "TRACE"}:
            return "it is derived from other images"
        if len(set(self.positions)) < _FEWEST_SLICES:
            return f"it has {len(set(self.positions))} slices"
        return None

    def problem(self) -> str | None:
        """Say what is wrong with its slices, if anything is."""
        places = np.array(sorted(set(self.positions)))
        gaps = np.diff(places)
        usual = float(np.median(gaps))
        missing = int(sum(round(gap / usual) - 1 for gap in gaps if gap > _WIDEST_GAP * usual))
        if missing:
            wide = float(gaps.max())
            return (
                f"misses {missing} slice{'s' if missing > 1 else ''}: one gap is {wide:.1f} mm, the others "
                f"{usual:.1f} mm; export the series again"
            )
        counts = Counter(self.positions)
        if len(set(counts.values())) > 1:
            return (
                f"misses slices: {max(counts.values())} images lie at some places and {min(counts.values())} "
                "at others; export the series again"
            )
        return None


def is_dicom(path: Path) -> bool:
    """Tell whether a file has the mark of DICOM.

    Example:
        >>> is_dicom(Path("nowhere"))
        False
    """
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def holds_dicom(folder: Path) -> bool:
    """Tell whether there are DICOM files in a folder or below it; the first few files decide."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return any(is_dicom(path) for _, path in zip(range(_LOOKED_AT), files, strict=False))


def read_series(folder: Path) -> list[Series]:
    """Read the headers of all DICOM files in a folder and below.

    Returns:
        The series, by their numbers.

    Raises:
        IntakeError: There are several patients, or pydicom is missing.
    """
    series: dict[str, Series] = {}
    patients: set[str] = set()
    for path, header in _headers(folder):
        patients.add(str(header.get("PatientID") or header.get("PatientName") or ""))
        found = series.setdefault(
            str(header.get("SeriesInstanceUID", "")),
            Series(
                int(header.get("SeriesNumber") or 0),
                str(header.get("SeriesDescription") or ""),
                str(header.get("Modality") or ""),
                tuple(str(value) for value in header.get("ImageType") or ()),
            ),
        )
        found.files.append(path)
        for orientation, position in _planes(header):
            found.orientations.add(tuple(np.round(orientation, 2).tolist()))
            normal = np.cross(orientation[:3], orientation[3:])
            found.positions.append(round(float(normal @ position), 2))
    if len(patients) > 1:
        raise IntakeError(
            f"{folder} holds images of {len(patients)} patients, expected one; put each into a folder of "
            "its own"
        )
    return sorted(series.values(), key=lambda item: (item.number, item.description))


def convert_dicom(folder: Path, work: Path, *, allow_ct: bool = False) -> Found:
    """Convert the series of one patient to NIfTI.

    Args:
        folder: Holds DICOM files, also in folders of its own.
        work: Where to write the NIfTI files; made if missing.
        allow_ct: Take CT too.

    Returns:
        A scan for each series that is one, a word on each that is not, and what is wrong with the others.

    Raises:
        IntakeError: The folder as a whole cannot be used, or a package is missing.

    Example:
        >>> convert_dicom(Path("export"), Path("work")).skipped  # doctest: +SKIP
        ['export: series 1 (localizer) is left out: it is a localiser']
    """
    found = Found()
    for series in read_series(folder):
        if reason := series.reason_to_skip():
            found.skipped.append(f"{folder}: {series.title} is left out: {reason}")
        elif series.modality == "CT" and not allow_ct:
            text = f"{series.title} is CT, expected MR: the networks never saw CT; use --allow-ct to try"
            found.problems.append((str(folder), f"{folder}: {text}"))
        elif problem := series.problem():
            found.problems.append((str(folder), f"{folder}: {series.title} {problem}"))
        else:
            _convert(series, folder, work, found)
    if not (found.scans or found.problems):
        words = "; ".join(text.removeprefix(f"{folder}: ") for text in found.skipped) or "no series"
        found.problems.append(
            (str(folder), f"{folder} holds no scan to segment ({words}); name the folder of a scan")
        )
    return found


def _headers(folder: Path) -> Iterator[tuple[Path, Any]]:
    try:
        import pydicom
    except ImportError as error:
        raise IntakeError("reading DICOM needs the package pydicom; install it with pip") from error
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR"):
        if is_dicom(path):
            try:
                yield path, pydicom.dcmread(path, stop_before_pixels=True)
            except (pydicom.errors.InvalidDicomError, OSError, ValueError) as error:
                raise IntakeError(f"{path} is damaged ({error}); copy it again") from error


def _planes(header: Any) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Yield orientation (6,) and position (3,) of each slice of a file, single or multi-frame."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if header.get("ImageOrientationPatient") and header.get("ImagePositionPatient"):
            yield _numbers(header.ImageOrientationPatient), _numbers(header.ImagePositionPatient)
        return
    shared = header.SharedFunctionalGroupsSequence[0]
    for frame in frames:
        plane = frame if "PlaneOrientationSequence" in frame else shared
        orientation = plane.PlaneOrientationSequence[0].ImageOrientationPatient
        yield _numbers(orientation), _numbers(frame.PlanePositionSequence[0].ImagePositionPatient)


def _numbers(values: Any) -> np.ndarray[Any, Any]:
    return np.array([float(value) for value in values])


def _convert(series: Series, folder: Path, work: Path, found: Found) -> None:
    """Run dcm2niix over the files of one series."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", series.description).strip("-") or "scan"
    name = f"{folder.resolve().name}_series-{series.number:03d}_{word}".replace("%", "-")
    inside, made = work / f"{name}.files", work / f"{name}.nifti"
    for path in (inside, made):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    for i, file in enumerate(series.files):
        # Bare numbers: names may repeat in folders below each other.
        (inside / f"{i:06d}.dcm").symlink_to(file.resolve())
    command = [_program(), "-b", "y", "-ba", "y", "-z", "n", "-f", name, "-o", str(made), str(inside)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    shutil.rmtree(inside)
    images = sorted(made.glob("*.nii"))
    if not images:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = lines[-1].strip() if lines else f"exit code {done.returncode}"
        text = f"{folder}: {series.title} cannot be converted (dcm2niix: {why}); export it again"
        found.problems.append((str(folder), text))
    for image in images:
        try:
            count = Grid.of_file(image).count
        except VolumeError as error:
            found.problems.append((str(folder), str(error)))
            continue
        if count > 1:
            found.skipped.append(f"{folder}: {series.title} is left out: it holds {count} volumes")
        else:
            found.scans.append(
                ScanSource(
                    image,
                    str(folder),
                    patient=str(folder),
                    uri=folder.as_posix(),
                    series=tuple(series.files),
                )
            )


def _program() -> str:
    try:
        import dcm2niix
    except ImportError as error:
        raise IntakeError("reading DICOM needs the package dcm2niix; install it with pip") from error
    return str(dcm2niix.bin)
