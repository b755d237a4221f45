"""Lesion by lesion: which true lesions were found, which predicted ones are false."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from anystroke.core.arrays import Array
from anystroke.evaluation.metrics.overlap import EmptyPolicy, Mask, boolean_pair, share_when_empty
from anystroke.evaluation.metrics.surface_distances import bounding_box

Connectivity = Literal[6, 18, 26]
OverlapRule = Literal["voxel", "coverage", "iou"]

_STEPS = {6: 1, 18: 2, 26: 3}
_ROUNDING = 1e-9
"""Sums of voxel volumes are rounded [ml]."""
_MERGING_STRUCTURE = ndimage.generate_binary_structure(3, 2)


@dataclass(frozen=True)
class LesionScore:
    """A connected component of one mask, and what the other mask has there.

    Attributes:
        kind: ``"true"`` for one of the true mask, ``"predicted"`` for one of the prediction.
        number: Its number in its mask, from 1.
        volume: Its size [ml].
        matched: Whether a true lesion was found, or a predicted one is right.
        overlap: Volume that it shares with the other mask [ml].
        dice: Of a true lesion with the predicted ones that match it; 0 if missed, NaN for a predicted lesion.
        partners: Numbers of the lesions of the other mask that it meets.
        centre: Voxel indices of its centre of mass.
        counted: Whether it counts; one below the smallest size does not.
    """

    kind: Literal["true", "predicted"]
    number: int
    volume: float
    matched: bool
    overlap: float
    dice: float
    partners: tuple[int, ...]
    centre: tuple[float, float, float]
    counted: bool = True


@dataclass(frozen=True, eq=False)
class LesionMatch:
    """The lesions of two masks.

    Attributes:
        lesions: All of them, the true ones first.
        labels: Component numbers of the predicted and the true mask within ``box``.
        box: Where in the image ``labels`` is.
    """

    lesions: tuple[LesionScore, ...]
    labels: tuple[Array, Array]
    box: tuple[slice, ...]

    def count(self, kind: str, *, matched: bool | None = None) -> int:
        """Count the lesions of a kind that count."""
        return sum(
            lesion.kind == kind and lesion.counted and matched in (None, lesion.matched)
            for lesion in self.lesions
        )

    @property
    def count_difference(self) -> int:
        """Absolute difference of the numbers of predicted and true lesions."""
        return abs(self.count("predicted") - self.count("true"))

    def count_error(self, empty: EmptyPolicy = "undefined") -> float:
        """Return the lesion count error ``|P - T| / (P + T)`` of P predicted and T true lesions.

        0 if the numbers agree, 1 if there are lesions in one mask alone: a lesion too many weighs more where
        there are few, so that patients with one lesion and with fifty can be averaged.

        Source:
            One minus the volumetric similarity of Taha, Hanbury, BMC Med Imaging 15:29 (2015), of numbers in
            place of volumes.
        """
        total = self.count("predicted") + self.count("true")
        return self.count_difference / total if total else 1 - share_when_empty(empty)

    def recall(self, empty: EmptyPolicy = "undefined") -> float:
        """Return the share of true lesions that were found; NaN if there is a prediction but no lesion."""
        if true := self.count("true"):
            return self.count("true", matched=True) / true
        return math.nan if self.count("predicted") else share_when_empty(empty)

    def precision(self, empty: EmptyPolicy = "undefined") -> float:
        """Return found lesions over found and false ones; 0 if there were lesions and none was predicted."""
        found, false = self.count("true", matched=True), self.count("predicted", matched=False)
        if found + false:
            return found / (found + false)
        return 0.0 if self.count("true") else share_when_empty(empty)

    def f1(self, empty: EmptyPolicy = "undefined") -> float:
        """Return found lesions over their sum with the mean of missed and false ones."""
        found, missed = self.count("true", matched=True), self.count("true", matched=False)
        false = self.count("predicted", matched=False)
        if found + missed + false == 0:
            return share_when_empty(empty)
        return found / (found + (missed + false) / 2)

    def dice(self, empty: EmptyPolicy = "undefined") -> float:
        """Return the mean of the true lesions' Dice, in which each false lesion counts as one more 0."""
        scores = [lesion.dice for lesion in self.lesions if lesion.kind == "true" and lesion.counted]
        total = len(scores) + self.count("predicted", matched=False)
        return sum(scores) / total if total else share_when_empty(empty)


