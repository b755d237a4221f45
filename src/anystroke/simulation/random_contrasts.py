"""Scans of random contrast, without physics: the generator of SynthStroke, as its paper means it.

Every tissue class has a random mean and spread of grey values; what happens to the image afterwards is random
in kind and far beyond what scanners do.

Source: L. Chalcroft et al., Synthetic data for robust stroke segmentation, Medical Image Analysis (2025), and
its published code. Where the code differs from the paper by mistake, ``SHIFTED`` holds the code's values.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings, draw_masks
from anystroke.anatomy.lesions.placement import lesion_area
from anystroke.anatomy.lesions.stages import Stage
from anystroke.anatomy.tissues.anatomies import Anatomy, anatomy_called
from anystroke.anatomy.tissues.classes import CLASS_OF_TISSUE, CLASSES, LESION, class_shares
from anystroke.anatomy.tissues.deformation import (
    DeformationSettings,
    SamplingGrid,
    grid_affine,
    random_affine,
)
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.texture import spread_left
from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape, smooth, spline_matrix
from anystroke.core.rng import chance, integer, stream, uniform
from anystroke.corruption.bias_field import control_point_field
from anystroke.corruption.head import brain_of_fractions
from anystroke.corruption.intensity import gamma, scale_to_percentiles
from anystroke.corruption.noise import g_factor_map, non_central_chi
from anystroke.corruption.resolution import (
    AcquiredGrids,
    SliceGrid,
    at_acquired_resolution,
    slice_grid,
    voxel_grids,
)
from anystroke.qmri.patient_maps import Inclusion, PatientMaps
from anystroke.qmri.tissue_priors import MAPS, TissueDraw
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings

_LESION_TISSUE = "lesion"

_GREY_VALUE_CLASSES: tuple[tuple[str, ...], ...] = (
    ("cortical_grey_matter", "thalamus", "caudate", "putamen"),
    ("grey_white_partial_volume", "pallidum"),
    ("white_matter",),
    ("ventricular_csf", "sulcal_csf"),
    ("fat", "bone_marrow"),
    ("muscle",),
    ("skin", "mucosa", "choroid_plexus"),
    ("cortical_bone",),
    ("vitreous", "venous_blood", "arterial_blood"),
)
"""Tissues that share a grey value, as the nine classes of the published label maps do."""


class RandomContrastSettings(StrictModel):
    """How random the scans are; the defaults are those that the paper means.

    Attributes:
        spacing: Voxel size in mm.
        shape: Output grid.
        largest_mean: Class means are uniform from 0 to this.
        largest_sd: Class spreads are uniform from 0 to this.
        largest_fwhm: The texture's smoothing is a whole number of voxels below this.
        rescale_texture: Keep the texture's spread when it is smoothed; the published code does not.
        deformation: Of the anatomy; its ``elastic`` is not used.
        largest_displacement: Of the elastic deformation, as a share of the field of view.
        lesions: Choice and shape of lesions.
        bias: Largest departure of the multiplicative field from one.
        bias_points: Largest number of the field's control points per axis.
        gamma: SD of the logarithm of the exponent.
        largest_blur: Of the point spread, FWHM in voxels.
        largest_voxel: Largest factor of the acquired voxel size, 1 or more.
        largest_noise: Largest noise SD, as a share of the brightest voxel.
        largest_g_factor: Largest amplification of noise by parallel imaging.
        percentiles: Become 0 and 1.
        skull_strip: Probability that nothing but the brain is left.
        flips: Each of three draws flips a random axis with this probability.
        smooth_spacing: Lesions are computed in voxels of about this size in mm.
        soft_target: Whether samples come with the share that each class has of each voxel.
    """

    spacing: float = Field(default=1.0, gt=0)
    shape: GridShape = (192, 192, 192)
    largest_mean: float = 255.0
    largest_sd: float = 16.0
    largest_fwhm: int = Field(default=2, ge=0)
    rescale_texture: bool = False
    deformation: DeformationSettings = DeformationSettings(
        rotation=15, scaling=0.15, shear=0.012, translation=0, elastic=0, mirror=0
    )
    largest_displacement: float = 0.05
    lesions: LesionSettings = LesionSettings(absent=0.0, several=0.0, size_power=0.0, mirror=0.0)
    bias: float = Field(default=0.5, ge=0, lt=1)
    bias_points: int = Field(default=7, ge=2)
    gamma: float = Field(default=0.6, ge=0)
    largest_blur: float = Field(default=3.0, ge=0)
    largest_voxel: float = Field(default=8.0, ge=1)
    largest_noise: float = Field(default=0.1, ge=0)
    largest_g_factor: float = Field(default=1.5, ge=1)
    percentiles: tuple[float, float] = (1.0, 99.0)
    skull_strip: float = Field(default=0.3, ge=0, le=1)
    flips: float = Field(default=0.8, ge=0, le=1)
    smooth_spacing: float = Field(default=2.0, gt=0)
    soft_target: bool = False


SHIFTED = RandomContrastSettings(
    largest_fwhm=10,
    bias=0.6,
    bias_points=7,
    gamma=3.0,
    largest_blur=8.0,
    largest_voxel=10.0,
    largest_noise=0.2,
    largest_g_factor=3.0,
)
"""What the published code plays, which passes its arguments one place off.

