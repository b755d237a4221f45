"""What networks are trained on: an image, its target, and the record of how they came about."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.models.model_space import has_contrast

HEALTHY = 255
"""Target of a voxel that is no lesion but whose tissue is not known."""
IGNORED = 254
"""Target of a voxel that is taught neither as lesion nor as healthy: a lesion that nobody could see."""

_MOST_TRIES = 100


@dataclass(frozen=True)
class Case:
    """One training case.

    Attributes:
        image: (X, Y, Z) float32, not normalised; or (V, X, Y, Z), several views of a patient.
        target: (X, Y, Z) uint8, the number of each voxel's class, ``HEALTHY`` or ``IGNORED``; or (K, X, Y, Z)
            float32, the share of each class in each voxel, all of them zero where it is ignored, or for
            estimators the maps and the weight of each voxel.
        record: Plain values that say what the case was made of.
        standardised: Whether the image is as the network wants it already.
    """

    image: Tensor
    target: Tensor
    record: dict[str, Any]
    standardised: bool = False


class Imaged(Protocol):
    """Whatever has an image."""

    @property
    def image(self) -> Tensor:
        """(X, Y, Z)."""


Drawn = TypeVar("Drawn", bound=Imaged)


def first_that_shows_something(draw: Callable[[], Drawn], shape: GridShape, advice: str) -> Drawn:
    """Draw until an image has grey values: a field of view can miss the head.

    Args:
        draw: Makes something with an image.
        shape: Voxels of the image, for the message.
        advice: What to do if none shows anything.

    Raises:
        RuntimeError: If 100 draws in a row gave images without.
    """
    for _ in range(_MOST_TRIES):
        made = draw()
        if has_contrast(made.image):
            return made
    raise RuntimeError(
        f"expected a scan that shows something, got {_MOST_TRIES} constant images in a row of {shape} "
        f"voxels; {advice}"
    )


@runtime_checkable
class ScansPatients(Protocol):
    """A source that makes several scans of one patient for less than as many patients."""

    def scan(self, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
        """Make one scan of a patient, whichever others are made.

        Args:
            shape: Voxels of the case.
            number: Of the scan; 0 is what `CaseSource.case` makes.
            rng: Random stream of the patient on the CPU, the same for all scans.
        """


class CaseSource(Protocol):
    """Whatever makes training cases: simulated patients, labelled scans, measured maps."""

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case; all that is random comes from ``rng``.

        A draw in which the field of view misses the head is drawn anew.

        Args:
            shape: Voxels of the case.
            rng: Random stream on the CPU.

        Raises:
            RuntimeError: If 100 draws in a row gave constant images.
        """


def scan_of(source: CaseSource, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
    """Make one scan of a patient; a case of its own where the source knows no patients with several.

    Args:
        source: Makes it.
        shape: Voxels of the case.
        number: Of the scan; 0 is what the source's `CaseSource.case` makes.
        rng: Random stream of the patient, the same for all scans.
    """
    if isinstance(source, ScansPatients):
        return source.scan(shape, number, rng=rng)
    return source.case(shape, rng=stream(rng.initial_seed(), "scan", number) if number else rng)
