"""Recipes of estimators of maps: everything that decides such a training run, read from TOML."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.rng import stream
from anystroke.learning.buffer import BufferSettings
from anystroke.learning.recipe import (
    Architecture,
    DataSettings,
    GridSettings,
    MapsPart,
    NetworkSettings,
    OptimiserSettings,
    PlainParts,
    SimulatedPart,
    Validation,
)
from anystroke.qmri.estimated_maps import DEFAULT_MAPS, check_maps
from anystroke.tasks.qmri.cases import MapTargetSettings
from anystroke.tasks.qmri.losses import EstimationLossSettings

if TYPE_CHECKING:
    from anystroke.tasks.qmri.task import EstimationTask

EstimatorPart = Annotated[SimulatedPart | MapsPart, Field(discriminator="kind")]


class EstimatorSettings(NetworkSettings):
    """A whole recipe of an estimator.

    Attributes:
        task: ``"qmri"``; tells it from a recipe that segments.
        maps: What is estimated, names of ``anystroke.qmri.estimated_maps.MAP_OUTPUTS``.
        grid: The voxels that the network sees.
        data: Label maps and lesion masks.
        sources: What it is trained on: simulated patients, measured maps.
        target: What it should find.
        loss: What is minimised.
        optimiser: How.
        buffer: Cases that are kept on the device and seen several times; none without it.
        validation: What the run is judged on: scans that look like those of the first simulated source.
    """

    task: Literal["qmri"]
    architecture: Architecture = "small_estimator_unet"
    maps: tuple[str, ...] = DEFAULT_MAPS
    grid: GridSettings = GridSettings(normalisation="percentiles")
    data: DataSettings = DataSettings()
    sources: PlainParts[EstimatorPart]
    target: MapTargetSettings = MapTargetSettings()
    loss: EstimationLossSettings = EstimationLossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    buffer: BufferSettings | None = None
    validation: Validation = Validation()

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
        if self.optimiser.made_on != "cpu":
            raise ValueError("expected optimiser.made_on = 'cpu': cases of estimators are made there")
        if self.validation.patients and not any(isinstance(part, SimulatedPart) for part in self.sources):
            raise ValueError("validation.patients are simulated, but no source is of the kind 'simulated'")
        return self
