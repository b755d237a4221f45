"""Affine registration of label maps to MNI space, where lesion masks live.

The brain of a label map is turned into an image of its tissue (grey matter 1, white matter 2) and aligned
with the same image of the MNI152 probability maps (ICBM 2009a symmetric, Fonov et al., NeuroImage 54:313,
2011, as shipped by nilearn): centres of mass, then rigid, then affine, coarse to fine. The result depends on
the input alone.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from anystroke.anatomy.tissues.labels import LabelScheme, coarse_affine, segmentation_class, tissue_mask
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path, sha256
from anystroke.core.volume import Volume

WORKING_SPACING = 3.0
"""Voxel size at which label maps are registered [mm]."""

STORED = Path(__file__).with_name("mni_registrations.json")
"""The registrations that come with the package."""

POOR_DICE = 0.8
"""Dice of the brain with that of MNI152, below which a registration is poor."""

SAMPLING_SEED = 1
"""Of the voxels that a metric is measured in; without it ITK takes the time of day."""

_LPS = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


Similarity = Literal["squares", "mutual_information"]


class RegistrationError(AnystrokeError):
    """A label map cannot be registered, or a stored registration does not belong to it."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a subject's brain lies in MNI space.

    Attributes:
        affine: float64 (4, 4), subject RAS mm -> MNI RAS mm.
        grey_dice: Dice of the moved grey matter with that of MNI152.
        white_dice: Dice of the moved white matter with that of MNI152.
        brain_dice: Dice of the moved brain tissue, grey and white, with that of MNI152.
        sha256: Hash of the label file's bytes, where the registration was stored.

    Raises:
        RegistrationError: The affine is not an invertible (4, 4) matrix without reflection.
    """

    affine: Tensor
    grey_dice: float
    white_dice: float
    brain_dice: float
    sha256: str = ""

    def __post_init__(self) -> None:
        affine = self.affine.detach().to("cpu", torch.float64).clone()
        if affine.shape != (4, 4) or not bool(torch.isfinite(affine).all()):
            raise RegistrationError(f"expected a finite (4, 4) affine, got {affine.tolist()}")
        determinant = float(torch.linalg.det(affine[:3, :3]))
        if not 0.2 < determinant < 5:
            raise RegistrationError(
                f"expected an affine that keeps left and right and scales volumes by 0.2 to 5, "
                f"got determinant {determinant:.3g}; check the orientation of the label map"
            )
        object.__setattr__(self, "affine", affine)


def register_to_mni(labels: Volume, scheme: LabelScheme) -> Registration:
    """Register a label map to MNI space.

    Args:
        labels: The label map (1, X, Y, Z), in any orientation, with spacing of at most 3 mm.
        scheme: The meaning of its labels.

    Returns:
        The affine from subject to MNI, with its quality. A Dice of 0.6 to 0.75 for grey and white matter and
        0.85 to 0.95 for the brain is good: sulci of two persons do not coincide.

    Raises:
        RegistrationError: The map has no brain tissue or too large voxels, or the optimiser went astray.
        LabelError: The map holds no whole numbers.

    Example:
        >>> labels = Volume.load("training_seg_01.nii.gz", dtype=torch.int32)  # doctest: +SKIP
        >>> register_to_mni(labels, SYNTHSEG).affine  # doctest: +SKIP
    """
    moving, moving_affine = _brain_tissues(labels, scheme)
    fixed, fixed_affine = mni_tissues(WORKING_SPACING)
    to_subject = align(itk_image(_contrast(fixed), fixed_affine), itk_image(_contrast(moving), moving_affine))
    return _measured(torch.linalg.inv(to_subject), moving, moving_affine)


def save_registrations(
    registrations: Mapping[Path, Registration], path: Path = STORED, *, overwrite: bool = False
) -> None:
    """Write registrations as JSON, by file stem, with the hash of each label map.

    Args:
        registrations: Label file -> its registration.
        path: The JSON file.
        overwrite: Whether an existing file may be replaced.

    Raises:
        RegistrationError: Two files have the same stem.
        FileExistsError: ``path`` exists and ``overwrite`` is False.

    Example:
        >>> save_registrations({Path("seg.nii.gz"): registration}, Path("mni.json"))  # doctest: +SKIP
    """
    entries = {}
    for file, registration in sorted(registrations.items()):
        if file_stem(file) in entries:
            raise RegistrationError(f"two label files are called {file_stem(file)!r}; rename {file}")
        entries[file_stem(file)] = {
            "sha256": sha256(file),
            "affine": [[round(value, 6) for value in row] for row in registration.affine.tolist()],
            "grey_dice": round(registration.grey_dice, 4),
            "white_dice": round(registration.white_dice, 4),
            "brain_dice": round(registration.brain_dice, 4),
        }
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def load_registrations(path: Path = STORED) -> dict[str, Registration]:
    """Read stored registrations; :func:`stored_registration` also checks that the label map is the same.

    Args:
        path: A JSON file that :func:`save_registrations` wrote.

    Returns:
        File stem -> registration.

    Raises:
        RegistrationError: The file is missing or is not such a file.

    Example:
        >>> load_registrations()["training_seg_01"].affine.shape
        torch.Size([4, 4])
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            stem: Registration(
                torch.tensor(entry["affine"], dtype=torch.float64),
                float(entry["grey_dice"]),
                float(entry["white_dice"]),
                float(entry["brain_dice"]),
                str(entry["sha256"]),
            )
            for stem, entry in entries.items()
        }
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RegistrationError(
            f"{path} is not a file of registrations ({error!r}); make it again"
        ) from error


