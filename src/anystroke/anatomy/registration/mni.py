"""Affine registration of scans of any contrast to MNI space, and lesions taken there.

The scan is aligned with the brain of the MNI152 T1 template (ICBM 2009a symmetric, Fonov et al., NeuroImage
54:313, 2011, as shipped by nilearn) by Mattes' mutual information: rigid from several tilts of the head, then
affine, coarse to fine. The result depends on the input alone. It takes about 1.5 s of one core.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from anystroke.anatomy.registration.affine import (
    SAMPLING_SEED,
    RegistrationError,
    affine_of,
    centred,
    itk_image,
    matrix_of,
    optimiser,
    run,
)
from anystroke.anatomy.tissues.labels import coarse_affine
from anystroke.core.grids import keep_volume
from anystroke.core.volume import Volume

SMALLEST_BRAIN_OVERLAP = 0.85
"""Overlap of the brain with that of MNI152 below which a registration counts as failed."""

_SPACING = 3
# Tilts of the head to start from, degrees about the axis from left to right.
_TILTS = (0.0, -20.0, 20.0)
# How far below the vertex the brain reaches, where it is not known [mm].
_BRAIN_HEIGHT = 140.0


@dataclass(frozen=True, eq=False)
class ScanRegistration:
    """Where a scan lies in MNI space.

    Attributes:
        affine: float64 (4, 4), RAS mm of the scan -> MNI RAS mm.
        overlap: Dice of the moved brain with that of MNI152; or, where the scan's brain was not given, the
            share of the MNI152 brain in which the scan shows something.
    """

    affine: Tensor
    overlap: float


def register_scan(scan: Volume, *, brain: Volume | None = None) -> ScanRegistration:
    """Register a scan of a head or a brain to MNI space.

    Args:
        scan: One channel, any contrast, orientation and spacing.
        brain: Mask of its brain, on any grid of the same world. Without it, the outline of a head with skull
            may be taken for that of a brain, and the result be a tenth too small, which the overlap does not
            tell.

    Returns:
        The affine with its quality, whatever that is.

    Raises:
        RegistrationError: The scan or the mask is empty, or the optimiser went astray.

    Example:
        >>> register_scan(Volume.load("sub-01_T2w.nii.gz")).overlap  # doctest: +SKIP
        0.93
    """
    intensity, affine = coarse_scan(scan)
    if brain is None:
        inside, region = _foreground(intensity), _top(_foreground(intensity), affine)
    else:
        shape = (intensity.shape[0], intensity.shape[1], intensity.shape[2])
        mask = Volume((brain.data > 0).float(), brain.affine)
        region = inside = mask.resample_to(affine, shape, antialias=True).data[0] >= 0.5
        # A margin, so that the border of the brain is an edge in the scan too.
        intensity = intensity * max_pool3d(inside[None, None].float(), 3, stride=1, padding=1)[0, 0]
    if not bool(region.any()):
        raise RegistrationError("expected a scan with a brain in it, but all of it is empty; check the image")
    template, template_brain, template_affine = _template()
    fixed, moving = itk_image(template, template_affine), itk_image(intensity, affine)
    near = max_pool3d(template_brain[None, None].float(), 3, stride=1, padding=1)[0, 0]
    counted = sitk.Cast(itk_image(near, template_affine), sitk.sitkUInt8)
    try:
        start = _start(fixed, moving, counted, itk_image(region.float(), affine))
        to_scan = _stretched(fixed, moving, counted, start)
    except RuntimeError as error:
        raise RegistrationError(f"the registration to MNI space failed ({_reason(error)})") from error
    to_mni = torch.linalg.inv(to_scan)
    if not 0.2 < float(torch.linalg.det(to_mni[:3, :3])) < 5:
        raise RegistrationError("the registration to MNI space went astray; check the scan's orientation")
    moved = (
        Volume(inside[None].float(), to_mni @ affine).resample_to(template_affine, _shape(template)).data[0]
    )
    both = float(((moved > 0.5) & template_brain).sum())
    total = float(template_brain.sum())
    if brain is not None:
        return ScanRegistration(to_mni, 2 * both / (float((moved > 0.5).sum()) + total))
    return ScanRegistration(to_mni, both / total)


def lesion_in_mni(
    mask: Volume, scan: Volume, *, brain: Volume | None = None, registration: ScanRegistration | None = None
) -> Volume:
    """Take a lesion from its scan to MNI space.

    Args:
        mask: The lesion, not zero inside, in the world of the scan.
        scan: As for `register_scan`.
        brain: As for `register_scan`.
        registration: Of the scan, if it is known; made of the scan otherwise.

    Returns:
        uint8 mask (1, 197, 233, 189) on the 1 mm grid of MNI152; its volume is that of the lesion, scaled as
        the brain is.

    Raises:
        RegistrationError: The registration failed, or brains overlap by less than ``SMALLEST_BRAIN_OVERLAP``.

    Example:
        >>> lesion_in_mni(mask, scan).save("lesion.nii.gz")  # doctest: +SKIP
    """
    registration = registration or register_scan(scan, brain=brain)
    if registration.overlap < SMALLEST_BRAIN_OVERLAP:
        raise RegistrationError(
            f"the registration to MNI space is poor: the brains overlap by {registration.overlap:.2f}, "
            f"expected at least {SMALLEST_BRAIN_OVERLAP:g}; check that the scan shows the whole brain"
        )
    image = _template_image()
    grid = torch.from_numpy(image.affine.astype(np.float64))
    x, y, z = (int(n) for n in image.shape)
    moved = Volume((mask.data > 0).float(), registration.affine @ mask.affine)
    share = moved.resample_to(grid, (x, y, z), antialias=True).data[0]
    volume = float(moved.data.sum()) * moved.voxel_volume * 1000
    inside = keep_volume(share, volume) if volume > 0 else torch.zeros((x, y, z), dtype=torch.bool)
    return Volume(inside[None].to(torch.uint8), grid, 4)


@cache
def _template() -> tuple[Tensor, Tensor, Tensor]:
    """Give the template's brain, where it is, and its affine, on a coarse grid."""
    image = _template_image()
    data = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))
    data /= data.max()
    pooled = avg_pool3d(
        torch.stack([data, (data > 0).float()])[None], _SPACING, ceil_mode=True, count_include_pad=False
    )[0]
    affine = coarse_affine(torch.from_numpy(image.affine.astype(np.float64)), _SPACING)
    return pooled[0], pooled[1] > 0.5, affine


