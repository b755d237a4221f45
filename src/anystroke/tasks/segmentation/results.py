"""What is written of one scan: maps in its own grid, sidecars, a table of lesions, a picture and a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.files import write_json
from anystroke.core.tables import Cell, write_table
from anystroke.core.threads import in_threads
from anystroke.core.volume import Volume
from anystroke.io.inputs import Input
from anystroke.io.names import Name, derivative_stem, image_stem
from anystroke.io.results import ResultFolder
from anystroke.tasks.segmentation.findings import (
    LESION_COLUMNS,
    NOTICE,
    PROBABILITY_STEPS,
    Findings,
    of_numbers,
    of_probability,
)
from anystroke.tasks.segmentation.mni_places import (
    TEMPLATE,
    MniSpace,
    coarse_map,
    find_mni_space,
    with_lesion,
)
from anystroke.tasks.segmentation.options import WriteOptions
from anystroke.tasks.segmentation.tissue_maps import GREY, WHITE, partial_volume, tissues_of_scan

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.predict import Segmentation
    from anystroke.tasks.segmentation.together import Together

_ONLY_IN_THE_TABLE = ("x_mm", "y_mm", "z_mm", "left_ml", "mean_probability")
_SHOWN = [name for name in LESION_COLUMNS if name not in _ONLY_IN_THE_TABLE]
_TERRITORY_COLUMNS = ("territory", "volume_ml", "share")
_AGREEMENT_COLUMNS = ("first", "second", "dice", "first_ml", "second_ml")
_REGISTRATION_COLUMNS = (
    "contrast",
    "reference",
    "rotation_degrees",
    "shift_mm",
    "inconsistency_mm",
    "stretch",
    "overlap",
    "status",
)
# Numbers of BIDS' common labels.
_TISSUE_NUMBERS = {"background": 0, "grey_matter": 1, "white_matter": 2, "csf": 3, "lesion": 7}
_PARTIAL_VOLUME = 8


def write_scan_results(
    source: Input,
    result: "Segmentation",
    folder: Path,
    *,
    described: str = "",
    messages: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    write: WriteOptions = WriteOptions(),  # noqa: B008  # immutable
    atlas: Atlas | None = None,
) -> dict[str, Any]:
    """Write all files of one scan into a folder, but for the sidecar of the mask.

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
        What the sidecar of the mask is to say.

    Raises:
        OSError: The folder cannot be written.
        VolumeError: An image cannot be written.
    """
    scan = _Scan(source, folder, described)
    found = Findings.of(result)
    space = MniSpace()
    wanted = write.report or atlas is not None
    register = [lambda: _register(result)] if wanted else []
    draw = [lambda: _draw_mosaic(scan, result)] if write.report else []
    # Registering, drawing and compressing take longest, and none needs another.
    for done in in_threads(lambda work: work(), [*register, *draw, *_maps(scan, found)]):
        space = done if isinstance(done, MniSpace) else space
    found = found.placed(space, atlas)
    share = coarse_map(result.mask, space)
    facts = found.facts(source.path, messages, settings or {}, atlas) | {
        "Sources": [source.uri],
        "MNI": _write_in_mni(scan, space, share),
    }
    _write_tables(scan, found, facts)
    _write_extras(scan, found.result, write, facts)
    if write.report:
        _write_report(scan, found, share, facts)
    return facts


def save_result(result: "Segmentation", folder: Path, *, name: str, write: WriteOptions) -> Path:
    """Write all files of one scan into a folder and publish them together, see `Segmentation.save`."""
    source = Input.of_file(result.source or Path(f"{name}.nii.gz"))
    results = ResultFolder(folder)
    facts: dict[str, Any] = {}
    settings = result.options.settings()
    with results.staging(f"{source.stem}_mask.json", facts) as staging:
        facts |= write_scan_results(
            source, result, staging, settings=settings, write=write, atlas=write.open_atlas()
        )
    return folder / f"{source.stem}_mask.nii.gz"


@dataclass(frozen=True)
class _Scan:
    """The scan that is written, and how its files are called."""

    source: Input
    folder: Path
    described: str

    def file(self, ending: str, **entities: str) -> Path:
        stem = derivative_stem(self.source.path, described=self.described, **entities)
        return self.folder / f"{stem}_{ending}"

    def numbers(self, ending: str) -> Path:
        return self.file(ending, label="lesions", entity="seg")


def _maps(scan: _Scan, found: Findings) -> list[Callable[[], object]]:
    """Return what writes each of the maps."""
    result = found.result
    return [
        lambda: _in_steps(result.probability).save(scan.file("probseg.nii.gz")),
        lambda: found.numbered.save(scan.numbers("dseg.nii.gz"), dtype=torch.int16),
        lambda: result.mask.save(scan.file("mask.nii.gz")),
    ]


def _register(result: "Segmentation") -> MniSpace:
    whole = with_lesion(result.brain, result.mask)
    return find_mni_space(result.prediction.image or result.scan, whole)


def _in_steps(probability: Volume) -> Volume:
    """Leave out digits that mean nothing, so that the file is a fifth as large.

    Rounded down, a threshold that is such a step divides the voxels as before.
    """
    steps = (probability.data.double() * PROBABILITY_STEPS).floor_()
    return replace(probability, data=steps.div_(PROBABILITY_STEPS).float())


def _title(scan: _Scan, result: "Segmentation") -> str:
    name = image_stem(scan.source.path)
    model = result.model.identity
    return f"{name}   {result.lesion_volume:.1f} ml   {model['Name']} {model['Version']}"


def _draw_mosaic(scan: _Scan, result: "Segmentation") -> None:
    from anystroke.reports.mosaic import mosaic  # with matplotlib

    mosaic(result.scan, result.mask, scan.file("mosaic.png"), title=_title(scan, result))


def _write_in_mni(scan: _Scan, space: MniSpace, share: Volume | None) -> dict[str, Any] | None:
    """Write the lesion on the coarse MNI grid; return what the sidecar says, None if the brain is unknown."""
    if space.overlap is None:
        return None
    facts: dict[str, Any] = {"Template": TEMPLATE, "BrainOverlap": round(space.overlap, 4)}
    if share is None or space.affine is None:
        return facts
    path = scan.file("probseg.nii.gz", space=f"{TEMPLATE}_res-3")
    share.save(path)
    words = f"Share (0 to 1) of each voxel that is stroke lesion, after affine registration; {NOTICE}"
    write_json(
        scan.file("probseg.json", space=f"{TEMPLATE}_res-3"),
        {"Description": words, "Sources": [scan.source.uri], "Resolution": "3 mm"},
    )
    return facts | {"Affine": space.affine.tolist(), "Lesion": path.name}


def _write_tables(scan: _Scan, found: Findings, facts: dict[str, Any]) -> None:
    """Write the tables, and the sidecars of the maps."""
    if "TerritoryAtlas" in facts:
        write_table(scan.file("territories.tsv"), _TERRITORY_COLUMNS, found.territory_rows())
    write_json(scan.file("probseg.json"), of_probability(facts))
    write_json(scan.numbers("dseg.json"), of_numbers(facts))
    write_table(scan.file("lesions.tsv"), LESION_COLUMNS, found.rows())


def _write_extras(scan: _Scan, result: "Segmentation", write: WriteOptions, facts: dict[str, Any]) -> None:
    if write.uncertainty and result.spread is not None:
        _in_steps(result.spread).save(scan.file("spread.nii.gz"))
        words = f"Standard deviation over views and mirrored passes, before calibration; {NOTICE}"
        write_json(scan.file("spread.json"), of_probability(facts) | {"Description": words})
    if write.tissues and result.tissues:
        _write_tissues(scan, result, facts)
    if write.write_fmriprep_roi:
        result.mask.save(scan.folder / f"{_roi_stem(scan.source.path)}_roi.nii.gz")
    if write.dicom_seg and scan.source.series:
        from anystroke.io.dicom_seg import write_dicom_seg  # needs an optional package

        write_dicom_seg(
            result.mask,
            scan.source.series,
            scan.file("seg.dcm"),
            model=result.model.identity["Name"],
            model_version=result.model.identity["Version"],
        )


def _write_report(scan: _Scan, found: Findings, share: Volume | None, facts: dict[str, Any]) -> None:
    from anystroke.reports.glass_brain import glass_brain
    from anystroke.reports.scan import write_scan_report

    glass = scan.file("glassbrain.png")
    if share is not None:
        glass_brain(share, glass, title=_title(scan, found.result))
    write_scan_report(
        scan.file("report.html"),
        name=image_stem(scan.source.path),
        picture=scan.file("mosaic.png"),
        glass_brain=glass if share is not None else None,
        facts=facts,
        columns=_SHOWN,
        lesions=[[str(row[name]) for name in _SHOWN] for row in found.rows()],
    )


def import_report_makers() -> None:
    """Import what takes seconds to import and reports need; for a thread, while the network computes."""
    for name in ("anystroke.reports.mosaic", "anystroke.anatomy.registration.mni", "nilearn.plotting"):
        import_module(name)


def write_agreement(folder: Path, stem: str, names: Sequence[str], together: "Together") -> None:
    """Write how the contrasts of a patient agree, and how they were registered.

    Args:
        folder: An existing folder.
        stem: Begin of the files' names.
        names: Of the contrasts.
        together: What was found in them.
    """
    write_table(folder / f"{stem}_agreement.tsv", _AGREEMENT_COLUMNS, _agreement(names, together))
    write_table(folder / f"{stem}_registrations.tsv", _REGISTRATION_COLUMNS, _registrations(names, together))


def _agreement(names: Sequence[str], together: "Together") -> list[Mapping[str, Cell]]:
    return [
        {
            "first": names[each.first],
            "second": names[each.second],
            "dice": None if each.dice is None else f"{each.dice:.3f}",
            "first_ml": f"{each.first_ml:.3f}",
            "second_ml": f"{each.second_ml:.3f}",
        }
        for each in together.agreement
    ]


def _registrations(names: Sequence[str], together: "Together") -> list[Mapping[str, Cell]]:
    rows: list[Mapping[str, Cell]] = []
    for i, found in enumerate(together.registrations):
        if i == together.reference:
            continue
        row: dict[str, Cell] = {"contrast": names[i], "reference": names[together.reference]}
        if found is not None:
            measured = (found.rotation, found.shift, found.inconsistency, found.stretch, found.overlap)
            values = (f"{value:.3f}" for value in measured)
            row |= dict(zip(_REGISTRATION_COLUMNS[2:-1], values, strict=True))
        rows.append(row | {"status": together.apart.get(i, "ok")})
    return rows


def _roi_stem(path: Path) -> str:
    """Name a mask as fMRIPrep looks for it."""
    name = Name.parse(path)
    if name.subject is None:
        return f"{name.stem}_label-lesion"
    entities = [f"{key}-{label}" for key, label in name.entities.items()]
    more = [] if name.suffix == "T1w" else [f"desc-{name.suffix}"]
    return "_".join([*entities, "label-lesion", *more])


def _write_tissues(scan: _Scan, result: "Segmentation", facts: dict[str, Any]) -> None:
    """Write the tissue of each voxel with BIDS' numbers, as classes alone and with partial volume of two."""
    tissues = tissues_of_scan(result.scan, result.tissues, result.mask)
    lesion = result.mask.data[0] > 0
    best = 1 - result.prediction.probability.data[0] - sum(volume.data[0] for volume in tissues.values())
    labels = torch.zeros(lesion.shape, dtype=torch.uint8)
    table = {"background": 0, "lesion": _TISSUE_NUMBERS["lesion"]}
    for i, (name, volume) in enumerate(tissues.items()):
        table[name] = _TISSUE_NUMBERS.get(name, 100 + i)
        labels[volume.data[0] > best] = table[name]
        best = torch.maximum(volume.data[0], best)
    labels[lesion] = _TISSUE_NUMBERS["lesion"]
    _write_labels(scan, result, facts, "tissue", labels, table)
    if {GREY, WHITE} <= set(tissues):
        brain = (labels == _TISSUE_NUMBERS[GREY]) | (labels == _TISSUE_NUMBERS[WHITE])
        both = partial_volume(brain, tissues[GREY].data[0], tissues[WHITE].data[0])
        mixed = torch.where(both, _PARTIAL_VOLUME, labels).to(torch.uint8)
        _write_labels(
            scan, result, facts, "tissuepv", mixed, table | {"grey_white_partial_volume": _PARTIAL_VOLUME}
        )


def _write_labels(
    scan: _Scan,
    result: "Segmentation",
    facts: dict[str, Any],
    name: str,
    labels: torch.Tensor,
    table: dict[str, int],
) -> None:
    """Write a label map with its sidecar and the table of its labels."""
    stem = derivative_stem(scan.source.path, label=name, entity="seg")
    Volume(labels[None], result.mask.affine, result.mask.space_code).save(scan.folder / f"{stem}_dseg.nii.gz")
    words = f"Most probable tissue; lesion as in the mask; {NOTICE}"
    write_json(scan.folder / f"{stem}_dseg.json", of_probability(facts) | {"Description": words})
    rows: list[dict[str, Cell]] = [
        {"index": number, "name": tissue}
        for tissue, number in sorted(table.items(), key=lambda item: item[1])
    ]
    write_table(scan.folder / f"{stem}_dseg.tsv", ("index", "name"), rows)
