"""Sources of the cases that an estimator learns from."""

from pathlib import Path
from typing import TYPE_CHECKING

from anystroke.learning.cases import CaseSource
from anystroke.learning.recipe import MapsPart
from anystroke.learning.sources.packing import at_grid, folder_of
from anystroke.tasks.qmri.cases import MeasuredMapSource, SimulatedMapSource

if TYPE_CHECKING:
    from anystroke.tasks.qmri.recipe import EstimatorSettings


def open_sources(settings: "EstimatorSettings", folder: Path) -> list[CaseSource]:
    """Open the sources of a recipe.

    Args:
        settings: The recipe.
        folder: Of packed data.
    """
    return [_open(settings, number, folder) for number in range(len(settings.sources))]


def _open(settings: "EstimatorSettings", number: int, folder: Path) -> CaseSource:
    part = settings.sources[number]
    if isinstance(part, MapsPart):
        place = folder / folder_of(number, part)
        maps = at_grid(part.maps, settings)
        return MeasuredMapSource(place, maps, names=settings.maps, target=settings.target)
    looks = at_grid(part.synthesis, settings)
    return SimulatedMapSource(folder, looks, names=settings.maps, target=settings.target)
