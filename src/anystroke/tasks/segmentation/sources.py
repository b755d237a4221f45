"""Sources of the cases that a segmentation learns from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.learning.augmentation.apply import AugmentationSettings, augment
from anystroke.learning.cases import Case, CaseSource, scan_of
from anystroke.learning.recipe import MapsPart, ScansPart, SecondLookPart, SimulatedPart, SourcePart
from anystroke.learning.sources.maps import MapCases
from anystroke.learning.sources.packing import at_grid, folder_of
from anystroke.learning.sources.scans import PackedScans, ScanCases
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.tasks.segmentation.second_look_cases import SecondLookCases

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.recipe import TrainingSettings


@dataclass(frozen=True)
class _Augmented:
    """A source whose cases are changed."""

    source: CaseSource
    settings: AugmentationSettings
    spacing: float

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        seed = rng.initial_seed()
        return self._changed(self.source.case(shape, rng=rng), stream(seed, "augmentation"))

    def scan(self, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
        seed = rng.initial_seed()
        made = scan_of(self.source, shape, number, rng=rng)
        return self._changed(made, stream(seed, "augmentation", *([number] if number else [])))

    def _changed(self, made: Case, rng: torch.Generator) -> Case:
        image, target = augment(made.image, made.target, self.settings, spacing=self.spacing, rng=rng)
        return Case(image, target, made.record)


def open_sources(settings: "TrainingSettings", folder: Path) -> list[CaseSource]:
    """Open the sources of a recipe.

    Args:
        settings: The recipe.
        folder: Of packed data.
    """
    opened = []
    for number, part in enumerate(settings.sources):
        source = _open(part, settings, folder, folder / folder_of(number, part))
        if not isinstance(part, ScansPart | SecondLookPart) and part.augmentation is not None:
            source = _Augmented(source, part.augmentation, settings.grid.spacing)
        opened.append(source)
    return opened


def _open(part: SourcePart, settings: "TrainingSettings", folder: Path, place: Path) -> CaseSource:
    classes = TARGET_SCHEMES[settings.classes]
    lesion = len(classes) - 1
    if isinstance(part, ScansPart):
        return ScanCases(PackedScans(place), part.scans, lesion=lesion)
    if isinstance(part, MapsPart):
        return MapCases(place, at_grid(part.maps, settings), lesion=lesion)
    if isinstance(part, SecondLookPart):
        heads = SimulatedSource(folder, at_grid(part.synthesis, settings), scheme=settings.classes)
        return SecondLookCases(heads, part.head, part.first, part.doubtful)
    looks = part.synthesis if isinstance(part, SimulatedPart) else part.contrasts
    return SimulatedSource(folder, at_grid(looks, settings), scheme=settings.classes, target=part.target)