def match_lesions(
    prediction: Mask,
    truth: Mask,
    *,
    voxel_ml: float,
    connectivity: Connectivity = 26,
    rule: OverlapRule = "voxel",
    threshold: float = 0.0,
    smallest_ml: float = 0.0,
    merge: int = 0,
) -> LesionMatch:
    """Find the lesions of two masks and match them.

    Args:
        prediction: (X, Y, Z) boolean.
        truth: (X, Y, Z) boolean.
        voxel_ml: Volume of a voxel [ml].
        connectivity: 6, 18 or 26 neighbours make a component.
        rule: When lesions match: they share a ``"voxel"``; the other mask's lesions cover at least
            ``threshold`` of it (``"coverage"``); or a true lesion and all that meet it have at least that
            intersection over union (``"iou"``).
        threshold: For the latter two, above 0 and at most 1.
        smallest_ml: Smaller lesions do not count, true or predicted. A predicted lesion that meets nothing
            but a true one too small to count is not false; it does not count either.
        merge: True lesions that touch once each has grown by so many voxels (18 neighbours) are one, and the
            grown region is what a predicted lesion must meet; 0 for the lesions as they are.

    Raises:
        ValueError: The masks do not fit together, or a parameter is out of range.

    Example:
        >>> truth = np.zeros((9, 9, 9), bool)
        >>> truth[1, 1, 1] = truth[2, 2, 2] = truth[7, 7, 7] = True
        >>> found = truth.copy()
        >>> found[7, 7, 7] = False
        >>> match_lesions(found, truth, voxel_ml=0.001).recall()
        0.5
        >>> match_lesions(found, truth, voxel_ml=0.001, connectivity=6).recall()
        0.6666666666666666
    """
    predicted, true = boolean_pair(prediction, truth)
    _check(predicted, connectivity, rule, threshold, merge)
    either = predicted | true
    if not either.any():
        nothing = np.zeros((0, 0, 0), np.int32)
        return LesionMatch((), (nothing, nothing), (slice(0, 0),) * 3)
    box = tuple(
        slice(max(0, side.start - merge), min(n, side.stop + merge))
        for side, n in zip(bounding_box(either), predicted.shape, strict=True)
    )
    predicted, true = predicted[box], true[box]
    structure = ndimage.generate_binary_structure(3, _STEPS[connectivity])
    first: Array = ndimage.label(predicted, structure=structure)[0]
    reach: Array
    if merge:
        grown = ndimage.binary_dilation(true, structure=_MERGING_STRUCTURE, iterations=merge)
        reach = ndimage.label(grown, structure=structure)[0]
        second = np.where(true, reach, 0)
    else:
        reach = second = ndimage.label(true, structure=structure)[0]
    lesions = _judge(_Meeting.of(first, second, reach, voxel_ml), rule, threshold, smallest_ml)
    offset = tuple(float(side.start) for side in box)
    return LesionMatch(_place(lesions, (first, second), offset), (first, second), box)


@dataclass(frozen=True, eq=False)
class _Meeting:
    """Sizes of lesions, and the pairs of them that meet, each once.

    Attributes:
        predicted: (N,) volumes [ml].
        true: (M,) volumes [ml].
        first: (K,) index of the predicted lesion of each pair.
        second: (K,) index of the true one.
        shared: (K,) volume that they share [ml].
    """

    predicted: Array
    true: Array
    first: Array
    second: Array
    shared: Array

    @classmethod
    def of(cls, predicted: Array, true: Array, reach: Array, voxel_ml: float) -> "_Meeting":
        """Compare component numbers; ``reach`` numbers what a predicted lesion must meet."""
        n, m = int(predicted.max(initial=0)), int(reach.max(initial=0))
        where = (predicted > 0) & (reach > 0)
        keys = (reach[where].astype(np.int64) - 1) * n + predicted[where] - 1
        pairs, places = np.unique(keys, return_inverse=True)
        shared = np.bincount(places, weights=true[where] > 0, minlength=pairs.size)
        return cls(
            np.bincount(predicted.ravel(), minlength=n + 1)[1:] * voxel_ml,
            np.bincount(true.ravel(), minlength=m + 1)[1:] * voxel_ml,
            pairs % max(n, 1),
            pairs // max(n, 1),
            shared * voxel_ml,
        )

    def kept(self, pairs: Array) -> "_Meeting":
        """Leave out pairs."""
        return replace(self, first=self.first[pairs], second=self.second[pairs], shared=self.shared[pairs])

    def of_true(self, weights: Array | None = None) -> Array:
        """Sum over the pairs of each true lesion."""
        return np.bincount(self.second, weights, self.true.size)

    def of_predicted(self, weights: Array | None = None) -> Array:
        """Sum over the pairs of each predicted lesion."""
        return np.bincount(self.first, weights, self.predicted.size)


