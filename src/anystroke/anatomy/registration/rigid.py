"""Rigid registration of two scans of one head, whatever their contrasts, and whether it can be believed.

Mattes' mutual information on grids of 3 mm, from the scanner's own coordinates and from the centres of
mass. A result is believed if registering back leads to the same place, and if no stretched head fits much
better: the
scans of two people differ in size.
"""

import math
from dataclasses import dataclass

import SimpleITK as sitk  # noqa: N813
import torch
from torch import Tensor

from anystroke.anatomy.registration.affine import (
    SAMPLING_SEED,
    RegistrationError,
    centred,
    itk_image,
    matrix_of,
    optimiser,
    run,
)
from anystroke.anatomy.registration.mni import coarse_scan
from anystroke.core.volume import Volume

LARGEST_INCONSISTENCY = 4.0
"""Distance [mm] that registering there and back may move a point of the head."""
LARGEST_STRETCH = 0.045
"""Change of length that an affine registration may find beyond the rigid one."""
SMALLEST_HEAD_OVERLAP = 0.5
"""Share of the smaller head that must lie within the field of view of the other scan."""


@dataclass(frozen=True, eq=False)
class RigidRegistration:
    """Where one scan lies in the world of another, and how good that is.

    Attributes:
        affine: float64 (4, 4), RAS mm of the moving scan -> RAS mm of the fixed one; a rotation and a shift.
        rotation: Angle of the rotation [degrees].
        shift: How far the middle of the moving head moves [mm].
        inconsistency: Largest distance [mm] that registering there and back moves a corner of the head's box.
        stretch: Largest relative change of length that an affine registration adds.
        overlap: Share of the smaller head that both scans show.
        problem: Why not to believe it, as the end of a sentence; empty if there is no reason.
    """

    affine: Tensor
    rotation: float
    shift: float
    inconsistency: float
    stretch: float
    overlap: float
    problem: str

    @classmethod
    def identity(cls) -> "RigidRegistration":
        """Say that two scans lie where their headers put them.

        Example:
            >>> RigidRegistration.identity().rotation
            0.0
        """
        return cls(torch.eye(4, dtype=torch.float64), 0.0, 0.0, 0.0, 0.0, 1.0, "")


def register_rigid(moving: Volume, fixed: Volume) -> RigidRegistration:
    """Register a scan to another one of the same head.

    Args:
        moving: One channel, any contrast, orientation and spacing.
        fixed: Likewise.

    Returns:
        The transform with its quality, whatever that is.

    Raises:
        RegistrationError: A scan is constant, or the optimiser went astray.

    Example:
        >>> register_rigid(Volume.load("FLAIR.nii.gz"), Volume.load("T1w.nii.gz")).problem  # doctest: +SKIP
        ''
    """
    (moving_data, moving_affine), (fixed_data, fixed_affine) = coarse_scan(moving), coarse_scan(fixed)
    first, second = itk_image(fixed_data, fixed_affine), itk_image(moving_data, moving_affine)
    try:
        found = _align(first, second)
        back = matrix_of(_align(second, first))
        stretched = matrix_of(_stretch(first, second, found))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise RegistrationError(f"the registration of two scans failed ({reason})") from error
    to_fixed = torch.linalg.inv(matrix_of(found))
    inside_moving, inside_fixed = moving_data > 0.1, fixed_data > 0.1
    corners = _box(inside_moving, moving_affine)
    there_and_back = (corners @ (torch.linalg.inv(back) @ to_fixed).T - corners)[:, :3].norm(dim=1)
    middle = corners.mean(dim=0)
    cosine = (float(torch.trace(to_fixed[:3, :3])) - 1) / 2
    overlap = max(
        _covered(inside_moving, moving_affine, to_fixed, fixed_data, fixed_affine),
        _covered(inside_fixed, fixed_affine, torch.linalg.inv(to_fixed), moving_data, moving_affine),
    )
    sizes = torch.linalg.svdvals(stretched[:3, :3])
    result = RigidRegistration(
        affine=to_fixed,
        rotation=math.degrees(math.acos(min(1.0, max(-1.0, cosine)))),
        shift=float((to_fixed @ middle - middle)[:3].norm()),
        inconsistency=float(there_and_back.max()),
        stretch=float((sizes - 1).abs().max()),
        overlap=overlap,
        problem="",
    )
    return _judged(result)


def _judged(found: RigidRegistration) -> RigidRegistration:
    """Say whether to believe a registration."""
    problem = ""
    if found.overlap < SMALLEST_HEAD_OVERLAP:
        problem = f"the scans have {100 * found.overlap:.0f} % of the head in common"
    elif found.inconsistency > LARGEST_INCONSISTENCY:
        problem = f"registering there and back ends {found.inconsistency:.0f} mm away"
    elif found.stretch > LARGEST_STRETCH:
        problem = f"the heads differ in size by {100 * found.stretch:.0f} %, as those of two people do"
    values = {name: getattr(found, name) for name in found.__dataclass_fields__}
    return RigidRegistration(**(values | {"problem": problem}))


def _align(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """Find the rigid transform from the fixed world to the moving one, from the better of two starts."""
    middle = centred(fixed, moving)
    still = sitk.Euler3DTransform()
    still.SetCenter(middle.GetCenter())
    best, lowest = middle, math.inf
    for start in (still, middle):
        method = optimiser("mutual_information", shrink=(3,), smooth=(8.0,))
        try:
            found = run(method, fixed, moving, start)
        except RuntimeError:  # the fields of view do not meet from here; the other start decides
            if start is middle and lowest == math.inf:
                raise
            continue
        if method.GetMetricValue() < lowest:
            best, lowest = sitk.Euler3DTransform(found), method.GetMetricValue()
    fine = _sampled(optimiser("mutual_information", shrink=(2, 1), smooth=(4.0, 0.0)), (0.5, 0.1))
    return sitk.Euler3DTransform(run(fine, fixed, moving, best))


def _stretch(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetCenter(start.GetCenter())
    affine.SetTranslation(start.GetTranslation())
    affine.SetMatrix(start.GetMatrix())
    method = _sampled(optimiser("mutual_information", shrink=(2,), smooth=(4.0,)), (0.5,))
    return sitk.AffineTransform(run(method, fixed, moving, affine))


def _sampled(method: sitk.ImageRegistrationMethod, shares: tuple[float, ...]) -> sitk.ImageRegistrationMethod:
    """Let every n-th voxel count, without chance."""
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(list(shares), seed=SAMPLING_SEED)
    return method


def _box(inside: Tensor, affine: Tensor) -> Tensor:
    """Return the corners of the box around what is inside, homogeneous mm (8, 4)."""
    filled = inside.nonzero()
    if filled.numel() == 0:
        raise RegistrationError("expected a scan with a head in it, but all of it is empty; check the image")
    ends = torch.stack([filled.amin(dim=0), filled.amax(dim=0)]).double()
    corners = torch.cartesian_prod(*ends.T, torch.ones(1, dtype=torch.float64))
    return corners @ affine.T


def _covered(inside: Tensor, affine: Tensor, move: Tensor, other: Tensor, other_affine: Tensor) -> float:
    """Compute the share of what is inside that lies within the field of view of the other scan."""
    points = inside.nonzero()[::7].double()
    points = torch.cat([points, torch.ones(len(points), 1, dtype=torch.float64)], dim=1)
    index = (points @ (torch.linalg.inv(other_affine) @ move @ affine).T)[:, :3]
    limits = torch.tensor(other.shape, dtype=torch.float64) - 0.5
    return float(((index >= -0.5) & (index <= limits)).all(dim=1).double().mean())
