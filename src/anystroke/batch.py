"""Segment many scans into one folder: BIDS-like files, one table, no half-written results."""

import json
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anystroke.bids import image_stem
from anystroke.evaluation.report import mosaic
from anystroke.files import atomic_path, sha256
from anystroke.inference.prediction import PredictionWarning
from anystroke.inference.segmentation import Model, Segmentation, segment
from anystroke.intake.sources import ScanSource
from anystroke.volume import VolumeError, VolumeWarning

TABLE = "volumes.tsv"
COLUMNS = ("file", "mask", "volume_ml", "lesions", "seconds", "status", "message")
_ENDINGS = ("_mask.nii.gz", "_probseg.nii.gz", "_mask.json", "_probseg.json", "_mosaic.png")


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        source: The input as it was named.
        mask: File name of the mask, empty if there is none.
        volume: Lesion volume [ml], None if there is none.
        lesions: Number of lesions, None if there is none.
        seconds: Time from reading to the last file written.
        status: ``"ok"``, ``"warning"`` or ``"failed"``.
        message: One sentence for each warning, or why it failed.
        details: The traceback of a failure.
    """

    source: str
    mask: str = ""
    volume: float | None = None
    lesions: int | None = None
    seconds: float = 0.0
    status: str = "ok"
    message: str = ""
    details: str = ""

    def row(self) -> dict[str, str]:
        """Write as a row of the table; ``n/a`` stands for what is not known, as in BIDS."""
        values = (
            self.source,
            self.mask or "n/a",
            "n/a" if self.volume is None else f"{self.volume:.3f}",
            "n/a" if self.lesions is None else str(self.lesions),
            f"{self.seconds:.1f}",
            self.status,
            self.message or "n/a",
        )
        cells = (" ".join(value.split()) for value in values)
        return dict(zip(COLUMNS, cells, strict=True))


def segment_files(
    inputs: Sequence[str | Path | ScanSource],
    folder: str | Path,
    model: Model,
    *,
    problems: Sequence[tuple[str, str]] = (),
    overwrite: bool = False,
    allow_ct: bool = False,
    **options: Any,
) -> Iterator[Outcome]:
    """Segment files one after the other; one that fails does not stop the others.

    For each input there are a mask, a probability map, a JSON sidecar of each and a picture in the folder,
    and a row in ``volumes.tsv``, which keeps the rows of earlier runs.

    Args:
        inputs: Scans, or paths of image files.
        folder: Where to write; made if missing.
        model: The opened model.
        problems: What was named and cannot be used, with the reason: told and written into the table first.
        overwrite: Whether existing results may be replaced.
        allow_ct: Take CT too.
        **options: Keyword arguments of `anystroke.inference.segmentation.segment`.

    Yields:
        The outcome of each input, as soon as its files and its row are written.

    Raises:
        OSError: The folder or the table cannot be written.
        VolumeError: The folder's table is not ours.

    Example:
        >>> list(segment_files([], tempfile.mkdtemp(), model=None))
        []
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    read_table(folder / TABLE)  # a foreign table is refused before any work
    taken: dict[str, Path] = {}
    for named, problem in problems:
        outcome = Outcome(named, status="failed", message=problem)
        update_table(folder / TABLE, outcome)
        yield outcome
    for source in (item if isinstance(item, ScanSource) else ScanSource.of_file(item) for item in inputs):
        key = str(source.folder / source.stem).lower()
        start = time.perf_counter()
        try:
            if key in taken:
                raise VolumeError(
                    f"{source.path} would write the same files as {taken[key]}; give each its own output "
                    f"folder or rename one"
                )
            taken[key] = source.path
            outcome = _segment_file(source, folder, model, overwrite, allow_ct, options)
        except Exception as error:
            message = failure_sentence(source.path, error)
            outcome = Outcome(str(source.path), status="failed", message=message)
            outcome = replace(outcome, details="".join(traceback.format_exception(error)))
        outcome = replace(outcome, seconds=time.perf_counter() - start)
        update_table(folder / TABLE, outcome)
        yield outcome


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
    if outcome.status == "failed" and any(rows[i]["status"] != "failed" for i in same):
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


