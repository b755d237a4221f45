"""What lies beside the weights of a network that estimates maps."""

import math
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator

from anystroke.models.checkpoints import NetworkConfig
from anystroke.qmri.estimated_maps import Curve, check_maps


class EstimatorConfig(NetworkConfig):
    """What is needed to estimate quantitative maps with a network, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
        maps: Names of the output channels, of ``anystroke.qmri.estimated_maps.MAP_OUTPUTS``.
        outputs: Unit, activation, clamp of the exponent and ceiling of each, for the record.
        field_strength: Static field that the rates belong to, T; None for that of the scan.
        normalisation: How intensities of the input are standardised, see ``normalise_intensity``.
        brain_only: Whether the network learnt nothing outside the brain, so that its maps end there.
        perceptual: The network of the perceptual loss: source, kind and hash; empty if there was none.
        curves: Map -> points (estimate, median truth) along which estimates are corrected, both rising; empty
            where they are not.
    """

    task: Literal["qmri"] = "qmri"
    maps: tuple[str, ...] = Field(min_length=1)
    outputs: dict[str, Any] = Field(default_factory=dict)
    field_strength: float | None = Field(default=3.0, gt=0)
    normalisation: Literal["foreground", "log_tail", "whole", "percentiles"] = "percentiles"
    brain_only: bool = False
    perceptual: dict[str, Any] = Field(default_factory=dict)
    curves: dict[str, Curve] = Field(default_factory=dict)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The maps."""
        return self.maps

    @field_validator("maps")
    @classmethod
    def _known(cls, maps: tuple[str, ...]) -> tuple[str, ...]:
        check_maps(maps)
        return maps

    @field_validator("curves")
    @classmethod
    def _rising(cls, curves: dict[str, Curve]) -> dict[str, Curve]:
        for name, curve in curves.items():
            for (x, y), (next_x, next_y) in pairwise(((0.0, 0.0), *curve)):
                if not (x < next_x < math.inf and y <= next_y < math.inf):
                    raise ValueError(f"the curve of {name} does not rise from zero at {(next_x, next_y)}")
        return curves
