"""Open NIfTI and MGH files as people have them: what a header means, and what about it may be mended.

Mended, with a warning: a plain file called ``.gz`` and the reverse, a quaternion that is too long, metres and
micrometres, an intensity scaling that is no number, one of two forms that is unusable. Refused, with the
reason: all that would leave a doubt about where the voxels are.
"""

import gzip
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.grids import affine_problem, displacement

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")

_GZIP = b"\x1f\x8b"
# zlib makes nothing smaller than this share of its size.
_LARGEST_COMPRESSION = 1040
# Share of what the header tells of that a file may hold.
_MOST_UNUSED = 1.01
# Sides of fields of view of heads [mm].
_SMALLEST_SIDE, _LARGEST_SIDE = 30.0, 1500.0
# From the world's origin [mm].
_FARTHEST = 1e5
_UNITS = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
# Relative difference of voxel sizes from which two parts of a header contradict each other.
_SIZES_DIFFER = 0.01
_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error)
_OTHER_KINDS = (
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ", "an xz archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"<!DOCTYPE", "a web page", "download the image again"),
    (b"<html", "a web page", "download the image again"),
    (b"NRRD", "NRRD", "call it .nrrd"),
    (b"%PDF", "a PDF", "give the image"),
    (b"/annex/objects", "a git-annex pointer without its content", "run 'datalad get' on it"),
    (b"version https://git-lfs", "a Git LFS pointer without its content", "run 'git lfs pull'"),
)


class VolumeError(AnystrokeError):
    """An image that cannot be used, with the reason and the cure in one sentence."""


class VolumeWarning(UserWarning):
    """Something about an image's geometry or values that the user should look at."""


@contextmanager
def unsaid() -> Iterator[None]:
    """Say nothing about images in the block: what is read twice is spoken of once.

    Example:
        >>> with unsaid():
        ...     warnings.warn("left is right", VolumeWarning)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VolumeWarning)
        yield


def check_suffix(path: Path) -> None:
    """Refuse a file that is not named like an image.

    Raises:
        VolumeError: It is not.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise VolumeError(
            f"{path} is not named like an image: expected one of {', '.join(SUFFIXES)}; convert it first"
        )


def check_exists(path: Path) -> None:
    """Refuse what is no file, and say which link leads nowhere.

    Raises:
        VolumeError: There is no such file, it is a folder, or a link whose target is missing.
    """
    if path.is_dir():
        raise VolumeError(
            f"{path} is a folder, expected an image file ({', '.join(SUFFIXES)}); name the files in it"
        )
    if path.is_symlink() and not path.exists():
        raise VolumeError(
            f"{path} is a link whose target is missing ({path.readlink()}); fetch it, for example with "
            f"'datalad get'"
        )
    if not path.exists():
        raise VolumeError(f"{path} does not exist; check the path")


@np.errstate(all="ignore")
def open_image(path: Path) -> Any:
    """Read an image's header, mended where that leaves no doubt.

    Raises:
        VolumeError: The file is missing, of another kind or damaged.

    Warns:
        VolumeWarning: Something was mended.
    """
    check_exists(path)
    check_suffix(path)
    try:
        with path.open("rb") as stream:
            begin = stream.read(64)
    except OSError as error:
        raise VolumeError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not begin:
        raise VolumeError(f"{path} is empty (0 bytes), expected an image; copy or convert it again")
    try:
        image = nib.load(path)
        if isinstance(image, nib.Nifti1Image) and image.dataobj.offset < _first_voxel(image.header):
            raise HeaderDataError("its voxels begin within its header")
        np.asarray(image.affine)
    except _DAMAGE as error:
        image = _mended(path, begin, error)
    except Exception as error:  # nibabel's readers raise anything on damaged headers
        raise _damaged(path, error) from error
    _check_size(image, path)
    return image


def read_array(image: Any, path: Path) -> np.ndarray[Any, Any]:
    """Read the voxels, scaled as the header says.

    Raises:
        VolumeError: They are damaged or too few.

    Warns:
        VolumeWarning: There are more.
    """
    try:
        with np.errstate(all="ignore"):  # values that are not finite are spoken of by who uses them
            array: np.ndarray[Any, Any] = np.asanyarray(image.dataobj)
    except (*_DAMAGE, MemoryError) as error:
        raise VolumeError(
            f"{path} is truncated or damaged: expected {times(image.shape)} voxels, but they cannot be read "
            f"({first_line(error)}); copy or convert it again"
        ) from error
    _warn_of_surplus(image, path)
    return array


