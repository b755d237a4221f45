"""What a tissue segmentation is judged on: simulated patients that training has not seen."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.evaluation.metrics.overlap import dice
from anystroke.evaluation.metrics.surface_distances import hausdorff
from anystroke.learning.cases import IGNORED
from anystroke.learning.task import ValidationRow, Verdict
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.tissues.predict import TissueModel
from anystroke.tasks.tissues.sources import LEARNT_TISSUES, without_lesion

CRITERION = "mean_dice"
"""What the best model has most of."""

JUDGED_WEIGHTINGS = ("T1w", "T2w", "FLAIR", "PDw")
_HEAD_MM = (192.0, 224.0, 192.0)


@dataclass(frozen=True)
class Head:
    """A scan with the tissue of each voxel.

    Attributes:
        image: (X, Y, Z), not normalised.
        tissues: (X, Y, Z) numbers of ``TISSUES``, or ``IGNORED``.
        groups: What results are summed up by: weighting, anatomy, field.
    """

    image: Tensor
    tissues: Tensor
    groups: dict[str, str]


def simulated_heads(
    pack: Pack, looks: SynthesisSettings, *, count: int, spacing: float, seed: int, divisor: int = 16
) -> Iterator[Head]:
    """Simulate a fixed set of heads without a lesion, one weighting after the other.

    Args:
        pack: Anatomies.
        looks: Of the scans.
        count: How many.
        spacing: Voxel size in mm.
        seed: Decides all that is random.
        divisor: Sides are multiples of it.
    """
    x, y, z = (divisor * math.ceil(side / spacing / divisor) for side in _HEAD_MM)
    shape: GridShape = (x, y, z)
    settings = looks.model_copy(
        update={
            "spacing": spacing,
            "shapes": (shape,),
            "shape_weights": (1.0,),
            "weighting": None,
            "cut": 0.0,
            "lesion_centred": 0.0,
            "anywhere": 0.0,
            "lesions": LesionSettings(absent=1.0),
        }
    )
    generator = Generator(settings, pack.masks)
    known = [each for each in JUDGED_WEIGHTINGS if each in generator.preset.weightings]
    for number in range(count):
        anatomy, weighting = pack.anatomies[number % len(pack.anatomies)], known[number % len(known)]
        [sample] = generator.session(anatomy, [], weightings=[weighting], rng=stream(seed, "head", number))
        groups = {
            "weighting": weighting,
            "patient": f"{anatomy.name}-{number}",
            "field": f"{sample.protocol.field_strength:g} T",
        }
        yield Head(sample.image, without_lesion(sample.target), groups)


def tissue_scores(found: Tensor, head: Head, *, spacing: float) -> dict[str, float]:
    """Return Dice and HD95 [mm] of each tissue, NaN where it is nowhere.

    Args:
        found: (X, Y, Z) numbers of ``TISSUES``.
        head: What they should be.
        spacing: Voxel size in mm.
    """
    known = head.tissues != IGNORED
    scores = {}
    for number, name in enumerate(LEARNT_TISSUES[1:], 1):
        mask, truth = (found == number) & known, head.tissues == number
        scores[f"{name}_dice"] = dice(mask, truth)
        scores[f"{name}_hausdorff95"] = hausdorff(mask, truth, spacing=(spacing,) * 3)
    return scores


@torch.no_grad()
def judge_tissues(model: TissueModel, heads: Sequence[Head], *, spacing: float) -> Verdict:
    """Return a row of mean Dice and HD95 for all heads, and one for each weighting.

    Args:
        model: The network.
        heads: What to segment.
        spacing: Voxel size in mm.
    """
    scores = [tissue_scores(model.of_image(head.image), head, spacing=spacing) for head in heads]
    groups = ["all", *dict.fromkeys(head.groups["weighting"] for head in heads)]
    rows = []
    for group in groups:
        pairs = zip(scores, heads, strict=True)
        chosen = [each for each, head in pairs if group in ("all", head.groups["weighting"])]
        row: ValidationRow = {"set": "simulated", "group": group, "scans": len(chosen)}
        for key in chosen[0]:
            values = [s[key] for s in chosen if math.isfinite(s[key])]
            row[key] = sum(values) / len(values) if values else math.nan
        row[CRITERION] = sum(float(row[f"{name}_dice"]) for name in LEARNT_TISSUES[1:]) / (
            len(LEARNT_TISSUES) - 1
        )
        rows.append(row)
    return rows
