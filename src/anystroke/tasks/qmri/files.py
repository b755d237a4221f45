"""Files of estimated quantitative maps: names, sidecars, and data sets of maps with lesions."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.sidecars.reading import SidecarReading, read_sidecar
from anystroke.acquisition.sidecars.sidecar import SidecarError
from anystroke.acquisition.sidecars.writing import acquisition_fields, image_suffix
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import sha256, write_json
from anystroke.core.tables import Cell, write_table
from anystroke.core.threads import in_stages
from anystroke.core.volume import Volume
from anystroke.io.folders import walk
from anystroke.io.inputs import Found, Input
from anystroke.io.labelled import LabelledScan, find_labelled_scans
from anystroke.io.names import Name
from anystroke.io.results import Outcome, ResultFolder, Status, generated_by, read_facts
from anystroke.simulation.patient_files import MAP_FILES
from anystroke.tasks.qmri.picture import draw_estimate, write_estimate_page
from anystroke.tasks.qmri.predict import Estimator, QmriEstimate, estimate_qmri
from anystroke.tasks.segmentation.predict import Model

MAPS_TABLE = "estimates.tsv"
PICTURE = "desc-estimated_maps.png"
REPORT = "desc-estimated_report.html"
_MARKER = "desc-resimulated_T1w"
MAP_COLUMNS = ("name", "scan", "maps", "correlation", "warnings")

# No sidecar tells it.
_ALWAYS_ASSUMED = {"inversion_efficiency"}


class EstimateError(AnystrokeError):
    """Maps that cannot be estimated or written; the message says why and what to do."""


@dataclass(frozen=True)
class EstimateOptions:
    """What to do with each scan.

    Attributes:
        simulate: Protocols of the images to make of the maps.
        flips: Average over eight mirror images.
        refine: Adjust the maps to the protocol of the scan.
        sidecar: JSON with the protocol of all scans; None takes the one beside each.
        overwrite: Replace what is there.
    """

    simulate: tuple[Protocol, ...] = ()
    flips: bool = False
    refine: bool = False
    sidecar: Path | None = None
    overwrite: bool = False


def map_stem(source: str | Path) -> str:
    """Return the begin of the names of what is made of a scan.

    Example:
        >>> map_stem("sub-01_ses-2_desc-preproc_T1w.nii.gz"), map_stem("patient 7.nii")
        ('sub-01_ses-2', 'patient 7')
    """
    name = Name.parse(source)
    return "_".join(name.of_source()) if name.is_bids else name.stem


def scan_protocol(scan: Path, sidecar: Path | None = None, *, needed: bool = False) -> SidecarReading | None:
    """Read the protocol of a T1w scan from a sidecar.

    Args:
        scan: The image; its sidecar has the same name and ends in .json.
        sidecar: Another file to read.
        needed: Whether a file beside the scan must describe a sequence, if it is there.

    Returns:
        The protocol and what of it was assumed; None if no file was named and there is none beside the scan
        that describes a sequence.

    Raises:
        EstimateError: If a named or needed file is missing, is not JSON or describes no sequence.
    """
    path = sidecar or Name.parse(scan).sidecar
    if sidecar is None and not path.is_file():
        return None
    try:
        return read_sidecar(json.loads(path.read_text(encoding="utf-8")), suffix="T1w")
    except (OSError, ValueError, AttributeError) as error:
        if sidecar is None and not needed and isinstance(error, SidecarError):
            return None
        raise EstimateError(f"{path} tells no protocol ({error}); mend it or name another") from error


def write_estimate(
    estimate: QmriEstimate,
    folder: Path,
    stem: str,
    *,
    source: Path,
    simulate: Sequence[Protocol] = (),
    lesion: Volume | None = None,
    assumed: Mapping[str, str] | None = None,
    run: str = "",
) -> None:
    """Write maps, brain mask and simulated scans of one scan, a picture of them and a page.

    Args:
        estimate: What was found.
        folder: Made if missing.
        stem: Begin of the files' names.
        source: The scan, for the sidecars.
        simulate: Protocols of further images.
        lesion: Lesion mask on the scan's grid.
        assumed: What of the protocol its sidecar did not tell, and why it was taken.
        run: Digest of what the result depends on.

    Raises:
        EstimateError: If a protocol needs a map that was not estimated.
        OSError: The folder cannot be written.
    """
    common = _facts(estimate, source)
    again = {
        "Description": "The scan simulated again from its estimated maps, with its gain and bias field",
        "CorrelationWithScan": round(estimate.correlation, 4),
        **acquisition_fields(estimate.protocol),
        "MagneticFieldStrengthOfMaps": estimate.field_strength,
        "ProtocolAssumed": dict(assumed or {}),
        **common,
        "RunSHA256": run,
    }
    with ResultFolder(folder).staging(_marker(stem), again) as staging:

        def save(name: str, volume: Volume, facts: dict[str, Any], dtype: torch.dtype) -> None:
            volume.save(staging / f"{stem}_{name}.nii.gz", dtype=dtype)
            write_json(staging / f"{stem}_{name}.json", facts)

        for name, volume in estimate.maps.items():
            suffix, units, description = MAP_FILES[name]
            facts = {"Units": units, "Description": f"{description}, estimated from a T1w scan", **common}
            if name.startswith("r"):
                facts["MagneticFieldStrength"] = estimate.field_strength
            save(f"desc-estimated_{suffix}", volume, facts, torch.float32)
        mask = {"Type": "Brain", "Description": "Brain with lesion", **common}
        save("desc-brain_mask", estimate.brain, mask, torch.uint8)
        simulated = {}
        for protocol in simulate:
            try:
                image = estimate.simulate(protocol)
            except ValueError as error:
                raise EstimateError(str(error)) from error
            said = {
                "Description": "Simulated from maps that were estimated from a T1w scan; not acquired",
                **acquisition_fields(protocol),
                **common,
            }
            entities, _, suffix = image_suffix(protocol).rpartition("_")
            name = "_".join(part for part in (entities, "desc-simulated", suffix) if part)
            save(name, image, said, torch.float32)
            simulated[image_suffix(protocol).replace("_", " ")] = image
        picture = staging / f"{stem}_{PICTURE}"
        draw_estimate(estimate, simulated, picture, title=stem)
        write_estimate_page(estimate, staging / f"{stem}_{REPORT}", picture, stem=stem, assumed=assumed)
        if lesion is not None:
            save("label-L_mask", lesion, {"Type": "Lesion", "Sources": [source.name]}, torch.uint8)
        estimate.resimulated.save(staging / f"{stem}_{_MARKER}.nii.gz", dtype=torch.float32)


def _marker(stem: str) -> str:
    """Name the sidecar of the simulated scan, which comes last."""
    return f"{stem}_{_MARKER}.json"


def _facts(estimate: QmriEstimate, source: Path) -> dict[str, Any]:
    return {
        "EstimationAlgorithm": "U-Net trained on simulated T1w MPRAGE scans",
        "EstimationModel": estimate.model,
        "EstimationModelVersion": estimate.model_version,
        "EstimationModelSHA256": estimate.model_sha256,
        "FlipsAveraged": estimate.flips,
        "RefinedToProtocol": estimate.refined,
        "Warnings": list(estimate.warnings),
        "Sources": [source.name],
        "GeneratedBy": generated_by(),
    }


def t1w_alone(found: Found, inputs: Sequence[Path]) -> Found:
    """Leave out what folders and tables hold beside T1w scans, where some of their images are called T1w.

    Args:
        found: Of ``find_scans``.
        inputs: What it was called with; scans that are named there stay.

    Example:
        >>> scans = [Input.of_file(f"in/sub-1_{name}.nii") for name in ("FLAIR", "T1w")]
        >>> [scan.path.name for scan in t1w_alone(Found(scans), [Path("in")]).scans]
        ['sub-1_T1w.nii']
    """
    gathered = [scan for scan in found.scans if scan.path not in inputs]
    others = [scan for scan in gathered if not _is_t1w(scan)]
    if len(others) == len(gathered):
        return found
    kept = [scan for scan in found.scans if scan not in others]
    skipped = [f"{scan.title} is left out: it is not called T1w" for scan in others]
    return Found(kept, [*found.skipped, *skipped], found.problems)


def _is_t1w(scan: Input) -> bool:
    return Name.parse(scan.path).suffix == "T1w"


def estimate_files(
    scans: Sequence[Input],
    folder: Path,
    model: Estimator,
    segmenter: Model,
    options: EstimateOptions,
) -> Iterator[Outcome]:
    """Estimate the maps of scans, one after the other; one that fails does not stop the others.

    Args:
        scans: What to estimate of.
        folder: Where to write: those of single files side by side, those of a data set in its folders.
        model: The estimator.
        segmenter: Finds the brain.
        options: What to do.

    Raises:
        EstimateError: If two scans would have the same names.
        OSError: The folder cannot be written.
    """
    stems = [map_stem(scan.path) for scan in scans]
    places = [str(scan.folder / stem) for scan, stem in zip(scans, stems, strict=True)]
    if doubles := sorted({place for place in places if places.count(place) > 1}):
        raise EstimateError(f"two scans would be written as {doubles[0]!r}; rename one or use two folders")
    jobs = [_Job(scan, scan.folder, stem) for scan, stem in zip(scans, stems, strict=True)]
    yield from _estimate_all(jobs, _Run(ResultFolder(folder), model, segmenter, options))


def estimate_dataset(
    source: Path, folder: Path, model: Estimator, segmenter: Model, options: EstimateOptions
) -> Iterator[Outcome]:
    """Estimate maps of scans with lesion masks, in the form that a source of maps of a recipe reads.

    Each scan becomes a subject of its own: ``sub-NAME/sub-NAME_desc-estimated_R1map.nii.gz`` and the others,
    ``sub-NAME_desc-brain_mask.nii.gz`` and ``sub-NAME_label-L_mask.nii.gz``. Where some images are called
    T1w, the others are left out.

    Args:
        source: A BIDS data set, an nnU-Net raw folder or a table, see `find_labelled_scans`.
        folder: Where to write.
        model: The estimator.
        segmenter: Finds the brain.
        options: What to do; what is there already is kept unless ``overwrite``.

    Raises:
        LabelledScanError: The data set cannot be used.
        EstimateError: Two scans would be the same subject.
        OSError: The folder cannot be written.
    """
    scans = find_labelled_scans(source)
    named = [scan for scan in scans if Name.parse(scan.image).suffix == "T1w"]
    chosen = {subject_name(scan.name): scan for scan in named or scans}
    if len(chosen) < len(named or scans):
        raise EstimateError(f"two scans of {source} would be the same subject; give them other names")
    jobs = [_Job(scan, PurePosixPath(name), name) for name, scan in chosen.items()]
    yield from _estimate_all(jobs, _Run(ResultFolder(folder), model, segmenter, options))


def subject_name(name: str) -> str:
    """Make a BIDS subject of the name of a scan.

    Example:
        >>> subject_name("sub-01_ses-2_T1w"), subject_name("case_001_0000")
        ('sub-01ses2T1w', 'sub-case0010000')
    """
    return "sub-" + re.sub(r"[^A-Za-z0-9]", "", name.removeprefix("sub-"))


@dataclass(frozen=True, eq=False)
class _Run:
    """What all scans of a run share."""

    results: ResultFolder
    model: Estimator
    segmenter: Model
    options: EstimateOptions


@dataclass(eq=False)
class _Job:
    """A scan on its way through the threads."""

    source: Input | LabelledScan
    place: PurePosixPath
    stem: str
    protocol: SidecarReading | None = None
    run: str = ""
    lesion: Volume | None = None
    brain: Volume | None = None

    @property
    def path(self) -> Path:
        """Of the scan."""
        return self.source.image if isinstance(self.source, LabelledScan) else self.source.path


def _estimate_all(jobs: Sequence[_Job], run: _Run) -> Iterator[Outcome]:
    """Read the next scan and write the last one's maps while the network works."""
    stages = in_stages(jobs, partial(_read, run), partial(_estimate, run), partial(_write, run))
    outcomes = (
        Outcome.of_failure(job.stem, job.path, found) if isinstance(found, Exception) else found
        for job, found in stages
    )
    facts = {"Model": run.model.identity, "Segmenter": run.segmenter.identity}
    try:
        yield from run.results.logged(outcomes, facts)
    finally:
        _write_table(run.results.folder)


