"""The held-out patients, and what a model makes of one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings
from anystroke.core.errors import AnystrokeError
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.calibration import Reliability, reliability
from anystroke.evaluation.metrics.lesion_wise import match_lesions
from anystroke.evaluation.metrics.overlap import dice
from anystroke.models.volume_interval import volume_interval
from anystroke.simulation.cohorts import Cohort, Member, Pack, contrast_to_noise, drawn_masks, lesion_ml
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.calibrate import CALIBRATION_WEIGHTINGS
from anystroke.tasks.segmentation.lesions_found import volumes_of_parts
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment

SEED = 4711
SMALLEST_ML = 1.0

PatientRow = dict[str, Any]
"""What became of one patient, as plain values."""


class HeldOutError(AnystrokeError):
    """Held-out patients that cannot be simulated; the message says why and what to do."""


@dataclass(frozen=True)
class HeldOutDesign:
    """How many patients there are.

    Attributes:
        cases: Scans of each weighting, with lesions of 1 ml or more.
        healthy: Scans without lesion, of one weighting after the other.

    Example:
        >>> len(HeldOutDesign(cases=2, healthy=1))
        11
    """

    cases: int = 80
    healthy: int = 50

    def __len__(self) -> int:
        return self.cases * len(CALIBRATION_WEIGHTINGS) + self.healthy


def held_out_cohort(pack: Pack, design: HeldOutDesign) -> Cohort:
    """Return the patients of the anatomies and masks that no training with this data saw.

    A patient is the same to the bit however many others there are.

    Args:
        pack: What was held out.
        design: How many.

    Raises:
        HeldOutError: There is no anatomy, or no mask of 1 ml or more for patients with a lesion.
    """
    masks = [mask for mask in pack.masks if mask.volume_ml >= SMALLEST_ML]
    if not pack.anatomies or (design.cases and not masks):
        raise HeldOutError(
            f"expected held-out anatomies and masks of {SMALLEST_ML:g} ml or more, got {len(pack.anatomies)} "
            f"and {len(masks)}; hold some out with data.held_out_anatomies and data.held_out_lesions"
        )
    ill, healthy = _generators(LesionSettings(absent=0.0)), _generators(LesionSettings())
    members = [
        _member(ill[w], f"{w}-{n}", masks, smallest_ml=SMALLEST_ML)
        for w in CALIBRATION_WEIGHTINGS
        for n in range(design.cases)
    ]
    members += [
        _member(healthy[CALIBRATION_WEIGHTINGS[n % len(CALIBRATION_WEIGHTINGS)]], f"healthy-{n}", [])
        for n in range(design.healthy)
    ]
    return Cohort(pack.anatomies, members, SEED)


def _member(
    generator: Generator, name: str, masks: Sequence[LesionMask], *, smallest_ml: float = 0.0
) -> Member:
    settings = generator.settings
    lesions = drawn_masks(masks, settings.lesions, weighting=settings.weighting)
    return Member(generator.generate, (name,), lesions=lesions, smallest_ml=smallest_ml)


def _generators(lesions: LesionSettings) -> dict[str, Generator]:
    return {
        each: Generator(SynthesisSettings(weighting=each, lesions=lesions)) for each in CALIBRATION_WEIGHTINGS
    }


def judge_sample(model: Model, sample: Sample) -> tuple[PatientRow, Reliability]:
    """Segment one simulated scan.

    Args:
        model: The network with its configuration.
        sample: A scan with its truth.

    Returns:
        How mask, volume and intervals compare with the truth; and how far probabilities hold.
    """
    found = segment(Volume(sample.image[None], sample.affine), model, adc=sample.protocol.weighting == "ADC")
    truth = sample.target == CLASSES.index("lesion")
    mask = found.mask.data[0] > 0
    ill = bool(truth.any())
    match = match_lesions(mask, truth, voxel_ml=found.mask.voxel_volume)
    row = {
        "weighting": sample.protocol.weighting,
        "stage": sample.record["stage"],
        "anatomy": sample.record["anatomy"],
        "lesions": sample.record["lesions"],
        "truth_ml": lesion_ml(sample),
        "contrast_to_noise": contrast_to_noise(sample),
        "predicted_ml": found.lesion_volume,
        "interval_ml": [found.interval.low, found.interval.high] if found.interval else None,
        "lesion_intervals_ml": _lesion_intervals(found, sample, model),
        "dice": dice(mask, truth, empty="undefined") if ill else None,
        "lesion_f1": match.f1() if ill else None,
    }
    return row, reliability(found.probability.data[0], truth)


def _lesion_intervals(found: Segmentation, sample: Sample, model: Model) -> list[list[float]]:
    """Return of each marked lesion the ends of its interval, and the true volume of what it belongs to."""
    errors = model.config.lesion_errors
    parts = volumes_of_parts(
        found.mask, found.prediction.probability, sample.target == CLASSES.index("lesion")
    )
    return [
        [round(value, 2) for value in (interval.low, interval.high, part.true_volume)]
        for part in parts
        if errors and (interval := volume_interval(part.volume, part.volume, errors, part.mean_probability))
    ]


def plain_reliability(sums: Reliability) -> dict[str, Any]:
    """Return sums as plain values, to be read by `read_reliability`."""
    return {
        name: value if isinstance(value, float) else value.tolist() for name, value in asdict(sums).items()
    }


def read_reliability(content: Mapping[str, Any]) -> Reliability:
    """Return the sums of `plain_reliability`.

    Example:
        >>> sums = reliability(np.array([0.0, 0.25, 1.0]), np.array([False, False, True]))
        >>> read_reliability(plain_reliability(sums)).brier() == sums.brier()
        True
    """
    count, predicted, true = (np.array(content[name]) for name in ("count", "predicted", "true"))
    return Reliability(count, predicted, true, float(content["squared_error"]))
