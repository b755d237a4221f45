"""Fixed simulated patients that differ in one thing at a time, for the benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anystroke.anatomy.lesions.bank import LesionSettings, blob_lesion
from anystroke.anatomy.lesions.stages import Stage
from anystroke.anatomy.lesions.visibility import contrast_band, visible_truth
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.deformation import DeformationSettings
from anystroke.core.errors import AnystrokeError
from anystroke.core.fields import GridShape
from anystroke.core.rng import chance, integer, stream, uniform
from anystroke.core.staging import staged
from anystroke.core.tables import Cell, GrowingTable
from anystroke.core.volume import Volume
from anystroke.corruption.noise import noise_sd, rician
from anystroke.corruption.resolution import acquire, at_acquired_resolution, restore, slice_grid
from anystroke.io.results import ResultFolder
from anystroke.simulation.cohorts import Cohort, Member, contrast_to_noise, lesion_ml
from anystroke.simulation.files import open_anatomy
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.healthy import NOTHING
from anystroke.simulation.settings import SynthesisSettings

BENCHMARK_SEQUENCES = ("T1w", "T2w", "FLAIR", "DWI")
BENCHMARK_SIZES_ML = (0.0, 1.0, 5.0, 60.0)
SCANS, DESIGN = "scans.tsv", "scans.json"
BENCHMARK_SPACING = 2.0
BENCHMARK_SHAPE: GridShape = (96, 112, 96)
_COLUMNS = (
    "id", "patient", "anatomy", "factor", "level", "sequence", "stage", "size_ml", "slice_mm", "snr", "head",
    "lesion_ml", "contrast_to_noise", "contrast",
)  # fmt: skip
_NOISELESS = 1e6


class BenchmarkError(AnystrokeError):
    """A benchmark that cannot be run; the message says why and what to do."""


@dataclass(frozen=True)
class Condition:
    """What one scan of a patient is like.

    Attributes:
        sequence: Weighting of the protocol.
        stage: Age of the lesion.
        size_ml: Volume of the lesion in MNI space; 0 for none. The patient's own head is larger or smaller.
        slice_mm: Slice thickness, without gaps; that of the voxels means none.
        snr: White matter over the noise SD of one channel.
        head: ``"whole"``, or the ``"brain"`` alone.
        factor: What differs from the patient's standard scan of that sequence; empty for that scan itself.
        level: How it differs.
    """

    sequence: str
    stage: Stage = "chronic"
    size_ml: float = 20.0
    slice_mm: float = BENCHMARK_SPACING
    snr: float = 40.0
    head: str = "whole"
    factor: str = ""
    level: str = ""

    @property
    def name(self) -> str:
        """Suffix of the scan's name."""
        return f"{self.factor or 'standard'}{self.level.replace(' ', '').replace('.', 'p')}_{self.sequence}"


def conditions(sequences: Sequence[str] = BENCHMARK_SEQUENCES) -> list[Condition]:
    """Return the scans of one patient: for each sequence the standard one, and one for each changed factor.

    Example:
        >>> [one.level for one in conditions(["FLAIR"]) if one.factor == "noise"]
        ['SNR 15']
    """
    found = []
    for sequence in sequences:
        standard = Condition(sequence)
        found.append(standard)
        found += [
            replace(standard, size_ml=ml, factor="size", level=f"{ml:g} ml") for ml in BENCHMARK_SIZES_ML
        ]
        stages: tuple[Stage, ...] = ("acute", "subacute")
        found += [replace(standard, stage=stage, factor="stage", level=stage) for stage in stages]
        found.append(replace(standard, slice_mm=6.0, factor="resolution", level="6 mm slices"))
        found.append(replace(standard, snr=15.0, factor="noise", level="SNR 15"))
        found.append(replace(standard, head="brain", factor="head", level="stripped"))
    return found


@dataclass(frozen=True)
class Design:
    """What the benchmark's patients are; two of one design have the same scans to the bit.

    Attributes:
        patients: Of each anatomy.
        sequences: Which.
        seed: Decides all that is random.
        labels: Folders or files of label maps; each makes patients beside those of the package's own brain.
        shape: Voxels of the scans, 2 mm each.
    """

    patients: int = 3
    sequences: tuple[str, ...] = BENCHMARK_SEQUENCES
    seed: int = 20260
    labels: tuple[Path, ...] = ()
    shape: GridShape = BENCHMARK_SHAPE

    def sources(self) -> list[Path | None]:
        """Return the label maps; None is the package's own brain.

        Raises:
            BenchmarkError: A folder holds none.
        """
        found: list[Path | None] = [None]
        for place in self.labels:
            files = [place] if place.is_file() else sorted(p for p in place.glob("*.nii*") if p.is_file())
            if not files:
                raise BenchmarkError(f"expected label maps (.nii, .nii.gz) in {place}, but there are none")
            found += files
        return found

    def identity(self) -> dict[str, Any]:
        """Everything that decides the scans, as plain values."""
        return {
            "Version": version("anystroke"),
            **asdict(self),
            "labels": [str(path) for path in self.sources() if path is not None],
            "shape": list(self.shape),
            "sequences": list(self.sequences),
        }


