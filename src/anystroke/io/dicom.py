"""Folders of DICOM files: which series are scans of a head, checked and converted by dcm2niix.

Chris Rorden's dcm2niix (Li et al., J Neurosci Methods 264:47, 2016) comes as a wheel. Before it runs, the
headers are read by pydicom: two patients in a folder and missing slices are refused, and localisers, derived
images and what is not an image of a scanner are left out. After it ran, the voxels are put where the headers
say: dcm2niix leaves the shear out of stacks that are not straight.
"""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from anystroke.core.image_files import unsaid
from anystroke.core.text import readable
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.dicom_headers import (
    Series,
    Slice,
    holds_dicom,
    is_dicom,
    mean_orientation,
    read_export,
    write_turned,
)
from anystroke.io.folders import walk
from anystroke.io.inputs import Found, Input, IntakeError
from anystroke.io.kinds import reason_by_name
from anystroke.io.names import image_stem

__all__ = ["convert_dicom", "holds_dicom", "is_dicom"]

_LOCALISER = re.compile(r"locali[sz]er|scout|survey|three.?plane|3.?plane|smartbrain|aahead", re.IGNORECASE)
# Computed images that a scanner calls derived and that are scans all the same.
_SCANS_ALL_THE_SAME = {"DIFFUSION", "ADC", "TRACEW", "TRACE", "UNI", "UNI-DEN"}
_COMPUTED = {
    *(
        "MPR",
        "MIP",
        "MINIP",
        "MNIP",
        "PROJECTION IMAGE",
        "SUBTRACTION",
        "CSA MPR",
        "SCREEN SAVE",
        "FA",
        "TENSOR",
    ),
    *("COLFA", "FMRI", "PERFUSION", "RCBF", "RCBV", "RELCBF", "RELCBV", "MTT", "TTP", "CBF", "CBV", "TMAX"),
}
# Slices of one scan lie evenly; a gap this much wider than the usual one means that a slice is missing.
_WIDEST_GAP = 1.5
_FEWEST_SLICES = 8
_TIMEOUT = 600.0
# Cosine between normals of slices that are parallel but for rounding.
_PARALLEL = 0.9994
_SAME_PLACE = 0.05
# How far [mm] a slice may lie from where an even stack puts it.
_UNEVEN = 1.0


def convert_dicom(
    folder: Path, work: Path, *, allow_ct: bool = False, files: Sequence[Path] | None = None
) -> Found:
    """Convert the series of one patient to NIfTI.

    Args:
        folder: Holds DICOM files, also in folders of its own.
        work: Where to write the NIfTI files; made if missing.
        allow_ct: Take CT too.
        files: The files below the folder, if they are known.

    Returns:
        A scan for each series that is one, a word on each that is not, and what is wrong with the others.

    Raises:
        IntakeError: The folder as a whole cannot be used, or a package is missing.

    Example:
        >>> convert_dicom(Path("export"), Path("work")).skipped  # doctest: +SKIP
        ['export: series 1 (localizer) is left out: it is a localiser']
    """
    export = read_export(folder, walk(folder) if files is None else files)
    name = readable(folder)
    found = Found(skipped=list(export.notes), problems=list(export.problems))
    for series in export.series:
        for reason, count in series.left_out.items():
            what = f"{count} of its images are left out" if series.files else "it is left out"
            found.skipped.append(f"{name}: {series.title}: {what}: {reason}")
        if not series.files:
            continue
        if reason_to_skip := _reason_to_skip(series):
            found.skipped.append(f"{name}: {series.title} is left out: {reason_to_skip}")
        elif series.modality == "CT" and not allow_ct:
            text = f"{series.title} is CT, expected MR: the networks never saw CT; use --allow-ct to try"
            found.problems.append((name, f"{name}: {text}"))
        elif problem := _problem(series):
            found.problems.append((name, f"{name}: {series.title} {problem}"))
        else:
            _convert(series, folder, work, found)
    if not (found.scans or found.problems):
        words = "; ".join(text.removeprefix(f"{name}: ") for text in found.skipped) or "no series"
        found.problems.append((name, f"{name} holds no scan to segment ({words}); name the folder of a scan"))
    return found


