"""Pseudo-labels: scans without masks segmented by a model, and those kept that can be trained on.

Published training on pseudo-labels keeps every mask; here small, huge and uncertain lesions are left out. The
masks serve as pairs with their scans, or, taken to MNI space, as lesions to simulate patients with.
"""

import json
import math
import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anystroke.anatomy.lesions.bank import largest_part
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path, sha256
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.io.names import derivative_stem, image_stem
from anystroke.simulation.patient_files import staged, write_json
from anystroke.tasks.segmentation.files import failure_sentence, sidecar
from anystroke.tasks.segmentation.mask import PredictionWarning
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment

TABLE = "pairs.tsv"
COLUMNS = ("image", "mask", "brain", "name", "volume_ml", "confidence", "kept", "reason")
LESIONS = "lesions_mni"
"""Folder of the lesions in MNI space."""

_MISSING = "n/a"
_CONFIDENCE = "MeanProbability"


class PseudoLabelError(AnystrokeError):
    """A run that cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class PseudoLabel:
    """What became of one scan.

    Attributes:
        image: The scan.
        name: Its stem.
        mask: File of the mask within the folder; empty if there is none.
        brain: File of the brain mask within the folder; empty if the model does not know the brain.
        volume_ml: Volume of the lesion; None if the scan could not be segmented.
        confidence: Mean probability within the mask; None without lesion.
        kept: Whether to train on it.
        reason: Why not, or why it failed.
        details: The traceback of a failure.
    """

    image: Path
    name: str
    mask: str = ""
    brain: str = ""
    volume_ml: float | None = None
    confidence: float | None = None
    kept: bool = False
    reason: str = ""
    details: str = ""

    @property
    def failed(self) -> bool:
        """Whether the scan could not be segmented."""
        return self.volume_ml is None

    def row(self, folder: Path) -> dict[str, str]:
        """Write as a row of the table; ``n/a`` stands for what there is not."""
        values = (
            os.path.relpath(self.image, folder),
            self.mask,
            self.brain,
            self.name,
            "" if self.volume_ml is None else f"{self.volume_ml:.3f}",
            "" if self.confidence is None else f"{self.confidence:.4f}",
            "yes" if self.kept else "no",
            self.reason,
        )
        cells = (" ".join(value.split()) or _MISSING for value in values)
        return dict(zip(COLUMNS, cells, strict=True))


def pseudo_label(
    scans: Sequence[str | Path],
    folder: str | Path,
    *,
    model: Model,
    smallest_ml: float = 0.5,
    largest_ml: float = 400.0,
    confidence: float = 0.8,
    on_scan: Callable[[PseudoLabel], object] | None = None,
    device: torch.device | str | None = None,
) -> list[PseudoLabel]:
    """Segment scans and say which of the masks to train on; one that fails does not stop the others.

    The folder gets a mask and a sidecar of each scan, named as ``anystroke segment`` does, a mask of the
    brain where the model knows it, and ``pairs.tsv``, which `find_labelled_scans` reads. A scan that the same
    model has segmented there already is not segmented again, but judged by the limits of this call.

    Args:
        scans: Files.
        folder: Where to write; made if missing.
        model: The opened model.
        smallest_ml: Smaller lesions are not kept.
        largest_ml: Larger ones are not either.
        confidence: Mean probability within the mask that a lesion must reach, 0 to 1.
        on_scan: Called with each result as soon as its files and its row are written.
        device: Where to compute; by default a GPU if there is one.

    Returns:
        What became of each scan.

    Raises:
        PseudoLabelError: There is no scan, the limits are impossible, or the folder's table is not ours.
        OSError: The folder cannot be written.

    Example:
        >>> pseudo_label(paths, Path("pseudo"), model=Model.open())  # doctest: +SKIP
    """
    _check_limits(scans, smallest_ml, largest_ml, confidence)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = _read_table(folder / TABLE)
    taken: dict[str, Path] = {}
    results = []
    for source in map(Path, scans):
        stem = derivative_stem(source)
        other = taken.setdefault(stem.casefold(), source)
        try:
            if other is not source:
                raise VolumeError(f"{source} would write the same files as {other}; rename one")
            found = _finished(source, folder, stem, model) or _label(source, folder, stem, model, device)
            label = _judged(found, smallest_ml, largest_ml, confidence)
        except Exception as error:  # noqa: BLE001  # one scan stops no other
            details = "".join(traceback.format_exception(error))
            reason = failure_sentence(source, error)
            label = PseudoLabel(source, image_stem(source), reason=reason, details=details)
        row = label.row(folder)
        rows[row["image"]] = row
        _write_table(folder / TABLE, rows)
        results.append(label)
        if on_scan is not None:
            on_scan(label)
    return results


def pseudo_lesions(
    labels: Sequence[PseudoLabel], folder: str | Path, *, on_scan: Callable[[str, str], object] | None = None
) -> list[Path]:
    """Take the kept lesions to MNI space, where they can be drawn for simulated patients.

    The masks go into ``lesions_mni`` in the folder, which ``simulate --lesions`` and
    `anystroke.anatomy.lesions.bank.load_masks` read. Those that are there already stay as they are. A scan
    that cannot be registered is left out.

    Args:
        labels: What `pseudo_label` returned.
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

    destination = Path(folder) / LESIONS
    destination.mkdir(parents=True, exist_ok=True)
    written = []
    for label in labels:
        path = destination / f"{label.name}.nii.gz"
        if not label.kept:
            path.unlink(missing_ok=True)
            continue
        problem = ""
        try:
            mask_file = Path(folder) / label.mask
            if not path.exists() or path.stat().st_mtime_ns < mask_file.stat().st_mtime_ns:
                brain = Volume.load(Path(folder) / label.brain) if label.brain else None
                lesion = lesion_in_mni(Volume.load(mask_file), Volume.load(label.image), brain=brain)
                lesion.save(path, overwrite=True)
            written.append(path)
        except ValueError as error:
            problem = failure_sentence(label.image, error)
        if on_scan is not None:
            on_scan(label.name, problem)
    return written


