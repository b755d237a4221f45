"""Estimate a prior table from files: quantitative maps and segmentations of several subjects."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from anystroke.anatomy.tissues.labels import LABEL_SCHEMES, TISSUES, segmentation_class
from anystroke.core.config import StrictModel
from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import read_rows
from anystroke.core.volume import SUFFIXES, Volume, VolumeError
from anystroke.io.folders import walk
from anystroke.io.names import Name
from anystroke.qmri.fitting import (
    PopulationFit,
    Statistic,
    SubjectStatistics,
    fit_population,
    measure_subject,
)
from anystroke.qmri.measured_maps import find_maps, load_images, map_of, same_grid
from anystroke.qmri.tissue_priors import MAPS, PriorError, TissuePriors, load_table, save_table
from anystroke.qmri.units_check import UnitError, UnitFinding, check_units, r2_from_r2star

TissueNames = Mapping[int, str] | str | Path
"""Tissue of each label (or channel), the name of a label scheme, or a JSON file that says either."""

_SEGMENTATION_SUFFIXES = ("dseg", "probseg")
_MINIMUM_SHARE = 0.5
_BIDS_NAMES = {
    **dict.fromkeys(("grey_matter", "gm", "cortical_grey", "cortex"), "cortical_grey_matter"),
    **dict.fromkeys(("white_matter", "wm"), "white_matter"),
    **dict.fromkeys(("csf", "cerebrospinal_fluid"), "ventricular_csf"),
    **dict.fromkeys(("background", "bg"), "background"),
    "lesion": "lesion",
}


class PriorFittingError(AnystrokeError):
    """Subjects that cannot be used; the message names them and says why."""


class FitSettings(StrictModel):
    """How priors are estimated.

    Attributes:
        statistic: ``sd``, ``robust`` (median absolute deviation) or ``paper`` (as qSynth does).
        correlations: Of maps: over ``subjects``, over ``voxels``, or those of the stand-in table.
        minimum_voxels: Smaller tissues of a subject are left out.
        minimum_subjects: Fewer subjects make a number count as not measured.
        r2_from_r2star: Whether R2 that was not measured is estimated from R2* and R1.
    """

    statistic: Statistic = "sd"
    correlations: Literal["subjects", "voxels", "stand_in"] = "subjects"
    minimum_voxels: float = 50.0
    minimum_subjects: int = 2
    r2_from_r2star: bool = True


@dataclass(frozen=True, kw_only=True)
class SubjectFiles:
    """The files of one subject.

    Attributes:
        name: Name of the subject, such as ``sub-01``.
        maps: Some of ``MAPS`` -> file.
        segmentation: Labels (3-D), or shares of tissues (4-D, one volume each).
        tissues: JSON file that names the tissue of each label or volume.
        problem: Why the subject cannot be used, if so.
    """

    name: str
    maps: Mapping[str, Path]
    segmentation: Path | None = None
    tissues: Path | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class FittedPriors:
    """Priors estimated from files, and how.

    Attributes:
        priors: The table.
        subjects: The subjects behind it.
        skipped: Subjects that could not be used -> why.
        units: For each subject used, what unit each map was found in.
        notes: What else the user should know, one sentence each.
    """

    priors: TissuePriors
    subjects: tuple[str, ...]
    skipped: Mapping[str, str]
    units: Mapping[str, tuple[UnitFinding, ...]]
    notes: tuple[str, ...]

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the table, for `load_table`.

        Raises:
            FileExistsError: If the file exists and ``overwrite`` is False.
            FileNotFoundError: If its folder does not exist.
        """
        save_table(self.priors, path, overwrite=overwrite)


