"""Sources of the pairs of views that an encoder learns from."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.learning.cases import Case, CaseSource, scan_of
from anystroke.learning.recipe import MapsPart
from anystroke.learning.sources.maps import MapCases
from anystroke.learning.sources.packing import at_grid, folder_of
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.models.model_space import Normalisation, normalise_intensity
from anystroke.tasks.pretraining.views import ViewSettings, make_view, prepared_scan

if TYPE_CHECKING:
    from anystroke.tasks.pretraining.recipe import PretrainingSettings

_VIEWS = 2
_MOST_TRIES = 100
_LESION = 4


class ViewSource:
    """Pairs of views of patients; a `CaseSource` whose images have two channels, and targets the clean ones.

    Args:
        scans: Makes the scans that views are of.
        settings: How views are made.
        spacing: Voxel size in mm.
        normalisation: Of clean views; None leaves the targets empty.
    """

    def __init__(
        self,
        scans: CaseSource,
        settings: ViewSettings,
        *,
        spacing: float,
        normalisation: Normalisation | None,
    ) -> None:
        self.scans, self.settings = scans, settings
        self.spacing, self.normalisation = spacing, normalisation

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make two views of a patient; a draw in which one shows nothing is drawn anew.

        Args:
            shape: Voxels of a view.
            rng: Random stream.

        Raises:
            RuntimeError: If 100 draws in a row gave a constant view.
        """
        seed = rng.initial_seed()
        for attempt in range(_MOST_TRIES):
            scans = self._scans(shape, seed, attempt)
            if scans is None:
                continue
            prepared = [prepared_scan(scan.image, self.settings) for scan in scans]
            views = [
                make_view(
                    prepared[number % len(prepared)],
                    self.settings,
                    shape,
                    spacing=self.spacing,
                    rng=stream(seed, "view", attempt, number),
                )
                for number in range(_VIEWS)
            ]
            if all(_shows_something(view.clean) and _shows_something(view.image) for view in views):
                record = {"scans": [scan.record for scan in scans], "views": [view.record for view in views]}
                return Case(
                    torch.stack([v.image for v in views]), self._target([v.clean for v in views]), record
                )
        raise RuntimeError(
            f"expected views that show something, got {_MOST_TRIES} constant pairs of {shape} voxels; "
            "make the grid larger, or move patients less"
        )

    def _scans(self, shape: GridShape, seed: int, attempt: int) -> list[Case] | None:
        """Make the scans of one patient; None if they are of two, as one did not show anything."""
        x, y, z = (math.ceil(self.settings.margin * side) for side in shape)
        scans = [
            scan_of(self.scans, (x, y, z), number, rng=stream(seed, "patient", attempt))
            for number in range(self.settings.scans)
        ]
        return scans if len({scan.record.get("key") for scan in scans}) == 1 else None

    def _target(self, clean: Sequence[Tensor]) -> Tensor:
        if self.normalisation is None:
            return torch.zeros(len(clean), 1, 1, 1)
        return torch.stack([normalise_intensity(view, self.normalisation) for view in clean])


def _shows_something(image: Tensor) -> bool:
    values = image.flatten()[:: 1 + image.numel() // 4096]
    return len(set(values.tolist())) > 2


def open_sources(settings: "PretrainingSettings", folder: Path) -> list[CaseSource]:
    """Open the sources of a recipe.

    Args:
        settings: The recipe.
        folder: Of packed data.
    """
    normalisation = settings.grid.normalisation if settings.loss.reconstruction else None
    return [
        ViewSource(
            _open(settings, number, folder),
            settings.views,
            spacing=settings.grid.spacing,
            normalisation=normalisation,
        )
        for number in range(len(settings.sources))
    ]


def _open(settings: "PretrainingSettings", number: int, folder: Path) -> CaseSource:
    part = settings.sources[number]
    changes = {"preset": settings.views.mprage, "weighting": None} if settings.views.kind == "mprage" else {}
    if isinstance(part, MapsPart):
        maps = at_grid(part.maps, settings).model_copy(update=changes)
        return MapCases(folder / folder_of(number, part), maps, lesion=_LESION)
    looks = at_grid(part.synthesis, settings).model_copy(update=changes)
    return SimulatedSource(folder, looks, weightings_follow_age=False)
