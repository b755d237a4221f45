"""What networks are trained on: an image, its target, and the record of how they came about."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from anystroke.fields import GridShape

HEALTHY = 255
"""Target of a voxel that is no lesion but whose tissue is not known."""
IGNORED = 254
"""Target of a voxel that is taught neither as lesion nor as healthy: a lesion that nobody could see."""

_MOST_TRIES = 100


@dataclass(frozen=True)
class Case:
    """One training case.

    Attributes:
        image: (X, Y, Z) float32, not normalised.
        target: (X, Y, Z) uint8, the number of each voxel's class, ``HEALTHY`` or ``IGNORED``; or (K, X, Y, Z)
            float32, the share of each class in each voxel, all of them zero where it is ignored, or for
            estimators the maps and the weight of each voxel.
        record: Plain values that say what the case was made of.
    """

    image: Tensor
    target: Tensor
    record: dict[str, Any]


class Imaged(Protocol):
    """Whatever has an image."""

    @property
    def image(self) -> Tensor:
        """(X, Y, Z)."""


Drawn = TypeVar("Drawn", bound=Imaged)


def first_that_shows_something(draw: Callable[[], Drawn], shape: GridShape, advice: str) -> Drawn:
    """Draw until an image is not constant: a field of view can miss the head.

    Args:
        draw: Makes something with an image.
        shape: Voxels of the image, for the message.
        advice: What to do if none shows anything.

    Raises:
        RuntimeError: If 100 draws in a row gave constant images.
    """
    for _ in range(_MOST_TRIES):
        made = draw()
        if float(made.image.max()) > float(made.image.min()):
            return made
    raise RuntimeError(
        f"expected a scan that shows something, got {_MOST_TRIES} constant images in a row of {shape} "
        f"voxels; {advice}"
    )


class CaseSource(Protocol):
    """Whatever makes training cases: simulated patients, labelled scans, measured maps."""

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case; all that is random comes from ``rng``.

        Args:
            shape: Voxels of the case.
            rng: Random stream on the CPU.
        """