def find_subjects(folder: str | Path, *, session: str | None = None) -> tuple[SubjectFiles, ...]:
    """Find maps and segmentations in a folder by their BIDS names.

    Maps end in ``_PDmap``, ``_R1map``, ``_R2map``, ``_R2starmap``, ``_MTsat`` or ``_ADC``; the segmentation
    in ``_dseg`` (labels) or ``_probseg`` (4-D shares). A file belongs to the subject of its ``sub-`` entity,
    or to its folder if it has none. What the labels (or the volumes of shares, from 0) mean is read from the
    segmentation's own JSON sidecar, or from the next ``dseg.json`` (``probseg.json``) in the folders above:
    ``{"1": "white_matter", ...}`` or the name of a label scheme, alone or under the key ``tissues``; where
    there is none, from the look-up table of BIDS, ``dseg.tsv``, with the columns ``index`` and ``name``.

    Args:
        folder: Where to look, at any depth.
        session: Take only files with this ``ses-`` label.

    Returns:
        The subjects, sorted by name, those with a problem too.

    Raises:
        PriorFittingError: If there is no such folder, or no map in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PriorFittingError(f"expected a folder of maps at {folder}, but there is none; check the path")
    groups: dict[str, list[Path]] = {}
    for path in (path for path in walk(folder) if path.name.lower().endswith(SUFFIXES)):
        name = Name.parse(path)
        if session is not None and name.entities.get("ses") != session:
            continue
        if map_of(path) or name.suffix in _SEGMENTATION_SUFFIXES:
            owner = path.parent.name if name.subject is None else f"sub-{name.subject}"
            groups.setdefault(owner, []).append(path)
    if not any(map_of(path) for paths in groups.values() for path in paths):
        raise PriorFittingError(
            f"{folder} holds no map; expected files such as sub-01_R1map.nii.gz"
            + (f" with ses-{session}" if session else "")
        )
    return tuple(_group(name, paths, folder) for name, paths in sorted(groups.items()))


def _group(name: str, paths: Sequence[Path], root: Path) -> SubjectFiles:
    try:
        maps = find_maps(paths)
    except UnitError as error:
        return SubjectFiles(name=name, maps={}, problem=str(error))
    found = [path for path in paths if Name.parse(path).suffix in _SEGMENTATION_SUFFIXES]
    # Distorted scans have segmentations of their own.
    found = [path for path in found if "desc" not in Name.parse(path).entities] or found
    if len(found) > 1:
        listed = ", ".join(str(path) for path in found)
        return SubjectFiles(name=name, maps=maps, problem=f"expected one segmentation, got {listed}")
    segmentation = found[0] if found else None
    return SubjectFiles(
        name=name,
        maps=maps,
        segmentation=segmentation,
        tissues=_names_file(segmentation, root) if segmentation else None,
    )


def _names_file(segmentation: Path, root: Path) -> Path | None:
    name = Name.parse(segmentation)
    above = [parent for parent in segmentation.parents if parent.is_relative_to(root)]
    shared = [parent / f"{name.suffix}.json" for parent in above]
    tables = [name.beside(".tsv"), *(parent / f"{name.suffix}.tsv" for parent in above)]
    if found := next((path for path in [name.sidecar, *shared] if path.is_file() and _may_name(path)), None):
        return found
    return next((path for path in tables if path.is_file()), None)


def _may_name(path: Path) -> bool:
    """Tell whether a JSON file is about labels; one that cannot be read is taken for one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return True
    if not isinstance(content, dict):
        return True
    return "tissues" in content or all(key.isdecimal() for key in content)


def fit_priors(
    subjects: Sequence[SubjectFiles],
    *,
    field_strength: float,
    source: str,
    tag: str = "V",
    tissues: TissueNames | None = None,
    settings: FitSettings | None = None,
    stand_in: TissuePriors | None = None,
    on_subject: Callable[[str], None] | None = None,
) -> FittedPriors:
    """Estimate a prior table from the maps and segmentations of several subjects.

    A subject that cannot be used is left out, with the reason in the result.

    Args:
        subjects: Their files; `find_subjects` makes them from a folder.
        field_strength: Static field of the maps, T.
        source: Where the numbers come from, for the table.
        tag: What they rest on: V read or computed, M literature, E estimate.
        tissues: What the labels mean, the same for all; None takes each subject's own JSON file.
        settings: How to estimate; the defaults if None.
        stand_in: Table for what was not measured; the literature's if None.
        on_subject: Called with each subject's name before it is read.

    Returns:
        The table and how it came about.

    Raises:
        PriorFittingError: If names repeat, or too few subjects can be used; it says why each cannot.
        PriorError: If something was not measured and the stand-in table lacks it, or the tag is unknown.

    Example:
        >>> fitted = fit_priors(
        ...     find_subjects("study"), field_strength=3.0, source="Our study", tissues="synthseg"
        ... )  # doctest: +SKIP
    """
    settings = settings or FitSettings()
    measured, skipped = _measure_all(subjects, field_strength, tissues, settings, on_subject)
    fit = fit_population(
        [entry.statistics for entry in measured.values()],
        field_strength=field_strength,
        source=source,
        tag=tag,
        statistic=settings.statistic,
        correlations=settings.correlations,
        stand_in=stand_in or load_table(),
        minimum_subjects=settings.minimum_subjects,
    )
    estimated = [name for name, entry in measured.items() if entry.r2_estimated]
    notes = [f"{name}: {note}" for name, entry in measured.items() for note in entry.notes]
    if estimated:
        notes.append(f"r2 is estimated from r2star and r1 in {len(estimated)} of {len(measured)} subjects")
    return FittedPriors(
        priors=_mark_estimated_r2(fit) if estimated else fit.priors,
        subjects=tuple(measured),
        skipped=skipped,
        units={name: entry.units for name, entry in measured.items()},
        notes=(*notes, *fit.notes),
    )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    statistics: SubjectStatistics
    units: tuple[UnitFinding, ...]
    r2_estimated: bool
    notes: tuple[str, ...]