def _read(run: _Run, job: _Job) -> Outcome | Volume:
    """Read a scan, unless this run's maps of it are there."""
    options = run.options
    job.protocol = scan_protocol(job.path, options.sidecar, needed=options.refine)
    job.run = _digest(job.source, run.model, run.segmenter, options, job.protocol)
    marker = (job.place / _marker(job.stem)).as_posix()
    if not options.overwrite and (facts := run.results.kept(marker, {"RunSHA256": job.run})):
        return _outcome("kept", job, facts["CorrelationWithScan"], facts["Warnings"])
    if isinstance(job.source, Input):
        return job.source.load()
    scan, job.lesion, job.brain = job.source.load()
    return scan


def _outcome(status: Status, job: _Job, correlation: float, warnings: Sequence[str]) -> Outcome:
    image = job.place / f"{job.stem}_{_MARKER}.nii.gz"
    details = {"correlation": float(correlation), "place": job.place.as_posix()}
    return Outcome(job.stem, status, (image.as_posix(),), tuple(warnings), details)


def _estimate(run: _Run, job: _Job, scan: Outcome | Volume) -> Outcome | QmriEstimate:
    """Estimate the maps of one scan."""
    if isinstance(scan, Outcome):
        return scan
    options, reading = run.options, job.protocol
    estimate = estimate_qmri(
        scan,
        run.model,
        flips=options.flips,
        refine=options.refine,
        protocol=reading.protocol if reading else None,
        segmentation=run.segmenter,
    )
    if job.lesion is not None:
        brain = estimate.brain if job.brain is None else job.brain
        whole = brain.data.bool() | job.lesion.data.bool()
        estimate = replace(estimate, brain=replace(estimate.brain, data=whole.to(torch.uint8)))
    assumed = reading.assumed if reading else {}
    if guessed := sorted(assumed.keys() - _ALWAYS_ASSUMED) if options.refine else []:
        text = f"the maps were refined with a protocol whose {', '.join(guessed)} had to be assumed"
        estimate = replace(estimate, warnings=(*estimate.warnings, text))
    return estimate


