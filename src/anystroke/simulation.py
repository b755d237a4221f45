"""Simulate scans into a folder: images with their truth, protocols and maps, one table, resumable."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anystroke.acquisition.protocols import load_preset
from anystroke.acquisition.sidecars import acquisition_fields, image_suffix
from anystroke.anatomy.anatomies import Anatomy, build_anatomy
from anystroke.anatomy.label_maps import load_label_map
from anystroke.anatomy.lesions import LesionMask, LesionSettings, Stage, blob_lesion, load_masks
from anystroke.anatomy.mni import mni_anatomy
from anystroke.datasets import DatasetError, images_in
from anystroke.files import atomic_path, sha256
from anystroke.rng import chance, log_uniform, stream, uniform
from anystroke.synthesis import CLASSES, Generator, Sample, SynthesisSettings
from anystroke.volume import Volume

TABLE = "samples.tsv"
RUN_FILE = "simulation.json"
COLUMNS = ("sample", "image", "mask", "segmentation", "anatomy", "lesions", "stage", "weighting", "lesion_ml")

_ABBREVIATIONS = {"background": "BG", "grey_matter": "GM", "white_matter": "WM", "csf": "CSF", "lesion": "L"}
_MAPS = {
    "proton_density": ("PDmap", "%", "Proton density, percent of that of water"),
    "r1": ("R1map", "1/s", "Longitudinal relaxation rate"),
    "r2": ("R2map", "1/s", "Transverse relaxation rate"),
    "r2star": ("R2starmap", "1/s", "Effective transverse relaxation rate"),
    "mt_saturation": ("MTsat", "%", "Magnetisation transfer saturation, percent units"),
}
# Made-up lesions: where their centres are in MNI mm (left or right), and their volume in ml.
_BLOB_CENTRE = ((22.0, 52.0), (-45.0, 35.0), (-8.0, 42.0))
_BLOB_VOLUME = (1.0, 120.0)
_POOR_REGISTRATION = 0.8


class SimulationError(ValueError):
    """A folder of simulated scans that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Request:
    """What to simulate.

    Attributes:
        label_maps: Label maps to make patients of; the MNI152 brain if there is none.
        lesions: Folder of lesion masks in MNI space; made-up lesions if None.
        count: Scans of each label map.
        stage: Age of the lesions; None draws it.
        seed: Sample number n depends on the seed, n and the inputs alone.
        maps: Whether to write the quantitative maps too.
        synthesis: What scans look like.
    """

    label_maps: tuple[Path, ...] = ()
    lesions: Path | None = None
    count: int = 1
    stage: Stage | None = None
    seed: int = 1
    maps: bool = False
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)

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
            "LabelMaps": [
                {"File": path.name, "SHA256": sha256(path) if path.is_file() else None}
                for path in self.label_maps
            ],
            "Lesions": {"Files": len(self.lesion_files), "SHA256": digest.hexdigest()},
            "Settings": self.synthesis.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Outcome:
    """What became of one sample, or of a label map that could not be used.

    Attributes:
        name: Stem of the sample's files, or the label map.
        status: ``"written"``, ``"kept"`` (it was there already) or ``"failed"``.
        row: The sample's row of the table; empty if it failed.
        message: Why it failed, or what else there is to say.
        samples: Number of samples that this outcome stands for.
    """

    name: str
    status: str
    row: Mapping[str, str]
    message: str = ""
    samples: int = 1


