"""Simulate scans into a folder: images with their truth, protocols and maps, one table, resumable."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
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
from anystroke.core.files import sha256
from anystroke.core.rng import stream
from anystroke.core.tables import GrowingTable, write_table
from anystroke.core.volume import VolumeError
from anystroke.io.datasets import DatasetError, images_in
from anystroke.io.results import BIDS_VERSION, Outcome, ResultFolder, Status, generated_by
from anystroke.simulation.bids_dataset import clear_patient, describe_simulated, finish_image, place_of
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.nnunet import (
    DATASET_FILE,
    ENDING,
    IMAGES,
    LABELS,
    RECORDS,
    check_dataset_folder,
    write_case,
    write_description,
)
from anystroke.simulation.patient_files import SAMPLE_COLUMNS, write_scans
from anystroke.simulation.settings import SynthesisSettings

SAMPLES_TABLE = "samples.tsv"
RUN_FILE = "simulation.json"
Format = Literal["bids", "nnunet"]
FORMATS: tuple[Format, ...] = ("bids", "nnunet")

_ANY = "any"
_STEM = re.compile(r"(?:sim|sub)-\d{4,}")
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
        format: ``"bids"``, a BIDS data set; or ``"nnunet"``, an nnU-Net raw data set whose channels are the
            weightings.
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

    def stem(self, number: int) -> str:
        """Return what a patient is called."""
        return f"{'sub' if self.format == 'bids' else 'sim'}-{number:04d}"

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
            "GeneratedBy": generated_by(),
            "Seed": self.seed,
            "Stage": self.stage,
            "Maps": self.maps,
            "Weightings": list(self.weightings),
            "Format": self.format,
            **({"BIDSVersion": BIDS_VERSION} if self.format == "bids" else {}),
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


def simulate_files(request: Request, folder: str | Path, *, overwrite: bool = False) -> Iterator[Outcome]:
    """Simulate patients, one after the other; a label map that cannot be used does not stop the others.

    The table ``samples.tsv`` lists the finished scans. A folder that holds some patients of the very same
    run is completed.

    Args:
        request: What to simulate.
        folder: Where to write; made if missing. For nnU-Net it is the data set, such as Dataset501_Stroke.
        overwrite: Whether to throw away the patients of another run.

    Yields:
        The outcome of each scan, label map by label map, as soon as its patient's files and rows are written:
        the image first among its files, its row of the table in its details; of a label map that cannot be
        used, how many ``samples`` it would have given.

    Raises:
        ResultError: The folder holds other samples, and ``overwrite`` is False.
        SimulationError: It cannot be written.
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
    results = ResultFolder(folder, request.identity(), manifest=RUN_FILE)
    table = _Patients(request, results)
    clear = partial(table.clear, overwrite=overwrite)
    if results.claim(clear, overwrite=overwrite) and table.rows:
        _describe(request, folder, table.rows)
    generator: Generator | None = None
    sources: Sequence[Path | None] = request.label_maps or (None,)
    for place, source in enumerate(sources):
        numbers = [1 + place + k * len(sources) for k in range(request.count)]
        missing = [n for n in numbers if request.stem(n) not in table.rows]
        for name in (request.stem(n) for n in numbers if n not in missing):
            yield from (_outcome(name, "kept", row) for row in table.rows[name])
        if not missing:
            continue
        generator = generator or Generator(request.synthesis, _load_lesions(request))
        try:
            anatomy, note = open_anatomy(source)
        except (ValueError, OSError) as error:
            samples = len(missing) * len(request.channels)
            yield Outcome.of_failure(str(source), str(source), error, {"samples": samples})
            continue
        for number in missing:
            scans = _simulate(generator, anatomy, request, number)
            stem = request.stem(number)
            _publish(scans, request, folder, stem, table)
            for row in table.rows[stem]:
                yield _outcome(stem, "done", row, note)
                note = ""


def _outcome(name: str, status: Status, row: Mapping[str, str], note: str = "") -> Outcome:
    files = tuple(row[key] for key in ("image", "mask", "segmentation") if row[key] != "n/a")
    return Outcome(name, status, files, (note,) if note else (), row)


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


