"""What is written of one scan: maps in its own grid, sidecars, a table of lesions, a picture and a report."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.files import sha256
from anystroke.core.threads import in_threads
from anystroke.core.volume import Volume
from anystroke.io.inputs import ScanSource
from anystroke.io.names import derivative_stem, image_stem
from anystroke.tasks.segmentation.lesions_found import Lesion, find_lesions
from anystroke.tasks.segmentation.mni_places import (
    TEMPLATE,
    MniSpace,
    Place,
    coarse_map,
    find_mni_space,
    find_places,
)
from anystroke.tasks.segmentation.options import WriteOptions
from anystroke.tasks.segmentation.predict import Segmentation

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.together import Together

LESION_COLUMNS = (
    "lesion",
    "volume_ml",
    "low_ml",
    "high_ml",
    "x_mm",
    "y_mm",
    "z_mm",
    "hemisphere",
    "left_ml",
    "diameter_mm",
    "mean_probability",
    "highest_probability",
    "mni_x_mm",
    "mni_y_mm",
    "mni_z_mm",
    "territory",
    "territory_share",
)
_ONLY_IN_THE_TABLE = ("x_mm", "y_mm", "z_mm", "left_ml", "mean_probability")
_SHOWN = [name for name in LESION_COLUMNS if name not in _ONLY_IN_THE_TABLE]
# Numbers of BIDS' common labels.
_TISSUE_NUMBERS = {"background": 0, "grey_matter": 1, "white_matter": 2, "csf": 3, "lesion": 7}
_PROBABILITY_STEPS = 4000
_NOTICE = "research use only, not a medical device"


@dataclass(frozen=True, eq=False)
class Written:
    """What was written of one scan.

    Attributes:
        mask: Name of the mask, with its folder below the output.
        lesions: The lesions.
        facts: The mask's sidecar.
    """

    mask: str
    lesions: list[Lesion]
    facts: dict[str, Any]


def write_results(
    source: ScanSource,
    result: Segmentation,
    folder: Path,
    *,
    described: str = "",
    messages: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    write: WriteOptions = WriteOptions(),  # noqa: B008  # immutable
    atlas: Atlas | None = None,
) -> Written:
    """Write all files of one scan into a folder.

    Args:
        source: The scan.
        result: Its segmentation.
        folder: An existing folder.
        described: What was done beside segmenting, such as ``fused``.
        messages: Warnings.
        settings: What the segmentation was asked for.
        write: What to write beside the usual.
        atlas: Territories to name in the table of lesions.

    Returns:
        Name of the mask and what the sidecar says.

    Raises:
        OSError: The folder cannot be written.
        VolumeError: An image cannot be written.
    """
    stem = derivative_stem(source.path, described=described)
    numbers_stem = derivative_stem(source.path, label="lesions", entity="seg", described=described)
    inside = result.brain if result.brain is not None else head(result.scan)
    numbered, lesions = find_lesions(
        result.mask, result.probability, inside, result.model.config.lesion_errors
    )
    left = sum(lesion.left_volume for lesion in lesions)
    model = result.model.identity
    title = f"{image_stem(source.path)}   {result.lesion_volume:.1f} ml   {model['Name']} {model['Version']}"
    space = MniSpace()

    def register() -> None:
        nonlocal space
        if write.report or atlas is not None:
            space = find_mni_space(result.prediction.image or result.scan, result.brain)

    def draw() -> None:
        if write.report:
            from anystroke.reports.mosaic import mosaic  # with matplotlib

            mosaic(result.scan, result.mask, folder / f"{stem}_mosaic.png", title=title)

    slow: list[Callable[[], object]] = [
        register,
        draw,
        lambda: _in_steps(result.probability).save(folder / f"{stem}_probseg.nii.gz"),
        lambda: numbered.save(folder / f"{numbers_stem}_dseg.nii.gz", dtype=torch.int16),
        lambda: result.mask.save(folder / f"{stem}_mask.nii.gz"),
    ]
    in_threads(lambda work: work(), slow)
    if space.problem:
        result = replace(result, reasons=(*result.reasons, space.problem))
    places, territories = find_places(numbered, space, atlas)
    facts = sidecar(source.path, result, list(messages), settings or {}) | {
        "Name": image_stem(source.path),
        "Sources": [source.uri],
        "LeftLesionVolume": round(left, 6),
        "RightLesionVolume": round(result.lesion_volume - left, 6),
        "MNI": _write_in_mni(source, result, folder, space, described),
    }
    if atlas is not None:
        facts["TerritoryAtlas"] = {"Name": atlas.source, "SHA256": atlas.sha256}
        facts["TerritoryVolumes"] = {name: round(volume, 6) for name, volume in territories.items()}
        share = {name: volume / result.lesion_volume for name, volume in territories.items()}
        write_tsv(
            folder / f"{stem}_territories.tsv",
            ("territory", "volume_ml", "share"),
            ((name, f"{volume:.3f}", f"{share[name]:.3f}") for name, volume in territories.items()),
        )
    located = dict(enumerate(places, start=1))
    rows = [lesion_row(lesion, located.get(lesion.number)) for lesion in lesions]
    write_json(folder / f"{stem}_probseg.json", of_probability(facts))
    write_json(folder / f"{numbers_stem}_dseg.json", _of_numbers(facts))
    write_tsv(folder / f"{stem}_lesions.tsv", LESION_COLUMNS, rows)
    if write.uncertainty and result.spread is not None:
        result.spread.save(folder / f"{stem}_spread.nii.gz")
        words = f"Standard deviation of the lesion probability over mirrored passes; {_NOTICE}"
        write_json(folder / f"{stem}_spread.json", of_probability(facts) | {"Description": words})
    if write.tissues and result.tissues:
        _write_tissues(source, result, folder, facts)
    if write.write_fmriprep_roi:
        result.mask.save(folder / f"{_roi_stem(source.path)}_roi.nii.gz")
    if write.dicom_seg and source.series:
        from anystroke.io.dicom_seg import write_dicom_seg  # needs an optional package

        write_dicom_seg(
            result.mask,
            source.series,
            folder / f"{stem}_seg.dcm",
            model=model["Name"],
            model_version=model["Version"],
        )
    if write.report:
        from anystroke.reports.glass_brain import glass_brain
        from anystroke.reports.scan import write_scan_report

        glass = folder / f"{stem}_glassbrain.png"
        in_mni = coarse_map(result.mask, space)
        if in_mni is not None:
            glass_brain(in_mni, glass, title=title)
        write_scan_report(
            folder / f"{stem}_report.html",
            name=image_stem(source.path),
            picture=folder / f"{stem}_mosaic.png",
            glass_brain=glass if glass.exists() else None,
            facts=facts,
            columns=_SHOWN,
            lesions=[[row[LESION_COLUMNS.index(name)] for name in _SHOWN] for row in rows],
        )
    write_json(folder / f"{stem}_mask.json", facts)
    return Written(str(source.folder / f"{stem}_mask.nii.gz"), lesions, facts)


def import_report_makers() -> None:
    """Import what takes seconds to import and reports need; for a thread, while the network computes."""
    for name in ("anystroke.reports.mosaic", "anystroke.anatomy.registration.mni", "nilearn.plotting"):
        import_module(name)


def sidecar(
    source: Path, result: Segmentation, messages: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Collect what a mask's JSON sidecar says.

    Args:
        source: The input file.
        result: Its segmentation.
        messages: Warnings.
        settings: What the run was asked for.

    Returns:
        BIDS fields and those of anystroke.
    """
    interval = result.interval
    return {
        "Description": f"Stroke lesion found by a neural network; {_NOTICE}",
        "Type": "Lesion",
        "Sources": [source.as_posix()],
        "SourceSHA256": sha256(source),
        "SpatialReference": "orig",
        "SkullStripped": False,
        "Manual": False,
        "GeneratedBy": [{"Name": "anystroke", "Version": version("anystroke")}],
        "Model": result.model.identity,
        "Settings": settings,
        "Preset": result.options.preset,
        "Threshold": result.threshold,
        "MinimumLesionVolume": result.options.min_volume,
        "MirrorAveraging": result.options.flip,
        "LesionVolume": round(result.lesion_volume, 6),
        "LesionVolumeUnits": "ml",
        "LesionVolumeInterval": [round(interval.low, 6), round(interval.high, 6)] if interval else None,
        "LesionVolumeIntervalRate": interval.rate if interval else None,
        "LesionCount": result.lesion_count,
        "LesionConnectivity": 26,
        "DoNotTrust": not result.trusted,
        "ReasonsNotToTrust": list(result.reasons),
        "ImageFeatures": {
            name: round(value, 4) for name, value in result.prediction.features.items() if isfinite(value)
        },
        "Seconds": {name: round(value, 3) for name, value in result.prediction.seconds.items()},
        "TorchVersion": torch.__version__,
        "Warnings": messages,
    }


