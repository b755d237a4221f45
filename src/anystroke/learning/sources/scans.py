"""Labelled scans as training cases: drawn, cropped and augmented."""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape
from anystroke.core.rng import chance, integer
from anystroke.learning.augmentation.apply import (
    AUGMENTATIONS,
    NONE,
    AugmentationSettings,
    apply_augmentation,
    draw_augmentation,
)
from anystroke.learning.cases import HEALTHY, IGNORED, Case
from anystroke.learning.sources.packed_scans import PackedScan, PackedScans, ScanError, pack_scans

__all__ = ["PackedScan", "PackedScans", "ScanCases", "ScanError", "ScanSettings", "pack_scans"]


class ScanSettings(StrictModel):
    """Which labelled scans to train on, and how.

    Attributes:
        data: Data sets, see `anystroke.io.labelled.find_labelled_scans`.
        lesion_centred: Probability that a crop is laid around a voxel of the lesion.
        augmentation: What happens to the scans: settings, or ``"baseline"``, ``"tail"`` or ``"none"``.
        held_out: Names of scans that are not trained on; ``*`` stands for any letters.
    """

    data: tuple[Path, ...] = ()
    lesion_centred: float = Field(default=0.5, ge=0, le=1)
    augmentation: AugmentationSettings = NONE
    held_out: tuple[str, ...] = ()

    @field_validator("augmentation", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in AUGMENTATIONS:
            raise ValueError(f"expected settings or one of {', '.join(AUGMENTATIONS)}")
        return AUGMENTATIONS[value]


class ScanCases:
    """Training cases from labelled scans: drawn, cropped or padded, augmented.

    Args:
        scans: What to draw from, each as often as the others.
        settings: How; its ``data`` are not looked at.
        lesion: Number of the lesion's class.

    Raises:
        ScanError: What is held out is unknown or is everything.

    Example:
        >>> cases = ScanCases(PackedScans(folder), ScanSettings(), lesion=4)  # doctest: +SKIP
        >>> cases.case((96, 96, 96), rng=stream(1, "case", 1)).target.unique()  # doctest: +SKIP
        tensor([  4, 255], dtype=torch.uint8)
    """

    def __init__(self, scans: PackedScans, settings: ScanSettings, *, lesion: int) -> None:
        if not 0 < lesion < IGNORED:
            raise ScanError(f"expected a lesion's class from 1 to {IGNORED - 1}, got {lesion}")
        self.scans = scans.without(settings.held_out)
        self.settings = settings
        self.lesion = lesion

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case; see `anystroke.learning.cases.CaseSource`.

        Crops stay within the scan where it is large enough.

        Args:
            shape: Voxels of the case.
            rng: Random stream on the CPU.

        Returns:
            The case; its target is the lesion's class or ``HEALTHY``.

        Raises:
            ScanError: The scan's file is damaged, or there is no contrast in it.
        """
        scan = self.scans[self.scans.names[integer(rng, 0, len(self.scans) - 1)]]
        lesion = scan.lesion != 0
        at_lesion = chance(rng, self.settings.lesion_centred) and bool(lesion.any())
        centre = _centre(lesion, shape, at_lesion, rng)
        drawn = draw_augmentation(self.settings.augmentation, rng=rng)
        target = torch.where(lesion, self.lesion, HEALTHY).to(torch.uint8)
        try:
            image, target = apply_augmentation(
                scan.image,
                target,
                drawn,
                spacing=self.scans.spacing,
                brain=scan.brain,
                shape=shape,
                centre=centre,
            )
        except ValueError as error:
            raise ScanError(f"{scan.name} cannot be used around voxel {centre}: {error}") from error
        record = {
            "scan": scan.name,
            "lesion_ml": scan.lesion_ml,
            "centre": list(centre),
            "at_lesion": at_lesion,
            "augmentation": drawn.record(),
        }
        return Case(image, target, record)


def _centre(lesion: Tensor, shape: GridShape, at_lesion: bool, rng: torch.Generator) -> tuple[int, int, int]:
    """Draw the middle voxel of a crop."""
    wanted = None
    if at_lesion:
        voxels = lesion.flatten().nonzero()
        index = int(voxels[integer(rng, 0, len(voxels) - 1)])
        _, ny, nz = lesion.shape
        wanted = (index // (ny * nz), index // nz % ny, index % nz)
    centre = []
    for axis, (side, n) in enumerate(zip(lesion.shape, shape, strict=True)):
        low, high = n // 2, side - n + n // 2
        if low > high:
            centre.append(side // 2)
        else:
            centre.append(integer(rng, low, high) if wanted is None else min(max(wanted[axis], low), high))
    return centre[0], centre[1], centre[2]
