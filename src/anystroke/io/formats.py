"""Scans in the formats that people have: NIfTI and MGH by nibabel, NRRD and MetaImage by SimpleITK."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from anystroke.core.image_files import check_exists
from anystroke.core.volume import SUFFIXES, Volume, VolumeError

ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
SCAN_SUFFIXES = (*SUFFIXES, *ITK_SUFFIXES)

# Spaces of NRRD that say which way is left; the others leave it open.
_NRRD_SPACES = (
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"),
    *("ras", "las", "lps"),
)
# MetaImage: fields of which one says how the axes lie.
_META_AXES = ("TransformMatrix", "Rotation", "Orientation")
_LONGEST_HEADER = 1 << 16
# The part of CT that shows brain: a window of 80 HU around 40, as radiologists look at it.
_BRAIN_WINDOW = (0.0, 80.0)


def read_scan(path: str | Path) -> Volume:
    """Read a scan of any known format, one real number per voxel.

    Args:
        path: .nii, .nii.gz, .mgz, .mgh, .nrrd, .nhdr, .mha or .mhd.

    Returns:
        The scan, float32, with its affine in RAS+ mm.

    Raises:
        VolumeError: The file is missing, damaged, of another kind or not a single 3-D image.

    Example:
        >>> read_scan("patient_T2w.nrrd").orientation  # doctest: +SKIP
        'LPS'
    """
    path = Path(path)
    if path.name.lower().endswith(ITK_SUFFIXES):
        return _read_itk(path)
    return Volume.load(path)


def looks_like_ct(scan: Volume) -> bool:
    """Tell whether intensities are Hounsfield units: much air near -1000 and bone above 300.

    Args:
        scan: One channel.

    Example:
        >>> looks_like_ct(Volume(torch.rand(1, 8, 8, 8), torch.eye(4)))
        False
    """
    values = scan.data.flatten()[:: 1 + scan.data.numel() // 1_000_000]
    air = float((values <= -700).float().mean())
    # MR that is padded with a negative number has no other below zero.
    soft = float(((values < 0) & (values > values.min())).float().mean())
    return air > 0.05 and soft > 5e-4 and bool(values.max() > 300) and bool(values.min() >= -10_000)


def brain_window(scan: Volume) -> Volume:
    """Clip a CT to the window of 0 to 80 HU in which the brain shows.

    Example:
        >>> brain_window(Volume(torch.full((1, 4, 4, 4), -1000.0), torch.eye(4))).data.max()
        tensor(0.)
    """
    return Volume(scan.data.clamp(*_BRAIN_WINDOW), scan.affine, scan.space_code)


def _read_itk(path: Path) -> Volume:
    """Read what ITK reads; its world is LPS and its arrays are indexed z, y, x."""
    import SimpleITK as sitk  # noqa: N813  # a second to import, needed for these formats alone

    check_exists(path)
    _check_axes(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise VolumeError(
            f"{path} is not a readable image: expected NRRD or MetaImage, got a file that is damaged or of "
            f"another kind ({reason}); convert or copy it again"
        ) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise VolumeError(
            f"{path} has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} "
            "numbers per voxel, expected a 3-D image with one; extract what you need"
        )
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "biuf":
        raise VolumeError(
            f"{path} holds {array.dtype} voxels, expected real numbers; export a magnitude image"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    # As a NIfTI header stores it, so that outputs have the very affine of the scan as it was read.
    ras = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine).astype(np.float32).astype(np.float64)
    data = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 1, 0)).astype(np.float32))
    return Volume(data[None], torch.from_numpy(ras), 1)


def _check_axes(path: Path) -> None:
    """Refuse a header that says nothing about which way its axes point; ITK would make something up."""
    with path.open("rb") as stream:
        text = stream.read(_LONGEST_HEADER).decode("latin-1")
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        if not text.startswith("NRRD"):
            return  # said by who reads it
        head = text.replace("\r\n", "\n").partition("\n\n")[0]
        fields = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(":") for line in head.split("\n"))
            if not key.startswith("#")
        }
        space = fields.get("space", "").strip('"').lower()
        said = space in _NRRD_SPACES and "space directions" in fields
        what = f"its space is {space!r}" if space else "it has no space"
        if space in _NRRD_SPACES:
            what = "it has no space directions"
    else:
        head = text.partition("ElementDataFile")[0]
        keys = [line.partition("=")[0].strip() for line in head.splitlines()]
        if "NDims" not in keys:
            return
        said, what = any(key in keys for key in _META_AXES), "it has no TransformMatrix"
    if not said:
        raise VolumeError(
            f"{path} says nothing about orientation ({what}), so left and right are unknown; convert it "
            "again from DICOM, or write how its axes lie into the header"
        )


def as_volume(image: Any, affine: Any = None) -> Volume:
    """Take an image in any of the forms that people have it in.

    Args:
        image: A path, a `Volume`, a nibabel image, or an array (X, Y, Z).
        affine: Of an array: (4, 4), voxel indices to RAS+ mm.

    Raises:
        VolumeError: The image cannot be used, or an array comes without its affine.
        TypeError: It is something else.

    Example:
        >>> as_volume(torch.zeros(4, 5, 6), torch.eye(4)).shape
        (4, 5, 6)
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        return read_scan(image)
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        return Volume.from_nibabel(image)
    if hasattr(image, "__array__") or isinstance(image, torch.Tensor):
        if affine is None:
            raise VolumeError(
                "an array does not say where its voxels are; give its affine too, (4, 4) voxel indices to "
                "RAS+ mm, as nibabel's image.affine"
            )
        return Volume.from_array(image, affine)
    raise TypeError(
        f"expected a path, a Volume, a nibabel image or an array with its affine, got {type(image).__name__}"
    )