def _check_limits(
    scans: Sequence[str | Path], smallest_ml: float, largest_ml: float, confidence: float
) -> None:
    if not scans:
        raise PseudoLabelError("expected scans to segment, got none")
    if not 0 <= smallest_ml < largest_ml:
        raise PseudoLabelError(
            f"expected lesion volumes from 0 ml upwards, got {smallest_ml:g} to {largest_ml:g} ml"
        )
    if not 0 <= confidence <= 1:
        raise PseudoLabelError(f"the confidence is a probability from 0 to 1, got {confidence:g}; try 0.8")


def _label(
    source: Path, folder: Path, stem: str, model: Model, device: torch.device | str | None
) -> PseudoLabel:
    """Segment a scan and write its files together."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", VolumeWarning)
        warnings.simplefilter("always", PredictionWarning)
        result = segment(source, model, tissues=model.config.brain, device=device)
    messages = list(dict.fromkeys(str(warning.message) for warning in caught))
    lesion = result.mask.data > 0
    certainty = float(result.probability.data[lesion].mean()) if bool(lesion.any()) else None
    facts = sidecar(source, result, messages, {}) | {_CONFIDENCE: certainty}
    with staged(folder) as staging:
        if model.config.brain:
            _brain(result).save(staging / _brain_file(source))
        result.mask.save(staging / f"{stem}_mask.nii.gz")
        write_json(staging / f"{stem}_mask.json", facts)
    return _of_facts(source, folder, stem, facts)


def _brain(result: Segmentation) -> Volume:
    """Find the brain, with what the lesion replaced of it."""
    inside = result.probability.data.clone()
    for tissue in result.tissues.values():
        inside += tissue.data
    brain = inside >= 0.5
    if bool(brain.any()):
        brain = largest_part(brain[0])[None]
    return replace(result.mask, data=brain.to(torch.uint8))


def _brain_file(source: Path) -> str:
    return derivative_stem(source, label="brain") + "_mask.nii.gz"


def _finished(source: Path, folder: Path, stem: str, model: Model) -> PseudoLabel | None:
    """Find what this model has made of this very scan before."""
    files = [f"{stem}_mask.nii.gz", *([_brain_file(source)] if model.config.brain else [])]
    if not source.is_file() or not all((folder / name).is_file() for name in files):
        return None
    try:
        facts = json.loads((folder / f"{stem}_mask.json").read_text(encoding="utf-8"))
        same = facts["Model"]["SHA256"] == model.sha256 and facts["SourceSHA256"] == sha256(source)
        return _of_facts(source, folder, stem, facts) if same and _CONFIDENCE in facts else None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None


def _of_facts(source: Path, folder: Path, stem: str, facts: dict[str, Any]) -> PseudoLabel:
    brain = _brain_file(source)
    return PseudoLabel(
        image=source,
        name=image_stem(source),
        mask=f"{stem}_mask.nii.gz",
        brain=brain if (folder / brain).is_file() else "",
        volume_ml=float(facts["LesionVolume"]),
        confidence=None if facts[_CONFIDENCE] is None else float(facts[_CONFIDENCE]),
    )


def _judged(label: PseudoLabel, smallest_ml: float, largest_ml: float, confidence: float) -> PseudoLabel:
    """Say whether a lesion is to be trained on."""
    volume, certainty = label.volume_ml or 0.0, label.confidence
    if certainty is None or math.isclose(volume, 0.0):
        return replace(label, reason="no lesion was found")
    if volume < smallest_ml:
        return replace(label, reason=f"{volume:.3g} ml is below {smallest_ml:g} ml")
    if volume > largest_ml:
        return replace(label, reason=f"{volume:.4g} ml is above {largest_ml:g} ml")
    if certainty < confidence:
        return replace(label, reason=f"the mean probability {certainty:.3f} is below {confidence:g}")
    return replace(label, kept=True)


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    cells = [line.split("\t") for line in lines if line]
    if tuple(header.split("\t")) != COLUMNS or any(len(row) != len(COLUMNS) for row in cells):
        raise PseudoLabelError(f"{path} is not a table of pseudo-labels (its columns differ); move it away")
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells}


def _write_table(path: Path, rows: dict[str, dict[str, str]]) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        lines = ["\t".join(COLUMNS), *("\t".join(row[key] for key in COLUMNS) for row in rows.values())]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
