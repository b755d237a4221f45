"""Recipes of tissue segmentations: everything that decides such a training run, read from TOML."""

from typing import TYPE_CHECKING, Literal

from anystroke.learning.recipe import DownstreamSettings, SimulatedPart, SomeParts
from anystroke.tasks.segmentation.losses import LossSettings

if TYPE_CHECKING:
    from anystroke.tasks.tissues.task import TissueTask


class TissueSettings(DownstreamSettings):
    """A whole recipe of a network that tells healthy tissues apart.

    Attributes:
        task: ``"tissues"``; tells it from a recipe that segments lesions.
        sources: Simulated patients, whose lesions are not taught; soft targets are the published ones.
        loss: What is minimised; what it says of lesions does not count.
    """

    task: Literal["tissues"]
    sources: SomeParts[SimulatedPart]
    loss: LossSettings = LossSettings()

    def open_task(self) -> "TissueTask":
        """Return what the recipe trains a network to do."""
        from anystroke.tasks.tissues.task import TissueTask

        return TissueTask(self)
