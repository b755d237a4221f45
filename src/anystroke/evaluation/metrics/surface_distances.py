"""Distances between the surfaces of two masks: Hausdorff distances of several definitions, surface Dice.

The 95th percentile of surface distances is not one number. Programs differ in what the surface is and in what
the percentile is taken over, so that a definition is named after the program that uses it:

* ``"monai"``: the surface is every voxel of the mask with a face neighbour outside of it; the larger of the
  two directed percentiles, linearly interpolated (MONAI, and SynthStroke and qSynth with it).
* ``"medpy"``: the same surface; the percentile of both directions' distances pooled (MedPy).
* ``"surface_distance"``: the surface runs through the corners between voxels and consists of elements with an
  area; the larger of the two directed percentiles of area, not interpolated (DeepMind's surface-distance;
  Nikolov et al. 2018, arXiv:1809.04430).

The image's border cuts surfaces: beyond it there is no lesion.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from anystroke.core.arrays import Array
from anystroke.evaluation.metrics.distance_transform import Spacing, distances_between
from anystroke.evaluation.metrics.overlap import Mask, boolean_pair

HausdorffDefinition = Literal["monai", "medpy", "surface_distance"]
DEFINITIONS: tuple[HausdorffDefinition, ...] = get_args(HausdorffDefinition)
MissedDistance = Literal["diagonal", "infinite", "undefined"] | float


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """How far each piece of one surface is from the other surface.

    Attributes:
        to_truth: (N,) of each piece of the predicted surface [mm].
        to_prediction: (M,) of each piece of the true surface [mm].
        predicted_areas: (N,) area of the pieces [mm^2]; 1 each where surfaces are made of voxels.
        true_areas: (M,) likewise.
        definition: What the surface is.
    """

    to_truth: Array
    to_prediction: Array
    predicted_areas: Array
    true_areas: Array
    definition: HausdorffDefinition

    def percentile(self, percent: float) -> float:
        """Return the percentile of the distances in both directions, as the definition has it [mm].

        Args:
            percent: 100 for the Hausdorff distance itself, 95 for the robust one.
        """
        if self.definition == "medpy" and percent < 100:
            return float(np.percentile(np.concatenate([self.to_truth, self.to_prediction]), percent))
        return max(self.directed(percent))

    def directed(self, percent: float) -> tuple[float, float]:
        """Return the percentiles from prediction to truth and from truth to prediction [mm]."""
        pairs = ((self.to_truth, self.predicted_areas), (self.to_prediction, self.true_areas))
        if self.definition == "surface_distance":
            first, second = (_percentile_of_area(*pair, percent) for pair in pairs)
        else:
            first, second = (float(np.percentile(distances, percent)) for distances, _ in pairs)
        return first, second

    def surface_dice(self, tolerance: float) -> float:
        """Return the share of both surfaces that is within the tolerance [mm] of the other one."""
        near = self.predicted_areas[self.to_truth <= tolerance].sum()
        near += self.true_areas[self.to_prediction <= tolerance].sum()
        return float(near / (self.predicted_areas.sum() + self.true_areas.sum()))


def surface_distances(
    prediction: Mask, truth: Mask, *, spacing: Spacing, definition: HausdorffDefinition = "monai"
) -> SurfaceDistances | None:
    """Measure the distances between the surfaces of two masks.

    Args:
        prediction: (X, Y, Z) boolean.
        truth: (X, Y, Z) boolean.
        spacing: Voxel size along the axes [mm].
        definition: What the surface is.

    Returns:
        The distances; None if a mask is empty.

    Raises:
        ValueError: The masks are not boolean and 3-D, their shapes differ, or the definition is unknown.

    Example:
        >>> mask = np.zeros((8, 8, 8), bool)
        >>> mask[2:5, 2:5, 2:5] = True
        >>> moved = np.roll(mask, 1, 0)
        >>> surface_distances(moved, mask, spacing=(3.0, 1.0, 1.0)).percentile(100)
        3.0
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"expected a definition among {', '.join(DEFINITIONS)}, got {definition!r}")
    predicted, true = boolean_pair(prediction, truth)
    if predicted.ndim != 3:
        raise ValueError(f"surface distances need 3-D masks, got shape {predicted.shape}; remove channels")
    if not (predicted.any() and true.any()):
        return None
    box = bounding_box(predicted | true)
    masks = [np.pad(mask[box], 1) for mask in (predicted, true)]
    if definition == "surface_distance":
        codes = [_neighbour_codes(mask) for mask in masks]
        edges = [(code != 0) & (code != 255) for code in codes]
        table = _area_table(*(float(step) for step in spacing))
        areas = [table[code[edge]] for code, edge in zip(codes, edges, strict=True)]
    else:
        edges = [_edge(mask) for mask in masks]
        areas = [np.ones(np.count_nonzero(edge)) for edge in edges]
    return SurfaceDistances(
        to_truth=distances_between(edges[1], edges[0], spacing=spacing),
        to_prediction=distances_between(edges[0], edges[1], spacing=spacing),
        predicted_areas=areas[0],
        true_areas=areas[1],
        definition=definition,
    )


