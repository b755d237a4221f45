"""Sources of the cases that a tissue segmentation learns from."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anystroke.anatomy.tissues.classes import CLASSES, LESION
from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.learning.augmentation.apply import AugmentationSettings, augment
from anystroke.learning.cases import IGNORED, Case, CaseSource
from anystroke.learning.sources.packing import at_grid
from anystroke.learning.sources.simulated import SimulatedSource

if TYPE_CHECKING:
    from anystroke.tasks.tissues.recipe import TissueSettings

LEARNT_TISSUES = CLASSES[:LESION]
"""What is told apart: background, grey matter, white matter and fluid."""


class TissueSource:
    """Cases of simulated patients, whose lesions are ignored; a `CaseSource`.

    Args:
        source: Makes them, lesions as the last class.
        augmentation: Changes made to them; None for none.
        spacing: Voxel size in mm.
    """

    def __init__(
        self, source: CaseSource, augmentation: AugmentationSettings | None, *, spacing: float
    ) -> None:
        self.source, self.augmentation, self.spacing = source, augmentation, spacing

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case, see `CaseSource`."""
        seed = rng.initial_seed()
        made = self.source.case(shape, rng=rng)
        image, target = made.image, made.target
        if self.augmentation is not None:
            changes = stream(seed, "augmentation")
            image, target = augment(image, target, self.augmentation, spacing=self.spacing, rng=changes)
        return Case(image, without_lesion(target), made.record)


def without_lesion(target: Tensor) -> Tensor:
    """Return a target of the tissues alone: nothing is taught where a lesion is.

    Args:
        target: (X, Y, Z) numbers of ``CLASSES``, or (5, X, Y, Z) shares.

    Returns:
        (X, Y, Z), or (4, X, Y, Z) that sum to one, or to zero where half a voxel or more is lesion.

    Example:
        >>> without_lesion(torch.tensor([1, 4], dtype=torch.uint8).reshape(2, 1, 1)).flatten().tolist()
        [1, 254]
    """
    if target.ndim == 3:
        return torch.where(target == LESION, IGNORED, target).to(torch.uint8)
    healthy = target[:LESION]
    whole = healthy.sum(0)
    return torch.where(target[LESION] < 0.5, healthy / whole.clamp(min=1e-6), 0.0)


def open_sources(settings: "TissueSettings", folder: Path) -> list[CaseSource]:
    """Open the sources of a recipe.

    Args:
        settings: The recipe.
        folder: Of packed data.
    """
    opened: list[CaseSource] = []
    for part in settings.sources:
        patients = SimulatedSource(folder, at_grid(part.synthesis, settings), target=part.target)
        opened.append(TissueSource(patients, part.augmentation, spacing=settings.grid.spacing))
    return opened
