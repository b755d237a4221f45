"""Segment many scans into one folder: BIDS-like files, tables, no half-written results.

A thread reads the next scans and another writes the last results while the network works. A run that was cut
short goes on where it was: a scan whose results are whole and were made from the same file, by the same model
and with the same settings, is kept.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.files import sha256
from anystroke.core.tables import Cell, GrowingTable
from anystroke.core.threads import in_stages
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.core.warned import Collected, collected_warnings
from anystroke.io.inputs import Input
from anystroke.io.names import derivative_stem, image_stem
from anystroke.io.results import Outcome, ResultFolder
from anystroke.models.passes import PredictionWarning
from anystroke.tasks.segmentation.options import CohortOptions, SegmentOptions, WriteOptions
from anystroke.tasks.segmentation.predict import Model, Segmentation, is_named_adc, segment
from anystroke.tasks.segmentation.results import import_report_makers, write_agreement, write_scan_results

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.together import Together

VOLUMES_TABLE = "volumes.tsv"
_APART = "apart"
VOLUME_COLUMNS = (
    "file",
    "mask",
    "volume_ml",
    "lesions",
    "trust",
    "risk",
    "seconds",
    "status",
    "message",
)


@dataclass(eq=False)
class _Job:
    """Scans that are segmented together, or one alone, on their way through the threads."""

    sources: list[Input]
    described: str = ""
    settings: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None
    kept: list[Outcome] = field(default_factory=list)
    start: float = 0.0
    messages: list[str] = field(default_factory=list)

    def sidecar(self, source: Input, described: str | None = None) -> str:
        """Where the sidecar of a scan's mask is, below the output folder."""
        stem = derivative_stem(source.path, described=self.described if described is None else described)
        return (source.folder / f"{stem}_mask.json").as_posix()

    def failed(self, error: Exception) -> list[Outcome]:
        seconds = time.perf_counter() - self.start if self.start else 0.0
        return [
            Outcome.of_failure(source.title, source.path, error, {"seconds": seconds})
            for source in self.sources
        ]


@dataclass(frozen=True, eq=False)
class _Run:
    """What all scans of a run share."""

    results: ResultFolder
    model: Model
    options: SegmentOptions
    write: WriteOptions
    cohort: CohortOptions
    atlas: Atlas | None
    collected: Collected

    def settings(self, others: Sequence[str] = ()) -> dict[str, Any]:
        """What must be the same for results to be kept."""
        chosen = self.options.settings()
        if self.cohort.together or others:
            chosen |= {"fusion": self.cohort.fusion, "fused_with": list(others)}
        if self.atlas:
            chosen["atlas"] = self.atlas.sha256
        return chosen | {"allow_ct": self.cohort.allow_ct, "write": self.write.settings()}


def segment_files(
    inputs: Sequence[str | Path | Input],
    folder: str | Path,
    model: Model,
    options: SegmentOptions = SegmentOptions(),  # noqa: B008  # immutable, as are the others
    *,
    write: WriteOptions = WriteOptions(),  # noqa: B008
    cohort: CohortOptions = CohortOptions(),  # noqa: B008
    problems: Sequence[tuple[str, str]] = (),
) -> Iterator[Outcome]:
    """Segment files; one that fails does not stop the others.

    For each input there are a mask, a probability map, numbered lesions with a table, JSON sidecars, a
    picture and a page, and a row in ``volumes.tsv``, which keeps the rows of earlier runs. Each run leaves
    what it did in ``logs``.

    Args:
        inputs: Scans, or paths of image files.
        folder: Where to write; made if missing.
        model: The opened model.
        options: How each scan is segmented.
        write: What to write beside the usual.
        cohort: What to fuse, take and replace.
        problems: What was named and cannot be used, with the reason: told and written into the table first.

    Yields:
        The outcome of each input, as soon as its files and its row are written, in the order of the inputs:
        the mask first among its files, and ``volume_ml``, ``lesions``, ``seconds``, ``reasons`` (why not
        to trust it) and ``risk`` (the probability that it fails, if known) in its details.

    Raises:
        OSError: The folder or the table cannot be written.
        TableError: The folder's table is not ours.
        AtlasError: The atlas cannot be used.

    Example:
        >>> for outcome in segment_files(["a_T2w.nii.gz"], "results", Model.open()):  # doctest: +SKIP
        ...     print(outcome.name, outcome.details["volume_ml"])
    """
    table = GrowingTable(
        Path(folder) / VOLUMES_TABLE, VOLUME_COLUMNS
    )  # a foreign table is refused before any work
    atlas = write.open_atlas()
    options = replace(
        options,
        spread=options.spread or write.uncertainty,
        tissues=tuple(model.config.brain) if write.tissues else options.tissues,
    )
    results = ResultFolder(folder, {"Model": model.identity})
    sources = [item if isinstance(item, Input) else Input.of_file(item) for item in inputs]
    with collected_warnings(VolumeWarning, PredictionWarning) as collected:
        run = _Run(results, model, options, write, cohort, atlas, collected)
        settings = run.settings() | {"overwrite": cohort.overwrite}
        facts = {"Model": model.identity, "Settings": settings}
        for outcome in results.logged(_all_outcomes(run, sources, problems), facts):
            update_table(table, outcome)
            yield outcome


