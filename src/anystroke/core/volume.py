"""Volumes: voxels that never travel without their geometry.

World coordinates are RAS+ millimetres (x to the patient's right, y to the front, z up), as in NIfTI and
nibabel.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt2axcodes, ornt_transform
from torch import Tensor

from anystroke.core.files import atomic_path
from anystroke.core.grids import Mode, affine_problem, displacement, resample
from anystroke.core.image_files import SUFFIXES as SUFFIXES
from anystroke.core.image_files import VolumeError as VolumeError
from anystroke.core.image_files import VolumeWarning as VolumeWarning
from anystroke.core.image_files import (
    check_kind,
    check_suffix,
    open_image,
    read_affine,
    read_array,
    times,
    unsaid,
)

_KEPT = ("uint8", "int8", "int16", "int32", "int64", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image are, read without its voxels.

    Attributes:
        shape: Voxels along the three axes.
        affine: float64 (4, 4), voxel indices to RAS+ mm.
        count: Number of volumes of this shape.
    """

    shape: tuple[int, int, int]
    affine: Tensor
    count: int = 1

    @classmethod
    def of_file(cls, path: str | Path) -> "Grid":
        """Read the header of an image file.

        Raises:
            VolumeError: As `Volume.load`, but for the voxels.

        Example:
            >>> Grid.of_file("T1w.nii.gz").shape  # doctest: +SKIP
            (256, 256, 176)
        """
        path = Path(path)
        with unsaid():
            image = open_image(path)
            affine, _ = read_affine(image, path)
        check_kind(image, path, None)
        x, y, z, *others = (int(n) for n in image.shape)
        return cls((x, y, z), affine, math.prod(others))

    def difference(self, other: "Grid", *, tolerance: float = 1e-2) -> str | None:
        """Say how another grid differs.

        Args:
            other: The other grid.
            tolerance: Largest distance of corresponding corners that counts as none [mm].

        Returns:
            The end of a sentence, or None if both put all voxels at the same places.

        Example:
            >>> grid = Grid((4, 4, 4), torch.eye(4))
            >>> grid.difference(Grid((4, 4, 5), torch.eye(4)))
            '4 x 4 x 4 voxels against 4 x 4 x 5'
        """
        if self.shape != other.shape:
            return f"{times(self.shape)} voxels against {times(other.shape)}"
        distance = displacement(self.affine, other.affine, self.shape)
        return None if distance <= tolerance else f"voxels up to {distance:.3g} mm apart"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they are.

    Attributes:
        data: Tensor (C, X, Y, Z).
        affine: float64 tensor (4, 4): voxel indices to RAS+ millimetres.
        space_code: What the world coordinates mean, as a NIfTI xform code (1 scanner, 2 aligned to another
            image, 3 Talairach, 4 MNI152).

    Raises:
        VolumeError: The data are not 4-D, or the affine is not an invertible (4, 4) matrix.

    Example:
        >>> volume = Volume(torch.rand(1, 4, 5, 6), torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0])))
        >>> volume.shape, volume.spacing, volume.orientation
        ((4, 5, 6), (2.0, 2.0, 2.0), 'LAS')
    """

    data: Tensor
    affine: Tensor
    space_code: int = 2

    def __post_init__(self) -> None:
        if self.data.ndim != 4:
            raise VolumeError(
                f"a volume needs data of shape (channels, x, y, z), got {tuple(self.data.shape)}; add or "
                f"remove axes"
            )
        affine = self.affine.detach().to(dtype=torch.float64, device="cpu").clone()
        problem = affine_problem(affine)
        if problem:
            raise VolumeError(f"a volume needs an invertible voxel-to-world affine, but {problem}")
        object.__setattr__(self, "affine", affine)

    def __repr__(self) -> str:
        sides = " x ".join(map(str, self.shape))
        sizes = " x ".join(f"{side:.3g}" for side in self.spacing)
        channels = "" if self.data.shape[0] == 1 else f"{self.data.shape[0]} channels, "
        kind = str(self.data.dtype).removeprefix("torch.")
        return f"Volume({channels}{sides} voxels of {sizes} mm, {self.orientation}, {kind})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        return (self.data.shape[1], self.data.shape[2], self.data.shape[3])

    @property
    def grid(self) -> Grid:
        """Where the voxels are."""
        return Grid(self.shape, self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the three array axes [mm]."""
        x, y, z = self.affine[:3, :3].norm(dim=0).tolist()
        return (x, y, z)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel [ml]."""
        return abs(float(torch.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """Where the three array axes point to, nearest letters, for example ``"RAS"``."""
        return "".join(ornt2axcodes(io_orientation(self.affine.numpy())))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | None = torch.float32,
        channels: int | None = 1,
    ) -> "Volume":
        """Read a .nii, .nii.gz, .mgz or .mgh file.

        Intensity scaling of the header is applied. A conflict between sform and qform is warned about, and
        the sform taken.

        Args:
            path: The file.
            dtype: Type of the voxels; an integer type (for label maps) demands whole numbers. None takes the
                file's own type and order in memory, if torch has them, which saves a copy.
            channels: How many volumes the file must hold; None for any number.

        Returns:
            The volume, with the affine as exact as a NIfTI header can store it.

        Raises:
            VolumeError: The file is missing, not an image, damaged, not real-valued, without usable geometry,
                or holds another number of volumes.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp()) / "a.nii.gz"
            >>> Volume(torch.ones(1, 4, 5, 6), torch.eye(4)).save(file)
            >>> Volume.load(file).shape
            (4, 5, 6)
        """
        path = Path(path)
        image = open_image(path)
        affine, code = read_affine(image, path)
        check_kind(image, path, channels)
        array = read_array(image, path)
        return cls(_to_tensor(array, path, dtype), affine, code)

    @classmethod
    def from_nibabel(
        cls, image: Any, *, dtype: torch.dtype = torch.float32, channels: int | None = 1
    ) -> "Volume":
        """Take over a nibabel image, with the checks of `load`.

        Args:
            image: A nibabel spatial image (NIfTI, MGH).
            dtype: As in `load`.
            channels: As in `load`.

        Returns:
            The volume.

        Raises:
            VolumeError: As in `load`.

        Example:
            >>> Volume.from_nibabel(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4))).orientation
            'RAS'
        """
        name = Path(image.get_filename() or "the image in memory")
        affine, code = read_affine(image, name)
        check_kind(image, name, channels)
        return cls(_to_tensor(read_array(image, name), name, dtype), affine, code)

    @classmethod
    def from_array(cls, array: Any, affine: Any) -> "Volume":
        """Take over an array with its affine.

        Args:
            array: Real numbers or booleans (X, Y, Z), of numpy, PyTorch or anything that numpy takes.
            affine: (4, 4), voxel indices to RAS+ mm, as nibabel has it.

        Raises:
            VolumeError: The shapes are others, the numbers are not real, or the affine cannot be inverted.

        Example:
            >>> Volume.from_array(np.zeros((4, 5, 6)), np.diag([2.0, 2, 2, 1]))
            Volume(4 x 5 x 6 voxels of 2 x 2 x 2 mm, RAS, float32)
        """
        values, matrix = np.asarray(array), np.asarray(affine, dtype=np.float64)
        if values.ndim != 3 or values.dtype.kind not in "biuf":
            raise VolumeError(
                f"expected an array of real numbers (x, y, z), got {values.dtype} of shape {values.shape}"
            )
        if matrix.shape != (4, 4):
            raise VolumeError(f"expected an affine of shape (4, 4), got {matrix.shape}")
        kind = np.bool_ if values.dtype.kind == "b" else np.float32
        return cls(torch.from_numpy(values.astype(kind))[None], torch.from_numpy(matrix))

    def to_array(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the voxels, (X, Y, Z) or (X, Y, Z, channels), and the affine (4, 4), as nibabel has them.

        Example:
            >>> array, affine = Volume(torch.zeros(1, 4, 5, 6), torch.eye(4)).to_array()
            >>> array.shape, affine.shape
            ((4, 5, 6), (4, 4))
        """
        array = np.moveaxis(self.data.detach().cpu().numpy(), 0, -1)
        return array[..., 0] if array.shape[-1] == 1 else array, self.affine.numpy().copy()

    def save(self, path: str | Path, *, overwrite: bool = False, dtype: torch.dtype | None = None) -> None:
        """Write a .nii, .nii.gz, .mgz or .mgh file, whole or not at all.

        Args:
            path: The file; its folder must exist.
            overwrite: Whether an existing file may be replaced.
            dtype: Type on disk; by default float32 for floats, uint8 for booleans, the tensor's own type for
                integers.

        Raises:
            VolumeError: The file exists and ``overwrite`` is False, the suffix is unknown, or the values do
                not fit ``dtype``.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp()) / "mask.nii.gz"
            >>> Volume(torch.ones(1, 4, 5, 6, dtype=torch.bool), torch.eye(4)).save(file)
            >>> nib.load(file).get_data_dtype()
            dtype('uint8')
        """
        path = Path(path)
        check_suffix(path)
        array = _to_array(self.data, dtype, path)
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
        affine = self.affine.numpy()
        if path.name.lower().endswith((".mgz", ".mgh")):
            image = nib.MGHImage(array, affine)
        else:
            image = nib.Nifti1Image(array, affine)
            image.header.set_xyzt_units("mm")
            image.set_qform(affine, self.space_code)
            if displacement(torch.from_numpy(image.get_qform()), self.affine, self.shape) > 1e-2:
                image.set_qform(None, 0)  # sheared axes have no quaternion
            image.set_sform(affine, self.space_code)
        try:
            with atomic_path(path, overwrite=overwrite) as temporary:
                nib.save(image, temporary)
        except OSError as error:
            raise VolumeError(f"cannot write {path}: {error}") from error

    def reorient(self, orientation: str = "RAS") -> "Volume":
        """Permute and flip the array axes so that they point as near as possible to the given directions.

        No voxel value changes and the world position of each voxel stays the same.

        Args:
            orientation: Three letters, one of each pair R/L, A/P, S/I, in any order.

        Returns:
            The reoriented volume; its data may share memory with this one's.

        Raises:
            VolumeError: ``orientation`` is not such a code.

        Example:
            >>> volume = Volume(torch.rand(1, 4, 5, 6), torch.eye(4)).reorient("PIL")
            >>> volume.shape, volume.orientation
            ((5, 6, 4), 'PIL')
        """
        pairs = ("RL", "AP", "SI")
        if len(orientation) != 3 or any(sum(c in pair for c in orientation) != 1 for pair in pairs):
            raise VolumeError(
                f"an orientation is three letters, one of each pair R/L, A/P and S/I, such as 'RAS'; got "
                f"{orientation!r}"
            )
        affine = self.affine.numpy()
        change = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(orientation)))
        flipped = [int(axis) + 1 for axis, direction in enumerate(change[:, 1]) if direction < 0]
        order = np.argsort(change[:, 0])
        data = self.data.flip(flipped) if flipped else self.data
        data = data.permute(0, *(int(axis) + 1 for axis in order))
        return replace(self, data=data, affine=torch.from_numpy(affine @ inv_ornt_aff(change, self.shape)))

    def resample_to(
        self,
        affine: Tensor,
        shape: tuple[int, int, int],
        mode: Mode = "linear",
        *,
        fill: float = 0.0,
        antialias: bool = False,
    ) -> "Volume":
        """Sample the volume at the voxel centres of another grid of any spacing and obliquity.

        Up to half a voxel beyond the outermost voxel centres, that is inside the field of view, the edge
        value is held; further out is ``fill``. Where the two grids share voxel centres the values are copied
        exactly.

        Args:
            affine: Voxel to RAS+ mm of the wanted grid, (4, 4).
            shape: Voxels of the wanted grid.
            mode: ``"linear"`` (trilinear; floating-point data) or ``"nearest"`` (label maps).
            fill: Value outside the field of view.
            antialias: In linear mode, smooth first along each axis that gets coarser by more than 1.2, with a
                Gaussian whose full width at half maximum makes up the difference of the voxel sizes (Cardoso
                et al., Scale factor point spread function matching, MICCAI 2015).

        Returns:
            The volume on the wanted grid.

        Raises:
            VolumeError: ``mode`` is unknown, linear interpolation of integers is asked for, or the grid is
                invalid.

        Example:
            >>> volume = Volume(torch.arange(8.0).reshape(1, 2, 2, 2), torch.eye(4))
            >>> grid = torch.tensor([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
            >>> volume.resample_to(grid, (1, 2, 2)).data.flatten().tolist()
            [2.0, 3.0, 4.0, 5.0]
        """
        if mode not in ("linear", "nearest"):
            raise VolumeError(f"the interpolation mode must be 'linear' or 'nearest', got {mode!r}")
        if mode == "linear" and not self.data.is_floating_point():
            raise VolumeError(
                f"linear interpolation needs floating-point voxels, got {self.data.dtype}; use 'nearest'"
            )
        if len(shape) != 3 or min(shape) < 1:
            raise VolumeError(f"a grid needs three positive sizes, got {tuple(shape)}")
        target = affine.detach().to(dtype=torch.float64, device="cpu")
        problem = affine_problem(target)
        if problem:
            raise VolumeError(f"cannot resample to a grid of which {problem}")
        to_source = torch.linalg.inv(self.affine) @ target
        data = resample(self.data, to_source, shape, mode, fill=fill, antialias=antialias)
        return replace(self, data=data, affine=target)