def mni_grid() -> tuple[Tensor, tuple[int, int, int]]:
    """Give the grid of 3 mm on which lesions of several scans are brought together.

    Returns:
        float64 (4, 4) affine and shape; it covers the MNI152 template.

    Example:
        >>> mni_grid()[1]
        (66, 78, 63)
    """
    data, _, affine = _template()
    return affine, _shape(data)


def _template_image() -> nib.Nifti1Image:
    """Open the template in nilearn's wheel; importing nilearn would take seconds."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise RegistrationError("registration to MNI space needs the package nilearn; install it with pip")
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return nib.load(Path(spec.origin).parent / "datasets" / "data" / name)


def coarse_scan(scan: Volume) -> tuple[Tensor, Tensor]:
    """Bring a scan to a grid of 3 mm along its own axes, in RAS order, clipped to 0..1.

    Args:
        scan: One channel.

    Returns:
        float32 (X, Y, Z) data, and their affine (4, 4).

    Raises:
        RegistrationError: The scan is constant.
    """
    if bool(scan.data.min() == scan.data.max()):
        raise RegistrationError("expected a scan with contrast, but it is constant; check the image")
    volume = Volume(scan.data[:1].float(), scan.affine).reorient("RAS")
    spacing = torch.tensor(volume.spacing, dtype=torch.float64)
    extent = torch.tensor(volume.shape, dtype=torch.float64) * spacing
    nx, ny, nz = (max(math.ceil(float(side) / _SPACING - 1e-3), 4) for side in extent)
    affine = volume.affine.clone()
    affine[:3, :3] *= _SPACING / spacing
    corner = torch.full((3,), -0.5, dtype=torch.float64)
    affine[:3, 3] += volume.affine[:3, :3] @ corner - affine[:3, :3] @ corner
    data = volume.resample_to(affine, (nx, ny, nz), fill=float(volume.data.min()), antialias=True).data[0]
    values = data[data > data.min()] if bool(data.max() > data.min()) else data.flatten()
    low, high = float(data.min()), float(values.kthvalue(max(round(0.99 * values.numel()), 1)).values)
    return ((data - low) / max(high - low, 1e-12)).clamp(0, 1), affine


def _foreground(intensity: Tensor) -> Tensor:
    """Find the head, or whatever there is."""
    smooth = avg_pool3d(intensity[None, None], 3, stride=1, padding=1)[0, 0]
    return smooth > 0.25 * smooth[smooth > smooth.mean()].mean()


def _top(head: Tensor, affine: Tensor) -> Tensor:
    """Leave of the head what is as high up as the brain."""
    heights = head.nonzero()[:, 2]
    if not len(heights):
        return head
    top = head.clone()
    step = float(affine[:3, 2].norm())
    top[:, :, : max(int(heights.max()) - round(_BRAIN_HEIGHT / step), 0)] = False
    return top


def _start(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, region: sitk.Image) -> sitk.Transform:
    """Find the rigid transform to start from: the best of several tilts after a coarse alignment."""
    middle = centred(sitk.Cast(mask, sitk.sitkFloat32), region)
    best, lowest = None, math.inf
    for tilt in _TILTS:
        start = sitk.Euler3DTransform(middle)
        start.SetRotation(math.radians(tilt), 0.0, 0.0)
        method = optimiser("mutual_information", shrink=(4,), smooth=(8.0,), mask=mask)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=2.0, minStep=1e-2, numberOfIterations=40, relaxationFactor=0.5
        )
        found = run(method, fixed, moving, start)
        if method.GetMetricValue() < lowest:
            best, lowest = sitk.Euler3DTransform(found), method.GetMetricValue()
    return best


def _stretched(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, start: sitk.Euler3DTransform
) -> Tensor:
    """Find the affine (4, 4) from RAS mm of the template to those of the scan, from a rigid transform."""
    method = optimiser("mutual_information", shrink=(4, 2, 1), smooth=(6.0, 4.0, 2.0), mask=mask)
    # Every third voxel of the finest grid tells as much as all of them.
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel([1.0, 1.0, 0.3], seed=SAMPLING_SEED)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=3e-3, numberOfIterations=60, relaxationFactor=0.5
    )
    return matrix_of(sitk.AffineTransform(run(method, fixed, moving, affine_of(start))))


def _shape(data: Tensor) -> tuple[int, int, int]:
    return data.shape[0], data.shape[1], data.shape[2]


def _reason(error: Exception) -> str:
    """Give the last line of ITK's message."""
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