Bias strength 0.6, gamma SD 3, blur up to 8 voxels, voxels up to 10 times as large, an SNR of 5 at least, a
g-factor up to 3, and texture smoothed by up to 9 voxels.
"""


@dataclass(frozen=True, kw_only=True)
class RandomContrast(Protocol):
    """No protocol: grey values of classes.

    Attributes:
        weighting: Always ``"random"``.
        means: Grey value of each class, the lesion last.
        sds: Its spread.
        fwhm: Smoothing of the texture in voxels.
    """

    sequence: ClassVar[str] = "random_contrast"
    weighting: str = "random"
    means: tuple[float, ...] = ()
    sds: tuple[float, ...] = ()
    fwhm: int = 0

    def __post_init__(self) -> None:
        if len(self.means) != len(self.sds):
            raise ValueError(f"expected as many SDs as means, got {len(self.sds)} and {len(self.means)}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The one map, which is the image."""
        return ("proton_density",)

    def _check(self) -> None:
        pass

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        image: Tensor = arguments["proton_density"]
        return image


class RandomContrastGenerator:
    """Scans of random contrast of patients with lesions; a stand-in for ``Generator``.

    Args:
        settings: How random.
        masks: Lesion masks in MNI space to draw from.

    Example:
        >>> from anystroke.anatomy.tissues.mni import mni_anatomy
        >>> settings = RandomContrastSettings(shape=(32, 32, 32), spacing=4.0)
        >>> sample = RandomContrastGenerator(settings)(mni_anatomy(), [], rng=stream(1, "example"))
        >>> sample.image.shape
        torch.Size([32, 32, 32])
    """

    def __init__(self, settings: RandomContrastSettings, masks: Sequence[LesionMask] = ()) -> None:
        self.settings = settings
        self.masks = list(masks)
        # Where a lesion may be does not depend on the contrast.
        self._placing = Generator(
            SynthesisSettings(
                spacing=settings.spacing,
                smooth_spacing=settings.smooth_spacing,
                lesions=settings.lesions,
                mass_effect=0.0,
            )
        )

    def __call__(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        rng: torch.Generator,
        stage: Stage | None = None,
    ) -> Sample:
        """Simulate one scan; the arguments are those of ``Generator``."""
        return self.generate(anatomy, lesions, key=integer(rng, 0, 2**62), stage=stage, device=rng.device)

    def generate(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        key: int,
        stage: Stage | None = None,
        device: torch.device | str = "cpu",
    ) -> Sample:
        """Simulate the scan that belongs to a key; the same arguments give the same scan to the bit."""
        settings = self.settings

        def rng(name: str) -> torch.Generator:
            return stream(key, "random contrast", name, device=device)

        if lesions is None:
            lesions = draw_masks(self.masks, settings.lesions, rng("choice"))
        grid = self._grid(anatomy, rng("deformation"))
        tissues = anatomy.tissues.to(device)
        placed, box, grid = self._placing.place(anatomy, tissues, grid, lesions, rng("lesion"), stage=stage)
        contrast, draw = self._grey_values(rng("contrast"))
        inclusions = [Inclusion(box, {_LESION_TISSUE: placed.membership})] if box is not None else []
        maps = PatientMaps(
            tissues,
            grid,
            draw,
            inclusions=inclusions,
            key=key,
            smoothing=contrast.fwhm / math.sqrt(8 * math.log(2)),
            texture=self._texture_scale(contrast.fwhm),
        )
        image, target, _change = maps.signal(contrast, classes=CLASS_OF_TISSUE)
        if box is not None:
            target[box][placed.membership > settings.lesions.target_above] = LESION
        shares = None
        if settings.soft_target:
            shares = class_shares(tissues, grid, placed.membership if box is not None else None, box)
        image = self._augment(image, rng("augmentation"))
        if chance(draws := rng("strip"), settings.skull_strip):
            keep = self._brain(lesion_area(tissues, grid, settings.spacing, ventricles=True), draws)
            image, target = image * keep, target * keep
            if shares is not None:
                shares *= keep
                shares[CLASSES.index("background")] += ~keep
        axes = self._flips(rng("flips"))
        image, target = image.flip(axes).contiguous(), target.flip(axes).contiguous()
        shares = None if shares is None else shares.flip([axis + 1 for axis in axes]).contiguous()
        record = {
            "key": key,
            "anatomy": anatomy.name,
            "lesions": list(placed.names),
            "stage": placed.stage,
            "protocol": contrast.to_dict(),
            "settings": settings.model_dump(mode="json"),
        }
        affine = grid_affine(settings.shape, settings.spacing)
        return Sample(image, target, affine, maps, contrast, record, shares)

    def _grid(self, anatomy: Anatomy, rng: torch.Generator) -> SamplingGrid:
        settings = self.settings
        to_world = grid_affine(settings.shape, settings.spacing)
        linear = random_affine(settings.deformation, rng) @ to_world
        linear[:3, 3] += anatomy.centre.double()
        points = integer(rng, 2, 10) + 2
        reach = torch.tensor([n * settings.spacing for n in settings.shape], device=rng.device)
        reach = reach * uniform(rng, 0.0, settings.largest_displacement)
        control = torch.rand((3, points, points, points), generator=rng, device=rng.device) * 2 - 1
        x, y, z = (spline_matrix(n, points) for n in settings.shape)
        return SamplingGrid(settings.shape, linear, control * reach.view(3, 1, 1, 1), (x, y, z), to_world)

    def _grey_values(self, rng: torch.Generator) -> tuple[RandomContrast, TissueDraw]:
        settings = self.settings
        count = len(_GREY_VALUE_CLASSES) + 1
        means = [uniform(rng, 0.0, settings.largest_mean) for _ in range(count)]
        sds = [uniform(rng, 0.0, settings.largest_sd) for _ in range(count)]
        fwhm = int(uniform(rng, 0.0, settings.largest_fwhm))
        names = (*TISSUES[1:], _LESION_TISSUE)
        mean, sd = torch.zeros((2, len(names), len(MAPS)))
        for row, name in enumerate(names):
            group = next((k for k, group in enumerate(_GREY_VALUE_CLASSES) if name in group), count - 1)
            mean[row, 0], sd[row, 0] = means[group], sds[group]
        draw = TissueDraw(names=names, field_strength=3.0, mean=mean, sd=sd)
        return RandomContrast(means=tuple(means), sds=tuple(sds), fwhm=fwhm), draw

    def _texture_scale(self, fwhm: int) -> float:
        """Return what smoothing leaves of the spread, unless the settings restore it."""
        return 1.0 if self.settings.rescale_texture else spread_left(fwhm)

    def _augment(self, image: Tensor, rng: torch.Generator) -> Tensor:
        settings = self.settings
        points = integer(rng, 2, settings.bias_points)
        image = image * control_point_field(
            settings.shape,
            amplitude=uniform(rng, 0.0, settings.bias),
            control_points=(points,) * 3,
            rng=rng,
        )
        draw = torch.randn((), generator=rng, device=rng.device).item()
        if float(image.max()) > float(image.min()):
            image = gamma(image, exponent=math.exp(settings.gamma * draw))
        image = smooth(image, uniform(rng, 0.0, settings.largest_blur) / math.sqrt(8 * math.log(2)))
        sd = uniform(rng, 0.0, settings.largest_noise) * float(image.max())
        channels = integer(rng, 2, 8)
        peak = uniform(rng, 1.0, settings.largest_g_factor)

        def noise(low: Tensor) -> Tensor:
            shape = (low.shape[0], low.shape[1], low.shape[2])
            amplified = g_factor_map(shape, peak=peak, rng=rng) if peak > 1 else None
            return non_central_chi(low, sd=sd, channels=channels, g_factor=amplified, rng=rng)

        image = at_acquired_resolution(image, self._resolution(rng), noise=noise)
        low, high = settings.percentiles
        return scale_to_percentiles(image, lower=low, upper=high) if float(image.std()) > 0 else image

    def _resolution(self, rng: torch.Generator) -> AcquiredGrids:
        settings = self.settings
        size = settings.spacing * uniform(rng, 1.0, settings.largest_voxel)
        if chance(rng, 0.5):
            return voxel_grids(settings.shape, spacing=settings.spacing, voxel=(size,) * 3)
        axis, share = integer(rng, 0, 2), uniform(rng, 0.1, 1.0)
        grids: list[SliceGrid | None] = [None, None, None]
        grids[axis] = slice_grid(
            settings.shape[axis],
            spacing=settings.spacing,
            thickness=max(size * share, settings.spacing),
            distance=size,
            profile="gaussian",
        )
        return grids[0], grids[1], grids[2]

    def _brain(self, brain: Tensor, rng: torch.Generator) -> Tensor:
        smoothing = uniform(rng, 2.0, 3.0)
        return brain_of_fractions(
            brain,
            spacing=self.settings.spacing,
            smoothing=smoothing,
            margin=uniform(rng, -1.0, 1.0) * smoothing,
            rng=rng,
        )

    def _flips(self, rng: torch.Generator) -> list[int]:
        """Return the axes that are flipped: those that an odd number of the draws picks."""
        flipped: set[int] = set()
        for _ in range(3):
            if chance(rng, self.settings.flips):
                flipped ^= {integer(rng, 0, 2)}
        return sorted(flipped)


def regenerate_random(
    record: Mapping[str, Any],
    anatomies: Iterable[Anatomy],
    masks: Sequence[LesionMask],
    *,
    device: torch.device | str = "cpu",
) -> Sample:
    """Make a sample again from its record, to the bit on the same kind of device.

    Args:
        record: ``Sample.record``, or what was read back from JSON.
        anatomies: Hold the patient, found by name.
        masks: Those that the generator drew from, in the same order.
        device: Where to compute.

    Raises:
        ValueError: If the anatomy is not there, or the masks are others.
    """
    anatomy = anatomy_called(record["anatomy"], anatomies)
    settings = RandomContrastSettings.model_validate(record["settings"])
    sample = RandomContrastGenerator(settings, masks).generate(anatomy, key=record["key"], device=device)
    if sample.record != {**record, "settings": settings.model_dump(mode="json")}:
        raise ValueError("the lesion masks are not those that the sample was drawn from; give the same bank")
    return sample