def of_probability(facts: dict[str, Any]) -> dict[str, Any]:
    """Reduce a mask's sidecar to what is true of the probability map."""
    of_mask = ("Type", "Threshold", "MinimumLesionVolume", "LesionCount", "LesionConnectivity")
    kept = {key: value for key, value in facts.items() if key not in of_mask and "LesionVolume" not in key}
    words = f"Probability (0 to 1) of stroke lesion in steps of 1/{_PROBABILITY_STEPS}; {_NOTICE}"
    return kept | {"Description": words}


def _in_steps(probability: Volume) -> Volume:
    """Leave out digits that mean nothing, so that the file is a fifth as large.

    Rounded down, a decimal threshold divides the voxels as before.
    """
    steps = (probability.data.double() * _PROBABILITY_STEPS).floor_()
    return replace(probability, data=steps.div_(_PROBABILITY_STEPS).float())


def lesion_row(lesion: Lesion, place: Place | None = None) -> tuple[str, ...]:
    """Write a lesion as a row of the table.

    Args:
        lesion: The lesion.
        place: Where it is in MNI space, if that is known.

    Example:
        >>> lesion_row(Lesion(1, 1.0, (1.0, 2.0, 3.0), "left", 1.0, 12.0, 0.9, 1.0))[:6]
        ('1', '1.000', 'n/a', 'n/a', '1.0', '2.0')
    """
    interval = lesion.interval
    return (
        str(lesion.number),
        f"{lesion.volume:.3f}",
        *(("n/a",) * 2 if interval is None else (f"{interval.low:.3f}", f"{interval.high:.3f}")),
        *(f"{value:.1f}" for value in lesion.centroid),
        lesion.hemisphere,
        f"{lesion.left_volume:.3f}",
        f"{lesion.diameter:.1f}",
        f"{lesion.mean_probability:.3f}",
        f"{lesion.highest_probability:.3f}",
        *(("n/a",) * 3 if place is None else (f"{value:.1f}" for value in place.centroid)),
        *((place.region, f"{place.share:.3f}") if place is not None and place.region else ("n/a", "n/a")),
    )