def simulate_files(request: Request, folder: str | Path, *, overwrite: bool = False) -> Iterator[Outcome]:
    """Simulate scans, one after the other; a label map that cannot be used does not stop the others.

    The table ``samples.tsv`` lists the finished samples. A folder that holds some samples of the very same
    run is completed.

    Args:
        request: What to simulate.
        folder: Where to write; made if missing.
        overwrite: Whether to throw away the samples of another run.

    Yields:
        The outcome of each sample, label map by label map, as soon as its files and its row are written.

    Raises:
        SimulationError: The folder holds other samples, and ``overwrite`` is False.
        DatasetError: The folder of lesions is missing or holds no lesion.
        ValueError: The preset has no such weighting.
        OSError: The folder cannot be written.

    Example:
        >>> request = Request(synthesis=SynthesisSettings(weighting="FLAIR"))
        >>> list(simulate_files(request, "simulated"))  # doctest: +SKIP
    """
    folder = Path(folder)
    preset = load_preset(request.synthesis.preset)
    preset.sample(stream(request.seed, "check"), weighting=request.synthesis.weighting)
    rows = _open_folder(request, folder, overwrite)
    generator: Generator | None = None
    sources: Sequence[Path | None] = request.label_maps or (None,)
    for place, source in enumerate(sources):
        numbers = [1 + place + k * len(sources) for k in range(request.count)]
        missing = [n for n in numbers if not _complete(folder, rows.get(_stem(n)))]
        for name in (_stem(n) for n in numbers if n not in missing):
            yield Outcome(name, "kept", rows[name])
        if not missing:
            continue
        generator = generator or Generator(request.synthesis, _load_lesions(request))
        try:
            anatomy, note = _open_anatomy(source)
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            message = text if str(source) in text else f"{source}: {text}"
            yield Outcome(str(source), "failed", {}, message, len(missing))
            continue
        for number in missing:
            sample = _simulate(generator, anatomy, request, number)
            rows[_stem(number)] = write_sample(sample, folder, _stem(number), maps=request.maps)
            _write_table(folder / TABLE, rows)
            yield Outcome(_stem(number), "written", rows[_stem(number)], note)
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
    image = f"{stem}_{image_suffix(sample.protocol)}"
    lesion = sample.target == CLASSES.index("lesion")
    mask = Volume(lesion[None], sample.affine)
    lesion_ml = float(lesion.sum()) * mask.voxel_volume
    facts: dict[str, Any] = {
        "Description": "Simulated scan; not of a person",
        **acquisition_fields(sample.protocol),
        "LesionVolume": round(lesion_ml, 6),
        "LesionVolumeUnits": "ml",
        "GeneratedBy": [{"Name": "anystroke", "Version": version("anystroke")}],
        "TorchVersion": torch.__version__,
        "Record": sample.record,
    }
    staging = Path(tempfile.mkdtemp(prefix=".anystroke-", dir=folder))
    try:
        Volume(sample.image[None], sample.affine).save(staging / f"{image}.nii.gz")
        mask.save(staging / f"{stem}_label-L_mask.nii.gz")
        Volume(sample.target[None], sample.affine).save(staging / f"{stem}_dseg.nii.gz", dtype=torch.uint8)
        (staging / f"{stem}_dseg.tsv").write_text(_class_table(), encoding="utf-8")
        _write_json(staging / f"{image}.json", facts)
        for name, (suffix, units, description) in _MAPS.items() if maps else ():
            Volume(sample.maps[name][None], sample.affine).save(staging / f"{stem}_{suffix}.nii.gz")
            _write_json(staging / f"{stem}_{suffix}.json", {"Units": units, "Description": description})
        for path in sorted(staging.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    values = (
        stem,
        f"{image}.nii.gz",
        f"{stem}_label-L_mask.nii.gz",
        f"{stem}_dseg.nii.gz",
        sample.record["anatomy"],
        ",".join(sample.record["lesions"]) or "n/a",
        sample.record["stage"] if sample.record["lesions"] else "n/a",
        sample.protocol.weighting,
        f"{lesion_ml:.3f}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def random_blob(settings: LesionSettings, *, rng: torch.Generator) -> list[LesionMask]:
    """Draw the made-up lesion of one patient: none, or one in either hemisphere.

    Args:
        settings: Says how often there is none.
        rng: Random stream.

    Returns:
        No mask or one.

    Example:
        >>> len(random_blob(LesionSettings(absent=0.0), rng=stream(1, "lesion")))
        1
    """
    if chance(rng, settings.absent):
        return []
    x, y, z = (uniform(rng, low, high) for low, high in _BLOB_CENTRE)
    side = -1.0 if chance(rng, 0.5) else 1.0
    volume = log_uniform(rng, *_BLOB_VOLUME)
    name = f"blob_{side * x:+.0f}{y:+.0f}{z:+.0f}_{volume:.0f}ml"
    return [blob_lesion(centre=(side * x, y, z), volume_ml=volume, rng=rng, name=name)]


def _stem(number: int) -> str:
    return f"sim-{number:04d}"


def _simulate(generator: Generator, anatomy: Anatomy, request: Request, number: int) -> Sample:
    """Simulate sample ``number``; a draw whose field of view misses the head is drawn anew."""
    rng = stream(request.seed, "simulate", number)
    while True:
        lesions = None
        if request.lesions is None:
            lesions = random_blob(request.synthesis.lesions, rng=rng)
        sample = generator(anatomy, lesions, rng=rng, stage=request.stage)
        if float(sample.image.max()) > float(sample.image.min()):
            return sample


def _load_lesions(request: Request) -> list[LesionMask]:
    masks = load_masks(request.lesion_files)
    if request.lesions is not None and not masks:
        raise DatasetError(
            f"expected lesion masks in {request.lesions}, but none of its {len(request.lesion_files)} images "
            "holds a lesion; name another folder"
        )
    return masks


def _open_anatomy(source: Path | None) -> tuple[Anatomy, str]:
    """Make an anatomy of a label map, and say so if it had to be registered."""
    if source is None:
        return mni_anatomy(), ""
    # nilearn and SimpleITK take seconds to import, and the MNI brain needs no registration.
    from anystroke.anatomy.registration import (
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


def _open_folder(request: Request, folder: Path, overwrite: bool) -> dict[str, dict[str, str]]:
    """Make the folder one of this run, and return the rows of the samples that it holds already."""
    identity = request.identity()
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path for path in folder.glob("sim-*") if path.is_file())
    started = folder / RUN_FILE
    if started.exists():
        try:
            earlier = json.loads(started.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            earlier = {}
        changed = [key for key, value in identity.items() if earlier.get(key) != value]
        if not changed and not overwrite:
            return _read_table(folder / TABLE)
        if not overwrite:
            raise SimulationError(
                f"{folder} holds samples of another run ({', '.join(changed)} differ); name another folder "
                "or use --overwrite to replace them"
            )
    elif found and not overwrite:
        raise SimulationError(
            f"{folder} holds files that simulated scans would replace ({found[0].name}) and no {RUN_FILE}; "
            "name another folder or use --overwrite"
        )
    for row in _read_table(folder / TABLE).values():
        for path in folder.glob(f"{row['sample']}_*"):
            path.unlink()
    (folder / TABLE).unlink(missing_ok=True)
    with atomic_path(started, overwrite=True) as temporary:
        _write_json(temporary, identity)
    return {}


def _complete(folder: Path, row: Mapping[str, str] | None) -> bool:
    return row is not None and all((folder / row[key]).is_file() for key in ("image", "mask", "segmentation"))


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if tuple(header.split("\t")) != COLUMNS or any(line.count("\t") != len(COLUMNS) - 1 for line in lines):
        raise SimulationError(
            f"{path} is not a table of simulated scans; move it away or name another folder"
        )
    rows = (dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines)
    return {row["sample"]: row for row in rows}


def _write_table(path: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(row[key] for key in COLUMNS) for _, row in sorted(rows.items())]
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _class_table() -> str:
    lines = ["index\tname\tabbreviation"]
    lines += [f"{index}\t{name}\t{_ABBREVIATIONS[name]}" for index, name in enumerate(CLASSES)]
    return "\n".join(lines) + "\n"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
