"""A simulated patient from nothing: the scan, its segmentation, and a page that shows both."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from anystroke.anatomy.lesions.bank import LesionSettings, blob_lesion
from anystroke.anatomy.lesions.stages import Stage
from anystroke.anatomy.tissues.deformation import DeformationSettings
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.errors import AnystrokeError
from anystroke.core.fields import GridShape
from anystroke.core.rng import choice, integer, stream, uniform
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.measure import dice, volume_ml
from anystroke.io.results import Outcome
from anystroke.reports.planes import comparison
from anystroke.reports.theme import embed, write_page
from anystroke.simulation.cohorts import Cohort, Member
from anystroke.simulation.files import write_sample
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.files import segment_files
from anystroke.tasks.segmentation.options import CohortOptions
from anystroke.tasks.segmentation.predict import Model

DEMO_PAGE = "report.html"
DEFAULT_SEED = 1
SHAPE: GridShape = (96, 112, 96)

_WEIGHTINGS = ("FLAIR", "T2w")
_STAGES: tuple[Stage, ...] = ("chronic", "acute")
_STEM = "patient"


class DemoError(AnystrokeError):
    """The demo cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        page: The report.
        dice: Of the predicted and the true mask.
        predicted_ml: Volume of the predicted lesion.
        true_ml: Volume of the true lesion.
        protocol: The acquisition in one line.
    """

    page: Path
    dice: float
    predicted_ml: float
    true_ml: float
    protocol: str


def run_demo(
    folder: str | Path,
    model: Model,
    *,
    seed: int = DEFAULT_SEED,
    overwrite: bool = False,
    shape: GridShape = SHAPE,
) -> Demo:
    """Simulate a patient with a lesion in the left hemisphere, segment the scan, and write the report.

    Args:
        folder: Gets ``report.html``, and the folders ``simulated`` and ``segmented``; made if missing.
        model: What segments.
        seed: Decides patient, lesion, protocol and scanner.
        overwrite: Whether an earlier demo in the folder may be replaced.
        shape: Voxels of the scan, 2 mm each.

    Returns:
        What was made.

    Raises:
        DemoError: The folder holds a demo and ``overwrite`` is False, or the scan could not be segmented.
        OSError: The folder cannot be written.

    Example:
        >>> run_demo("demo", Model.open("default")).page  # doctest: +SKIP
        PosixPath('demo/report.html')
    """
    started = time.perf_counter()
    folder = Path(folder)
    page = folder / DEMO_PAGE
    if page.exists() and not overwrite:
        raise DemoError(f"{page} exists already; name another folder with -o or use --overwrite")
    simulated, segmented = folder / "simulated", folder / "segmented"
    for part in (simulated, segmented):
        part.mkdir(parents=True, exist_ok=True)
        for path in part.glob(f"{_STEM}_*"):
            path.unlink()
    sample = simulate_patient(seed, shape=shape)
    row = write_sample(sample, simulated, _STEM)
    [outcome] = segment_files(
        [simulated / row["image"]], segmented, model, cohort=CohortOptions(overwrite=overwrite)
    )
    if outcome.status == "failed":
        raise DemoError(f"the simulated scan of seed {seed} could not be segmented: {outcome.message}")

    scan = Volume.load(simulated / row["image"])
    truth = Volume.load(simulated / row["mask"], dtype=torch.uint8)
    prediction = Volume.load(segmented / outcome.files[0], dtype=torch.uint8)
    result = Demo(
        page,
        dice(prediction.data > 0, truth.data > 0),
        volume_ml(prediction.data > 0, affine=scan.affine),
        volume_ml(truth.data > 0, affine=scan.affine),
        sample.protocol.describe(),
    )
    comparison(scan, prediction, truth, segmented / f"{_STEM}_comparison.png", overwrite=True)
    _write_page(result, sample, (row, outcome), model, seed, time.perf_counter() - started)
    return result


def simulate_patient(seed: int, *, shape: GridShape = SHAPE) -> Sample:
    """Simulate the demo's patient: a chronic or acute lesion in the left middle cerebral artery's territory.

    Args:
        seed: Decides everything.
        shape: Voxels of the scan, 2 mm each.

    Returns:
        The scan and what it was made of.

    Example:
        >>> simulate_patient(1, shape=(32, 32, 32)).record["anatomy"]
        'mni152'
    """
    rng = stream(seed, "demo")
    centre = (uniform(rng, -46.0, -34.0), uniform(rng, -25.0, 15.0), uniform(rng, 5.0, 28.0))
    lesion = blob_lesion(centre=centre, volume_ml=uniform(rng, 25.0, 90.0), rng=rng, name="blob_left_mca")
    settings = SynthesisSettings(
        weighting=_WEIGHTINGS[choice(rng, [1.0] * len(_WEIGHTINGS))],
        shapes=(shape,),
        deformation=DeformationSettings(mirror=0.0),
        lesions=LesionSettings(
            shape=DeformationSettings(
                rotation=12, scaling=0.2, shear=0.1, translation=6, elastic=0, mirror=0.0
            )
        ),
        cut=0.0,
    )
    stage = _STAGES[choice(rng, [1.0] * len(_STAGES))]
    patient = Member(
        partial(Generator(settings).generate, stage=stage),
        ("demo",),
        lesions=lambda _: [lesion],
        key=integer(rng, 0, 2**62),
    )
    return Cohort([mni_anatomy()], [patient], seed).patient(0)


def _write_page(
    result: Demo,
    sample: Sample,
    written: tuple[dict[str, str], Outcome],
    model: Model,
    seed: int,
    seconds: float,
) -> None:
    row, outcome = written
    folder = result.page.parent
    facts = [
        ("Dice", f"{result.dice:.2f}"),
        ("Predicted lesion", f"{result.predicted_ml:.1f} ml"),
        ("True lesion", f"{result.true_ml:.1f} ml, {sample.record['stage']}, in the left hemisphere"),
        ("Scan", f"{row['image']}, {' x '.join(map(str, sample.image.shape))} voxels of 2 mm"),
        ("Model", f"{model.config.name} {model.config.version}, SHA-256 {model.sha256[:12]}"),
    ]
    pictures = [f"{_STEM}_comparison.png", outcome.files[0].replace("_mask.nii.gz", "_mosaic.png")]
    shown, more = (embed(folder / "segmented" / name) for name in pictures)
    write_page(
        result.page,
        "demo.html",
        scan=row["image"],
        comparison=shown,
        mosaic=more,
        facts=facts,
        protocol=result.protocol,
        field=f"{sample.protocol.field_strength:g}",
        files=[f"simulated/{row[key]}" for key in ("image", "mask", "segmentation")]
        + [f"segmented/{outcome.files[0]}", f"segmented/{outcome.files[0].replace('_mask', '_probseg')}"],
        seed=seed,
        seconds=f"{seconds:.0f}",
    )