@np.errstate(all="ignore")
def read_affine(image: Any, path: Path) -> tuple[Tensor, int]:
    """Find an image's affine in mm and the NIfTI code of its space.

    Raises:
        VolumeError: The header says nothing usable about where the voxels are.

    Warns:
        VolumeWarning: Its parts contradict each other, or it is not in mm.
    """
    header = image.header
    matrix = np.asarray(image.affine, dtype=np.float64)
    code = 1
    nifti = "sform_code" in header
    sform = qform = 0
    if nifti:
        sform, qform = int(header["sform_code"]), int(header["qform_code"])
        if sform <= 0 and qform <= 0:
            raise VolumeError(
                f"{path} says nothing about orientation (sform and qform codes are both 0); convert it again "
                "from DICOM, or set the sform if you know how the axes lie"
            )
        matrix, code = _chosen_form(header, path, matrix, sform, qform)
    elif "goodRASFlag" in header and int(header["goodRASFlag"]) == 0:
        raise VolumeError(
            f"{path} says nothing about orientation (its RAS flag is not set); convert it again with "
            "mri_convert"
        )
    shape = _three(image.shape)
    scale = _millimetres(header, path, matrix, shape) if nifti else 1.0
    if scale != 1.0:
        matrix = np.diag([scale, scale, scale, 1.0]) @ matrix
    # Rounded to what a NIfTI header can store, so that an output has the very affine of its input.
    affine = torch.from_numpy(matrix.astype(np.float32).astype(np.float64))
    problem = affine_problem(affine)
    if problem:
        raise VolumeError(
            f"{path} has no usable voxel-to-world affine: {problem}; convert it again from DICOM"
        )
    if (far := float(affine[:3, 3].abs().max())) > _FARTHEST:
        raise VolumeError(
            f"{path} lies {far:.3g} mm away from the world's origin by its header, expected "
            f"a scanner's coordinates; convert it again from DICOM"
        )
    if nifti:
        both = sform > 0 and qform > 0 and code == sform
        _warn_of_conflict(header, path, affine, shape, scale=scale, both=both)
    return affine, code


def check_kind(image: Any, path: Path, channels: int | None) -> None:
    """Refuse colour, complex and wrongly shaped images before their voxels are read.

    Raises:
        VolumeError: It is such an image.
    """
    kind = image.get_data_dtype().kind
    if kind not in "biuf":
        name = {"c": "complex", "V": "colour (RGB)"}.get(kind, str(image.get_data_dtype()))
        raise VolumeError(
            f"{path} holds {name} voxels, expected one real number per voxel; export a magnitude image"
        )
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or min(shape, default=0) < 1:
        raise VolumeError(
            f"{path} has {times(shape) or 'no'} voxels, expected a 3-D image; give a whole volume"
        )
    count = math.prod(shape[3:])
    if channels is not None and count != channels:
        wanted = "a single volume" if channels == 1 else f"{channels} volumes"
        raise VolumeError(
            f"{path} holds {count} volumes ({times(shape)}), expected {wanted}; extract what you need"
        )


def times(shape: tuple[int, ...]) -> str:
    """Write a shape.

    Example:
        >>> times((2, 3, 4))
        '2 x 3 x 4'
    """
    return " x ".join(str(int(n)) for n in shape)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name if it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _damaged(path: Path, error: BaseException) -> VolumeError:
    return VolumeError(
        f"{path} is not a readable image: expected NIfTI or MGH, got a file that is damaged or of another "
        f"kind ({first_line(error)}); convert or copy it again"
    )