def simulate_scans(design: Design, folder: Path, *, overwrite: bool = False) -> Iterator[tuple[str, str]]:
    """Simulate the patients' scans into a folder; what is there of the same design is kept.

    Args:
        design: What to simulate.
        folder: Gets ``<id>.nii.gz`` and ``<id>_label-L_mask.nii.gz`` of each scan, and ``scans.tsv``.
        overwrite: Replace the scans of another design.

    Yields:
        Name of each scan, and a note if there is one.

    Raises:
        ResultError: The folder holds scans of another design.
        BenchmarkError: A label map cannot be used.
    """
    results = ResultFolder(folder, design.identity(), manifest=DESIGN)

    def clear(_earlier: Mapping[str, Any]) -> None:
        for path in [*folder.glob("*.nii.gz"), folder / SCANS]:
            path.unlink(missing_ok=True)

    results.claim(clear, overwrite=overwrite and not results.is_same_run)
    table = GrowingTable(folder / SCANS, _COLUMNS)
    done = {row["id"] for row in table.read() if (folder / f"{row['id']}.nii.gz").exists()}
    for source in design.sources():
        wanted = [
            (f"{_source_name(source)}-{number}", number, condition)
            for number in range(1, design.patients + 1)
            for condition in conditions(design.sequences)
        ]
        if all(_scan_id(patient, condition) in done for patient, _, condition in wanted):
            yield from ((_scan_id(patient, condition), "") for patient, _, condition in wanted)
            continue
        try:
            anatomy, note = open_anatomy(source)
        except (ValueError, OSError) as error:
            raise BenchmarkError(f"{source}: {' '.join(str(error).split())}") from error
        for patient, number, condition in wanted:
            name = _scan_id(patient, condition)
            if name not in done:
                sample = simulate_scan(anatomy, condition, design, number)
                table.put([_save(sample, folder, name, patient, condition)], key="id")
            yield name, note
            note = ""


def simulate_scan(anatomy: Anatomy, condition: Condition, design: Design, number: int) -> Sample:
    """Simulate one scan; of two conditions of a patient, only what differs between them differs.

    Args:
        anatomy: Whose.
        condition: What the scan is like.
        design: Of the benchmark.
        number: Of the patient.
    """
    key = integer(stream(design.seed, "benchmark", anatomy.name, number), 0, 2**62)
    centre = _lesion_centre(stream(key, "centre"))
    lesions = []
    if condition.size_ml:
        rng = stream(key, "lesion")
        lesions = [blob_lesion(centre=centre, volume_ml=condition.size_ml, rng=rng, name="blob")]
    settings = SynthesisSettings(
        shapes=(design.shape,),
        spacing=BENCHMARK_SPACING,
        lesions=LesionSettings(
            absent=0, several=0, mirror=0, level=0, penumbra=0, haemorrhage=0,
            shape=DeformationSettings(
                rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0
            ),
        ),
        mass_effect=0, cut=0, defaced=0, clear_air=0, skull_strip=float(condition.head == "brain"),
        snr=(_NOISELESS, _NOISELESS), several_channels=0, thick_slices=0, few_lines=0, motion=0, ghosts=0,
        spikes=0, clipped=0, surface_coils=0, uneven_slices=0, healthy=NOTHING,
    )  # fmt: skip
    patient = Member(
        partial(Generator(settings).generate, stage=condition.stage, weighting=condition.sequence),
        ("benchmark", anatomy.name, number),
        lesions=lambda _: lesions,
        key=key,
    )
    sample = Cohort([anatomy], [patient], design.seed).patient(0)
    return _acquire(sample, condition, stream(key, "acquire"))


def _acquire(sample: Sample, condition: Condition, rng: torch.Generator) -> Sample:
    """Add slices and noise, which nothing else depends on, and tell what can be seen then."""
    image = sample.image
    brain = image > 0 if condition.head == "brain" else None
    slices = None
    if condition.slice_mm > BENCHMARK_SPACING:
        slices = slice_grid(
            image.shape[2],
            spacing=BENCHMARK_SPACING,
            thickness=condition.slice_mm,
            distance=condition.slice_mm,
            offset=0.25,
        )
    white = sample.target == CLASSES.index("white_matter")
    sd = noise_sd(image, white, snr=condition.snr)
    grids = (None, None, slices)
    image = at_acquired_resolution(image, grids, noise=lambda low: rician(low, sd=sd, rng=rng))
    if brain is not None:
        image = image * brain
    lesion, change = sample.target == CLASSES.index("lesion"), sample.change
    if change is None:
        return replace(sample, image=image)
    seen = visible_truth(
        lesion,
        restore(acquire(change, grids), grids),
        image,
        white,
        spacing=BENCHMARK_SPACING,
        visible_from=SynthesisSettings().visible_from,
    )
    record = {**sample.record, "visibility": seen.lesions}
    return replace(sample, image=image, record=record, unseen=seen.unseen)


def _lesion_centre(rng: torch.Generator) -> tuple[float, float, float]:
    side = -1.0 if chance(rng, 0.5) else 1.0
    return side * uniform(rng, 26.0, 44.0), uniform(rng, -30.0, 25.0), uniform(rng, 2.0, 32.0)


def _source_name(source: Path | None) -> str:
    if source is None:
        return "mni152"
    return "".join(letter for letter in source.name.split(".")[0] if letter.isalnum())


def _scan_id(patient: str, condition: Condition) -> str:
    return f"{patient}_{condition.name}"


def _save(sample: Sample, folder: Path, name: str, patient: str, condition: Condition) -> dict[str, Cell]:
    lesion = sample.target == CLASSES.index("lesion")
    ratio = contrast_to_noise(sample)
    with staged(folder) as staging:
        Volume(sample.image[None], sample.affine).save(staging / f"{name}.nii.gz")
        Volume(lesion[None], sample.affine).save(staging / f"{name}_label-L_mask.nii.gz")
    return {
        "id": name,
        "patient": patient,
        "anatomy": sample.record["anatomy"],
        "factor": condition.factor or "standard",
        "level": condition.level or "standard",
        **{
            key: getattr(condition, key)
            for key in ("sequence", "stage", "size_ml", "slice_mm", "snr", "head")
        },
        "lesion_ml": round(lesion_ml(sample), 4),
        "contrast_to_noise": "n/a" if ratio is None else ratio,
        "contrast": contrast_band(ratio),
    }
