"""From a recipe and packed data to sources of training cases."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from anystroke.core.config import StrictModel
from anystroke.io.labelled import find_labelled_scans
from anystroke.learning.cases import CaseSource
from anystroke.learning.recipe import MapsPart, ScansPart, SecondLookPart, SimulatedPart
from anystroke.learning.sources.maps import pack_data as pack_map_data
from anystroke.learning.sources.patient_packs import OnPatient, pack_patients
from anystroke.learning.sources.scans import pack_scans
from anystroke.learning.sources.simulated import read_ahead
from anystroke.learning.task import AnyPart, Recipe

log = logging.getLogger(__name__)

Looks = TypeVar("Looks", bound=StrictModel)
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
    scans = {
        folder_of(number, part): [each for source in part.scans.data for each in find_labelled_scans(source)]
        for number, part in enumerate(settings.sources)
        if isinstance(part, ScansPart)
    }
    for name, found in scans.items():
        pack_scans(found, folder / name, spacing=settings.grid.spacing, on_scan=on_item)
        names[name] = [scan.name for scan in found]
    simulates = any(
        part.kind in ("simulated", "second_look", "random_contrasts") for part in settings.sources
    )
    if simulates or is_judged(settings):
        names |= pack_patients(settings.data, folder, on_patient)
        on_item("label maps and lesion masks")
    for number, part in enumerate(settings.sources):
        if isinstance(part, MapsPart):
            place = folder / folder_of(number, part)
            report = pack_map_data(at_grid(part.maps, settings), place, on_subject=on_item)
            for name, reason in report.skipped.items():
                log.warning("%s is left out: %s", name, reason)
            names[place.name] = list(report.names)
    return names


def is_judged(settings: Recipe) -> bool:
    """Tell whether a run is judged on simulated patients."""
    return settings.open_task().judged_on_simulated


def at_grid(looks: Looks, settings: Recipe) -> Looks:
    """Return what the scans of a source look like, with the voxel size of its recipe.

    Args:
        looks: Settings of a source of scans, with a ``spacing``.
        settings: The recipe.
    """
    return looks.model_copy(update={"spacing": settings.grid.spacing})


def folder_of(number: int, part: AnyPart) -> str:
    """Return the name of the folder in which a source's data are packed."""
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


def sources_of(settings: Recipe, folder: Path) -> Callable[[], Sequence[CaseSource]]:
    """Return what opens the sources of a recipe, in whatever process.

    Anatomies are read now: processes that are forked from this one share them.

    Args:
        settings: The recipe.
        folder: What `pack` wrote.
    """
    if any(isinstance(part, SimulatedPart | SecondLookPart) for part in settings.sources):
        read_ahead(folder)
    return partial(_open_sources, settings, folder)


def _open_sources(settings: Recipe, folder: Path) -> Sequence[CaseSource]:
    return settings.open_task().open_sources(folder)
