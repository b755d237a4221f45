"""Simulate scans into a folder: images with their truth, protocols and maps, one table, resumable."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from anystroke.acquisition.presets.preset import load_preset
from anystroke.anatomy.lesions.bank import LesionMask, load_masks
from anystroke.anatomy.lesions.made_up import random_blob
from anystroke.anatomy.lesions.stages import Stage
from anystroke.anatomy.tissues.anatomies import Anatomy, build_anatomy
from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path, sha256
from anystroke.core.rng import stream
from anystroke.core.volume import VolumeError
from anystroke.io.datasets import DatasetError, images_in
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.nnunet import (
    DESCRIPTION,
    ENDING,
    IMAGES,
    LABELS,
    RECORDS,
    check_dataset_folder,
    write_case,
    write_description,
)
from anystroke.simulation.patient_files import COLUMNS, write_json, write_scans
from anystroke.simulation.settings import SynthesisSettings

TABLE = "samples.tsv"
RUN_FILE = "simulation.json"
Format = Literal["bids", "nnunet"]
FORMATS: tuple[Format, ...] = ("bids", "nnunet")

_POOR_REGISTRATION = 0.8
_ANY = "any"
_STEM = re.compile(r"sim-\d{4,}")
_Rows = dict[str, list[dict[str, str]]]


class SimulationError(AnystrokeError):
    """A folder of simulated scans that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Request:
    """What to simulate.

    Attributes:
        label_maps: Label maps to make patients of; the MNI152 brain if there is none.
        lesions: Folder of lesion masks in MNI space; made-up lesions if None.
        count: Patients of each label map.
        stage: Age of the lesions; None draws it.
        seed: Patient number n depends on the seed, n and the inputs alone.
        maps: Whether to write the quantitative maps too.
        synthesis: What scans look like.
        weightings: One scan of each patient for each of them; one of the weighting of ``synthesis`` if empty.
        format: ``"bids"``, files side by side with BIDS suffixes; or ``"nnunet"``, an nnU-Net raw data set
            whose channels are the weightings.
        all_classes: Whether the labels of nnU-Net are tissue classes and lesion, not lesion alone.

    Raises:
        SimulationError: Values that do not go together.
    """

    label_maps: tuple[Path, ...] = ()
    lesions: Path | None = None
    count: int = 1
    stage: Stage | None = None
    seed: int = 1
    maps: bool = False
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)
    weightings: tuple[str, ...] = ()
    format: Format = "bids"
    all_classes: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise SimulationError(f"the format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if doubles := sorted({name for name in self.weightings if self.weightings.count(name) > 1}):
            raise SimulationError(
                f"each weighting can be named once, got {', '.join(self.weightings)}; name {doubles[0]} once"
            )
        if self.maps and self.format == "nnunet":
            raise SimulationError("an nnU-Net data set has no place for maps; use the format bids for them")
        if self.all_classes and self.format == "bids":
            raise SimulationError(
                "all classes are always written in the format bids; use nnunet or leave it out"
            )

    @property
    def channels(self) -> tuple[str | None, ...]:
        """The weighting of each scan of a patient; None is any."""
        return self.weightings or (self.synthesis.weighting,)

    @cached_property
    def lesion_files(self) -> tuple[Path, ...]:
        """The images in the folder of lesions.

        Raises:
            DatasetError: The folder is missing or holds no image.
        """
        return () if self.lesions is None else tuple(images_in(self.lesions))

    def identity(self) -> dict[str, Any]:
        """Everything that decides what a sample looks like, with hashes of the inputs; plain values."""
        digest = hashlib.sha256()
        for path in self.lesion_files:
            digest.update(f"{path.name} {sha256(path)}\n".encode())
        return {
            "GeneratedBy": [{"Name": "anystroke", "Version": version("anystroke")}],
            "Seed": self.seed,
            "Stage": self.stage,
            "Maps": self.maps,
            "Weightings": list(self.weightings),
            "Format": self.format,
            "AllClasses": self.all_classes,
            "LabelMaps": [
                {"File": path.name, "SHA256": sha256(path) if path.is_file() else None}
                for path in self.label_maps
            ],
            "Lesions": {"Files": len(self.lesion_files), "SHA256": digest.hexdigest()},
            "Settings": self.synthesis.model_dump(mode="json"),
            "Tables": {
                name: sha256(Path(name))
                for name in (self.synthesis.preset, self.synthesis.priors)
                if Path(name).is_file()
            },
        }


@dataclass(frozen=True)
class Outcome:
    """What became of one scan, or of a label map that could not be used.

    Attributes:
        name: Stem of the patient's files, or the label map.
        status: ``"written"``, ``"kept"`` (it was there already) or ``"failed"``.
        row: The scan's row of the table; empty if it failed.
        message: Why it failed, or what else there is to say.
        samples: Number of scans that this outcome stands for.
    """

    name: str
    status: str
    row: Mapping[str, str]
    message: str = ""
    samples: int = 1


def simulate_files(request: Request, folder: str | Path, *, overwrite: bool = False) -> Iterator[Outcome]:
    """Simulate patients, one after the other; a label map that cannot be used does not stop the others.

    The table ``samples.tsv`` lists the finished scans. A folder that holds some patients of the very same
    run is completed.

    Args:
        request: What to simulate.
        folder: Where to write; made if missing. For nnU-Net it is the data set, such as Dataset501_Stroke.
        overwrite: Whether to throw away the patients of another run.

    Yields:
        The outcome of each scan, label map by label map, as soon as its patient's files and rows are written.

    Raises:
        SimulationError: The folder holds other samples, and ``overwrite`` is False; or it cannot be written.
        NnunetError: nnU-Net could not read a data set in a folder of that name.
        DatasetError: The folder of lesions is missing or holds no lesion.
        ValueError: The preset has no such weighting.
        OSError: The folder cannot be made.

    Example:
        >>> request = Request(weightings=("T1w", "FLAIR"))
        >>> list(simulate_files(request, "simulated"))  # doctest: +SKIP
    """
    folder = Path(folder)
    preset = load_preset(request.synthesis.preset)
    for weighting in request.channels:
        preset.sample(stream(request.seed, "check"), weighting=weighting)
    if request.format == "nnunet":
        check_dataset_folder(folder)
    rows = _open_folder(request, folder, overwrite)
    generator: Generator | None = None
    sources: Sequence[Path | None] = request.label_maps or (None,)
    for place, source in enumerate(sources):
        numbers = [1 + place + k * len(sources) for k in range(request.count)]
        missing = [n for n in numbers if _stem(n) not in rows]
        for name in (_stem(n) for n in numbers if n not in missing):
            yield from (Outcome(name, "kept", row) for row in rows[name])
        if not missing:
            continue
        generator = generator or Generator(request.synthesis, _load_lesions(request))
        try:
            anatomy, note = open_anatomy(source)
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            message = text if str(source) in text else f"{source}: {text}"
            yield Outcome(str(source), "failed", {}, message, len(missing) * len(request.channels))
            continue
        for number in missing:
            scans = _simulate(generator, anatomy, request, number)
            _publish(scans, request, folder, _stem(number), rows)
            for row in rows[_stem(number)]:
                yield Outcome(_stem(number), "written", row, note)
                note = ""


def write_sample(sample: Sample, folder: Path, stem: str, *, maps: bool = False) -> dict[str, str]:
    """Write one sample, in place of an earlier one of its name: image, truth and sidecars.

    Args:
        sample: What was simulated.
        folder: An existing folder.
        stem: Begin of the files' names.
        maps: Whether to write the quantitative maps too.

    Returns:
        Its row of the table of samples.

    Raises:
        OSError: The folder cannot be written.

    Example:
        >>> write_sample(sample, Path("simulated"), "sim-0001")["lesion_ml"]  # doctest: +SKIP
        '31.440'
    """
    [row] = write_scans([sample], folder, stem, maps=maps)
    return row


def _stem(number: int) -> str:
    return f"sim-{number:04d}"


def _simulate(generator: Generator, anatomy: Anatomy, request: Request, number: int) -> list[Sample]:
    """Simulate patient ``number``; a draw in which a field of view misses the head is drawn anew."""
    rng = stream(request.seed, "simulate", number)
    while True:
        lesions = None
        if request.lesions is None:
            lesions = random_blob(request.synthesis.lesions, rng=rng)
        scans = generator.session(anatomy, lesions, weightings=request.channels, rng=rng, stage=request.stage)
        if all(float(scan.image.max()) > float(scan.image.min()) for scan in scans):
            return scans


def _publish(scans: Sequence[Sample], request: Request, folder: Path, stem: str, rows: _Rows) -> None:
    """Write a patient's files, then what lists them."""
    try:
        if request.format == "nnunet":
            rows[stem] = write_case(scans, folder, stem, all_classes=request.all_classes)
        else:
            rows[stem] = write_scans(scans, folder, stem, maps=request.maps)
        _write_table(folder / TABLE, rows)
        _describe(request, folder, rows)
    except (OSError, VolumeError) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or str(cause)
        raise SimulationError(
            f"cannot write {stem} to {folder} ({reason}); what was finished is kept, mend that and run again"
        ) from error


def _describe(request: Request, folder: Path, rows: _Rows) -> None:
    if request.format == "nnunet":
        channels = [channel or _ANY for channel in request.channels]
        write_description(folder, channels=channels, cases=len(rows), all_classes=request.all_classes)


def _load_lesions(request: Request) -> list[LesionMask]:
    masks = load_masks(request.lesion_files)
    if request.lesions is not None and not masks:
        raise DatasetError(
            f"expected lesion masks in {request.lesions}, but none of its {len(request.lesion_files)} images "
            "holds a lesion; name another folder"
        )
    return masks


def open_anatomy(source: Path | None) -> tuple[Anatomy, str]:
    """Make an anatomy of a label map, registered to MNI space if its registration is not stored.

    Args:
        source: The label map; None for the MNI152 brain.

    Returns:
        The anatomy, and a sentence if it had to be registered.

    Raises:
        ValueError: The file is no label map that can be used.
        OSError: It cannot be read.

    Example:
        >>> open_anatomy(None)[0].name
        'mni152'
    """
    if source is None:
        return mni_anatomy(), ""
    # nilearn and SimpleITK take seconds to import, and the MNI brain needs no registration.
    from anystroke.anatomy.registration.affine import (
        RegistrationError,
        file_stem,
        register_to_mni,
        stored_registration,
    )

    labels, scheme = load_label_map(source)
    name = file_stem(source)
    anatomy = build_anatomy(labels, scheme, torch.eye(4), name=name)
    # Registration takes longest, so it comes when all else is known to be right.
    note = ""
    try:
        registration = stored_registration(source)
    except RegistrationError:
        registration = register_to_mni(labels, scheme)
        dice = registration.brain_dice
        note = f"{source} was registered to MNI space (Dice of the brain {dice:.2f})"
        if dice < _POOR_REGISTRATION:
            note += "; that is poor, lesions may lie in odd places"
    return Anatomy(name, anatomy.tissues, registration.affine), note


def _open_folder(request: Request, folder: Path, overwrite: bool) -> _Rows:
    """Make the folder one of this run, and return the rows of the patients that are there already, whole."""
    identity = request.identity()
    started = folder / RUN_FILE
    if started.exists():
        try:
            earlier = json.loads(started.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            earlier = {}
        changed = [key for key, value in identity.items() if earlier.get(key) != value]
        if not changed and not overwrite:
            rows = {
                name: row
                for name, row in _read_table(folder / TABLE).items()
                if _complete(folder, row, len(request.channels))
            }
            if rows:
                _describe(request, folder, rows)
            return rows
        if not overwrite:
            raise SimulationError(
                f"{folder} holds samples of another run ({', '.join(changed)} differ); name another folder "
                "or use --overwrite to replace them"
            )
        if earlier.get("Format") == "nnunet":
            _clear_cases(folder)
    else:
        _refuse_foreign(request, folder, overwrite)
    for name in _read_table(folder / TABLE):
        for path in folder.glob(f"{name}_*"):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).unlink(missing_ok=True)
    with atomic_path(started, overwrite=True) as temporary:
        write_json(temporary, identity)
    return {}


def _refuse_foreign(request: Request, folder: Path, overwrite: bool) -> None:
    """Refuse a folder without a run in which there is what a run would write."""
    if request.format == "nnunet":
        # Other cases among ours would be trained on, so that --overwrite is no cure.
        names = (DESCRIPTION, IMAGES, LABELS, RECORDS)
        if found := [name for name in names if (folder / name).exists()]:
            raise SimulationError(
                f"{folder} holds a data set that anystroke did not make ({found[0]}); name another folder"
            )
        return
    files = sorted(path for path in folder.glob("sim-*") if path.is_file())
    if files and not overwrite:
        raise SimulationError(
            f"{folder} holds files that simulated scans would replace ({files[0].name}) and no {RUN_FILE}; "
            "name another folder or use --overwrite"
        )


def _clear_cases(folder: Path) -> None:
    """Delete the cases of an earlier run as an nnU-Net data set."""
    (folder / DESCRIPTION).unlink(missing_ok=True)
    for name, ending in ((IMAGES, ENDING), (LABELS, ENDING), (RECORDS, ".json")):
        for path in (folder / name).glob(f"sim-*{ending}"):
            path.unlink()
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()


def _complete(folder: Path, rows: Sequence[Mapping[str, str]], images: int) -> bool:
    files = {row[key] for row in rows for key in ("image", "mask", "segmentation")} - {"n/a"}
    return len(rows) == images and all((folder / name).is_file() for name in files)


def _read_table(path: Path) -> _Rows:
    if not path.exists():
        return {}
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    found: _Rows = {}
    cells = [line.split("\t") for line in lines]
    if tuple(header.split("\t")) != COLUMNS or any(
        len(line) != len(COLUMNS) or not _STEM.fullmatch(line[0]) for line in cells
    ):
        raise SimulationError(
            f"{path} is not a table of simulated scans; move it away or name another folder"
        )
    for line in cells:
        found.setdefault(line[0], []).append(dict(zip(COLUMNS, line, strict=True)))
    return found


def _write_table(path: Path, rows: _Rows) -> None:
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(row[key] for key in COLUMNS) for name in sorted(rows) for row in rows[name]]
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
