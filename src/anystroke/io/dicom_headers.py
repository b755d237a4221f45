"""Read the headers of DICOM files, of any age and in any folder, into series."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anystroke.core.text import readable
from anystroke.io.inputs import IntakeError, is_image_name
from anystroke.io.kinds import reason_by_image_type

_Vector = np.ndarray[tuple[int], np.dtype[np.float64]]

_OTHER_ENDINGS = (
    *(
        ".dll",
        ".exe",
        ".inf",
        ".txt",
        ".htm",
        ".html",
        ".xml",
        ".css",
        ".js",
        ".json",
        ".tsv",
        ".csv",
        ".pdf",
    ),
    *(
        ".jpg",
        ".jpeg",
        ".png",
        ".gif",
        ".bmp",
        ".ico",
        ".zip",
        ".jar",
        ".ini",
        ".cfg",
        ".log",
        ".bval",
        ".bvec",
    ),
    *(".mat", ".db", ".lnk", ".bat", ".sh", ".doc", ".docx", ".xls", ".xlsx", ".mp4", ".avi", ".md", ".toml"),
)
_REPRESENTATIONS = (b"UL", b"UI", b"SH", b"CS", b"DA", b"LO", b"TM", b"DT", b"OB")
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_SAME_DIRECTION = 1e-6
_DICOM_ENDINGS = (".dcm", ".ima", ".dicom")


@dataclass(frozen=True, eq=False)
class Slice:
    """Where one slice lies, in DICOM's LPS mm.

    Attributes:
        origin: Middle of its first pixel (3,).
        right: One pixel along a row (3,).
        down: One pixel along a column (3,).
        rows: Number of rows.
        columns: Number of columns.
    """

    origin: _Vector
    right: _Vector
    down: _Vector
    rows: int
    columns: int

    @property
    def normal(self) -> _Vector:
        """Unit vector across the slice."""
        across = np.cross(self.right, self.down)
        return across / max(float(np.linalg.norm(across)), 1e-12)

    @property
    def middle(self) -> _Vector:
        """Middle of the slice."""
        return self.origin + self.right * (self.columns - 1) / 2 + self.down * (self.rows - 1) / 2


@dataclass
class Series:
    """The files of one series with what their headers say.

    Attributes:
        number: SeriesNumber.
        description: SeriesDescription.
        modality: MR, CT, SR ...
        image_type: Values of ImageType, of its first image.
        frame: FrameOfReferenceUID.
        files: In the order of their names.
        slices: Of all files.
        left_out: Number of its files by the reason why they are none to segment.
        mosaic: Whether a file holds several slices side by side.
    """

    number: int
    description: str
    modality: str
    image_type: tuple[str, ...]
    frame: str = ""
    files: list[Path] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    mosaic: bool = False

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"series {self.number} ({self.description or 'without a description'})"


@dataclass
class Export:
    """What was found in a folder of DICOM files.

    Attributes:
        series: By their numbers.
        problems: File and why it cannot be used.
        notes: Sentences.
    """

    series: list[Series] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_dicom(path: Path) -> bool:
    """Tell whether a file has the mark of DICOM, or begins with a data set as old files do.

    Example:
        >>> is_dicom(Path("nowhere"))
        False
    """
    try:
        with path.open("rb") as stream:
            begin = stream.read(132)
    except OSError:
        return False
    if begin[128:] == b"DICM":
        return True
    if len(begin) < 16 or path.suffix.lower() in _OTHER_ENDINGS:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", begin[:4])
        if group in (0x0002, 0x0008) and element <= 0x0070:
            (length,) = struct.unpack(f"{order}I", begin[4:8])
            if begin[4:6] in _REPRESENTATIONS or (group == 0x0008 and length < 256 and length % 2 == 0):
                return True
    return False


def holds_dicom(files: Iterable[Path]) -> bool:
    """Tell whether there are DICOM files among files."""
    return any(is_dicom(path) for path in files if not is_image_name(path))


def read_export(folder: Path, files: Iterable[Path]) -> Export:
    """Read the headers of all DICOM files among files.

    A file that is damaged is named and the others are taken; of images that are there twice one is taken;
    phase images and other parts are left out of a series that has magnitudes too.

    Args:
        folder: Where they lie.
        files: In the order of their names.

    Raises:
        IntakeError: There are several patients, or pydicom is missing.
    """
    export = Export()
    series: dict[str, Series] = {}
    patients: set[str] = set()
    seen: set[str] = set()
    twice = 0
    for path, header in _headers(files, export):
        uid = str(header.get("SOPInstanceUID") or path)
        if uid in seen:
            twice += 1
            continue
        seen.add(uid)
        patients.add(str(header.get("PatientID") or header.get("PatientName") or ""))
        _sort_in(path, header, series)
    if (count := len(patients - {""})) > 1:
        raise IntakeError(
            f"{folder} holds images of {count} patients, expected one; put each into a folder of its own"
        )
    if twice:
        export.notes.append(f"{readable(folder)}: {twice} DICOM files are there twice; one of each is used")
    export.series = sorted(series.values(), key=lambda item: (item.number, item.description))
    return export


def mean_orientation(series: Series) -> list[float] | None:
    """Return the direction cosines of rows and columns that a series' slices have but for rounding.

    Args:
        series: Of single-frame files.

    Returns:
        Six numbers; None where all slices have the same, or a file holds several slices.
    """
    if len(series.slices) != len(series.files):
        return None
    axes = np.array([[*_unit(each.right), *_unit(each.down)] for each in series.slices])
    if float(np.abs(axes - axes[0]).max()) < _SAME_DIRECTION:
        return None
    right = _unit(axes[:, :3].mean(axis=0))
    down = axes[:, 3:].mean(axis=0)
    down = _unit(down - right * float(right @ down))
    return [round(float(value), 10) for value in (*right, *down)]


def write_turned(path: Path, place: Path, orientation: list[float]) -> None:
    """Copy a DICOM file with another orientation; converters take slices of unlike orientation apart."""
    import pydicom

    item = pydicom.dcmread(path, force=True)
    item.ImageOrientationPatient = orientation
    item.save_as(place)


def _unit(vector: _Vector) -> _Vector:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _sort_in(path: Path, header: Any, series: dict[str, Series]) -> None:
    """Add a file to its series, or count it as left out of it."""
    image_type = tuple(str(value) for value in _many(header.get("ImageType")))
    found = series.setdefault(
        str(header.get("SeriesInstanceUID", "")),
        Series(
            _whole(header.get("SeriesNumber")),
            str(header.get("SeriesDescription") or header.get("ProtocolName") or ""),
            str(header.get("Modality") or ""),
            image_type,
            str(header.get("FrameOfReferenceUID") or ""),
        ),
    )
    component = str(header.get("ComplexImageComponent") or "")
    if reason := reason_by_image_type([*image_type, component] if component else list(image_type)):
        found.left_out[reason] = found.left_out.get(reason, 0) + 1
        return
    if not found.files:
        found.image_type = image_type
    found.files.append(path)
    found.mosaic = found.mosaic or "MOSAIC" in {value.upper() for value in image_type}
    found.slices += _slices(header)


def _headers(files: Iterable[Path], export: Export) -> Iterator[tuple[Path, Any]]:
    try:
        import pydicom
    except ImportError as error:
        raise IntakeError("reading DICOM needs the package pydicom; install it with pip") from error
    for path in files:
        if path.name.upper() == "DICOMDIR" or is_image_name(path):
            continue
        if not is_dicom(path):
            if path.suffix.lower() in _DICOM_ENDINGS:
                words = "is called DICOM but is none, or is damaged; copy it again"
                if path.is_symlink() and not path.exists():
                    words = "is a link whose target is missing; fetch it, for example with 'datalad get'"
                export.problems.append((readable(path), f"{readable(path)} {words}"))
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            problem = _damage(header, path)
            _slices(header)
        except Exception as error:  # noqa: BLE001  # pydicom raises anything on damaged files
            problem, header = f"is damaged ({' '.join(str(error).split()) or type(error).__name__})", None
        if problem:
            export.problems.append((readable(path), f"{readable(path)} {problem}; copy it again"))
        elif header is not None and "SOPClassUID" in header:
            yield path, header


def _damage(header: Any, path: Path) -> str:
    """Say what is wrong with a file; nothing if there is nothing."""
    if "SOPClassUID" not in header and "Rows" not in header and "Modality" not in header:
        return "is no DICOM image or is damaged"
    syntax = str(getattr(header, "file_meta", {}).get("TransferSyntaxUID", _UNCOMPRESSED[0]))
    if "Rows" in header and syntax in _UNCOMPRESSED:
        wanted = int(header.Rows) * int(header.Columns) * int(header.get("BitsAllocated", 16)) // 8
        wanted *= max(1, _whole(header.get("NumberOfFrames")))
        if path.stat().st_size < wanted:
            return f"is truncated ({path.stat().st_size} bytes, expected {wanted} of pixels alone)"
    return ""


def _slices(header: Any) -> list[Slice]:
    """Return where each slice of a file lies, single or multi-frame."""
    rows, columns = _whole(header.get("Rows")), _whole(header.get("Columns"))
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if header.get("ImageOrientationPatient") and header.get("ImagePositionPatient"):
            made = _slice(
                header.ImageOrientationPatient,
                header.ImagePositionPatient,
                header.get("PixelSpacing") or (1.0, 1.0),
                rows,
                columns,
            )
            return [made]
        return []
    shared = header.SharedFunctionalGroupsSequence[0]
    found = []
    for frame in frames:
        plane = frame if "PlaneOrientationSequence" in frame else shared
        measures = frame if "PixelMeasuresSequence" in frame else shared
        spacing = (1.0, 1.0)
        if "PixelMeasuresSequence" in measures:
            spacing = measures.PixelMeasuresSequence[0].PixelSpacing
        found.append(
            _slice(
                plane.PlaneOrientationSequence[0].ImageOrientationPatient,
                frame.PlanePositionSequence[0].ImagePositionPatient,
                spacing,
                rows,
                columns,
            )
        )
    return found


def _slice(orientation: Any, position: Any, spacing: Any, rows: int, columns: int) -> Slice:
    axes = np.array([float(value) for value in orientation])
    between_rows, between_columns = (float(value) for value in spacing)
    origin = np.array([float(value) for value in position])
    if axes.shape != (6,) or origin.shape != (3,) or not np.isfinite([*axes, *origin]).all():
        raise ValueError("its orientation or position is none")
    return Slice(origin, axes[:3] * between_columns, axes[3:] * between_rows, rows, columns)


def _many(value: Any) -> Iterable[Any]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
