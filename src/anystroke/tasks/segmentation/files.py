"""Segment many scans into one folder: BIDS-like files, tables, no half-written results.

A thread reads the next scans and another writes the last results while the network works. A run that was cut
short goes on where it was: a scan whose results are whole and were made from the same file, by the same model
and with the same settings, is kept.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.files import atomic_path, sha256
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.io.inputs import ScanSource
from anystroke.io.names import derivative_stem, image_stem
from anystroke.models.passes import PredictionWarning
from anystroke.tasks.segmentation.options import CohortOptions, SegmentOptions, WriteOptions
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment
from anystroke.tasks.segmentation.results import (
    agreement_rows,
    import_report_makers,
    peak_memory_mb,
    registration_rows,
    sidecar,
    write_json,
    write_results,
    write_tsv,
)

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.together import Together

__all__ = ["Outcome", "failure_sentence", "read_table", "segment_files", "sidecar", "update_table"]

TABLE = "volumes.tsv"
COLUMNS = ("file", "mask", "volume_ml", "lesions", "seconds", "status", "message")
_STAGING = ".anystroke-"
_AGREEMENT = ("first", "second", "dice", "first_ml", "second_ml")
_REGISTRATION = (
    "contrast",
    "reference",
    "rotation_degrees",
    "shift_mm",
    "inconsistency_mm",
    "stretch",
    "overlap",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        source: The input as it was named.
        mask: File name of the mask, empty if there is none.
        volume: Lesion volume [ml], None if there is none.
        lesions: Number of lesions, None if there is none.
        seconds: Time from reading to the last file written.
        status: ``"ok"``, ``"warning"``, ``"kept"`` (it was there, from a run before) or ``"failed"``.
        message: One sentence for each warning, or why it failed.
        details: The traceback of a failure.
        reasons: Why not to trust the result.
    """

    source: str
    mask: str = ""
    volume: float | None = None
    lesions: int | None = None
    seconds: float = 0.0
    status: str = "ok"
    message: str = ""
    details: str = ""
    reasons: tuple[str, ...] = ()

    def row(self) -> dict[str, str]:
        """Write as a row of the table; ``n/a`` stands for what is not known, as in BIDS."""
        values = (
            self.source,
            self.mask or "n/a",
            "n/a" if self.volume is None else f"{self.volume:.3f}",
            "n/a" if self.lesions is None else str(self.lesions),
            f"{self.seconds:.1f}",
            ("warning" if self.message else "ok") if self.status == "kept" else self.status,
            self.message or "n/a",
        )
        cells = (" ".join(value.split()) for value in values)
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(eq=False)
class _Job:
    """Scans that are segmented together, or one alone, on their way through the threads."""

    sources: list[ScanSource]
    described: str = ""
    settings: list[dict[str, Any]] = field(default_factory=list)
    scans: "Future[list[Volume]] | None" = None
    error: Exception | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    start: float = 0.0
    messages: list[str] = field(default_factory=list)

    def failed(self, error: Exception) -> list[Outcome]:
        details = "".join(traceback.format_exception(error))
        return [
            Outcome(
                source.title,
                status="failed",
                message=failure_sentence(source.path, error).replace(str(source.path), source.title),
                seconds=time.perf_counter() - self.start if self.start else 0.0,
                details=details,
            )
            for source in self.sources
        ]


@dataclass(frozen=True, eq=False)
class _Run:
    """What all scans of a run share."""

    folder: Path
    model: Model
    options: SegmentOptions
    write: WriteOptions
    cohort: CohortOptions
    atlas: Atlas | None

    def settings(self, source: ScanSource, others: Sequence[str] = ()) -> dict[str, Any]:
        """What must be the same for results to be kept."""
        chosen = self.options.settings()
        if self.cohort.together:
            chosen |= {"fusion": self.cohort.fusion, "fused_with": list(others)}
        if self.atlas:
            chosen["atlas"] = self.atlas.sha256
        return chosen | {"allow_ct": self.cohort.allow_ct, "write": self.write.settings()}