def _all_outcomes(
    run: _Run, sources: Sequence[Input], problems: Sequence[tuple[str, str]]
) -> Iterator[Outcome]:
    for named, problem in problems:
        yield Outcome(named, "failed", messages=(problem,))
    stages = in_stages(
        _jobs(run, sources),
        lambda job: _read(run, job),
        lambda job, scans: _compute(run, job, scans),
        lambda job, results: _write(run, job, *results),
    )
    for job, outcomes in stages:
        yield from job.failed(outcomes) if isinstance(outcomes, Exception) else outcomes


def _jobs(run: _Run, sources: Sequence[Input]) -> list[_Job]:
    """Make the jobs: one for each scan or patient; two that would write the same files are refused."""
    groups: dict[str, list[Input]] = {}
    for i, source in enumerate(sources):
        key = f"series {source.fused}" if source.fused else str(i)
        groups.setdefault(f"patient {source.patient}" if run.cohort.together else key, []).append(source)
    jobs, taken = [], dict[str, Path]()
    for members in groups.values():
        job = _Job([], "fused" if len(members) > 1 else "")
        for source in members:
            key = str(source.folder / source.stem).lower()
            if key in taken:
                error = VolumeError(
                    f"{source.path} would write the same files as {taken[key]}; give each its own output "
                    "folder or rename one"
                )
                jobs.append(_Job([source], error=error))
            else:
                taken[key] = source.path
                job.sources.append(source)
        if job.sources:
            jobs.append(job)
    return jobs


def _read(run: _Run, job: _Job) -> list[Volume]:
    """Read the scans of a job, unless its results are there (then ``kept`` is filled)."""
    if job.error is not None:
        raise job.error
    job.start = time.perf_counter()
    run.collected.take()
    hashes = [sha256(source.path) if source.path.is_file() else "" for source in job.sources]
    job.settings = [
        run.settings([other for j, other in enumerate(hashes) if j != i]) for i in range(len(hashes))
    ]
    if not run.cohort.overwrite:
        kept = [_kept(run, job, i, hashes[i]) for i in range(len(job.sources))]
        if all(outcome is not None for outcome in kept):
            job.kept = [outcome for outcome in kept if outcome is not None]
            return []
    scans = [source.load(allow_ct=run.cohort.allow_ct) for source in job.sources]
    job.messages = run.collected.take()
    return scans


def _kept(run: _Run, job: _Job, i: int, digest: str) -> Outcome | None:
    """Return the outcome of results that are there and are what this run would make; None if there are none.

    Raises:
        ResultError: Other results are there.
    """
    source = job.sources[i]
    depends = {"SourceSHA256": digest, "Settings": job.settings[i]}
    for described in (job.described, *([_APART] if job.described else [])):
        sidecar = job.sidecar(source, described)
        facts = run.results.kept(sidecar, depends, main=_mask(sidecar))
        if facts is not None:
            return _outcome("kept", source, sidecar, facts, 0.0)
    return None


def _mask(sidecar: str) -> str:
    return sidecar.removesuffix(".json") + ".nii.gz"


def _outcome(status: Any, source: Input, sidecar: str, facts: dict[str, Any], seconds: float) -> Outcome:
    files = sorted(str(source.folder / name) for name in facts["Files"])
    mask = str(source.folder / Path(_mask(sidecar)).name)
    return Outcome(
        source.title,
        status,
        (mask, *(name for name in files if name != mask), sidecar),
        tuple(facts["Warnings"]),
        {
            "volume_ml": float(facts["LesionVolume"]),
            "lesions": int(facts["LesionCount"]),
            "seconds": seconds,
            "reasons": tuple(facts["ReasonsNotToTrust"]),
            "risk": facts.get("Risk"),
        },
    )


