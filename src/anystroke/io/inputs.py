"""One scan to segment: where its voxels are, whose it is, and what its results are to be called."""

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from anystroke.core.errors import AnystrokeError
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.formats import SCAN_SUFFIXES, brain_window, looks_like_ct, read_scan
from anystroke.io.names import derivative_stem, image_stem

HERE = PurePosixPath()


class IntakeError(AnystrokeError):
    """Input that cannot be used as a whole; the message says which, why and what to do."""


@dataclass(frozen=True)
class ScanSource:
    """A scan that is to be segmented.

    Attributes:
        path: The image file.
        named: How the user named it: the file, or the folder or table that it came from.
        folder: Where its results go, relative to the output folder.
        patient: Scans with the same value are of one patient and session; empty if that is not known.
        uri: What the results' ``Sources`` say: a path, or a BIDS URI.
        series: Files of the DICOM series that it was converted from.
    """

    path: Path
    named: str
    folder: PurePosixPath = HERE
    patient: str = ""
    uri: str = ""
    series: tuple[Path, ...] = ()

    @classmethod
    def of_file(cls, path: str | Path) -> "ScanSource":
        """Describe a single file.

        Example:
            >>> ScanSource.of_file("in/a.nii.gz").stem
            'a_space-orig_label-L'
        """
        return cls(Path(path), str(path), uri=Path(path).as_posix())

    @property
    def title(self) -> str:
        """What messages and tables call it: the file, or the DICOM folder and the series."""
        return f"{self.named}: {image_stem(self.path)}" if self.series else str(self.path)

    @property
    def stem(self) -> str:
        """Name of its results up to the suffix."""
        return derivative_stem(self.path)

    def load(self, *, allow_ct: bool = False) -> Volume:
        """Read the scan, and refuse CT.

        Args:
            allow_ct: Take CT too, clipped to the window in which the brain shows.

        Raises:
            VolumeError: The file cannot be read, or is CT and that is not allowed.
        """
        scan = read_scan(self.path)
        ct = self.is_ct or looks_like_ct(scan)
        if ct and not allow_ct:
            raise VolumeError(
                f"{self.path} is CT (Hounsfield units), expected MR: the networks never saw CT; "
                "use --allow-ct to try all the same"
            )
        return brain_window(scan) if ct else scan

    @property
    def is_ct(self) -> bool:
        """Whether its name or its sidecar says CT."""
        return image_stem(self.path).split("_")[-1] == "ct" or self.sidecar.get("Modality") == "CT"

    @property
    def sidecar(self) -> dict[str, Any]:
        """The JSON file beside the image, empty if there is none that can be read."""
        beside = self.path.with_name(image_stem(self.path) + ".json")
        try:
            content = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@dataclass
class Found:
    """What was found in the input.

    Attributes:
        scans: To be segmented.
        skipped: A sentence on each thing that is left out on purpose.
        problems: What was named and why it cannot be used.
    """

    scans: list[ScanSource] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Take over what another search found."""
        self.scans += other.scans
        self.skipped += other.skipped
        self.problems += other.problems


def is_image_name(path: Path) -> bool:
    """Tell whether a file is named like an image.

    Example:
        >>> is_image_name(Path("a.NII.GZ")), is_image_name(Path("a.json"))
        (True, False)
    """
    return path.name.lower().endswith(SCAN_SUFFIXES)
