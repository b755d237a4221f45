"""Pseudo-labels: scans without masks segmented by a model, and those kept that can be trained on.

Published training on pseudo-labels keeps every mask; here small, huge and uncertain lesions are left out. The
masks serve as pairs with their scans, or, taken to MNI space, as lesions to simulate patients with.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anystroke.anatomy.lesions.bank import largest_part
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import sha256
from anystroke.core.tables import Cell, GrowingTable
from anystroke.core.threads import in_stages
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.core.warned import Collected, collected_warnings
from anystroke.io.formats import read_scan
from anystroke.io.names import derivative_stem, image_stem
from anystroke.io.results import Outcome, ResultFolder, Status, failure_sentence
from anystroke.tasks.segmentation.findings import sidecar
from anystroke.tasks.segmentation.mask import PredictionWarning
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment

LABELS_TABLE = "pairs.tsv"
LABEL_COLUMNS = ("image", "mask", "brain", "name", "volume_ml", "confidence", "kept", "reason")
LESION_FOLDER = "lesions_mni"
"""Folder of the lesions in MNI space."""

_CONFIDENCE = "MeanProbability"


class PseudoLabelError(AnystrokeError):
    """A run that cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Limits:
    """Which lesions to train on.

    Attributes:
        smallest_ml: Smaller ones are left out.
        largest_ml: Larger ones are too.
        confidence: Mean probability within the mask that a lesion must reach, 0 to 1.

    Raises:
        PseudoLabelError: No lesion could fulfil them.
    """

    smallest_ml: float = 0.5
    largest_ml: float = 400.0
    confidence: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.smallest_ml < self.largest_ml:
            raise PseudoLabelError(
                f"expected lesion volumes from 0 ml upwards, got {self.smallest_ml:g} to "
                f"{self.largest_ml:g} ml"
            )
        if not 0 <= self.confidence <= 1:
            raise PseudoLabelError(
                f"the confidence is a probability from 0 to 1, got {self.confidence:g}; try 0.8"
            )

    def objection(self, volume_ml: float, confidence: float | None) -> str:
        """Say why a lesion is not to be trained on; nothing if it is.

        Example:
            >>> Limits().objection(0.1, 0.9)
            '0.1 ml is below 0.5 ml'
        """
        if confidence is None or math.isclose(volume_ml, 0.0):
            return "no lesion was found"
        if volume_ml < self.smallest_ml:
            return f"{volume_ml:.3g} ml is below {self.smallest_ml:g} ml"
        if volume_ml > self.largest_ml:
            return f"{volume_ml:.4g} ml is above {self.largest_ml:g} ml"
        if confidence < self.confidence:
            return f"the mean probability {confidence:.3f} is below {self.confidence:g}"
        return ""


@dataclass(frozen=True, eq=False)
class _Run:
    """What all scans of a run share."""

    results: ResultFolder
    model: Model
    limits: Limits
    device: torch.device | str | None
    collected: Collected


def pseudo_label(
    scans: Sequence[str | Path],
    folder: str | Path,
    *,
    model: Model,
    limits: Limits | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Outcome]:
    """Segment scans and say which of the masks to train on; one that fails does not stop the others.

    The folder gets a mask and a sidecar of each scan, named as ``anystroke segment`` does, a mask of the
    brain where the model knows it, ``pairs.tsv``, which `find_labelled_scans` reads, and what the run did in
    ``logs``. A scan that the same model has segmented there already is not segmented again, but judged by
    the limits of this call.

    Args:
        scans: Files.
        folder: Where to write; made if missing.
        model: The opened model.
        limits: Which lesions to train on.
        device: Where to compute; by default a GPU if there is one.

    Yields:
        What became of each scan as soon as its files and its row are written: the mask first among its
        files; ``image``, ``name``, ``brain``, ``volume_ml``, ``confidence``, ``use`` (whether to train on it)
        and ``reason`` (why not) in its details.

    Raises:
        PseudoLabelError: There is no scan.
        TableError: The folder's table is not ours.
        OSError: The folder cannot be written.

    Example:
        >>> list(pseudo_label(paths, Path("pseudo"), model=Model.open()))  # doctest: +SKIP
    """
    if not scans:
        raise PseudoLabelError("expected scans to segment, got none")
    table = GrowingTable(Path(folder) / LABELS_TABLE, LABEL_COLUMNS)
    results = ResultFolder(folder, {"Model": model.identity})
    with collected_warnings(VolumeWarning, PredictionWarning) as collected:
        run = _Run(results, model, limits or Limits(), device, collected)
        for outcome in results.logged(
            _outcomes(run, [Path(scan) for scan in scans]), {"Model": model.identity}
        ):
            table.put([_row(outcome, results.folder)], key="image")
            yield outcome


def _outcomes(run: _Run, scans: Sequence[Path]) -> Iterator[Outcome]:
    taken: dict[str, Path] = {}
    jobs = [(scan, taken.setdefault(derivative_stem(scan).casefold(), scan)) for scan in scans]
    for (scan, _), result in in_stages(
        jobs, partial(_read, run), partial(_segment, run), partial(_write, run)
    ):
        if isinstance(result, Exception):
            details = {"image": scan, "name": image_stem(scan), "brain": "", "use": False}
            failed = Outcome.of_failure(str(scan), scan, result)
            yield replace(failed, details={**details, "reason": failed.message})
        else:
            yield result


_Job = tuple[Path, Path]


def _sidecar(source: Path) -> str:
    return f"{derivative_stem(source)}_mask.json"