def stored_registration(file: Path, path: Path = STORED) -> Registration:
    """Find the stored registration of a label map, and make sure that it is that of this very file.

    Args:
        file: The label map.
        path: A JSON file that :func:`save_registrations` wrote.

    Returns:
        The registration.

    Raises:
        RegistrationError: There is none, or the label map has changed since.

    Example:
        >>> stored_registration(Path("training_seg_01.nii.gz"))  # doctest: +SKIP
    """
    known = load_registrations(path)
    stem = file_stem(file)
    if stem not in known:
        raise RegistrationError(f"no registration is stored for {stem!r}; call register_to_mni on {file}")
    found = sha256(file)
    if found != known[stem].sha256:
        raise RegistrationError(
            f"the registration stored for {stem!r} belongs to another version of the file: expected SHA-256 "
            f"{known[stem].sha256[:12]}..., {file} has {found[:12]}...; call register_to_mni on it again"
        )
    return known[stem]


def registration_of(file: Path, labels: Volume, scheme: LabelScheme) -> tuple[Registration, str]:
    """Give the registration of a label map: the stored one, or else a new one.

    Args:
        file: The label map.
        labels: What it holds.
        scheme: The meaning of its labels.

    Returns:
        The registration, and a sentence if it was computed.

    Raises:
        RegistrationError: As `register_to_mni`.
    """
    try:
        return stored_registration(file), ""
    except RegistrationError:
        found = register_to_mni(labels, scheme)
    note = f"{file} was registered to MNI space (Dice of the brain {found.brain_dice:.2f})"
    if found.brain_dice < POOR_DICE:
        note += "; that is poor, lesions may lie in odd places"
    return found, note


def file_stem(file: Path) -> str:
    """Name a file without its folder and suffixes.

    Example:
        >>> file_stem(Path("maps/training_seg_01.nii.gz"))
        'training_seg_01'
    """
    return file.name.removesuffix(".gz").rsplit(".", 1)[0]


@cache
def mni_tissues(spacing: float) -> tuple[Tensor, Tensor]:
    """Give the MNI152 probability maps on a coarser grid.

    Args:
        spacing: Voxel size [mm], a whole number.

    Returns:
        float32 (2, X, Y, Z): probability of grey and of white matter; float64 (4, 4): its affine.

    Example:
        >>> mni_tissues(3.0)[0].shape
        torch.Size([2, 66, 78, 63])
    """
    # nilearn takes seconds to import.
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    images = [load_mni152_gm_template(resolution=1), load_mni152_wm_template(resolution=1)]
    data = torch.stack([torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)) for image in images])
    return _coarse(data, torch.from_numpy(images[0].affine), round(spacing))


def _brain_tissues(labels: Volume, scheme: LabelScheme) -> tuple[Tensor, Tensor]:
    """Average grey and white matter of the brain to about the working spacing: (2, X, Y, Z) and affine."""
    if labels.data.shape[0] != 1:
        raise RegistrationError(f"expected one label map, got {labels.data.shape[0]} channels")
    if max(labels.spacing) > WORKING_SPACING:
        raise RegistrationError(f"expected voxels of at most {WORKING_SPACING} mm, got {labels.spacing}")
    ids = labels.data[0]
    brain = tissue_mask(ids, scheme)
    if not bool(brain.any()):
        raise RegistrationError(f"found no brain tissue of scheme {scheme.name!r}; is it the right scheme?")
    filled = brain.nonzero(as_tuple=True)
    low = [int(where.min()) for where in filled]
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in filled)
    grey = [i for i in scheme.brain_ids if segmentation_class(scheme.labels[i][1]) == "grey_matter"]
    is_grey = torch.isin(ids[box].to(torch.int32), torch.tensor(grey, dtype=torch.int32))
    tissues = torch.stack([is_grey, brain[box] & ~is_grey]).to(torch.float32)
    affine = labels.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor(low, dtype=torch.float64)
    return _coarse(tissues, affine, max(round(WORKING_SPACING / max(labels.spacing)), 1))


