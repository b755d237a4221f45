"""From a recipe and packed data to sources of training cases."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.io.labelled import find_labelled_scans
from anystroke.learning.augmentation.apply import AugmentationSettings, augment
from anystroke.learning.cases import Case, CaseSource, scan_of
from anystroke.learning.recipe import MapsPart, Part, ScansPart, SimulatedPart, TrainingSettings
from anystroke.learning.sources.maps import MapCases, MapSettings
from anystroke.learning.sources.maps import pack_data as pack_map_data
from anystroke.learning.sources.patient_packs import OnPatient, pack_patients
from anystroke.learning.sources.scans import PackedScans, ScanCases, pack_scans
from anystroke.learning.sources.simulated import SimulatedSource, read_ahead
from anystroke.learning.targets import SCHEMES
from anystroke.tasks.qmri.cases import MeasuredMapSource, SimulatedMapSource
from anystroke.tasks.qmri.recipe import EstimatorPart, EstimatorSettings, Recipe

log = logging.getLogger(__name__)

OnItem = Callable[[str], None]


def pack(
    settings: Recipe,
    folder: Path,
    on_item: OnItem = lambda _: None,
    on_patient: OnPatient = lambda *_: None,
) -> dict[str, list[str]]:
    """Bring all data of a recipe into the form that training reads; unchanged inputs are read once.

    Args:
        settings: The recipe.
        folder: Gets ``anatomies``, ``lesions`` and the ``held_out_`` part of each as safetensors, and a
            folder with each other source's scans or maps.
        on_item: Told what was packed.
        on_patient: Told how far label maps and lesion masks are.

    Returns:
        Names of the cases in each.

    Raises:
        DatasetError: A source is empty or something in it cannot be used, or the folder was packed by another
            version; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {}
    simulates = any(part.kind in ("simulated", "random_contrasts") for part in settings.sources)
    validation = settings.validation
    if simulates or validation.patients or getattr(validation, "healthy", 0):
        names |= pack_patients(settings.data, folder, on_patient)
        on_item("label maps and lesion masks")
    for number, part in enumerate(settings.sources):
        place = folder / _folder(number, part)
        if isinstance(part, ScansPart):
            scans = [scan for source in part.scans.data for scan in find_labelled_scans(source)]
            pack_scans(scans, place, spacing=settings.grid.spacing, on_scan=on_item)
            names[place.name] = [scan.name for scan in scans]
        elif isinstance(part, MapsPart):
            report = pack_map_data(_on_grid(part.maps, settings), place, on_subject=on_item)
            for name, reason in report.skipped.items():
                log.warning("%s is left out: %s", name, reason)
            names[place.name] = list(report.names)
    return names


def _on_grid(maps: MapSettings, settings: Recipe) -> MapSettings:
    return maps.model_copy(update={"spacing": settings.grid.spacing})


def _folder(number: int, part: Part | EstimatorPart) -> str:
    return f"source_{number}_{part.kind}"


def pack_showing_progress(settings: Recipe, folder: Path) -> dict[str, list[str]]:
    """Do as `pack` does, with bars on stderr where that is a terminal.

    Args:
        settings: The recipe.
        folder: As for `pack`.

    Raises:
        DatasetError: As `pack` does.
    """
    console = Console(stderr=True)
    columns = (TextColumn("packing {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        return pack(settings, folder, lambda name: log.info("packed %s", name), show)


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


def sources_of(settings: Recipe, folder: Path) -> Callable[[], Sequence[CaseSource]]:
    """Return what opens the sources of a recipe, in whatever process.

    Anatomies are read now: processes that are forked from this one share them.

    Args:
        settings: The recipe.
        folder: What `pack` wrote.
    """
    if any(isinstance(part, SimulatedPart) for part in settings.sources):
        read_ahead(folder)
    return partial(_open_sources, settings, folder)


def _open_sources(settings: Recipe, folder: Path) -> list[CaseSource]:
    if isinstance(settings, EstimatorSettings):
        return [_open_estimation(settings, number, folder) for number in range(len(settings.sources))]
    opened = []
    for number, part in enumerate(settings.sources):
        source = _open(part, settings, folder, folder / _folder(number, part))
        if not isinstance(part, ScansPart) and part.augmentation is not None:
            source = _Augmented(source, part.augmentation, settings.grid.spacing)
        opened.append(source)
    return opened


def _open(part: Part, settings: TrainingSettings, folder: Path, place: Path) -> CaseSource:
    spacing, classes = settings.grid.spacing, SCHEMES[settings.classes]
    lesion = len(classes) - 1
    if isinstance(part, ScansPart):
        return ScanCases(PackedScans(place), part.scans, lesion=lesion)
    if isinstance(part, MapsPart):
        return MapCases(place, _on_grid(part.maps, settings), lesion=lesion)
    looks = part.synthesis if isinstance(part, SimulatedPart) else part.contrasts
    return SimulatedSource(
        folder, looks.model_copy(update={"spacing": spacing}), scheme=settings.classes, target=part.target
    )


def _open_estimation(settings: EstimatorSettings, number: int, folder: Path) -> CaseSource:
    part = settings.sources[number]
    if isinstance(part, MapsPart):
        place = folder / _folder(number, part)
        maps = _on_grid(part.maps, settings)
        return MeasuredMapSource(place, maps, names=settings.maps, target=settings.target)
    looks = part.synthesis.model_copy(update={"spacing": settings.grid.spacing})
    return SimulatedMapSource(folder, looks, names=settings.maps, target=settings.target)