def _mended(path: Path, begin: bytes, error: Exception) -> Any:
    """Open a file that nibabel refuses, by its bytes instead of its name."""
    for mark, kind, cure in _OTHER_KINDS:
        if begin.lstrip().lower().startswith(mark.lower()):
            raise VolumeError(f"{path} is {kind}, expected NIfTI or MGH; {cure}") from error
    named_gz = path.name.lower().endswith((".gz", ".mgz"))
    try:
        raw = path.read_bytes()
        if raw[128:132] == b"DICM":
            raise VolumeError(f"{path} is a DICOM file, expected NIfTI or MGH; name its folder")
        layers = 0
        while raw.startswith(_GZIP) and layers < 3:
            raw = gzip.decompress(raw)
            layers += 1
        image = _from_bytes(raw, path)
    except VolumeError:
        raise
    except Exception as other:  # noqa: BLE001  # nibabel's readers raise anything on damaged headers
        raise _damaged(path, error if _named_as_it_is(named_gz, begin) else other) from error
    if named_gz != (layers > 0):
        how = "is not compressed, though it is named so" if named_gz else "is compressed, though not named so"
        warnings.warn(f"{path} {how}; it was read by its content", VolumeWarning, stacklevel=4)
    return image


def _named_as_it_is(named_gz: bool, begin: bytes) -> bool:
    """Tell whether a file is compressed just when its name says so.

    Example:
        >>> _named_as_it_is(True, bytes(16))
        False
    """
    return named_gz == begin.startswith(_GZIP)


def _from_bytes(raw: bytes, path: Path) -> Any:
    """Read an image of bytes, its NIfTI header mended first."""
    size = {raw[:4][::order] for order in (1, -1)}
    if (348).to_bytes(4, "big") in size:
        header = nib.Nifti1Header(raw[:348], check=False)
        if bytes(header["magic"])[:2] not in (b"n+", b"ni"):
            raise VolumeError(
                f"{path} is Analyze 7.5, which says nothing about orientation; convert it again "
                "from DICOM to NIfTI"
            )
        return nib.Nifti1Image.from_bytes(_mended_header(header, path).binaryblock + raw[348:])
    if (540).to_bytes(4, "big") in size:
        header = nib.Nifti2Header(raw[:540], check=False)
        return nib.Nifti2Image.from_bytes(_mended_header(header, path).binaryblock + raw[540:])
    return nib.MGHImage.from_bytes(raw)


def _mended_header(header: Any, path: Path) -> Any:
    """Mend what leaves no doubt about the voxels and where they are."""
    quaternion = np.array([float(header[f"quatern_{axis}"]) for axis in "bcd"])
    length = float(np.linalg.norm(quaternion))
    if int(header["qform_code"]) > 0:
        if not np.isfinite(length) or length > 1.01:
            header["qform_code"] = 0
            if int(header["sform_code"]) > 0:
                _warn(path, f"the quaternion of its header is none (length {length:.3g}); the sform is used")
        elif length > 1.0:
            quaternion /= length * (1 + 1e-7)
            for axis, value in zip("bcd", quaternion, strict=True):
                header[f"quatern_{axis}"] = value
    if int(header["qform_code"]) <= 0:
        for axis in "bcd":
            header[f"quatern_{axis}"] = 0.0
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        header["scl_slope"], header["scl_inter"] = 1.0, 0.0
        _warn(path, "the intensity scaling of its header is no number; the values are taken as stored")
    if int(header["vox_offset"]) < _first_voxel(header):
        header["vox_offset"] = _first_voxel(header)
    return header


def _first_voxel(header: Any) -> int:
    return 352 if int(header["sizeof_hdr"]) == 348 else 544


def _warn(path: Path, text: str) -> None:
    warnings.warn(f"{path}: {text}", VolumeWarning, stacklevel=6)


def _check_size(image: Any, path: Path) -> None:
    """Refuse voxels that cannot be in the file, before memory is asked for them."""
    try:
        wanted = math.prod(max(int(n), 0) for n in image.shape) * int(image.get_data_dtype().itemsize)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    size = path.stat().st_size
    if wanted > size * _LARGEST_COMPRESSION:
        raise VolumeError(
            f"{path} is truncated or damaged: expected {times(image.shape)} voxels, but it has {size} bytes; "
            f"copy or convert it again"
        )