def head(scan: Volume) -> Volume:
    """Return a mask of what is brighter than the mean: the head, where the brain is not known.

    Example:
        >>> head(Volume(torch.arange(8.0).reshape(1, 2, 2, 2), torch.eye(4))).data.sum()
        tensor(4)
    """
    return Volume((scan.data > scan.data.mean()).to(torch.uint8), scan.affine)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file as people read it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tsv(path: Path, columns: Sequence[str], rows: Any) -> None:
    """Write a table of text; tabs and line ends within cells become spaces."""
    lines = ["\t".join(columns), *("\t".join(" ".join(cell.split()) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held [MB], None where that is not known."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)


def agreement_rows(names: Sequence[str], together: "Together") -> list[tuple[str, ...]]:
    """Write the agreement of contrasts as rows: first, second, Dice and volumes.

    Args:
        names: Of the contrasts.
        together: A `Together`.
    """
    rows: list[tuple[str, ...]] = []
    for each in together.agreement:
        first, second, dice, first_ml, second_ml = astuple(each)
        overlap = "n/a" if dice is None else f"{dice:.3f}"
        rows.append((names[first], names[second], overlap, f"{first_ml:.3f}", f"{second_ml:.3f}"))
    return rows


def registration_rows(names: Sequence[str], together: "Together") -> list[tuple[str, ...]]:
    """Write the registrations as rows: contrast, reference, and how it went."""
    rows: list[tuple[str, ...]] = []
    for i, found in enumerate(together.registrations):
        if i == together.reference:
            continue
        numbers: tuple[str, ...] = ("n/a",) * 5
        if found is not None:
            measured = (found.rotation, found.shift, found.inconsistency, found.stretch, found.overlap)
            numbers = tuple(f"{value:.3f}" for value in measured)
        rows.append((names[i], names[together.reference], *numbers, together.apart.get(i, "ok")))
    return rows


def _roi_stem(path: Path) -> str:
    """Name a mask as fMRIPrep looks for it."""
    stem = image_stem(path)
    entities = [part for part in stem.split("_") if "-" in part]
    if not stem.startswith("sub-"):
        return f"{stem}_label-lesion"
    suffix = stem.split("_")[-1]
    more = [] if suffix == "T1w" else [f"desc-{suffix}"]
    return "_".join([*entities, "label-lesion", *more])


def _of_numbers(facts: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in facts.items() if key not in ("Type",)}
    return kept | {"Description": f"Number of each lesion, the largest is 1; {_NOTICE}"}


def _write_in_mni(
    source: ScanSource, result: Segmentation, folder: Path, space: MniSpace, described: str
) -> dict[str, Any] | None:
    """Write the lesion on the coarse MNI grid; return what the sidecar says, None if the brain is unknown."""
    if space.overlap is None:
        return None
    facts: dict[str, Any] = {"Template": TEMPLATE, "BrainOverlap": round(space.overlap, 4)}
    share = coarse_map(result.mask, space)
    if share is None or space.affine is None:
        return facts
    stem = derivative_stem(source.path, described=described, space=f"{TEMPLATE}_res-3")
    share.save(folder / f"{stem}_probseg.nii.gz")
    words = f"Share (0 to 1) of each voxel that is stroke lesion, after affine registration; {_NOTICE}"
    write_json(
        folder / f"{stem}_probseg.json", {"Description": words, "Sources": [source.uri], "Resolution": "3 mm"}
    )
    return facts | {"Affine": space.affine.tolist(), "Lesion": f"{stem}_probseg.nii.gz"}


def _write_tissues(source: ScanSource, result: Segmentation, folder: Path, facts: dict[str, Any]) -> None:
    """Write the most probable class of each voxel, with BIDS' numbers."""
    stem = derivative_stem(source.path, label="tissue", entity="seg")
    best = 1 - sum((v.data for v in result.tissues.values()), start=result.probability.data)
    labels = torch.zeros(best.shape, dtype=torch.uint8)
    table = []
    for i, (name, volume) in enumerate([*result.tissues.items(), ("lesion", result.probability)]):
        number = _TISSUE_NUMBERS.get(name, 100 + i)
        better = volume.data > best
        labels[better] = number
        best = torch.where(better, volume.data, best)
        table.append((str(number), name))
    labels[result.mask.data > 0] = _TISSUE_NUMBERS["lesion"]
    Volume(labels, result.mask.affine, result.mask.space_code).save(folder / f"{stem}_dseg.nii.gz")
    words = f"Most probable tissue; lesion as in the mask; {_NOTICE}"
    write_json(folder / f"{stem}_dseg.json", of_probability(facts) | {"Description": words})
    write_tsv(folder / f"{stem}_dseg.tsv", ("index", "name"), [("0", "background"), *sorted(table)])