def _judge(meeting: _Meeting, rule: OverlapRule, threshold: float, smallest: float) -> list[LesionScore]:
    large = meeting.true >= smallest - _ROUNDING
    fit = meeting.predicted >= smallest - _ROUNDING
    valid = meeting.kept(fit[meeting.first])
    overlap = valid.of_true(valid.shared)
    united = valid.of_true(valid.predicted[valid.first])
    found = valid.of_true() > 0
    if rule == "coverage":
        found &= overlap >= threshold * meeting.true - _ROUNDING
    elif rule == "iou":
        found &= overlap >= threshold * (meeting.true + united - overlap) - _ROUNDING
    scores = np.zeros(found.size)
    scores[found] = 2 * overlap[found] / (meeting.true + united)[found]

    meets = meeting.of_predicted() > 0
    if rule == "coverage":
        right = meets & (meeting.of_predicted(meeting.shared) >= threshold * meeting.predicted - _ROUNDING)
    else:
        right = meeting.of_predicted((found | ~large)[meeting.second].astype(float)) > 0
    small_alone = meets & (meeting.of_predicted(large[meeting.second].astype(float)) == 0)
    true = _list("true", meeting.true, found, large, overlap, scores, _partners(valid.second, valid.first))
    predicted = _list(
        "predicted",
        meeting.predicted,
        right,
        fit & ~small_alone,
        meeting.of_predicted(meeting.shared),
        np.full(right.size, math.nan),
        _partners(meeting.first, meeting.second),
    )
    return true + predicted


def _list(
    kind: Literal["true", "predicted"],
    volumes: Array,
    matched: Array,
    counted: Array,
    overlap: Array,
    scores: Array,
    partners: dict[int, tuple[int, ...]],
) -> list[LesionScore]:
    return [
        LesionScore(
            kind=kind,
            number=k + 1,
            volume=float(volumes[k]),
            matched=bool(matched[k]),
            overlap=float(overlap[k]),
            dice=float(scores[k]),
            partners=partners.get(k, ()),
            centre=(math.nan,) * 3,
            counted=bool(counted[k]),
        )
        for k in range(volumes.size)
    ]


def _partners(of: Array, partner: Array) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for one, other in sorted(zip(of.tolist(), partner.tolist(), strict=True)):
        found[one] = (*found.get(one, ()), other + 1)
    return found


def _place(
    lesions: list[LesionScore], labels: tuple[Array, Array], offset: tuple[float, ...]
) -> tuple[LesionScore, ...]:
    """Give the lesions their centres."""
    placed: list[LesionScore] = []
    for kind, numbered in (("true", labels[1]), ("predicted", labels[0])):
        own = [lesion for lesion in lesions if lesion.kind == kind]
        centres = _centres(numbered, len(own))
        for lesion, centre in zip(own, centres, strict=True):
            x, y, z = (float(c) + o for c, o in zip(centre, offset, strict=True))
            placed.append(replace(lesion, centre=(x, y, z)))
    return tuple(placed)


def _centres(numbered: Array, count: int) -> Array:
    where = numbered.nonzero()
    numbers = numbered[where]
    size = np.maximum(np.bincount(numbers, minlength=count + 1)[1:], 1)
    sums = [np.bincount(numbers, weights=index, minlength=count + 1)[1:] for index in where]
    return np.stack([total / size for total in sums], axis=1)


def _check(mask: Array, connectivity: int, rule: str, threshold: float, merge: int) -> None:
    if mask.ndim != 3:
        raise ValueError(f"lesions need 3-D masks, got shape {mask.shape}; remove channels")
    if connectivity not in _STEPS:
        raise ValueError(f"expected a connectivity of 6, 18 or 26 neighbours, got {connectivity}")
    if rule not in get_args(OverlapRule):
        raise ValueError(f"expected a rule among {', '.join(get_args(OverlapRule))}, got {rule!r}")
    if rule != "voxel" and not 0 < threshold <= 1:
        raise ValueError(f"the rule {rule} needs a threshold above 0 and at most 1, got {threshold:g}")
    if merge < 0:
        raise ValueError(f"lesions are merged over 0 voxels or more, got {merge}")
