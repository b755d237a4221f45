"""A simulated patient in the scanner: all that does not change from one scan to the next."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anystroke.anatomy.lesions.bank import PlacedLesion
from anystroke.anatomy.lesions.placement import lesion_area
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.deformation import Box, SamplingGrid
from anystroke.anatomy.tissues.mixing import TissueField
from anystroke.core.fields import GridShape
from anystroke.qmri.patient_maps import Inclusion
from anystroke.simulation.healthy import Where


@dataclass(frozen=True)
class Patient:
    """What a generator scans.

    Attributes:
        key: Decides all that is random.
        shape: Output voxels.
        where: Anatomy and grid; tissues are read on that grid where their labels are hard.
        placed: Lesions within the box.
        box: Outside of it is no lesion; None if there is none on the grid.
        inclusions: Confounders and lesions.
        lesions_drawn: Whether the masks were drawn from the generator's own.
        shown_on: Weighting whose scans show such lesions.
        tiles: Textures that were made, by the name of the map.
    """

    key: int
    shape: GridShape
    where: Where
    placed: PlacedLesion
    box: Box | None
    inclusions: tuple[Inclusion, ...]
    lesions_drawn: bool
    shown_on: str
    tiles: dict[str, Tensor] = field(default_factory=dict)
    _brains: dict[int, Tensor] = field(default_factory=dict)

    @property
    def anatomy(self) -> Anatomy:
        """The anatomy, before any deformation."""
        return self.where.anatomy

    @property
    def tissues(self) -> TissueField:
        """What it is made of."""
        return self.where.tissues

    @property
    def grid(self) -> SamplingGrid:
        """Where output voxels are in the anatomy."""
        return self.where.grid

    @property
    def device(self) -> torch.device:
        """Where it was computed."""
        return self.grid.control.device

    @property
    def membership(self) -> Tensor | None:
        """(x, y, z) of the lesions within the box, in [0, 1]; None if there is no box."""
        return None if self.box is None else self.placed.membership

    def brain(self, factor: int, spacing: float) -> Tensor:
        """Return the share of brain (X, Y, Z) in voxels that hold some of the grid's along each axis.

        Args:
            factor: How many.
            spacing: Their size in mm.
        """
        if factor not in self._brains:
            coarse = self.grid.coarse(factor)
            self._brains[factor] = lesion_area(self.tissues, coarse, spacing, ventricles=True)
        return self._brains[factor].clone()