def _write(run: _Run, job: _Job, estimate: Outcome | QmriEstimate) -> Outcome:
    """Write the files of one scan."""
    if isinstance(estimate, Outcome):
        return estimate
    write_estimate(
        estimate,
        run.results.folder / job.place,
        job.stem,
        source=job.path,
        simulate=run.options.simulate,
        lesion=job.lesion,
        assumed=job.protocol.assumed if job.protocol else {},
        run=job.run,
    )
    return _outcome("done", job, estimate.correlation, estimate.warnings)


def _digest(
    source: Input | LabelledScan,
    model: Estimator,
    segmenter: Model,
    options: EstimateOptions,
    reading: SidecarReading | None,
) -> str:
    """Return a fingerprint of all that the result of one scan depends on."""
    files: list[Path | None] = [source.path] if isinstance(source, Input) else []
    if isinstance(source, LabelledScan):
        files = [source.image, source.mask, source.brain]
    parts = [
        [sha256(file) if file is not None and file.is_file() else "" for file in files],
        model.sha256,
        model.config.model_dump(mode="json"),
        segmenter.sha256,
        segmenter.config.model_dump(mode="json"),
        options.flips,
        options.refine,
        repr(reading.protocol if reading else None),
        repr(options.simulate),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write_table(folder: Path) -> None:
    """List what is in a folder of estimates."""
    rows: list[dict[str, Cell]] = []
    for path in (path for path in walk(folder) if path.name.endswith(f"_{_MARKER}.json")):
        facts = read_facts(path)
        stem = path.name.removesuffix(f"_{_MARKER}.json")
        maps = [f"{suffix}" for suffix, _, _ in MAP_FILES.values()]
        there = [s for s in maps if (path.parent / f"{stem}_desc-estimated_{s}.nii.gz").is_file()]
        values = (
            stem,
            facts["Sources"][0],
            ",".join(there),
            f"{facts['CorrelationWithScan']:.4f}",
            " ".join(facts["Warnings"]) or "n/a",
        )
        rows.append(dict(zip(MAP_COLUMNS, values, strict=True)))
    if rows:
        write_table(folder / MAPS_TABLE, MAP_COLUMNS, rows)