def _compute(run: _Run, job: _Job, scans: list[Volume]) -> "tuple[list[Segmentation], Together | None]":
    """Put the scans of a job through the network, and import meanwhile what writes reports."""
    if job.kept:
        return [], None
    importing = Thread(target=import_report_makers) if run.write.report else None
    if importing:
        importing.start()
    try:
        return _found(run, job, scans)
    finally:
        if importing:
            importing.join()


def _found(run: _Run, job: _Job, scans: list[Volume]) -> "tuple[list[Segmentation], Together | None]":
    run.collected.take()
    results = [
        segment(scan, run.model, replace(run.options, adc=run.options.adc or is_named_adc(source.path)))
        for scan, source in zip(scans, job.sources, strict=False)
    ]
    fused: Together | None = None
    if job.described:
        from anystroke.tasks.segmentation.together import fuse

        names = [image_stem(source.path) for source in job.sources]
        frames = [source.frame for source in job.sources]
        fused = fuse(results, fusion=run.cohort.fusion, names=names, frames=frames)
        results = fused.fused
    job.messages += run.collected.take()
    return results, fused


def _write(run: _Run, job: _Job, results: list[Segmentation], together: "Together | None") -> list[Outcome]:
    """Write the results of a job, and publish those of each scan at once, its sidecar last."""
    messages = list(dict.fromkeys(job.messages))
    outcomes = list(job.kept)
    for i, (source, result, settings) in enumerate(zip(job.sources, results, job.settings, strict=False)):
        facts: dict[str, Any] = {}
        described = _APART if together is not None and i in together.apart else job.described
        sidecar = job.sidecar(source, described)
        with run.results.staging(sidecar, facts) as staging:
            facts |= write_scan_results(
                source,
                result,
                staging,
                described=described,
                messages=messages,
                settings=settings,
                write=run.write,
                atlas=run.atlas,
            )
            if together is not None:
                names = [image_stem(source.path) for source in job.sources]
                write_agreement(staging, _patient_stem(job.sources[0], names), names, together)
        outcomes.append(_outcome("done", source, sidecar, facts, time.perf_counter() - job.start))
    return outcomes


def _patient_stem(first: Input, names: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:6]
    return Path(first.patient.replace("/", "-").strip(".") or f"together-{digest}").name


def update_table(table: GrowingTable, outcome: Outcome) -> None:
    r"""Put one outcome into the table, in place of an earlier one of the same input.

    A failure does not replace the row of results that are there.

    Args:
        table: That of the folder.
        outcome: What to write.

    Raises:
        OSError: The table cannot be written.

    Example:
        >>> import tempfile
        >>> table = GrowingTable(Path(tempfile.mkdtemp()) / VOLUMES_TABLE, VOLUME_COLUMNS)
        >>> update_table(table, Outcome("a.nii", "done", ("a_mask.nii.gz",), (), {"volume_ml": 1.5}))
        >>> [(row["volume_ml"], row["status"]) for row in table.read()]
        [('1.500', 'ok')]
    """
    new = _row(outcome)

    def same(row: dict[str, str]) -> bool:
        return row["file"] == new["file"] or (outcome.status != "failed" and row["mask"] == new["mask"])

    if outcome.status != "done" and any(same(row) and row["status"] != "failed" for row in table.read()):
        return
    table.put([new], key=same)


def _row(outcome: Outcome) -> dict[str, Cell]:
    details = outcome.details
    volume, risk = details.get("volume_ml"), details.get("risk")
    trust = None if "reasons" not in details else "no" if details["reasons"] else "yes"
    done = "warning" if outcome.messages else "ok"
    return {
        "file": " ".join(outcome.name.split()),
        "mask": outcome.files[0] if outcome.files else "n/a",
        "volume_ml": None if volume is None else f"{volume:.3f}",
        "lesions": details.get("lesions"),
        "trust": trust,
        "risk": None if risk is None else f"{risk:.2f}",
        "seconds": f"{details.get('seconds', 0.0):.1f}",
        "status": "failed" if outcome.status == "failed" else done,
        "message": outcome.message or None,
    }