def _segment_file(
    source: ScanSource, folder: Path, model: Model, overwrite: bool, allow_ct: bool, options: dict[str, Any]
) -> Outcome:
    """Segment one file and publish its results together."""
    stem, target = source.stem, folder / source.folder
    existing = [stem + ending for ending in _ENDINGS if (target / (stem + ending)).exists()]
    if existing and not overwrite:
        raise VolumeError(
            f"{source.path} has results already ({existing[0]} in {target}); use --overwrite to replace them"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", VolumeWarning)
        warnings.simplefilter("always", PredictionWarning)
        result = segment(source.load(allow_ct=allow_ct), model, **options)
    messages = list(dict.fromkeys(str(warning.message) for warning in caught))
    staging = Path(tempfile.mkdtemp(prefix=".anystroke-", dir=folder))
    try:
        result.mask.save(staging / f"{stem}_mask.nii.gz")
        result.probability.save(staging / f"{stem}_probseg.nii.gz")
        facts = sidecar(source.path, result, messages, options) | {"Sources": [source.uri]}
        for kind in ("mask", "probseg"):
            text = json.dumps(
                facts if kind == "mask" else _of_probability(facts), indent=2, ensure_ascii=False
            )
            (staging / f"{stem}_{kind}.json").write_text(text + "\n", encoding="utf-8")
        model_name = f"{result.model} {result.model_version}"
        title = f"{image_stem(source.path)}   {result.lesion_volume:.1f} ml   {model_name}"
        mosaic(result.scan, result.mask, staging / f"{stem}_mosaic.png", title=title)
        target.mkdir(parents=True, exist_ok=True)
        for ending in reversed(_ENDINGS):
            (staging / (stem + ending)).replace(target / (stem + ending))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Outcome(
        source=str(source.path),
        mask=str(source.folder / f"{stem}_mask.nii.gz"),
        volume=result.lesion_volume,
        lesions=result.lesion_count,
        status="warning" if messages else "ok",
        message="; ".join(messages),
    )


def sidecar(
    source: Path, result: Segmentation, messages: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """Collect what a mask's JSON sidecar says.

    Args:
        source: The input file.
        result: Its segmentation.
        messages: Warnings.
        options: What `segment` was called with.

    Returns:
        BIDS fields and those of anystroke.
    """
    return {
        "Description": "Stroke lesion found by a neural network; research use only, not a medical device",
        "Type": "Lesion",
        "Sources": [source.as_posix()],
        "SourceSHA256": sha256(source),
        "SpatialReference": "orig",
        "Manual": False,
        "GeneratedBy": [{"Name": "anystroke", "Version": version("anystroke")}],
        "Model": {"Name": result.model, "Version": result.model_version, "SHA256": result.model_sha256},
        "Threshold": result.threshold,
        "MinimumLesionVolume": options.get("min_volume", 0.0),
        "MirrorAveraging": bool(options.get("flip", False)),
        "LesionVolume": round(result.lesion_volume, 6),
        "LesionVolumeUnits": "ml",
        "LesionCount": result.lesion_count,
        "LesionConnectivity": 26,
        "Seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "TorchVersion": torch.__version__,
        "Warnings": messages,
    }


def _of_probability(facts: dict[str, Any]) -> dict[str, Any]:
    """Reduce a mask's sidecar to what is true of the probability map."""
    of_mask = ("Threshold", "MinimumLesionVolume", "LesionVolume", "LesionVolumeUnits", "LesionCount")
    kept = {key: value for key, value in facts.items() if key not in (*of_mask, "LesionConnectivity")}
    return kept | {
        "Description": "Probability (0 to 1) of stroke lesion; research use only, not a medical device"
    }


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
