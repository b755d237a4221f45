"""What simulated scans look like, as settings."""

from typing import Literal

from pydantic import Field

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.anatomy.tissues.deformation import DeformationSettings
from anystroke.core.fields import GridShape
from anystroke.corruption.echo_planar_scan import EchoPlanarSettings
from anystroke.corruption.scanner import ScannerSettings
from anystroke.simulation.healthy import HealthySettings


class SynthesisSettings(ScannerSettings):
    """Everything that decides what simulated scans look like, beside what ``ScannerSettings`` say.

    Attributes:
        preset: Distribution over protocols: a name, or a TOML file.
        priors: Tissue properties: ``"literature"``, ``"paper"``, or a TOML file as ``fit-priors`` writes.
        weighting: Restrict the preset to one weighting, such as ``"FLAIR"``.
        spacing: Voxel size in mm.
        shapes: Output grids.
        shape_weights: Probability of each of them.
        lesion_centred: Probability that the grid is centred on a lesion instead of the brain.
        anywhere: Probability that any other grid is centred on a place anywhere in the head. What learns from
            parts of heads alone does not know otherwise what is around the brain.
        deformation: Of the anatomy.
        lesions: Choice and shape of lesions.
        texture: Scales the texture within tissues. Published spreads come from maps of about 1 mm, noise
            included; voxels of 2 mm average much of it away. The default is an engineering estimate.
        largest_fwhm: The texture of all maps is smoothed by a whole number of voxels (FWHM) below this, drawn
            for each patient; None smoothes each map by little, at random.
        rescale_texture: Keep the texture's spread when it is smoothed; the published program of qSynth, whose
            ``largest_fwhm`` is 10, does not.
        partial_volume: What tissues in one voxel share: ``"signals"``, as nature has it, or ``"maps"``, the
            signal of their mean maps, as published. The latter leaves negative what an equation gives so.
        smooth_spacing: Lesions, confounders and brain masks are computed in voxels of about this size in mm.
        transmit_field: Whether flip angles vary over the head.
        prior_spread: Widens the spread of tissue properties between patients.
        leukoaraiosis: Probability of white matter hyperintensities, which are no lesion.
        lacunes: Probability of old lacunes, which are no lesion either.
        microbleeds: Probability of microbleeds, likewise.
        mass_effect: Probability that a lesion pushes what is around it away, or if chronic, pulls it in.
        healthy: What healthy scans show too and networks take for lesions.
        skull_strip: Probability that nothing but the brain is left.
        clear_air: Probability that air is exactly zero in a whole-head scan.
        defaced: Probability that the face of a whole-head scan was removed or blurred.
        cut: Probability that the field of view ends within the head.
        fat_suppression: Probability, by weighting, that fat gives almost no signal.
        echo_planar: Distortion of diffusion-weighted scans and others that are echo-planar.
        soft_target: Whether samples come with the share that each class has of each voxel.
        visible_from: The least contrast-to-noise ratio of a lesion that anybody could see, see
            `visible_truth`.
    """

    preset: str = "realistic"
    priors: str = "literature"
    weighting: str | None = None
    spacing: float = 2.0
    shapes: tuple[GridShape, ...] = ((96, 112, 96),)
    shape_weights: tuple[float, ...] = (1.0,)
    lesion_centred: float = 0.0
    anywhere: float = Field(default=0.0, ge=0, le=1)
    deformation: DeformationSettings = DeformationSettings()
    lesions: LesionSettings = LesionSettings()
    texture: float = Field(default=0.4, ge=0)
    largest_fwhm: int | None = Field(default=None, ge=0)
    rescale_texture: bool = True
    partial_volume: Literal["signals", "maps"] = "signals"
    smooth_spacing: float = Field(default=2.0, gt=0)
    transmit_field: bool = True
    prior_spread: float = 1.0
    leukoaraiosis: float = 0.35
    lacunes: float = 0.15
    microbleeds: float = 0.1
    mass_effect: float = 0.15
    healthy: HealthySettings = HealthySettings()
    skull_strip: float = 0.3
    clear_air: float = 0.3
    defaced: float = 0.1
    cut: float = 0.15
    fat_suppression: dict[str, float] = Field(
        default={"DWI": 1.0, "ADC": 1.0, "FLAIR": 0.4, "T2w": 0.25, "T1w": 0.25}
    )
    echo_planar: EchoPlanarSettings = EchoPlanarSettings()
    soft_target: bool = False
    visible_from: float = Field(default=1.0, ge=0)

    @property
    def coarse_factor(self) -> int:
        """How many voxels along an axis make one in which what is smooth is computed."""
        return max(round(self.smooth_spacing / self.spacing), 1)