def _coarse(data: Tensor, affine: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    pooled = avg_pool3d(data[None], factor, ceil_mode=True, count_include_pad=False)[0]
    return pooled, coarse_affine(affine, factor)


def _contrast(tissues: Tensor) -> Tensor:
    return tissues[0] + 2 * tissues[1]


def itk_image(data: Tensor, affine: Tensor) -> sitk.Image:
    """Make an ITK image; its world is LPS, and its arrays are indexed z, y, x.

    Args:
        data: (X, Y, Z).
        affine: (4, 4) voxel -> RAS mm, without shear.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.permute(2, 1, 0).numpy()))
    world = _LPS @ affine
    spacing = world[:3, :3].norm(dim=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((world[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    return image


def align(fixed: sitk.Image, moving: sitk.Image) -> Tensor:
    """Find the affine (4, 4) that maps RAS mm of the fixed image to RAS mm of the moving one.

    Args:
        fixed: Where to.
        moving: What is aligned, by the mean squared difference; at first, the centres of mass are brought
            together.
    """
    start = centred(fixed, moving)
    rigid = optimiser("squares", shrink=(4, 2), smooth=(8.0, 4.0))
    found = affine_of(sitk.Euler3DTransform(run(rigid, fixed, moving, start)))
    full = optimiser("squares", shrink=(4, 2, 1), smooth=(6.0, 4.0, 2.0))
    return matrix_of(sitk.AffineTransform(run(full, fixed, moving, found)))


def affine_of(rigid: sitk.Euler3DTransform) -> sitk.AffineTransform:
    """Write a rigid transform as an affine one that an optimiser can go on from."""
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetTranslation(rigid.GetTranslation())
    affine.SetMatrix(rigid.GetMatrix())
    return affine


def matrix_of(transform: sitk.Transform) -> Tensor:
    """Write an ITK transform with a centre, rigid or affine, as a float64 matrix (4, 4) between RAS mm."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.tensor(transform.GetMatrix(), dtype=torch.float64).reshape(3, 3)
    centre = torch.tensor(transform.GetCenter(), dtype=torch.float64)
    shift = torch.tensor(transform.GetTranslation(), dtype=torch.float64)
    matrix[:3, 3] = shift + centre - matrix[:3, :3] @ centre
    return _LPS @ matrix @ _LPS


def optimiser(
    similarity: Similarity,
    *,
    shrink: tuple[int, ...],
    smooth: tuple[float, ...],
    mask: sitk.Image | None = None,
) -> sitk.ImageRegistrationMethod:
    """Set up a gradient descent over a pyramid; smoothing is in mm."""
    method = sitk.ImageRegistrationMethod()
    if similarity == "squares":
        method.SetMetricAsMeanSquares()
    else:
        method.SetMetricAsMattesMutualInformation(32)
    if mask is not None:
        method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-3, numberOfIterations=150, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel(list(smooth))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method


class _OneThread:
    """Lets ITK work with one thread as long as a context lasts: more would sum in another order each time.

    A metric's threads are those of ITK's global default, whatever the registration itself is told, so other
    filters of the process run with one thread meanwhile. Contexts may overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts = 0
        self._before = 1

    def __enter__(self) -> None:
        """Remember how many threads there were before the first context."""
        with self._lock:
            if not self._contexts:
                self._before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
            self._contexts += 1

    def __exit__(self, *_: object) -> None:
        """Give them back after the last."""
        with self._lock:
            self._contexts -= 1
            if not self._contexts:
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self._before)


_one_thread = _OneThread()


def centred(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """Return the transform that brings the centres of mass together."""
    start = sitk.Euler3DTransform()
    by_mass = sitk.CenteredTransformInitializerFilter.MOMENTS
    with _one_thread:
        return sitk.Euler3DTransform(sitk.CenteredTransformInitializer(fixed, moving, start, by_mass))


def run(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform
) -> sitk.Transform:
    """Find the transform that an optimiser ends at."""
    method.SetInitialTransform(start, inPlace=False)
    with _one_thread:
        found: sitk.Transform = method.Execute(fixed, moving)
    return found.GetNthTransform(0) if isinstance(found, sitk.CompositeTransform) else found


def _measured(affine: Tensor, moving: Tensor, moving_affine: Tensor) -> Registration:
    """Compare the moved tissues with those of MNI152 on its grid."""
    fixed, fixed_affine = mni_tissues(WORKING_SPACING)
    shape = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
    moved = Volume(moving, affine @ moving_affine).resample_to(fixed_affine, shape).data
    return Registration(
        affine,
        grey_dice=_dice(moved[0] > 0.5, fixed[0] > 0.5),
        white_dice=_dice(moved[1] > 0.5, fixed[1] > 0.5),
        brain_dice=_dice(moved.sum(0) > 0.5, fixed.sum(0) > 0.5),
    )


def _dice(first: Tensor, second: Tensor) -> float:
    return 2 * int((first & second).sum()) / max(int(first.sum()) + int(second.sum()), 1)
