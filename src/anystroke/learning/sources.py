"""From a recipe and packed data to sources of training cases."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from anystroke.anatomy.anatomies import Anatomy, build_anatomy, load_anatomies, save_anatomies
from anystroke.anatomy.labels import SYNTHSEG
from anystroke.anatomy.lesions import load_bank, load_masks, save_bank
from anystroke.anatomy.made_up_lesions import blob_bank
from anystroke.anatomy.mni import mni_anatomy
from anystroke.anatomy.registration import stored_registration
from anystroke.bids import image_stem
from anystroke.datasets import DatasetError, images_in, is_held_out
from anystroke.fields import GridShape
from anystroke.labelled_scans import find_labelled_scans
from anystroke.learning.augmentation import AugmentationSettings, augment
from anystroke.learning.cases import Case, CaseSource
from anystroke.learning.estimation_cases import MeasuredMapSource, SimulatedMapSource
from anystroke.learning.estimator_recipes import EstimatorPart, EstimatorSettings, Recipe
from anystroke.learning.maps import MapCases, MapSettings
from anystroke.learning.maps import pack_data as pack_map_data
from anystroke.learning.recipes import (
    DataSettings,
    MapsPart,
    Part,
    ScansPart,
    SimulatedPart,
    TrainingSettings,
)
from anystroke.learning.scans import PackedScans, ScanCases, pack_scans
from anystroke.learning.simulated import SimulatedSource
from anystroke.learning.targets import SCHEMES
from anystroke.rng import stream
from anystroke.volume import Volume

log = logging.getLogger(__name__)

_BLOB_SEED = 20260101
OnItem = Callable[[str], None]


def pack(settings: Recipe, folder: Path, on_item: OnItem = lambda _: None) -> dict[str, list[str]]:
    """Bring all data of a recipe into the form that training reads; what is there already is kept.

    Args:
        settings: The recipe.
        folder: Gets ``anatomies``, ``lesions`` and the ``held_out_`` part of each as safetensors, and a
            folder with each other source's scans or maps.
        on_item: Told what was packed.

    Returns:
        Names of the cases in each.

    Raises:
        DatasetError: A source is empty or something in it cannot be used; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {}
    simulates = any(part.kind in ("simulated", "random_contrasts") for part in settings.sources)
    validation = settings.validation
    if simulates or validation.patients or getattr(validation, "healthy", 0):
        names |= _pack_patients(settings.data, folder, on_item)
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


def _pack_patients(data: DataSettings, folder: Path, on_item: OnItem) -> dict[str, list[str]]:
    files = {
        name: folder / f"{name}.safetensors"
        for name in ("anatomies", "held_out_anatomies", "lesions", "held_out_lesions")
    }
    if not all(path.exists() for path in files.values()):
        seen: list[Anatomy] = []
        unseen: list[Anatomy] = []
        for path in [p for source in data.anatomies for p in images_in(source)]:
            name = image_stem(path)
            to_mni = stored_registration(path).affine
            anatomy = build_anatomy(Volume.load(path), SYNTHSEG, to_mni, name=name)
            (unseen if name in data.held_out_anatomies else seen).append(anatomy)
            on_item(name)
        on_item("lesion masks")
        masks = load_masks([p for source in data.lesions for p in images_in(source)])
        if data.package:
            seen.append(mni_anatomy())
            masks += blob_bank(data.package, seed=_BLOB_SEED)
            unseen = unseen or [seen[-1]]
        if not seen or not masks:
            raise DatasetError(
                f"expected anatomies and lesion masks to train on, got {len(seen)} and {len(masks)}; "
                "name their folders in data.anatomies and data.lesions, or set data.package"
            )
        masks = [m for m in masks if m.volume_ml <= data.largest_lesion_ml]
        held = [is_held_out(m.name, data.held_out_lesions, data.split) for m in masks]
        save_anatomies(seen, files["anatomies"])
        save_anatomies(unseen, files["held_out_anatomies"])
        save_bank([m for m, out in zip(masks, held, strict=True) if out], files["held_out_lesions"])
        save_bank([m for m, out in zip(masks, held, strict=True) if not out], files["lesions"])
    return {
        name: [each.name for each in (load_bank(path) if "lesions" in name else load_anatomies(path))]
        for name, path in files.items()
    }


@dataclass(frozen=True)
class _Augmented:
    """A source whose cases are changed."""

    source: CaseSource
    settings: AugmentationSettings
    spacing: float

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        made = self.source.case(shape, rng=rng)
        changes = stream(rng.initial_seed(), "augmentation")
        image, target = augment(made.image, made.target, self.settings, spacing=self.spacing, rng=changes)
        return Case(image, target, made.record)


def sources_of(settings: Recipe, folder: Path) -> Callable[[], Sequence[CaseSource]]:
    """Return what opens the sources of a recipe, in whatever process.

    Args:
        settings: The recipe.
        folder: What `pack` wrote.
    """
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
