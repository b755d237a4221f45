"""Sources of noisy scans and their noise."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.learning.cases import Case, CaseSource
from anystroke.learning.sources.packing import at_grid
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.models.model_space import normalise_intensity

if TYPE_CHECKING:
    from anystroke.tasks.denoising.recipe import DenoisingSettings


class NoisySource:
    """Standardised scans with noise, whose target is the noise; a `CaseSource`.

    Args:
        source: Makes the scans.
        noise_sd: Of the noise.
    """

    def __init__(self, source: CaseSource, noise_sd: float) -> None:
        self.source, self.noise_sd = source, noise_sd

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case, see `CaseSource`."""
        seed = rng.initial_seed()
        made = self.source.case(shape, rng=rng)
        clean = normalise_intensity(made.image, "whole")
        noise = self.noise_sd * torch.randn(clean.shape, generator=stream(seed, "noise"))
        return Case(clean + noise, noise[None], made.record, standardised=True)


def open_sources(settings: "DenoisingSettings", folder: Path) -> list[CaseSource]:
    """Open the sources of a recipe.

    Args:
        settings: The recipe.
        folder: Of packed data.
    """
    looks = [at_grid(part.synthesis, settings) for part in settings.sources]
    return [NoisySource(SimulatedSource(folder, each), settings.noise_sd) for each in looks]
