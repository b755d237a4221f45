"""One scan to segment: where its voxels are, whose it is, and what its results are to be called."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from anystroke.core.errors import AnystrokeError
from anystroke.core.text import readable
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.io.background import clean_background
from anystroke.io.formats import SCAN_SUFFIXES, brain_window, looks_like_ct, read_scan
from anystroke.io.kinds import reason_by_name, reason_by_voxels, sidecar_of
from anystroke.io.names import derivative_stem, image_stem

HERE = PurePosixPath()


class IntakeError(AnystrokeError):
    """Input that cannot be used as a whole; the message says which, why and what to do."""


@dataclass(frozen=True)
class Input:
    """A scan that is to be segmented.

    Attributes:
        path: The image file.
        named: How the user named it: the file, or the folder or table that it came from.
        folder: Where its results go, relative to the output folder.
        patient: Scans with the same value are of one patient and session; empty if that is not known.
        uri: What the results' ``Sources`` say: a path, or a BIDS URI.
        series: Files of the DICOM series that it was converted from.
        made: Whether the file was made of what the user named, such as one image of a diffusion series.
        fused: Scans with the same value are fused: the images of one diffusion series; empty for others.
        frame: Scans with the same value have one coordinate system; empty if that is not known.
        warnings: Sentences on how it was read.
    """

    path: Path
    named: str
    folder: PurePosixPath = HERE
    patient: str = ""
    uri: str = ""
    series: tuple[Path, ...] = ()
    made: bool = False
    fused: str = ""
    frame: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_file(cls, path: str | Path) -> "Input":
        """Describe a single file.

        Example:
            >>> Input.of_file("in/a.nii.gz").stem
            'a_space-orig_label-L'
        """
        return cls(Path(path), readable(path), uri=readable(Path(path).as_posix()))

    @property
    def title(self) -> str:
        """What messages and tables call it: the file, or the DICOM folder and the series."""
        return f"{self.named}: {image_stem(self.path)}" if self.series or self.made else self.named

    @property
    def stem(self) -> str:
        """Name of its results up to the suffix."""
        return derivative_stem(self.path)

    def load(self, *, allow_ct: bool = False) -> Volume:
        """Read the scan, and refuse what is none.

        Args:
            allow_ct: Take CT too, clipped to the window in which the brain shows.

        Raises:
            VolumeError: The file cannot be read, is no scan, or is CT and that is not allowed.

        Warns:
            VolumeWarning: Something about it should be looked at.
        """
        reason = reason_by_name(self.path, self.sidecar)
        if reason is not None and "quantitative" not in reason:
            raise VolumeError(f"{self.path} is no scan to segment: {reason}; give the scan, or rename it")
        for text in self.warnings:
            warnings.warn(text, VolumeWarning, stacklevel=2)
        if reason is not None:
            text = f"{self.path}: {reason}, expected a weighted image; do not rely on the result"
            warnings.warn(text, VolumeWarning, stacklevel=2)
        scan = read_scan(self.path)
        ct = self.is_ct or looks_like_ct(scan)
        if ct and not allow_ct:
            raise VolumeError(
                f"{self.path} is CT (Hounsfield units), expected MR: the networks never saw CT; "
                "use --allow-ct to try all the same"
            )
        return brain_window(scan) if ct else usable_scan(scan, str(self.path))

    @property
    def is_ct(self) -> bool:
        """Whether its name or its sidecar says CT."""
        return image_stem(self.path).split("_")[-1] == "ct" or self.sidecar.get("Modality") == "CT"

    @property
    def sidecar(self) -> dict[str, Any]:
        """The JSON file beside the image, empty if there is none that can be read."""
        return sidecar_of(self.path)


@dataclass
class Found:
    """What was found in the input.

    Attributes:
        scans: To be segmented.
        skipped: A sentence on each thing that is left out on purpose.
        problems: What was named and why it cannot be used.
    """

    scans: list[Input] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Take over what another search found."""
        self.scans += other.scans
        self.skipped += other.skipped
        self.problems += other.problems


def usable_scan(scan: Volume, name: str = "the scan") -> Volume:
    """Refuse voxels that are those of no scan, and make what is outside of the head an empty background.

    Args:
        scan: One channel, float.
        name: How to call it in messages.

    Raises:
        VolumeError: It is a label map, a map of probabilities or a phase image.

    Warns:
        VolumeWarning: Voxels were taken as background.

    Example:
        >>> import torch
        >>> usable_scan(Volume(torch.rand(1, 8, 8, 8), torch.eye(4))).shape
        (8, 8, 8)
    """
    if scan.data.shape[0] == 1 and (reason := reason_by_voxels(scan)):
        raise VolumeError(f"{name} is no scan to segment: {reason}; give the scan")
    return clean_background(scan, name)


def is_image_name(path: Path) -> bool:
    """Tell whether a file is named like an image.

    Example:
        >>> is_image_name(Path("a.NII.GZ")), is_image_name(Path("a.json"))
        (True, False)
    """
    return path.name.lower().endswith(SCAN_SUFFIXES)