def _measure_all(
    subjects: Sequence[SubjectFiles],
    field_strength: float,
    tissues: TissueNames | None,
    settings: FitSettings,
    on_subject: Callable[[str], None] | None,
) -> tuple[dict[str, _Measured], dict[str, str]]:
    """Measure the subjects that can be used, and say why the others cannot."""
    names = [subject.name for subject in subjects]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise PriorFittingError(f"expected each subject once, but {repeated[0]} comes more than once")
    measured: dict[str, _Measured] = {}
    skipped: dict[str, str] = {}
    for subject in subjects:
        if on_subject is not None:
            on_subject(subject.name)
        try:
            measured[subject.name] = _measure(subject, field_strength, tissues, settings)
        except (VolumeError, UnitError, PriorError, PriorFittingError, OSError) as error:
            skipped[subject.name] = str(error)
    if len(measured) < settings.minimum_subjects:
        reasons = "".join(f"; {name}: {reason}" for name, reason in skipped.items())
        raise PriorFittingError(
            f"expected at least {settings.minimum_subjects} subjects that can be used, got {len(measured)} "
            f"of {len(subjects)}{reasons}"
        )
    return measured, skipped


def _measure(
    subject: SubjectFiles, field_strength: float, tissues: TissueNames | None, settings: FitSettings
) -> _Measured:
    """Read and measure one subject."""
    if subject.problem is not None:
        raise PriorFittingError(subject.problem)
    if subject.segmentation is None:
        raise PriorFittingError("no segmentation; expected a file such as sub-01_dseg.nii.gz")
    images = load_images(subject.maps)
    shape = next(iter(images.values.values())).shape
    segmentation = _load_segmentation(subject.segmentation, Volume(torch.empty(1, *shape), images.affine))
    names = _tissue_names(tissues if tissues is not None else subject.tissues)
    white = _where(segmentation, names, ("white_matter",))
    grey = _where(segmentation, names, ("cortical_grey_matter",))
    maps, units = check_units(
        images.values,
        _brain(segmentation, names),
        white_matter=white,
        grey_matter=grey,
        stated=images.stated,
    )
    estimate = settings.r2_from_r2star and "r2" not in maps and {"r1", "r2star"} <= maps.keys()
    if estimate:
        maps["r2"] = r2_from_r2star(maps["r2star"], maps["r1"], field_strength=field_strength)
    statistics = measure_subject(maps, segmentation, names, minimum_voxels=settings.minimum_voxels)
    notes = list(images.notes)
    for row, name in enumerate(statistics.names):
        worst = int(statistics.excluded[row].max())
        if worst:
            column = MAPS[int(statistics.excluded[row].argmax())]
            notes.append(f"{worst} voxels of {name} have no finite {column} and are left out")
    return _Measured(statistics=statistics, units=units, r2_estimated=estimate, notes=tuple(notes))


def _load_segmentation(path: Path, grid: Volume) -> Tensor:
    """Read labels (X, Y, Z) or shares (C, X, Y, Z) on the grid of the maps."""
    volume = Volume.load(path, channels=None)
    if not bool(torch.isfinite(volume.data).all()):
        raise PriorFittingError(f"{path} holds voxels that are not finite; write 0 there")
    hard = volume.data.shape[0] == 1
    if hard and not torch.equal(volume.data.round(), volume.data):
        raise PriorFittingError(
            f"{path} holds one volume of voxels that are not whole numbers; expected labels, or one volume "
            "of shares per tissue"
        )
    if not same_grid(volume, grid):
        volume = volume.resample_to(grid.affine, grid.shape, "nearest" if hard else "linear")
    return volume.data[0].long() if hard else volume.data