def segment_files(
    inputs: Sequence[str | Path | ScanSource],
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
        The outcome of each input, as soon as its files and its row are written, in the order of the inputs.

    Raises:
        OSError: The folder or the table cannot be written.
        VolumeError: The folder's table is not ours.
        AtlasError: The atlas cannot be used.

    Example:
        >>> list(segment_files([], tempfile.mkdtemp(), model=None))
        []
    """
    folder = Path(folder)
    atlas = write.open_atlas()
    folder.mkdir(parents=True, exist_ok=True)
    read_table(folder / TABLE)  # a foreign table is refused before any work
    _remove_left_behind(folder)
    options = replace(
        options,
        spread=options.spread or write.uncertainty,
        tissues=tuple(model.config.brain) if write.tissues else options.tissues,
    )
    run = _Run(folder, model, options, write, cohort, atlas)
    sources = [item if isinstance(item, ScanSource) else ScanSource.of_file(item) for item in inputs]
    began, started = datetime.now(UTC), time.perf_counter()
    done: list[Outcome] = []
    try:
        for outcome in _all_outcomes(run, sources, problems):
            update_table(folder / TABLE, outcome)
            done.append(outcome)
            yield outcome
    finally:
        if done:
            _write_manifest(run, done, began, time.perf_counter() - started)


def _all_outcomes(
    run: _Run, sources: Sequence[ScanSource], problems: Sequence[tuple[str, str]]
) -> Iterator[Outcome]:
    for named, problem in problems:
        yield Outcome(named, status="failed", message=problem)
    jobs = _jobs(run, sources)
    with (
        _collected_warnings() as collected,
        ThreadPoolExecutor(1, "reading") as reader,
        ThreadPoolExecutor(1, "writing") as writer,
    ):
        waiting = deque(jobs)
        read: deque[_Job] = deque()
        written: deque[tuple[_Job, Future[list[Outcome]]]] = deque()
        try:
            while waiting or read or written:
                while waiting and len(read) < 2:
                    job = waiting.popleft()
                    if job.error is None:
                        job.scans = reader.submit(_read, run, job, collected)
                    read.append(job)
                if read:
                    job = read.popleft()
                    written.append((job, _compute(run, job, collected, writer)))
                while written and (len(written) > 1 or not (read or waiting)):
                    job, result = written.popleft()
                    try:
                        yield from result.result()
                    except Exception as error:  # noqa: BLE001  # one scan stops no other
                        yield from job.failed(error)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=True)


def _jobs(run: _Run, sources: Sequence[ScanSource]) -> list[_Job]:
    """Make the jobs: one for each scan or patient; two that would write the same files are refused."""
    groups: dict[str, list[ScanSource]] = {}
    for i, source in enumerate(sources):
        groups.setdefault(f"patient {source.patient}" if run.cohort.together else str(i), []).append(source)
    jobs, taken = [], dict[str, Path]()
    for members in groups.values():
        job = _Job([], "fused" if run.cohort.together and len(members) > 1 else "")
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


def _read(run: _Run, job: _Job, collected: "_Collected") -> list[Volume]:
    """Read the scans of a job, unless its results are there (then ``outcomes`` is filled)."""
    job.start = time.perf_counter()
    collected.take()
    hashes = [sha256(source.path) if source.path.is_file() else "" for source in job.sources]
    job.settings = [
        run.settings(source, [other for j, other in enumerate(hashes) if j != i])
        for i, source in enumerate(job.sources)
    ]
    if not run.cohort.overwrite:
        kept = [_kept(run, job, i, hashes[i]) for i in range(len(job.sources))]
        if all(outcome is not None for outcome in kept):
            job.outcomes = [outcome for outcome in kept if outcome is not None]
            return []
    scans = [source.load(allow_ct=run.cohort.allow_ct) for source in job.sources]
    job.messages = collected.take()
    return scans


def _kept(run: _Run, job: _Job, i: int, digest: str) -> Outcome | None:
    """Return the outcome of results that are there and are what this run would make; None if there are none.

    Raises:
        VolumeError: Other results are there.
    """
    source = job.sources[i]
    folder = run.folder / source.folder
    stem = derivative_stem(source.path, described=job.described)
    mask = folder / f"{stem}_mask.nii.gz"
    beside = mask.with_name(f"{stem}_mask.json")
    if not beside.exists():
        if mask.exists():
            raise VolumeError(f"{mask} exists and is not of anystroke; use --overwrite to replace it")
        return None
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
        same = (
            facts["SourceSHA256"] == digest
            and facts["Model"]["SHA256"] == run.model.sha256
            and facts["Settings"] == json.loads(json.dumps(job.settings[i]))
            and all((folder / name).is_file() for name in facts["Files"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        same = False
        facts = {}
    if not same:
        raise VolumeError(
            f"{source.path} has results already ({mask.name} in {folder}) of another scan, model or setting; "
            "use --overwrite to replace them"
        )
    messages = facts.get("Warnings", [])
    return Outcome(
        source.title,
        str(source.folder / mask.name),
        float(facts["LesionVolume"]),
        int(facts["LesionCount"]),
        status="kept",
        message="; ".join(messages),
        reasons=tuple(facts.get("ReasonsNotToTrust", ())),
    )


def _compute(
    run: _Run, job: _Job, collected: "_Collected", writer: ThreadPoolExecutor
) -> "Future[list[Outcome]]":
    """Wait for a job's scans, put them through the network and hand the results to the writer."""
    finished: Future[list[Outcome]] = Future()
    if job.error is not None or job.scans is None:
        finished.set_result(job.failed(job.error or RuntimeError("the scan was not read")))
        return finished
    try:
        scans = job.scans.result()
        job.scans = None
        if job.outcomes:
            finished.set_result(job.outcomes)
            return finished
        if run.write.report:
            writer.submit(import_report_makers)
        collected.take()
        results = [segment(scan, run.model, run.options) for scan in scans]
        fused: Together | None = None
        if job.described and run.cohort.together:
            from anystroke.tasks.segmentation.together import fuse

            names = [image_stem(source.path) for source in job.sources]
            fused = fuse(results, fusion=run.cohort.fusion, names=names)
            results = fused.fused
        job.messages += collected.take()
    except Exception as error:  # noqa: BLE001  # one scan stops no other
        finished.set_result(job.failed(error))
        return finished
    return writer.submit(_write, run, job, results, fused)


def _write(run: _Run, job: _Job, results: list[Segmentation], together: "Together | None") -> list[Outcome]:
    """Write the results of a job, and publish those of each scan at once, its sidecar last."""
    messages = list(dict.fromkeys(job.messages))
    outcomes = []
    for source, result, settings in zip(job.sources, results, job.settings, strict=True):
        staging = _staging(run.folder)
        try:
            written = write_results(
                source,
                result,
                staging,
                described=job.described,
                messages=messages,
                settings=settings,
                write=run.write,
                atlas=run.atlas,
            )
            if together is not None:
                _write_agreement(job, staging, together)
            last = Path(written.mask).name.replace("_mask.nii.gz", "_mask.json")
            files = sorted(path.name for path in staging.iterdir() if path.name != last)
            write_json(staging / last, written.facts | {"Files": files})
            target = run.folder / source.folder
            target.mkdir(parents=True, exist_ok=True)
            for path in staging.iterdir():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
            # Without its sidecar a scan counts as not done: it goes first and comes last.
            (target / last).unlink(missing_ok=True)
            for name in [*files, last]:
                (staging / name).replace(target / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        outcomes.append(
            Outcome(
                source=source.title,
                mask=written.mask,
                volume=result.lesion_volume,
                lesions=result.lesion_count,
                seconds=time.perf_counter() - job.start,
                status="warning" if messages else "ok",
                message="; ".join(messages),
                reasons=tuple(written.facts["ReasonsNotToTrust"]),
            )
        )
    return outcomes


def _write_agreement(job: _Job, folder: Path, together: "Together") -> None:
    names = [image_stem(source.path) for source in job.sources]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:6]
    stem = job.sources[0].patient.replace("/", "-").strip(".") or f"together-{digest}"
    write_tsv(folder / f"{Path(stem).name}_agreement.tsv", _AGREEMENT, agreement_rows(names, together))
    columns = (*_REGISTRATION, "status")
    write_tsv(folder / f"{Path(stem).name}_registrations.tsv", columns, registration_rows(names, together))


def update_table(path: Path, outcome: Outcome) -> None:
    r"""Put one outcome into the table, in place of an earlier one of the same input.

    A failure does not replace the row of results that are there.

    Args:
        path: The table; made if missing.
        outcome: What to write.

    Raises:
        OSError: The table cannot be written.

    Example:
        >>> table = Path(tempfile.mkdtemp()) / "volumes.tsv"
        >>> update_table(table, Outcome("a.nii", "a_mask.nii.gz", 1.5, 2))
        >>> table.read_text().splitlines()[1].split("\t")[2:4]
        ['1.500', '2']
    """
    rows = read_table(path)
    new = outcome.row()
    key = "file" if outcome.status == "failed" else "mask"
    same = [
        i
        for i, row in enumerate(rows)
        if row["file"] == new["file"] or (key == "mask" and row[key] == new[key])
    ]
    finished = any(rows[i]["status"] != "failed" for i in same)
    if finished and outcome.status in ("failed", "kept"):
        return
    rows = [row for i, row in enumerate(rows) if i not in same] + [new]
    with atomic_path(path, overwrite=True) as temporary:
        lines = ["\t".join(COLUMNS), *("\t".join(row[name] for name in COLUMNS) for row in rows)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the table's rows; none if there is no table.

    Raises:
        VolumeError: The file is no table of ours.

    Example:
        >>> read_table(Path("nowhere") / "volumes.tsv")
        []
    """
    if not path.exists():
        return []
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if tuple(header.split("\t")) != COLUMNS:
        raise VolumeError(f"{path} is not a table of anystroke (its columns differ); move it away")
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines if line]


def failure_sentence(source: Path, error: Exception) -> str:
    """Say in one sentence that names the input what went wrong.

    Args:
        source: The input.
        error: What was raised.

    Example:
        >>> failure_sentence(Path("a.nii"), VolumeError("too small"))
        'a.nii: too small'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, VolumeError | OSError | ValueError):
        text = f"failed unexpectedly ({type(error).__name__}: {text}); run again with --debug and report it"
    return text if str(source) in text else f"{source}: {text}"


class _Collected:
    """Warnings of each thread, so that those of reading and of the network do not mix."""

    def __init__(self) -> None:
        self._messages: dict[int, list[str]] = {}

    def add(self, text: str) -> None:
        self._messages.setdefault(threading.get_ident(), []).append(text)

    def take(self) -> list[str]:
        return self._messages.pop(threading.get_ident(), [])


@contextmanager
def _collected_warnings() -> Iterator[_Collected]:
    """Collect the warnings about scans in all threads while the block runs; others go their way."""
    collected = _Collected()
    with warnings.catch_warnings():
        warnings.simplefilter("always", VolumeWarning)
        warnings.simplefilter("always", PredictionWarning)
        show = warnings.showwarning

        def keep(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
            if issubclass(category, VolumeWarning | PredictionWarning):
                collected.add(str(message))
            else:
                show(message, category, *args, **kwargs)

        warnings.showwarning = keep
        yield collected


def _staging(folder: Path) -> Path:
    """Make a hidden folder whose name says which process writes there."""
    return Path(tempfile.mkdtemp(prefix=staging_prefix(), dir=folder))


def staging_prefix() -> str:
    """Return the begin of the names of this process's hidden folders; they go when it is no more.

    Example:
        >>> staging_prefix().startswith(".anystroke-")
        True
    """
    return f"{_STAGING}{socket.gethostname()}-{os.getpid()}-"


def _remove_left_behind(folder: Path) -> None:
    """Remove the hidden folders of processes of this machine that are no more."""
    prefix = f"{_STAGING}{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*-*"):
        number = path.name.removeprefix(prefix).split("-")[0]
        if number.isdecimal() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_manifest(run: _Run, outcomes: Sequence[Outcome], began: datetime, seconds: float) -> None:
    """Leave what the run did in ``logs``."""
    logs = run.folder / "logs"
    logs.mkdir(exist_ok=True)
    content = {
        "Program": f"anystroke {version('anystroke')}",
        "Model": run.model.identity,
        "Settings": run.settings(ScanSource.of_file("")) | {"overwrite": run.cohort.overwrite},
        "Began": began.isoformat(timespec="seconds"),
        "Seconds": round(seconds, 1),
        "PeakMemoryMB": peak_memory_mb(),
        "Python": platform.python_version(),
        "Platform": platform.platform(),
        "Torch": torch.__version__,
        "Scans": [
            {"Source": o.source, "Mask": o.mask, "Status": o.status, "Seconds": round(o.seconds, 1)}
            | ({"Message": o.message} if o.message else {})
            for o in outcomes
        ],
    }
    name = f"run-{began.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.json"
    with atomic_path(logs / name, overwrite=True) as temporary:
        write_json(temporary, content)