def hausdorff(
    prediction: Mask,
    truth: Mask,
    *,
    spacing: Spacing,
    percent: float = 95.0,
    definition: HausdorffDefinition = "monai",
    missed: MissedDistance = "diagonal",
) -> float:
    """Compute the (robust) Hausdorff distance between the surfaces of two masks.

    Args:
        prediction: (X, Y, Z) boolean.
        truth: (X, Y, Z) boolean.
        spacing: Voxel size along the axes [mm].
        percent: 100 for the Hausdorff distance itself.
        definition: What the surface and the percentile are.
        missed: What it is if just one mask is empty: ``"diagonal"`` of the image, ``"infinite"``,
            ``"undefined"`` (NaN), or a number of mm. NaN rewards missing: such a case is not in the mean.

    Returns:
        Distance in mm; NaN if both masks are empty.

    Raises:
        ValueError: As in `surface_distances`.

    Example:
        >>> mask = np.zeros((3, 4, 12), bool)
        >>> mask[1, 1, 1] = True
        >>> hausdorff(~mask & False, mask, spacing=(1.0, 1.0, 1.0))
        13.0
    """
    found = surface_distances(prediction, truth, spacing=spacing, definition=definition)
    if found is not None:
        return found.percentile(percent)
    predicted, true = boolean_pair(prediction, truth)
    if not (predicted.any() or true.any()):
        return math.nan
    return distance_when_missed(missed, shape=predicted.shape, spacing=spacing)


def distance_when_missed(missed: MissedDistance, *, shape: tuple[int, ...], spacing: Spacing) -> float:
    """Return the distance that stands for a lesion without counterpart [mm].

    Raises:
        ValueError: The policy is unknown.
    """
    if missed == "diagonal":
        return math.hypot(*(n * step for n, step in zip(shape, spacing, strict=True)))
    if missed == "infinite":
        return math.inf
    if missed == "undefined":
        return math.nan
    try:
        return float(missed)
    except ValueError:
        raise ValueError(
            f"expected missed to be diagonal, infinite, undefined or mm, got {missed!r}"
        ) from None


def bounding_box(mask: Array) -> tuple[slice, ...]:
    """Find the smallest box that holds all of a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _edge(mask: Array) -> Array:
    """Mark the voxels of a padded mask that have a face neighbour outside of it."""
    inner = mask[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis] - 2)
            inner &= mask[tuple(window)]
    edge = mask.copy()
    edge[1:-1, 1:-1, 1:-1] &= ~inner
    return edge


def _neighbour_codes(mask: Array) -> Array:
    """Number the eight voxels around each corner of a padded mask by which of them it holds."""
    bits = mask.view(np.uint8)
    codes = np.zeros([n - 1 for n in mask.shape], np.uint8)
    for weight in range(8):
        x, y, z = (
            slice(1 - (weight >> shift & 1), n - (weight >> shift & 1))
            for shift, n in zip((2, 1, 0), mask.shape, strict=True)
        )
        codes |= bits[x, y, z] << np.uint8(weight)
    return codes


@lru_cache(maxsize=16)
def _area_table(x: float, y: float, z: float) -> Array:
    """Return the area of the surface element of each neighbour code [mm^2]."""
    from monai.metrics.utils import get_code_to_measure_table

    table, _ = get_code_to_measure_table((x, y, z))
    return np.asarray(table.numpy(), dtype=np.float64)


def _percentile_of_area(distances: Array, areas: Array, percent: float) -> float:
    order = distances.argsort(kind="stable")
    share = areas[order].cumsum() / areas.sum()
    # A share that is just the percentage but for rounding reaches it.
    place = int(np.searchsorted(share, percent / 100 - 1e-6))
    return float(distances[order][min(place, distances.size - 1)])
