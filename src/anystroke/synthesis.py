"""Labels and lesions -> quantitative maps -> protocol -> signal -> corruption -> image and target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anystroke.acquisition.protocols import Preset, Protocol, load_preset
from anystroke.anatomy.anatomies import BRAIN_TISSUES, Anatomy
from anystroke.anatomy.deformation import (
    DeformationSettings,
    SamplingGrid,
    grid_affine,
    sample_at,
    sampling_grid,
)
from anystroke.anatomy.labels import TISSUES, segmentation_class
from anystroke.anatomy.lesions import (
    TISSUES_OF_STAGE,
    LesionMask,
    LesionSettings,
    Stage,
    draw_masks,
    place_lesions,
)
from anystroke.config import StrictModel
from anystroke.corruption.bias_field import receive_field, transmit_field
from anystroke.corruption.noise import rician
from anystroke.corruption.resolution import along_axis, slice_grid
from anystroke.fields import GridShape, smooth
from anystroke.qmri.maps import QuantitativeMaps
from anystroke.qmri.tissue_priors import TissueDraw, TissuePriors, load_table
from anystroke.rng import chance, choice, integer, log_uniform, stream, uniform

CLASSES = ("background", "grey_matter", "white_matter", "csf", "lesion")
"""Classes of the target, in the order of its numbers."""

_CLASS_ROWS = {
    name: [k for k, tissue in enumerate(TISSUES[1:]) if segmentation_class(tissue) == name]
    for name in CLASSES[1:4]
}
_BRAIN_ROWS = [TISSUES.index(name) - 1 for name in BRAIN_TISSUES]
_WHITE_MATTER = TISSUES.index("white_matter") - 1
_VENTRICLE = TISSUES.index("ventricular_csf") - 1
_FAT_ROWS = [TISSUES.index(name) - 1 for name in ("fat", "bone_marrow")]
_SULCUS = TISSUES.index("sulcal_csf") - 1


class SynthesisSettings(StrictModel):
    """Everything that decides what simulated scans look like.

    Attributes:
        preset: Distribution over protocols.
        weighting: Restrict the preset to one weighting, such as ``"FLAIR"``.
        spacing: Voxel size in mm.
        shapes: Output grids.
        shape_weights: Probability of each of them.
        lesion_centred: Probability that the grid is centred on a lesion instead of the brain.
        deformation: Of the anatomy.
        lesions: Choice and shape of lesions.
        texture: Scales the texture within tissues. Published spreads come from maps of about 1 mm, noise
            included; voxels of 2 mm average much of it away. The default is an engineering estimate.
        prior_spread: Widens the spread of tissue properties between patients.
        skull_strip: Probability that nothing but the brain is left.
        clear_air: Probability that air is exactly zero in a whole-head scan.
        thick_slices: Probability of thick slices for weightings other than T1w; T1w has half of it.
        slice_thickness: Range in mm.
        blur: Largest point-spread SD in voxels.
        receive_strength: Largest SD of the receive field's logarithm.
        snr: Range of the signal-to-noise ratio of white matter, drawn log-uniformly.
        cut: Probability that the field of view ends within the head.
        fat_suppression: Probability, by weighting, that fat gives almost no signal.
    """

    preset: str = "realistic"
    weighting: str | None = None
    spacing: float = 2.0
    shapes: tuple[GridShape, ...] = ((96, 112, 96),)
    shape_weights: tuple[float, ...] = (1.0,)
    lesion_centred: float = 0.0
    deformation: DeformationSettings = DeformationSettings()
    lesions: LesionSettings = LesionSettings()
    texture: float = Field(default=0.4, ge=0)
    prior_spread: float = 1.0
    skull_strip: float = 0.3
    clear_air: float = 0.3
    thick_slices: float = 0.5
    slice_thickness: tuple[float, float] = (2.5, 7.0)
    blur: float = Field(default=0.5, ge=0)
    receive_strength: float = 0.15
    snr: tuple[float, float] = (12.0, 80.0)
    cut: float = 0.15
    fat_suppression: dict[str, float] = Field(default={"DWI": 1.0, "FLAIR": 0.4, "T2w": 0.25, "T1w": 0.05})


@dataclass(frozen=True)
class Sample:
    """One simulated scan with everything it was made of.

    Attributes:
        image: (X, Y, Z) magnitude image in arbitrary units, not normalised.
        target: (X, Y, Z) int64, numbers of ``CLASSES``.
        affine: (4, 4) voxel -> RAS+ mm.
        maps: The quantitative maps, made on access.
        protocol: The acquisition.
        record: Plain values that, with the same anatomies and masks, regenerate the sample.
    """

    image: Tensor
    target: Tensor
    affine: Tensor
    maps: Mapping[str, Tensor]
    protocol: Protocol
    record: dict[str, Any]


class Generator:
    """Simulated scans of patients with lesions.

    Args:
        settings: What scans look like.
        masks: Lesion masks in MNI space to draw from.
        priors: Tissue properties; the shipped table by default.

    Example:
        >>> from anystroke.anatomy.mni import mni_anatomy
        >>> generator = Generator(SynthesisSettings(shapes=((32, 32, 32),)))
        >>> sample = generator(mni_anatomy(), rng=stream(1, "example"))
        >>> sample.image.shape
        torch.Size([32, 32, 32])
    """

    def __init__(
        self,
        settings: SynthesisSettings,
        masks: Sequence[LesionMask] = (),
        *,
        priors: TissuePriors | None = None,
    ) -> None:
        self.settings = settings
        self.masks = list(masks)
        self.priors = priors or load_table()
        self.preset: Preset = load_preset(settings.preset)

    def __call__(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        rng: torch.Generator,
        stage: Stage | None = None,
    ) -> Sample:
        """Simulate one scan.

        Args:
            anatomy: The patient.
            lesions: Masks to put in; None draws them from the generator's own.
            rng: Random stream; one number is taken from it and becomes the sample's key.
            stage: Age of the lesion; None draws it.
        """
        key = integer(rng, 0, 2**62)
        return self.generate(anatomy, lesions, key=key, stage=stage, device=rng.device)

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
            return stream(key, name, device=device)

        shape = settings.shapes[choice(rng("shape"), list(settings.shape_weights))]
        if lesions is None:
            lesions = draw_masks(self.masks, settings.lesions, rng("choice"))
        centre = anatomy.centre
        if lesions and chance(rng("centre"), settings.lesion_centred):
            centre = anatomy.from_mni(lesions[0].centre)
        grid = sampling_grid(
            shape,
            settings.spacing,
            centre=centre,
            settings=settings.deformation,
            rng=rng("deformation"),
        )
        placed = place_lesions(
            lesions, _to_mni(anatomy, grid), settings=settings.lesions, rng=rng("lesion"), stage=stage
        )
        healthy = sample_at(anatomy.fractions.to(device), anatomy.affine, grid.points)
        membership = placed.membership * _allowed(healthy)
        protocol = self.preset.sample(rng("protocol"), weighting=settings.weighting)
        draw = self._draw_tissues(placed.stage, protocol, rng("tissue"))
        fractions = _paste(healthy, membership, placed.inner)
        maps = QuantitativeMaps(fractions, draw, key=key, texture=settings.texture)
        b1_plus = transmit_field(shape, field_strength=protocol.field_strength, rng=rng("transmit"))
        signal = protocol.signal(maps, b1_plus=b1_plus)
        image = self._corrupt(signal, healthy, protocol, anatomy.has_head, rng("corruption"))
        target = _target(fractions, membership)
        self._cut(image, target, rng("cut"))
        record = {
            "key": key,
            "anatomy": anatomy.name,
            "lesions": list(placed.names),
            "stage": placed.stage,
            "protocol": protocol.to_dict(),
            "settings": settings.model_dump(mode="json"),
        }
        return Sample(image, target, grid_affine(shape, settings.spacing), maps, protocol, record)

    def _draw_tissues(self, stage: Stage, protocol: Protocol, rng: torch.Generator) -> TissueDraw:
        names = (*TISSUES[1:], *TISSUES_OF_STAGE[stage])
        draw = self.priors.sample(
            rng, names, field_strength=protocol.field_strength, spread=self.settings.prior_spread
        )
        if chance(rng, self.settings.fat_suppression.get(protocol.weighting, 0.0)):
            remaining = uniform(rng, 0.03, 0.2)
            for row in _FAT_ROWS:
                draw.mean[row, 0] *= remaining
                draw.sd[row, 0] *= remaining
        return draw

    def _corrupt(
        self, signal: Tensor, healthy: Tensor, protocol: Protocol, has_head: bool, rng: torch.Generator
    ) -> Tensor:
        settings = self.settings
        shape = (signal.shape[0], signal.shape[1], signal.shape[2])
        image = signal * receive_field(shape, strength=settings.receive_strength, rng=rng)
        image = smooth(image, uniform(rng, 0.0, settings.blur))
        white = healthy[_WHITE_MATTER]
        level = float((image * white).sum() / white.sum().clamp(min=1))
        sd = level / log_uniform(rng, *settings.snr)
        thick = settings.thick_slices * (0.5 if protocol.weighting == "T1w" else 1.0)
        if chance(rng, thick):
            axis = choice(rng, [0.1, 0.15, 0.75])
            thickness = uniform(rng, *settings.slice_thickness)
            slices = slice_grid(
                shape[axis],
                spacing=settings.spacing,
                thickness=thickness,
                distance=max(thickness * uniform(rng, 1.0, 1.25), settings.spacing),
                offset=uniform(rng, 0.0, 1.0),
            )
            image = rician(along_axis(image, slices.acquire, axis), sd=sd, rng=rng)
            image = along_axis(image, slices.restore, axis).contiguous()
        else:
            image = rician(image, sd=sd, rng=rng)
        if chance(rng, settings.skull_strip) or not has_head:
            image *= _imperfect_brain_mask(healthy, rng)
        elif chance(rng, settings.clear_air):
            image *= healthy.sum(0) > uniform(rng, 0.2, 0.8)
        return image

    def _cut(self, image: Tensor, target: Tensor, rng: torch.Generator) -> None:
        if not chance(rng, self.settings.cut):
            return
        top, bottom = integer(rng, 0, image.shape[2] // 4), integer(rng, 0, image.shape[2] // 4)
        for array in (image, target):
            array[:, :, :bottom] = 0
            array[:, :, array.shape[2] - top :] = 0


def _to_mni(anatomy: Anatomy, grid: SamplingGrid) -> Tensor:
    matrix = anatomy.to_mni.to(grid.points)
    flat = matrix[:3, :3] @ grid.points.reshape(3, -1) + matrix[:3, 3:]
    return flat.reshape(grid.points.shape)


def _allowed(healthy: Tensor) -> Tensor:
    """Where lesions may be: brain tissue, and the fluid of sulci that brain tissue surrounds."""
    tissue = healthy[_BRAIN_ROWS].sum(0)
    surrounded = ((smooth(tissue, 1.5) - 0.45) * 5).clamp(0, 1)
    return (tissue + healthy[_SULCUS] * surrounded).clamp(0, 1)


def _paste(healthy: Tensor, membership: Tensor, inner: Tensor) -> Tensor:
    fractions = torch.empty((healthy.shape[0] + 2, *healthy.shape[1:]), device=healthy.device)
    torch.mul(healthy, 1 - membership, out=fractions[:-2])
    torch.mul(membership, inner, out=fractions[-2])
    torch.sub(membership, fractions[-2], out=fractions[-1])
    return fractions


def _target(fractions: Tensor, membership: Tensor) -> Tensor:
    classes = torch.stack([fractions[_CLASS_ROWS[name]].sum(0) for name in CLASSES[1:4]])
    share, best = classes.max(0)
    elsewhere = 1 - membership - classes.sum(0)
    target = torch.where(share > elsewhere, best + 1, 0)
    target[membership > 0.5] = CLASSES.index("lesion")
    return target


def _imperfect_brain_mask(healthy: Tensor, rng: torch.Generator) -> Tensor:
    """Mask the brain as skull-stripping tools do: at times generous, at times too tight."""
    brain = _allowed(healthy) + healthy[_VENTRICLE]
    return smooth(brain, uniform(rng, 0.8, 2.0)) > uniform(rng, 0.15, 0.5)
