"""What lies beside the weights of a network that segments."""

from typing import Literal

from pydantic import Field, model_validator

from anystroke.core.config import StrictModel
from anystroke.models.checkpoints import ClassesConfig
from anystroke.models.volume_interval import VolumeErrors
from anystroke.tasks.segmentation.calibration_curve import CalibrationCurve
from anystroke.tasks.segmentation.part_probability import PartModel
from anystroke.tasks.segmentation.risk import RiskModel
from anystroke.tasks.segmentation.small_parts import SmallParts

TISSUES = ("grey_matter", "white_matter", "csf")
"""What makes up the healthy brain where a network tells it apart."""


class View(StrictModel):
    """One way to show a head to the network, see `anystroke.tasks.segmentation.views`.

    Attributes:
        spacing: Voxel size [mm]; None for the network's own.
        gamma: Standardised grey values, less the darkest, are raised to this power and standardised again.
        mirrored: Whether left and right change places.
    """

    spacing: float | None = Field(default=None, gt=0)
    gamma: float = Field(default=1.0, gt=0)
    mirrored: bool = False


class SegmentationConfig(ClassesConfig):
    """What is needed to segment with a network, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
        classes: Names of the output classes in order; one of them is ``lesion``.
        brain: Those of the classes that make up the healthy brain; lesions elsewhere are discarded. Empty to
            keep all.
        threshold: Lesion probability from which a voxel belongs to the mask.
        certain: Probability that a connected part of the mask must reach somewhere; 0 for none.
        certain_together: The same after a second look, of what both networks say together.
        certain_alone: The same after a second look, of what the first network alone has said.
        part_model: What tells after a second look how likely each part of the mask is a lesion; None if that
            was not learnt.
        small_parts: Small parts with a threshold of their own; None for none.
        temperature: Logits are divided by it before the softmax.
        views: How a head is shown to the first network; what it says of them is averaged.
        adc_exponential: Share that the exponential of an ADC map has in a lesion's log-odds, see
            `anystroke.tasks.segmentation.adc_exponential`; 0 for none.
        calibrated_alone: What lesion probabilities of the first network mean; None leaves them. Threshold and
            certainties above are of what the networks say, before such a curve.
        calibrated_together: The same after a second look.
        volume_errors: What intervals of the volume are made of; None gives none.
        lesion_errors: Likewise of the volumes of single lesions.
        risk: What tells masks that fail from others; None if that was not measured.
        image_range: Feature of ``image_features`` -> 0.5 and 99.5 % quantiles over images of the training;
            empty if they were not measured.
    """

    task: Literal["segmentation"] = "segmentation"
    brain: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, gt=0, lt=1)
    certain: float = Field(default=0.0, ge=0, lt=1)
    certain_together: float = Field(default=0.75, ge=0, lt=1)
    certain_alone: float = Field(default=0.0, ge=0, lt=1)
    part_model: PartModel | None = None
    small_parts: SmallParts | None = None
    temperature: float = Field(default=1.0, gt=0)
    views: tuple[View, ...] = Field(default=(View(),), min_length=1)
    adc_exponential: float = Field(default=0.0, ge=0, lt=1)
    calibrated_alone: CalibrationCurve | None = None
    calibrated_together: CalibrationCurve | None = None
    volume_errors: VolumeErrors | None = None
    lesion_errors: VolumeErrors | None = None
    risk: RiskModel | None = None
    image_range: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _knows_fluid(self) -> "SegmentationConfig":
        if self.adc_exponential and self.brain != TISSUES:
            raise ValueError(f"adc_exponential needs brain = {TISSUES}, got {self.brain}")
        return self
