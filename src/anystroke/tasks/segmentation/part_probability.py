"""How likely each connected part of a mask is a lesion at all, by how it looks.

A voxel's probability says what it looks like with its surroundings. Whether a whole part is a lesion depends
on more: a part that the other side of the brain has too, one of many, a thin one at the brain's border and
one that hardly differs from its surroundings are less often right.

Source: after the classifiers of candidates in computer-aided detection, such as van Ginneken, Radiol Phys
Technol 10:23 (2017); this one is a logistic regression.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy import ndimage
from scipy.special import expit
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel
from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.lesions_found import LikelyPart, middle_plane, to_world
from anystroke.tasks.segmentation.mni_places import with_lesion

PART_SIGNS: dict[str, str] = {
    "peak": "the highest probability of both networks together (log-odds)",
    "mean": "the mean of these probabilities (log-odds)",
    "first_peak": "the highest probability of the first network alone (log-odds)",
    "volume": "its volume [ml] (log)",
    "depth": "how far its innermost voxel is from what is outside [mm] (log)",
    "count": "how many parts the mask has (log of one more)",
    "suspected": "the volume of what is at least 5 % probable in the scan [ml] (log of one more)",
    "highest": "the highest probability in the scan (log-odds)",
    "mirrored": "the highest probability at its mirror image on the other side of the brain (log-odds)",
    "against_mirror": "the size of the contrast to that mirror image, in robust deviations of the brain",
    "against_around": "the size of the contrast to the healthy brain within 4 mm, likewise",
    "at_border": "the share of what is within 4 mm, but for other parts, that is no healthy brain",
}
"""Name of each sign of a part -> what it is."""

_NEIGHBOURS = np.ones((3, 3, 3))
_SMALLEST = 1e-3
_SUSPECTED = 0.05
_SHELL_MM = 4.0
_LARGEST_CONTRAST = 10.0
_SAMPLED = 50_000
# Boxes of more voxels are looked at in steps of about a millimetre.
_LARGE_BOX, _STEP_MM = 2_000_000, 1.0
# The range of the middle half of a normal distribution, in standard deviations.
_NORMAL_RANGE = 1.349


class PartModel(StrictModel):
    """What turns the signs of a part into the probability that it is a lesion: a logistic regression.

    Attributes:
        signs: Names of ``PART_SIGNS``.
        mean: Of each over the parts it was fitted on.
        sd: Likewise.
        weights: Log-odds for each standard deviation above the mean.
        intercept: Log-odds of a part with the mean of every sign.
        patients: How many simulated patients there were.
        parts: How many parts of their masks taught it.
        right: How many of them touched a lesion.
        auc: Area under the receiver operating characteristic, of parts of patients that were left out of the
            fit in turn.
    """

    signs: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    patients: int = Field(gt=0)
    parts: int = Field(gt=0)
    right: int = Field(gt=0)
    auc: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> "PartModel":
        lengths = {len(values) for values in (self.mean, self.sd, self.weights)}
        if lengths != {len(self.signs)}:
            raise ValueError(
                f"expected {len(self.signs)} means, deviations and weights, got {sorted(lengths)}"
            )
        if unknown := sorted(set(self.signs) - set(PART_SIGNS)):
            raise ValueError(f"expected signs of {', '.join(PART_SIGNS)}, got {unknown[0]}")
        if not all(sd > 0 for sd in self.sd):
            raise ValueError("expected standard deviations above 0, got others")
        return self

    def probabilities(self, signs: Array) -> Array:
        """Return the probability of each part.

        Args:
            signs: (parts, ``PART_SIGNS``).

        Returns:
            (parts,).

        Example:
            >>> model = PartModel(
            ...     signs=("volume",), mean=(0.0,), sd=(2.0,), weights=(1.0,), intercept=0.0,
            ...     patients=1, parts=1, right=1, auc=0.5,
            ... )
            >>> model.probabilities(np.zeros((1, len(PART_SIGNS)))).tolist()
            [0.5]
        """
        columns = [list(PART_SIGNS).index(name) for name in self.signs]
        scaled = (signs[:, columns] - np.array(self.mean)) / np.array(self.sd)
        found: Array = expit(self.intercept + scaled @ np.array(self.weights))
        return found


@dataclass(frozen=True, eq=False)
class MeasuredParts:
    """Connected parts (26 neighbours) of a mask.

    Attributes:
        labels: (X, Y, Z) number of each part in its voxels, from 1; 0 elsewhere.
        signs: (parts, ``PART_SIGNS``).
    """

    labels: Array
    signs: Array

    def __len__(self) -> int:
        return len(self.signs)


def likely_parts(
    mask: Volume, lesion: Volume, first: Volume, healthy: Volume, scan: Volume, model: PartModel
) -> tuple[LikelyPart, ...]:
    """Say how likely each part of a mask is a lesion.

    Args:
        mask: uint8, on the grid of the scan.
        lesion: As in `find_parts`.
        first: As in `find_parts`.
        healthy: As in `find_parts`.
        scan: The scan.
        model: What tells.
    """
    parts = find_parts(mask.data[0] > 0, lesion, first, healthy, scan)
    found = []
    boxes = ndimage.find_objects(parts.labels)
    for number, chance in enumerate(model.probabilities(parts.signs), start=1):
        box = boxes[number - 1]
        inside = np.argwhere(parts.labels[box] == number)[0]
        x, y, z = (int(side.start + place) for side, place in zip(box, inside, strict=True))
        found.append(LikelyPart((x, y, z), float(chance)))
    return tuple(found)


def find_parts(mask: Tensor, lesion: Volume, first: Volume, healthy: Volume, scan: Volume) -> MeasuredParts:
    """Find the parts of a mask and measure their signs.

    Args:
        mask: (X, Y, Z) bool.
        lesion: Lesion probability of both networks together, on the scan's grid.
        first: That of the first network alone, on the scan's grid.
        healthy: The healthy brain, uint8, on any grid along the world's axes.
        scan: The scan.

    Example:
        >>> grid = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
        >>> lesion = torch.full((1, 24, 24, 24), 0.01)
        >>> lesion[0, 4:6, 10:12, 10:12] = 0.9
        >>> both = Volume(lesion, grid)
        >>> brain = Volume(torch.ones((1, 24, 24, 24), dtype=torch.uint8), grid)
        >>> found = find_parts(both.data[0] >= 0.15, both, both, brain, Volume(lesion * 100, grid))
        >>> len(found), round(math.exp(found.signs[0, list(PART_SIGNS).index("volume")]), 3)
        (1, 0.064)
    """
    labels, count = ndimage.label(mask.numpy(), structure=_NEIGHBOURS)
    if not count:
        return MeasuredParts(labels, np.zeros((0, len(PART_SIGNS))))
    values = lesion.data[0].numpy()
    looks = _Looks(labels, lesion, healthy, scan)
    of_scan = {
        "count": math.log1p(count),
        "suspected": math.log1p(float((values >= _SUSPECTED).sum()) * lesion.voxel_volume),
        "highest": _log_odds(float(values.max())),
    }
    rows = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == number
        own = {
            "peak": _log_odds(float(values[box][part].max())),
            "mean": _log_odds(float(values[box][part].mean())),
            "first_peak": _log_odds(float(first.data[0].numpy()[box][part].max())),
            "volume": math.log(float(part.sum()) * lesion.voxel_volume),
        }
        every = own | of_scan | looks.of_part(number, box)
        rows.append([every[name] for name in PART_SIGNS])
    return MeasuredParts(labels, np.array(rows))


class _Looks:
    """Compares parts with their surroundings and with the other side of the brain."""

    def __init__(self, labels: Array, lesion: Volume, healthy: Volume, scan: Volume) -> None:
        self._labels, self._values = labels, lesion.data[0].numpy()
        self._image, self._affine, self._spacing = scan.data[0].numpy(), scan.affine, scan.spacing
        self._back = np.linalg.inv(scan.affine.numpy())
        self._healthy = healthy.data[0].numpy() > 0
        self._to_healthy = np.linalg.inv(healthy.affine.numpy())
        mask = Volume(torch.from_numpy(labels > 0)[None], scan.affine)
        self._plane = middle_plane(with_lesion(healthy, mask) or healthy)
        inside = np.argwhere(self._healthy)
        inside = inside[:: 1 + len(inside) // _SAMPLED]
        there = self._image[tuple(_nearest(to_world(inside, healthy.affine), self._back, labels.shape)[0].T)]
        low, high = np.quantile(there, [0.25, 0.75]) if len(there) else (0.0, 0.0)
        self._spread = float(high - low) / _NORMAL_RANGE

    def of_part(self, number: int, box: Sequence[slice]) -> dict[str, float]:
        """Measure one part, of which all voxels are in a box."""
        reach = [math.ceil(_SHELL_MM / size) for size in self._spacing]
        wide = [slice(max(s.start - n, 0), s.stop + n) for s, n in zip(box, reach, strict=True)]
        steps = [1, 1, 1]
        if math.prod(side.stop - side.start for side in wide) > _LARGE_BOX:
            steps = [max(1, round(_STEP_MM / size)) for size in self._spacing]
        some = tuple(slice(side.start, side.stop, step) for side, step in zip(wide, steps, strict=True))
        sampling = [size * step for size, step in zip(self._spacing, steps, strict=True)]
        numbers = self._labels[some]
        part = numbers == number
        start = np.array([side.start for side in wide])
        away = ndimage.distance_transform_edt(~part, sampling=sampling)
        around = np.argwhere((away <= _SHELL_MM) & (numbers == 0)) * steps + start
        brain = self._in_brain(around)
        deepest = ndimage.distance_transform_edt(np.pad(part, 1), sampling=sampling).max()
        voxels = np.argwhere(part) * steps + start
        level = float(self._image[tuple(voxels.T)].mean()) if len(voxels) else 0.0
        opposite = self._opposite(voxels, number)
        return {
            "depth": math.log(max(float(deepest), min(self._spacing))),
            "mirrored": _log_odds(float(self._values[opposite].max()) if len(opposite[0]) else 0.0),
            "against_mirror": self._contrast(level, self._image[opposite]),
            "against_around": self._contrast(level, self._image[tuple(around[brain].T)]),
            "at_border": 1 - float(brain.mean()) if len(brain) else 1.0,
        }

    def _in_brain(self, voxels: Array) -> Array:
        """Tell which voxels (N, 3) of the scan are healthy brain, (N,) bool."""
        places, known = _nearest(to_world(voxels, self._affine), self._to_healthy, self._healthy.shape)
        brain = np.zeros(len(voxels), dtype=bool)
        brain[known] = self._healthy[tuple(places.T)]
        return brain

    def _opposite(self, voxels: Array, number: int) -> tuple[Array, ...]:
        """Return the voxels at the mirror image of some (N, 3), but for those of the part itself."""
        points = to_world(voxels, self._affine)
        normal, offset = self._plane[:3], self._plane[3]
        points = points - 2 * np.outer((points @ normal + offset) / (normal @ normal), normal)
        there = _nearest(points, self._back, self._labels.shape)[0]
        return tuple(there[self._labels[tuple(there.T)] != number].T)

    def _contrast(self, level: float, others: Array) -> float:
        """Compare a part's mean grey value with others; 0 where there are none or the brain is constant."""
        if not len(others) or self._spread == 0:
            return 0.0
        return min(abs(level - float(others.mean())) / self._spread, _LARGEST_CONTRAST)


def _nearest(points: Array, to_voxels: Array, shape: Sequence[int]) -> tuple[Array, Array]:
    """Return the voxels (M, 3) nearest to points (N, 3) [mm], and which points have one, (N,) bool."""
    voxels = np.rint(points @ to_voxels[:3, :3].T + to_voxels[:3, 3]).astype(np.int64)
    fits = ((voxels >= 0) & (voxels < np.array(shape))).all(axis=1)
    return voxels[fits], fits


def _log_odds(probability: float) -> float:
    kept = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(kept / (1 - kept))
