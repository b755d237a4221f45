"""Recipes of estimators of maps: everything that decides such a training run, read from TOML."""

from typing import TYPE_CHECKING, Literal

from pydantic import field_validator, model_validator

from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.rng import stream
from anystroke.learning.recipe import (
    Architecture,
    CpuTaskSettings,
    GridSettings,
    PatientPart,
    PlainParts,
    SimulatedPart,
)
from anystroke.qmri.estimated_maps import DEFAULT_MAPS, check_maps
from anystroke.tasks.qmri.cases import MapTargetSettings
from anystroke.tasks.qmri.losses import EstimationLossSettings

if TYPE_CHECKING:
    from anystroke.tasks.qmri.task import EstimationTask


class EstimatorSettings(CpuTaskSettings):
    """A whole recipe of an estimator.

    Attributes:
        task: ``"qmri"``; tells it from a recipe that segments.
        maps: What is estimated, names of ``anystroke.qmri.estimated_maps.MAP_OUTPUTS``.
        grid: The voxels that the network sees.
        sources: What it is trained on: simulated patients, measured maps.
        target: What it should find.
        loss: What is minimised.
        validation: What the run is judged on: scans that look like those of the first simulated source.
    """

    task: Literal["qmri"]
    architecture: Architecture = "small_estimator_unet"
    maps: tuple[str, ...] = DEFAULT_MAPS
    grid: GridSettings = GridSettings(normalisation="percentiles")
    sources: PlainParts[PatientPart]
    target: MapTargetSettings = MapTargetSettings()
    loss: EstimationLossSettings = EstimationLossSettings()

    def open_task(self) -> "EstimationTask":
        """Return what the recipe trains a network to do."""
        from anystroke.tasks.qmri.task import EstimationTask

        return EstimationTask(self)

    @field_validator("maps")
    @classmethod
    def _known_maps(cls, maps: tuple[str, ...]) -> tuple[str, ...]:
        needs = load_preset("typical").sample(stream(0), weighting="T1w").needs
        if missing := [name for name in needs if name not in check_maps(maps)]:
            raise ValueError(
                f"expected also {', '.join(missing)}: without them a T1w scan cannot be simulated again"
            )
        return maps

    @model_validator(mode="after")
    def _judged(self) -> "EstimatorSettings":
        if self.validation.patients and not any(isinstance(part, SimulatedPart) for part in self.sources):
            raise ValueError("validation.patients are simulated, but no source is of the kind 'simulated'")
        return self
