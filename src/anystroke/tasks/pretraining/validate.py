"""What an encoder is judged on: whether it finds a patient again by a scan of another contrast."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.evaluation.representations import retrieve
from anystroke.learning.augmentation.apply import AugmentationSettings, augment
from anystroke.learning.task import Verdict
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.pretraining.predict import FeatureModel

if TYPE_CHECKING:
    from anystroke.tasks.pretraining.recipe import PretrainingValidationSettings

CRITERION = "retrieved"
"""What the best model has most of."""


_MOVED = AugmentationSettings(deformation=1.0, flip=0.5)


@dataclass(frozen=True)
class TwoScans:
    """Two scans of a simulated patient, of different weightings.

    Attributes:
        images: (X, Y, Z) of each, not normalised.
        weightings: Of each.
        anatomy: Name of the patient's anatomy.
    """

    images: tuple[Tensor, Tensor]
    weightings: tuple[str, str]
    anatomy: str


def scanned_twice(
    pack: Pack,
    looks: SynthesisSettings,
    wanted: "PretrainingValidationSettings",
    *,
    spacing: float,
    shape: GridShape,
    seed: int,
) -> Iterator[TwoScans]:
    """Simulate a fixed set of patients, each with scans of two weightings.

    Args:
        pack: Anatomies and lesion masks, none of them seen in training.
        looks: What patients are like.
        wanted: How many, and of which weightings.
        spacing: Voxel size in mm.
        shape: Voxels of the scans.
        seed: Decides all that is random.
    """
    settings = looks.model_copy(
        update={
            "preset": wanted.preset,
            "weighting": None,
            "spacing": spacing,
            "shapes": (shape,),
            "shape_weights": (1.0,),
            "lesion_centred": 0.0,
            "anywhere": 0.0,
            "corrupted": True,
            "cut": 0.0,
        }
    )
    generator = Generator(settings, pack.masks)
    for number in range(wanted.patients):
        anatomy = pack.anatomies[number % len(pack.anatomies)]
        first = wanted.weightings[number % len(wanted.weightings)]
        second = wanted.weightings[(number + 1) % len(wanted.weightings)]
        rng = stream(seed, "scanned twice", number)
        one, two = generator.session(anatomy, weightings=[first, second], rng=rng)
        images = (
            moved_at_random(sample.image, spacing=spacing, rng=stream(seed, "moved", number, place))
            for place, sample in enumerate((one, two))
        )
        yield TwoScans((next(images), next(images)), (first, second), anatomy.name)


def moved_at_random(image: Tensor, *, spacing: float, rng: torch.Generator) -> Tensor:
    """Turn, bend and flip a scan at random, so that a patient is not found again by the place of the head.

    Args:
        image: (X, Y, Z), with contrast.
        spacing: Voxel size in mm.
        rng: Random stream.
    """
    nothing = torch.zeros(image.shape, dtype=torch.uint8)
    return augment(image, nothing, _MOVED, spacing=spacing, rng=rng)[0]


@torch.no_grad()
def judge_encoder(model: FeatureModel, patients: Sequence[TwoScans]) -> Verdict:
    """Return one row: how well each patient is found again.

    Args:
        model: The encoder.
        patients: At least two.
    """
    features = [[model.of_image(image).numpy() for image in patient.images] for patient in patients]
    one, two = (np.stack([each[k] for each in features]) for k in range(2))
    found = retrieve(one, two)
    return [
        {
            "set": "simulated",
            "group": "all",
            "scans": 2 * len(patients),
            CRITERION: found.first,
            "reciprocal_rank": found.reciprocal_rank,
            "same_patient": found.same,
            "other_patient": found.other,
            "chance": found.chance,
        }
    ]