def _publish(scans: Sequence[Sample], request: Request, folder: Path, stem: str, table: "_Patients") -> None:
    """Write a patient's files, then what lists them."""
    try:
        if request.format == "nnunet":
            rows = write_case(scans, folder, stem, all_classes=request.all_classes)
        else:
            rows = write_scans(scans, folder, stem, maps=request.maps, place=place_of, on_image=finish_image)
        table.add(stem, rows)
        _describe(request, folder, table.rows)
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
    else:
        describe_simulated(folder, rows)


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
    from anystroke.anatomy.registration.affine import file_stem, registration_of

    labels, scheme = load_label_map(source)
    name = file_stem(source)
    anatomy = build_anatomy(labels, scheme, torch.eye(4), name=name)
    # Registration takes longest, so it comes when all else is known to be right.
    registration, note = registration_of(source, labels, scheme)
    return Anatomy(name, anatomy.tissues, registration.affine), note


class _Patients:
    """The table of the patients in a folder: those that are whole, by name."""

    def __init__(self, request: Request, results: ResultFolder) -> None:
        self.request, self.folder = request, results.folder
        self.table = GrowingTable(self.folder / SAMPLES_TABLE, SAMPLE_COLUMNS)
        self.rows = {name: rows for name, rows in self._listed().items() if self._is_whole(rows)}

    def _listed(self) -> _Rows:
        found: _Rows = {}
        for row in self.table.read():
            if not _STEM.fullmatch(row["sample"]):
                raise SimulationError(
                    f"{self.table.path} is no table of simulated scans; move it away or name another folder"
                )
            found.setdefault(row["sample"], []).append(row)
        return found

    def _is_whole(self, rows: Sequence[Mapping[str, str]]) -> bool:
        files = {row[key] for row in rows for key in ("image", "mask", "segmentation")} - {"n/a"}
        images = len(self.request.channels)
        return len(rows) == images and all((self.folder / name).is_file() for name in files)

    def add(self, stem: str, rows: list[dict[str, str]]) -> None:
        """List a patient whose files are written."""
        self.rows[stem] = rows
        listed = (row for name in sorted(self.rows) for row in self.rows[name])
        write_table(self.table.path, SAMPLE_COLUMNS, listed)

    def clear(self, earlier: Mapping[str, Any], *, overwrite: bool) -> None:
        """Delete the patients of another run; refuse what nobody knows whose it is."""
        if not earlier:
            _refuse_foreign(self.request, self.folder, overwrite)
        if earlier.get("Format") == "nnunet":
            _clear_cases(self.folder)
        for name in self._listed():
            clear_patient(self.folder, name)
            for path in self.folder.glob(f"{name}_*"):
                path.unlink()
        self.table.path.unlink(missing_ok=True)
        self.rows = {}


def _refuse_foreign(request: Request, folder: Path, overwrite: bool) -> None:
    """Refuse a folder without a run in which there is what a run would write."""
    if request.format == "nnunet":
        # Other cases among ours would be trained on, so that --overwrite is no cure.
        names = (DATASET_FILE, IMAGES, LABELS, RECORDS)
        if found := [name for name in names if (folder / name).exists()]:
            raise SimulationError(
                f"{folder} holds a data set that anystroke did not make ({found[0]}); name another folder"
            )
        return
    files = sorted(folder.glob("sub-*"))
    if files and not overwrite:
        raise SimulationError(
            f"{folder} holds files that simulated scans would replace ({files[0].name}) and no {RUN_FILE}; "
            "name another folder or use --overwrite"
        )


def _clear_cases(folder: Path) -> None:
    """Delete the cases of an earlier run as an nnU-Net data set."""
    (folder / DATASET_FILE).unlink(missing_ok=True)
    for name, ending in ((IMAGES, ENDING), (LABELS, ENDING), (RECORDS, ".json")):
        for path in (folder / name).glob(f"sim-*{ending}"):
            path.unlink()
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()