def _reason_to_skip(series: Series) -> str | None:
    """Say why a series is no scan to segment, if it is none."""
    kinds = {value.upper() for value in series.image_type}
    if series.modality not in ("MR", "CT"):
        return f"its modality is {series.modality or 'not given'}"
    if "LOCALIZER" in kinds or _LOCALISER.search(series.description) or not _are_parallel(series.slices):
        return "it is a localiser"
    if kinds & _COMPUTED:
        return "it is derived from other images"
    if "DERIVED" in kinds and not kinds & {*_SCANS_ALL_THE_SAME, "M", "DIS2D", "DIS3D", "NORM"}:
        return "it is derived from other images"
    places = len(set(_places(series.slices)))
    if not series.mosaic and places < _FEWEST_SLICES:
        return f"it has {places} slices"
    return None


def _are_parallel(slices: Sequence[Slice]) -> bool:
    """Tell whether all slices lie side by side; rounding of their direction is allowed."""
    if not slices:
        return True
    normals = np.array([each.normal for each in slices])
    return bool((normals @ normals[0] > _PARALLEL).all())


def _places(slices: Sequence[Slice]) -> list[float]:
    """Return how far along their normal slices lie [mm]; what rounding moves apart lies at one place."""
    if not slices:
        return []
    normal = np.mean([each.normal for each in slices], axis=0)
    along = [float(normal @ each.middle) for each in slices]
    ordered = sorted(along)
    names: dict[float, float] = {}
    last = -np.inf
    for value in ordered:
        last = value if value - last > _SAME_PLACE else last
        names[value] = last
    return [round(names[value], 3) for value in along]


def _problem(series: Series) -> str | None:
    """Say what is wrong with a series' slices, if anything is."""
    if series.mosaic:
        return None
    found = _places(series.slices)
    places = np.array(sorted(set(found)))
    gaps = np.diff(places)
    usual = float(np.quantile(gaps, 0.1, method="lower"))  # where many are missing, most gaps are wide
    missing = int(sum(round(gap / usual) - 1 for gap in gaps if gap > _WIDEST_GAP * usual))
    if missing:
        wide = float(gaps.max())
        return (
            f"misses {missing} slice{'s' if missing > 1 else ''}: one gap is {wide:.1f} mm, the others "
            f"{usual:.1f} mm; export the series again"
        )
    counts = Counter(found)
    if len(set(counts.values())) > 1:
        return (
            f"misses slices: {max(counts.values())} images lie at some places and {min(counts.values())} "
            "at others; export the series again"
        )
    return None