def _tissue_names(tissues: TissueNames | None) -> Mapping[int, str]:
    """Read what the labels mean."""
    if tissues is None:
        raise PriorFittingError(
            "nothing says what the labels mean; give a JSON file of label: tissue, or one of the schemes "
            f"{', '.join(LABEL_SCHEMES)}"
        )
    if isinstance(tissues, Mapping):
        names = dict(tissues)
    elif str(tissues) in LABEL_SCHEMES:
        names = {label: tissue for label, (_, tissue) in LABEL_SCHEMES[str(tissues)].labels.items()}
    else:
        names = _read_names(Path(tissues))
    names = {label: tissue for label, tissue in names.items() if tissue != "background"}
    if not names:
        raise PriorFittingError("expected the tissue of at least one label, got none")
    return names


def _read_names(path: Path) -> dict[int, str]:
    if path.suffix == ".tsv":
        return _read_table_of_names(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PriorFittingError(f"{path} is not valid JSON: {error}; mend the file") from error
    if isinstance(content, dict) and "tissues" in content:
        content = content["tissues"]
    if isinstance(content, str) and content in LABEL_SCHEMES:
        return {label: tissue for label, (_, tissue) in LABEL_SCHEMES[content].labels.items()}
    if not (
        isinstance(content, dict)
        and all(key.isdecimal() and isinstance(value, str) and value for key, value in content.items())
    ):
        raise PriorFittingError(
            f'{path}: expected {{"label": "tissue", ...}} with whole numbers as labels, under the key '
            f"'tissues' or alone, got {str(content)[:80]}"
        )
    return {int(key): value for key, value in content.items()}


def _read_table_of_names(path: Path) -> dict[int, str]:
    """Read BIDS' look-up table of a segmentation; lesions are no tissue."""
    names = {}
    for row in read_rows(path, needed=("index", "name")):
        words = row["name"].strip().casefold().replace("gray", "grey").replace(" ", "_").replace("-", "_")
        tissue = _BIDS_NAMES.get(words, words)
        if tissue == "lesion":
            continue
        if not row["index"].isdecimal() or tissue not in TISSUES:
            raise PriorFittingError(
                f"{path} calls the label {row['index']} {row['name']!r}, expected one of "
                f"{', '.join(_BIDS_NAMES)} or {', '.join(TISSUES[:4])} ...; write a JSON file beside it"
            )
        names[int(row["index"])] = tissue
    return names


def _brain(segmentation: Tensor, names: Mapping[int, str]) -> Tensor:
    """Mark brain tissue; every tissue if none of the names is one of the brain's."""
    tissues = set(names.values())
    brain = {
        tissue
        for tissue in tissues
        if tissue in TISSUES and segmentation_class(tissue) in ("grey_matter", "white_matter")
    }
    found = _where(segmentation, names, tuple(brain or tissues))
    if found is None:
        raise PriorFittingError(f"the segmentation holds none of {', '.join(sorted(brain or tissues))}")
    return found


def _where(segmentation: Tensor, names: Mapping[int, str], tissues: Sequence[str]) -> Tensor | None:
    """Mark the voxels that are mostly of some tissues, None if there are none."""
    labels = [label for label, tissue in names.items() if tissue in tissues]
    if segmentation.ndim == 3:
        marked = torch.isin(segmentation, torch.tensor(labels, dtype=segmentation.dtype))
    else:
        channels = [label for label in labels if label < segmentation.shape[0]]
        marked = segmentation[channels].sum(0) > _MINIMUM_SHARE
    return marked if bool(marked.any()) else None


def _mark_estimated_r2(fit: PopulationFit) -> TissuePriors:
    """Say in the table that R2 is an estimate."""
    priors = fit.priors
    rows = fit.measured[:, MAPS.index("r2")].tolist()
    names = [name for name, found in zip(priors.names, rows, strict=True) if found]
    return replace(
        priors,
        map_tags={**priors.map_tags, **{n: {**priors.map_tags.get(n, {}), "r2": "E"} for n in names}},
        sources={**priors.sources, **{n: f"{priors.sources[n]} R2 is estimated from R2*." for n in names}},
    )
