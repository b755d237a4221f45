"""Recipes of networks that find noise: everything that decides such a training run, read from TOML."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from anystroke.learning.recipe import DownstreamSettings, GridSettings, PlainParts, SimulatedPart

if TYPE_CHECKING:
    from anystroke.tasks.denoising.task import DenoisingTask


class DenoisingSettings(DownstreamSettings):
    """A whole recipe of a network that finds the noise in a scan.

    Attributes:
        task: ``"denoising"``; tells it from a recipe that segments.
        sources: Simulated patients, without noise of their own where ``synthesis.corrupted`` is false.
        noise_sd: Of the noise that is added to scans of standard deviation 1.
    """

    task: Literal["denoising"]
    grid: GridSettings = GridSettings(normalisation="whole")
    sources: PlainParts[SimulatedPart]
    noise_sd: float = Field(default=0.2, gt=0)

    def open_task(self) -> "DenoisingTask":
        """Return what the recipe trains a network to do."""
        from anystroke.tasks.denoising.task import DenoisingTask

        return DenoisingTask(self)

    @model_validator(mode="after")
    def _standard(self) -> "DenoisingSettings":
        if self.grid.normalisation != "whole":
            raise ValueError("expected grid.normalisation = 'whole': the noise is that of scans of SD 1")
        if self.buffer is not None:
            raise ValueError(
                "denoising takes no [buffer], which changes grey values but not the noise to find"
            )
        return self