def _to_tensor(array: np.ndarray[Any, Any], path: Path, dtype: torch.dtype | None) -> Tensor:
    """Convert (X, Y, Z, ...) voxels to a (C, X, Y, Z) tensor of the wanted type."""
    array = np.moveaxis(array.reshape(*array.shape[:3], -1), -1, 0)
    if dtype is None:
        kept = array.dtype.name if array.dtype.name in _KEPT else "float32"
        return torch.from_numpy(np.require(array, np.dtype(kept), "W"))
    wanted = torch.empty(0, dtype=dtype).numpy().dtype
    if wanted.kind in "iub" and array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            raise VolumeError(f"{path} holds voxels that are not whole numbers, expected a label map")
        array = whole
    if wanted.kind in "iu" and array.size:
        low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
        if array.min() < low or array.max() > high:
            raise VolumeError(
                f"{path} holds values from {array.min()} to {array.max()}, expected {low} to {high}; use a "
                f"wider type"
            )
    return torch.from_numpy(np.array(array, dtype=wanted, order="C"))


def _to_array(data: Tensor, dtype: torch.dtype | None, path: Path) -> np.ndarray[Any, Any]:
    """Convert a tensor to voxels for a file, refusing values that the type cannot hold."""
    data = data.detach().cpu()
    if dtype is None:
        dtype = torch.float32 if data.is_floating_point() else data.dtype
        dtype = {torch.bool: torch.uint8, torch.int64: torch.int32}.get(dtype, dtype)
    stored = data.to(dtype)
    if not dtype.is_floating_point and not torch.equal(stored.to(data.dtype), data):
        raise VolumeError(
            f"cannot write {path} as {dtype}: the voxels do not fit (not whole, or out of range)"
        )
    return np.asarray(stored.numpy())
