"""What networks are trained on: an image, its target, and the record of how they came about."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from anystroke.fields import GridShape

HEALTHY = 255
"""Target of a voxel that is no lesion but whose tissue is not known."""


@dataclass(frozen=True)
class Case:
    """One training case.

    Attributes:
        image: (X, Y, Z) float32, not normalised.
        target: (X, Y, Z) uint8, the number of each voxel's class or ``HEALTHY``; or (K, X, Y, Z) float32, the
            share of each class in each voxel, or for estimators the maps and the weight of each voxel.
        record: Plain values that say what the case was made of.
    """

    image: Tensor
    target: Tensor
    record: dict[str, Any]


class CaseSource(Protocol):
    """Whatever makes training cases: simulated patients, labelled scans, measured maps."""

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case; all that is random comes from ``rng``.

        Args:
            shape: Voxels of the case.
            rng: Random stream on the CPU.
        """