def _brain_file(source: Path) -> str:
    return derivative_stem(source, label="brain") + "_mask.nii.gz"


def _read(run: _Run, job: _Job) -> Outcome | Volume:
    """Read a scan, unless this model has made a mask of it before."""
    source, other = job
    if other is not source:
        raise VolumeError(f"{source} would write the same files as {other}; rename one")
    run.collected.take()
    digest = {"SourceSHA256": sha256(source)} if source.is_file() else {}
    facts = run.results.kept(_sidecar(source), digest, replace=True)
    if facts is not None and _CONFIDENCE in facts:
        return _judged(run, source, facts, "kept")
    return read_scan(source)


def _segment(run: _Run, _job: _Job, scan: Outcome | Volume) -> Outcome | tuple[Segmentation, list[str]]:
    if isinstance(scan, Outcome):
        return scan
    result = segment(scan, run.model, tissues=run.model.config.brain, device=run.device)
    return result, run.collected.take()


def _write(run: _Run, job: _Job, found: Outcome | tuple[Segmentation, list[str]]) -> Outcome:
    """Write the files of a scan together."""
    if isinstance(found, Outcome):
        return found
    (source, _), (result, messages) = job, found
    lesion = result.mask.data > 0
    certainty = float(result.prediction.probability.data[lesion].mean()) if bool(lesion.any()) else None
    facts = sidecar(source, result, list(dict.fromkeys(messages)), {}) | {_CONFIDENCE: certainty}
    with run.results.staging(_sidecar(source), facts) as staging:
        if run.model.config.brain:
            _brain(result).save(staging / _brain_file(source))
        result.mask.save(staging / f"{derivative_stem(source)}_mask.nii.gz")
    return _judged(run, source, facts, "done")


def _brain(result: Segmentation) -> Volume:
    """Find the brain, with what the lesion replaced of it."""
    inside = result.prediction.probability.data.clone()
    for tissue in result.tissues.values():
        inside += tissue.data
    brain = inside >= 0.5
    if bool(brain.any()):
        brain = largest_part(brain[0])[None]
    return replace(result.mask, data=brain.to(torch.uint8))


def _judged(run: _Run, source: Path, facts: Mapping[str, Any], status: Status) -> Outcome:
    """Say what became of a scan, and whether its lesion is to be trained on."""
    volume, certainty = float(facts["LesionVolume"]), facts[_CONFIDENCE]
    reason = run.limits.objection(volume, certainty)
    brain = _brain_file(source) if _brain_file(source) in facts["Files"] else ""
    mask = f"{derivative_stem(source)}_mask.nii.gz"
    details = {
        "image": source,
        "name": image_stem(source),
        "brain": brain,
        "volume_ml": volume,
        "confidence": certainty,
        "use": not reason,
        "reason": reason,
    }
    files = (mask, *([brain] if brain else []), _sidecar(source))
    return Outcome(str(source), status, files, tuple(facts["Warnings"]), details)


def _row(outcome: Outcome, folder: Path) -> dict[str, Cell]:
    """Write as a row of the table."""
    facts = outcome.details
    volume, certainty = facts.get("volume_ml"), facts.get("confidence")
    return {
        "image": os.path.relpath(facts["image"], folder),
        "mask": outcome.files[0] if outcome.files else None,
        "brain": facts["brain"],
        "name": facts["name"],
        "volume_ml": None if volume is None else f"{volume:.3f}",
        "confidence": None if certainty is None else f"{certainty:.4f}",
        "kept": "yes" if facts["use"] else "no",
        "reason": facts["reason"],
    }


def pseudo_lesions(
    labels: Sequence[Outcome], folder: str | Path, *, on_scan: Callable[[str, str], object] | None = None
) -> list[Path]:
    """Take the kept lesions to MNI space, where they can be drawn for simulated patients.

    The masks go into ``lesions_mni`` in the folder, which ``simulate --lesions`` and
    `anystroke.anatomy.lesions.bank.load_masks` read. Those that are there already stay as they are. A scan
    that cannot be registered is left out.

    Args:
        labels: What `pseudo_label` gave.
        folder: The folder it wrote to.
        on_scan: Called with the name of each kept scan and why it is left out, which is empty if it is not.

    Returns:
        The files, in the order of the labels.

    Raises:
        OSError: The folder cannot be written.

    Example:
        >>> load_masks(pseudo_lesions(labels, Path("pseudo")))  # doctest: +SKIP
    """
    # SimpleITK and nilearn take seconds to import.
    from anystroke.anatomy.registration.mni import lesion_in_mni

    destination = Path(folder) / LESION_FOLDER
    destination.mkdir(parents=True, exist_ok=True)
    written = []
    for label in labels:
        facts = label.details
        path = destination / f"{facts['name']}.nii.gz"
        if not facts["use"]:
            path.unlink(missing_ok=True)
            continue
        problem = ""
        try:
            mask_file = Path(folder) / label.files[0]
            if not path.exists() or path.stat().st_mtime_ns < mask_file.stat().st_mtime_ns:
                brain = Volume.load(Path(folder) / facts["brain"]) if facts["brain"] else None
                lesion = lesion_in_mni(Volume.load(mask_file), read_scan(facts["image"]), brain=brain)
                lesion.save(path, overwrite=True)
            written.append(path)
        except ValueError as error:
            problem = failure_sentence(facts["image"], error)
        if on_scan is not None:
            on_scan(facts["name"], problem)
    return written
