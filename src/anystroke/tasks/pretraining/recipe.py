"""Recipes of encoders: everything that decides such a training run, read from TOML."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from anystroke.learning.recipe import (
    CpuTaskSettings,
    EncoderArchitecture,
    GridSettings,
    OptimiserSettings,
    PatientPart,
    PlainParts,
    Validation,
)
from anystroke.tasks.pretraining.losses import PretrainingLossSettings
from anystroke.tasks.pretraining.views import ViewSettings

if TYPE_CHECKING:
    from anystroke.tasks.pretraining.task import PretrainingTask


class PretrainingValidationSettings(Validation):
    """What a run is judged on while it goes on.

    Attributes:
        every: Steps between validations.
        patients: Simulated patients of the anatomies and masks that are held out, each with two scans of
            different weightings.
        weightings: The contrasts; each patient has two that follow each other.
        preset: Protocols of the scans.
    """

    weightings: tuple[str, ...] = Field(default=("T1w", "T2w", "FLAIR", "DWI"), min_length=2)
    preset: str = "realistic"


class PretrainingSettings(CpuTaskSettings):
    """A whole recipe of an encoder.

    Attributes:
        task: ``"pretraining"``; tells it from a recipe that segments.
        start_from_wider: False.
        start_from_narrower: False.
        freeze_encoder: False: the encoder is what learns.
        architecture: Whose encoder, a name of ``anystroke.models.architectures.catalogue.ENCODERS``.
        grid: The voxels that a view has.
        sources: What views are of: maps drawn for simulated patients, measured maps, estimated ones.
        views: How they are made.
        loss: What is minimised.
        optimiser: How.
        validation: What the run is judged on.
    """

    task: Literal["pretraining"]
    start_from_wider: Literal[False] = False
    start_from_narrower: Literal[False] = False
    freeze_encoder: Literal[False] = False
    architecture: EncoderArchitecture = "compact_unet"
    grid: GridSettings = GridSettings(shapes=((96, 96, 96),), normalisation="whole")
    sources: PlainParts[PatientPart]
    views: ViewSettings = ViewSettings()
    loss: PretrainingLossSettings = PretrainingLossSettings()
    optimiser: OptimiserSettings = OptimiserSettings(batch=8)
    validation: PretrainingValidationSettings = PretrainingValidationSettings()

    def open_task(self) -> "PretrainingTask":
        """Return what the recipe trains a network to do."""
        from anystroke.tasks.pretraining.task import PretrainingTask

        return PretrainingTask(self)

    @model_validator(mode="after")
    def _learns(self) -> "PretrainingSettings":
        if self.loss.kind == "none" and self.loss.reconstruction == 0:
            raise ValueError("expected something to learn: loss.kind is 'none' and loss.reconstruction is 0")
        if self.loss.kind != "none" and self.optimiser.batch < 2:
            raise ValueError("expected optimiser.batch of 2 or more: patients are told from each other")
        return self
