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
from pydantic import Field, model_validator
from scipy import ndimage
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel
from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.lesions_found import LikelyPart, middle_plane, to_world

PART_SIGNS: dict[str, str] = {
    "peak": "the highest probability of both networks together (log-odds)",
    "mean": "the mean of these probabilities (log-odds)",
    "first_peak": "the highest probability of the first network alone (log-odds)",
    "volume": "its volume [ml] (log)",
    "parts": "the number of parts in the mask (log)",
    "suspected": "the volume of what is at least 5 % probable in the scan [ml] (log)",
    "highest": "the highest probability in the scan (log-odds)",
    "mirrored": "the highest probability at its mirror image on the other side of the brain (log-odds)",
    "against_mirror": "the contrast to that mirror image, in robust standard deviations of the brain",
    "against_around": "the contrast to the healthy brain within 4 mm",
    "at_border": "the share of what is within 4 mm that is no healthy brain",
    "thin": "the share of its voxels within 2.5 mm of its surface",
}
"""Name of each sign of a part -> what it is."""

_NEIGHBOURS = np.ones((3, 3, 3))
_SMALLEST = 1e-3
_SUSPECTED = 0.05
_SHELL_MM, _THIN_MM = 4.0, 2.5
_SAMPLED = 50_000
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
        parts: How many parts their masks had.
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
        found: Array = 1 / (1 + np.exp(-(self.intercept + scaled @ np.array(self.weights))))
        return found


@dataclass(frozen=True, eq=False)
class Parts:
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


def find_parts(mask: Tensor, lesion: Volume, first: Volume, healthy: Volume, scan: Volume) -> Parts:
    """Find the parts of a mask and measure their signs.

    Args:
        mask: (X, Y, Z) bool.
        lesion: Lesion probability of both networks together, on the scan's grid.
        first: That of the first network alone, on the scan's grid.
        healthy: The healthy brain, uint8, on any grid along the world's axes.
        scan: The scan.

    Example:
        >>> import torch
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
        return Parts(labels, np.zeros((0, len(PART_SIGNS))))
    values = lesion.data[0].numpy()
    looks = _Looks(labels, values, healthy, scan)
    of_scan = {
        "parts": math.log1p(count),
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
    return Parts(labels, np.array(rows))


class _Looks:
    """Compares parts with their surroundings and with the other side of the brain."""

    def __init__(self, labels: Array, values: Array, healthy: Volume, scan: Volume) -> None:
        self._labels, self._values = labels, values
        self._image, self._affine, self._spacing = scan.data[0].numpy(), scan.affine, scan.spacing
        self._back = np.linalg.inv(scan.affine.numpy())
        self._healthy = healthy.data[0].numpy() > 0
        self._to_healthy = np.linalg.inv(healthy.affine.numpy())
        self._plane = middle_plane(healthy)
        inside = np.argwhere(self._healthy)
        inside = inside[:: 1 + len(inside) // _SAMPLED]
        there = self._image[tuple(_nearest(to_world(inside, healthy.affine), self._back, labels.shape)[0].T)]
        low, high = np.quantile(there, [0.25, 0.75]) if len(there) else (0.0, 0.0)
        self._spread = float(high - low) / _NORMAL_RANGE

    def of_part(self, number: int, box: Sequence[slice]) -> dict[str, float]:
        """Measure one part, of which all voxels are in a box."""
        reach = [math.ceil(_SHELL_MM / size) for size in self._spacing]
        wide = tuple(slice(max(s.start - n, 0), s.stop + n) for s, n in zip(box, reach, strict=True))
        part = self._labels[wide] == number
        start = np.array([side.start for side in wide])
        away = ndimage.distance_transform_edt(~part, sampling=self._spacing)
        shell = (away <= _SHELL_MM) & (self._labels[wide] == 0)
        around = np.argwhere(shell) + start
        places, known = _nearest(to_world(around, self._affine), self._to_healthy, self._healthy.shape)
        brain = np.zeros(len(around), dtype=bool)
        brain[known] = self._healthy[tuple(places.T)]
        deep = ndimage.distance_transform_edt(np.pad(part, 1), sampling=self._spacing)
        voxels = np.argwhere(part) + start
        level = float(self._image[tuple(voxels.T)].mean())
        points = to_world(voxels, self._affine)
        normal, offset = self._plane[:3], self._plane[3]
        points = points - 2 * np.outer((points @ normal + offset) / (normal @ normal), normal)
        opposite = tuple(_nearest(points, self._back, self._labels.shape)[0].T)
        has_mirror = len(opposite[0]) > 0
        far = float(self._image[opposite].mean()) if has_mirror else level
        near = float(self._image[tuple(around[brain].T)].mean()) if brain.any() else level
        spread = self._spread or 1.0
        return {
            "mirrored": _log_odds(float(self._values[opposite].max()) if has_mirror else 0.0),
            "against_mirror": abs(level - far) / spread,
            "against_around": abs(level - near) / spread,
            "at_border": 1 - float(brain.mean()) if len(brain) else 1.0,
            "thin": float((deep[deep > 0] <= _THIN_MM).mean()),
        }


def _nearest(points: Array, to_voxels: Array, shape: Sequence[int]) -> tuple[Array, Array]:
    """Return the voxels (M, 3) nearest to points (N, 3) [mm], and which points have one, (N,) bool."""
    voxels = np.rint(points @ to_voxels[:3, :3].T + to_voxels[:3, 3]).astype(np.int64)
    fits = ((voxels >= 0) & (voxels < np.array(shape))).all(axis=1)
    return voxels[fits], fits


def _log_odds(probability: float) -> float:
    kept = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(kept / (1 - kept))
