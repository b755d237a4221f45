"""Where cerebrospinal fluid moves so fast that scans show it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.anatomy.lookalikes.places import Place, place_weights, sides_differ, uneven
from anystroke.core.rng import chance, log_uniform, uniform


@dataclass(frozen=True)
class FlowPlace(Place):
    """A space of moving fluid.

    Attributes:
        inflow: Probability that it shows fluid that was not inverted, in a scan that has any.
        void: Probability that it shows a flow void, in a turbo spin echo that has any.
    """

    inflow: float
    void: float


FLOW_PLACES = (
    FlowPlace("foramina of Monro", (5, -1, 9), (6, 8, 8), inflow=0.5, void=0.3),
    FlowPlace("third ventricle", (0, -14, 0), (5, 13, 11), inflow=0.5, void=0.3),
    FlowPlace("lateral ventricles", (14, -4, 18), (14, 28, 14), inflow=0.2, void=0.05),
    FlowPlace("trigones", (26, -42, 10), (12, 14, 14), inflow=0.15, void=0.0),
    FlowPlace("aqueduct", (0, -32, -8), (4, 6, 9), inflow=0.5, void=0.8),
    FlowPlace("fourth ventricle", (0, -44, -32), (10, 9, 13), inflow=0.6, void=0.6),
    FlowPlace("prepontine cistern and basilar artery", (0, -12, -34), (14, 8, 15), inflow=0.6, void=0.7),
    FlowPlace("suprasellar and interpeduncular cistern", (0, -4, -18), (14, 10, 8), inflow=0.5, void=0.4),
    FlowPlace("ambient cistern", (20, -28, -10), (8, 11, 10), inflow=0.35, void=0.2),
    FlowPlace("cistern behind the midbrain", (0, -40, -2), (15, 9, 9), inflow=0.4, void=0.3),
    FlowPlace("cerebellopontine cistern", (22, -30, -36), (12, 11, 11), inflow=0.4, void=0.3),
    FlowPlace("cistern before the medulla", (0, -20, -58), (15, 13, 13), inflow=0.6, void=0.6),
    FlowPlace("cisterna magna", (0, -62, -54), (18, 11, 11), inflow=0.4, void=0.2),
    FlowPlace("Sylvian cistern", (34, 2, -14), (12, 11, 9), inflow=0.25, void=0.1),
    FlowPlace("sulci of the posterior fossa", (0, -64, -30), (46, 24, 18), inflow=0.2, void=0.0),
    FlowPlace("sulci of the temporal poles", (38, 14, -32), (13, 11, 13), inflow=0.15, void=0.0),
)
"""Spaces as described by R. Bakshi et al., AJNR 21:503 (2000) for FLAIR and C. Lisanti et al., AJR 188:716
(2007) for FLAIR and T2w; coordinates, sizes and probabilities are engineering estimates. At 0.3 T the fourth
ventricle shows inflow most often, then the third, then the lateral ones (G. Ogbole et al., Niger Med J 57:59,
2016)."""


def inflow_share(points: Tensor, *, spacing: float, scale: float = 1.0, rng: torch.Generator) -> Tensor:
    """Draw the share of the fluid that came from outside the inverted slices after the inversion.

    Args:
        points: (3, X, Y, Z) MNI RAS+ mm of each voxel.
        spacing: Their distance in mm.
        scale: Of all shares; below one for inversions of the whole head.
        rng: Random stream.

    Returns:
        (X, Y, Z) in [0, 0.95]; it says nothing of where fluid is. A tenth makes it about as bright as brain.
    """
    drawn = [scale * log_uniform(rng, 0.03, 0.45) if chance(rng, p.inflow) else 0.0 for p in FLOW_PLACES]
    return _shares(points, drawn, spacing, rng)


def void_share(points: Tensor, *, spacing: float, rng: torch.Generator) -> Tensor:
    """Draw the share of the fluid's signal that a turbo spin echo loses, since it moves between pulses.

    Args:
        points: (3, X, Y, Z) MNI RAS+ mm of each voxel.
        spacing: Their distance in mm.
        rng: Random stream.

    Returns:
        (X, Y, Z) in [0, 0.95]; it says nothing of where fluid is.
    """
    drawn = [uniform(rng, 0.3, 0.95) if chance(rng, p.void) else 0.0 for p in FLOW_PLACES]
    return _shares(points, drawn, spacing, rng)


def _shares(points: Tensor, drawn: list[float], spacing: float, rng: torch.Generator) -> Tensor:
    total = place_weights(points, FLOW_PLACES, drawn)
    # Jets and eddies, not clouds.
    eddies = uneven(total, spacing=spacing, grain=uniform(rng, 7.0, 16.0), rng=rng)
    total *= eddies.mul_(0.6).add_(0.8).clamp_(0, 2)
    return total.mul_(sides_differ(points, 0.2, rng)).clamp_(0, 0.95)