def _warn_of_surplus(image: Any, path: Path) -> None:
    """Say that a file, read to its end, holds more than its header tells."""
    if not (isinstance(image, nib.Nifti1Image) and path.is_file() and hasattr(image.dataobj, "offset")):
        return
    wanted = math.prod(image.shape) * int(image.get_data_dtype().itemsize) + image.dataobj.offset
    if _uncompressed(path) > _MOST_UNUSED * wanted:
        warnings.warn(
            f"{path} holds more than the {times(image.shape)} voxels of its header, which may be damaged; "
            "check the picture",
            VolumeWarning,
            stacklevel=4,
        )


def _uncompressed(path: Path) -> int:
    """Return the size of a file's content; of a compressed one modulo 4 GiB, as it says itself."""
    with path.open("rb") as stream:
        if stream.read(2) != _GZIP:
            return path.stat().st_size
        stream.seek(-4, 2)
        return int.from_bytes(stream.read(4), "little")


def _chosen_form(
    header: Any, path: Path, matrix: np.ndarray[Any, Any], sform: int, qform: int
) -> tuple[np.ndarray[Any, Any], int]:
    """Take the sform, or the qform where the sform cannot be used or is not set."""
    if sform <= 0:
        return matrix, qform
    rows = np.vstack([header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]).astype(np.float64)
    problem = affine_problem(torch.from_numpy(rows))
    if problem and qform > 0:
        try:
            other = np.asarray(header.get_qform(), dtype=np.float64)
        except (HeaderDataError, ValueError):
            return matrix, sform
        if affine_problem(torch.from_numpy(other)) is None:
            warnings.warn(
                f"{path}: the sform of the header cannot be used ({problem}); the qform is used",
                VolumeWarning,
                stacklevel=4,
            )
            return other, qform
    return matrix, sform


def _millimetres(header: Any, path: Path, matrix: np.ndarray[Any, Any], shape: tuple[int, int, int]) -> float:
    """Return what makes mm of an affine's numbers, if the header's unit is another one and they are in it."""
    name, factor = _UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if not name:
        return 1.0
    sides = np.linalg.norm(matrix[:3, :3], axis=0) * shape
    within = [
        bool((sides * scale).min() >= _SMALLEST_SIDE and (sides * scale).max() <= _LARGEST_SIDE)
        for scale in (factor, 1.0)
    ]
    if not any(within):
        raise VolumeError(
            f"{path} is in {name} by its header, which makes {_sizes(sides * factor)} mm of it, expected a "
            f"head; correct its unit and voxel sizes"
        )
    sizes = _sizes(np.linalg.norm(matrix[:3, :3], axis=0) * factor)
    text = (
        f"the header is in {name}; it is read as voxels of {sizes} mm"
        if within[0]
        else f"the header says {name}, but its numbers are millimetres and are read so"
    )
    warnings.warn(f"{path}: {text}", VolumeWarning, stacklevel=4)
    return factor if within[0] else 1.0


def _warn_of_conflict(
    header: Any, path: Path, affine: Tensor, shape: tuple[int, int, int], *, scale: float, both: bool
) -> None:
    """Warn when the header's other parts give other voxel sizes or put the voxels elsewhere."""
    sizes = affine[:3, :3].norm(dim=0).numpy()
    stored = scale * np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if bool((np.abs(stored - sizes) > _SIZES_DIFFER * sizes).any()):
        warnings.warn(
            f"{path}: the header gives two voxel sizes, {_sizes(sizes)} mm by its affine and "
            f"{_sizes(stored)} mm by pixdim; the affine is used, and with it the volume may be wrong: check "
            f"which is true",
            VolumeWarning,
            stacklevel=4,
        )
        return
    if not both:
        return
    try:
        form = np.diag([scale, scale, scale, 1.0]) @ header.get_qform()
    except (HeaderDataError, ValueError):
        return
    other = torch.from_numpy(form)
    distance = displacement(other, affine, shape)
    if distance > max(1.0, 0.5 * float(sizes.min())):
        warnings.warn(
            f"{path}: the sform and the qform of the header put voxels up to {distance:.1f} mm apart; the "
            "sform is used, check left and right on the picture",
            VolumeWarning,
            stacklevel=4,
        )


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (int(shape[0]), int(shape[1]), int(shape[2])) if len(shape) >= 3 else (1, 1, 1)


def _sizes(values: Any) -> str:
    return " x ".join(f"{float(value):.4g}" for value in values)