def _convert(series: Series, folder: Path, work: Path, found: Found) -> None:
    """Run dcm2niix over the files of one series and take what it makes."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", series.description).strip("-") or "scan"
    name = f"{readable(folder.resolve().name)}_series-{series.number:03d}_{word}".replace("%", "-")
    taken = {each.path.name for each in found.scans}
    number = 2
    while any(path.startswith(f"{name}.") for path in taken):  # numbers of series may repeat in an export
        name = f"{name.rpartition('+')[0] or name}+{number}"
        number += 1
    made = work / f"{name}.nifti"
    why = _run(series, made, work / f"{name}.files", name)
    images = sorted(made.glob("*.nii"))
    title = readable(folder)
    if not images:
        text = f"{title}: {series.title} cannot be converted (dcm2niix: {why}); export it again"
        found.problems.append((title, text))
    for image in images:
        source = Input(
            image,
            title,
            patient=title,
            uri=readable(folder.as_posix()),
            series=tuple(series.files),
            frame=series.frame,
        )
        if reason := reason_by_name(image, source.sidecar) or _reason_by_ending(image, name):
            found.skipped.append(f"{title}: {image_stem(image)} is left out: {reason}")
            continue
        try:
            put_in_place(image, series)
        except VolumeError as error:
            found.problems.append((title, f"{title}: {series.title}: {error}"))
            continue
        found.scans.append(source)


def _run(series: Series, made: Path, inside: Path, name: str) -> str:
    """Run dcm2niix over the files of a series; return what it said last."""
    for path in (inside, made):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    orientation = mean_orientation(series)
    for i, file in enumerate(series.files):
        # Bare numbers: names may repeat in folders below each other.
        place = inside / f"{i:06d}.dcm"
        if orientation is None:
            place.symlink_to(file.resolve())
        else:
            write_turned(file, place, orientation)
    command = [_program(), "-b", "y", "-ba", "y", "-z", "n", "-f", name, "-o", str(made), str(inside)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"it took longer than {_TIMEOUT:.0f} s"
    finally:
        shutil.rmtree(inside)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def _reason_by_ending(image: Path, name: str) -> str | None:
    """Say what dcm2niix made beside the scan, by what it appended to the name."""
    ending = image_stem(image).removeprefix(name)
    for part, reason in (
        ("_ph", "it is a phase image"),
        ("_real", "it is the real part of an image"),
        ("_imaginary", "it is the imaginary part of an image"),
        ("_Eq", "it is a resampled copy"),
        ("_Tilt", "it is a resampled copy"),
        ("_ROI", "it is a picture of a report"),
    ):
        if re.search(rf"{part}(_|\d|$)", ending):
            return reason
    return None


def put_in_place(image: Path, series: Series) -> None:
    """Correct the affine of a converted series where it is not what the headers of the slices say.

    Args:
        image: NIfTI file that dcm2niix made, slices along its last axis; it is rewritten if need be.
        series: The series.

    Raises:
        VolumeError: The slices do not lie in an even stack, so that no affine puts all in their places.
    """
    if series.mosaic or not series.slices:
        return
    with unsaid():
        scan = Volume.load(image, channels=None, dtype=None)
    wanted = affine_of_stack(series.slices, scan.affine.numpy(), scan.shape)
    if wanted is None or np.abs(_corners(scan.shape) @ (wanted - scan.affine.numpy())[:3].T).max() < 0.1:
        return
    loaded = nib.load(image)
    array = np.asanyarray(loaded.dataobj)
    corrected = nib.Nifti1Image(array, wanted, loaded.header)
    corrected.set_qform(None, 0)  # sheared axes have no quaternion
    corrected.set_sform(wanted, 1)
    nib.save(corrected, image.with_name(f"placed-{image.name}"))
    image.with_name(f"placed-{image.name}").replace(image)


def affine_of_stack(
    slices: Sequence[Slice], affine: np.ndarray[Any, Any], shape: tuple[int, int, int]
) -> np.ndarray[Any, Any] | None:
    """Compute the affine that puts a converted stack where the headers of its slices say.

    Args:
        slices: Of the series.
        affine: (4, 4) voxels -> RAS mm as converted; its first two axes are believed.
        shape: Voxels; the slices are along the last axis.

    Returns:
        (4, 4) voxels -> RAS mm; None where the stack was converted into another number of slices.

    Raises:
        VolumeError: The slices do not lie evenly.
    """
    flip = np.array([-1.0, -1.0, 1.0])
    normal = np.mean([each.normal for each in slices], axis=0) * flip
    by_place: dict[float, np.ndarray[Any, Any]] = {}
    for place, each in zip(_places(slices), slices, strict=True):
        by_place.setdefault(place, each.middle * flip)
    middles = np.array([by_place[place] for place in sorted(by_place)])
    if len(middles) != shape[2] or len(middles) < 2:
        return None
    if normal @ affine[:3, 2] < 0:
        middles = middles[::-1]
    # Least squares over the slices: the step between them, and where the first lies.
    index = np.arange(len(middles)) - (len(middles) - 1) / 2
    step = (index[:, None] * middles).sum(axis=0) / (index**2).sum()
    fitted = middles.mean(axis=0) + index[:, None] * step
    worst = float(np.linalg.norm(middles - fitted, axis=1).max())
    if worst > max(_UNEVEN, 0.5 * float(np.linalg.norm(step))):
        raise VolumeError(
            f"its slices lie up to {worst:.1f} mm away from an even stack, so that no grid puts all "
            "of them in their places; export it again or reconstruct it evenly"
        )
    found = affine.copy()
    found[:3, 2] = step
    centre = np.array([(shape[0] - 1) / 2, (shape[1] - 1) / 2, 0.0])
    found[:3, 3] = fitted[0] - found[:3, :3] @ centre
    return found


def _corners(shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    ends = np.meshgrid(*((0, n - 1) for n in shape), (1,), indexing="ij")
    return np.stack([end.ravel() for end in ends], axis=1)


def _program() -> str:
    try:
        import dcm2niix
    except ImportError as error:
        raise IntakeError("reading DICOM needs the package dcm2niix; install it with pip") from error
    return str(dcm2niix.bin)
