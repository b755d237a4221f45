"""Simulated patients from easy to hopeless: what a judge of masks is taught and tested with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings, draw_masks
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.core.rng import chance, choice, integer, stream
from anystroke.core.volume import Volume
from anystroke.simulation.cohorts import visible_lesion
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.validate import SMALLEST_ML, JudgedPatient

_WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI", "ADC")
HEALTHY_SHARE = 0.25
"""Share of patients without a lesion."""

_LARGE = LesionSettings(absent=0.0, size_power=1.0, size_limits_ml=(0.1, 200.0))
_ANY = LesionSettings(absent=0.0)
DIFFICULTIES: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "easy": (0.2, {"snr": (40.0, 80.0), "thick_slices": 0.1, "motion": 0.0, "cut": 0.0, "lesions": _LARGE}),
    "usual": (0.35, {}),
    "other weightings": (0.08, {}),
    "other protocols": (0.07, {"preset": "paper", "snr": (8.0, 60.0)}),
    "hard": (
        0.2,
        {
            "snr": (5.0, 15.0),
            "thick_slices": 0.8,
            "slice_thickness": (4.0, 8.0),
            "few_lines": 0.4,
            "motion": 0.4,
            "largest_motion": 5.0,
            "ghosts": 0.3,
            "cut": 0.6,
        },
    ),
    "hopeless": (
        0.1,
        {
            "snr": (1.5, 6.0),
            "thick_slices": 0.9,
            "slice_thickness": (6.0, 10.0),
            "motion": 0.8,
            "largest_motion": 8.0,
            "ghosts": 0.5,
            "spikes": 0.3,
            "cut": 0.8,
        },
    ),
}
"""Share of each difficulty, and the settings in which it differs; engineering estimates."""

_WEIGHTINGS_OF: Mapping[str, tuple[str | None, ...]] = {
    "other weightings": ("T2starw", "UNIT1", "DIR", "bSSFP"),
    "other protocols": (None,),
}
_LESION = CLASSES.index("lesion")
_HEAD_MM = (192.0, 224.0, 192.0)
_TRIES = 3
# Values from 0 to 1, many of them cut off at 1, are taken for probabilities.
_SCANNER_UNITS = 1000.0


def draw_patient(
    anatomies: Sequence[Anatomy],
    masks: Sequence[LesionMask],
    *,
    number: int,
    seed: int,
    spacing: float = 2.0,
    generators: dict[str, Generator] | None = None,
) -> JudgedPatient:
    """Simulate one patient of an endless series, a quarter of them without a lesion.

    Args:
        anatomies: Each patient is one of them, in turn.
        masks: Lesion masks in MNI space.
        number: Of the patient.
        seed: Of the series.
        spacing: Voxel size [mm].
        generators: Kept from patient to patient, by difficulty; filled here.

    Returns:
        A patient with the groups ``set``, ``difficulty``, ``weighting`` and ``anatomy``. One with a lesion
        has 1 ml of it to be seen; where three draws do not give that, none counts as visible.

    Raises:
        ValueError: There is no anatomy, or no mask.
    """
    if not anatomies or not masks:
        raise ValueError(
            f"expected anatomies and lesion masks to simulate patients of, got {len(anatomies)} and "
            f"{len(masks)}; give the data folder of a training run"
        )
    rng = stream(seed, "difficulty", number)
    difficulty = list(DIFFICULTIES)[choice(rng, [share for share, _ in DIFFICULTIES.values()])]
    healthy = chance(rng, HEALTHY_SHARE)
    of = _WEIGHTINGS_OF.get(difficulty, _WEIGHTINGS)
    opened = {} if generators is None else generators
    if difficulty not in opened:
        opened[difficulty] = Generator(_settings(difficulty, spacing), masks)
    anatomy = anatomies[number % len(anatomies)]
    return _patient(opened[difficulty], anatomy, of[number % len(of)], difficulty, healthy, seed, number)


def _settings(difficulty: str, spacing: float) -> SynthesisSettings:
    x, y, z = (16 * math.ceil(side / spacing / 16) for side in _HEAD_MM)
    plain = SynthesisSettings(spacing=spacing, shapes=((x, y, z),), lesions=_ANY)
    return SynthesisSettings(**dict(plain) | dict(DIFFICULTIES[difficulty][1]))


def _patient(
    generator: Generator,
    anatomy: Anatomy,
    weighting: str | None,
    difficulty: str,
    healthy: bool,
    seed: int,
    number: int,
) -> JudgedPatient:
    lesions = generator.settings.lesions
    for attempt in range(1 if healthy else _TRIES):
        rng = stream(seed, "difficult", number, attempt)
        key = integer(rng, 0, 2**62)
        shown_on = weighting or generator.weighting_of(key)
        drawn = [] if healthy else draw_masks(generator.masks, lesions, rng, weighting=shown_on)
        sample = generator.generate(anatomy, drawn, key=key, weighting=weighting)
        truth = visible_lesion(sample)
        if float(truth.sum()) * generator.settings.spacing**3 / 1000 >= SMALLEST_ML:
            break
    else:
        truth = truth.new_zeros(truth.shape)
    return JudgedPatient(
        Volume(_SCANNER_UNITS * sample.image[None], sample.affine),
        truth,
        {
            "set": "healthy" if healthy else "simulated",
            "difficulty": difficulty,
            "weighting": sample.protocol.weighting,
            "anatomy": anatomy.name,
        },
        _rest(sample, truth),
    )


def _rest(sample: Sample, truth: Tensor) -> Tensor | None:
    """Return the part of the lesions that does not count as visible; None where there is none."""
    rest = (sample.target == _LESION) & ~truth
    return rest if bool(rest.any()) else None
