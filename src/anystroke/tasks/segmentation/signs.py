"""What a prediction shows of itself that tells good masks from bad ones, and what each sign is in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.models.image_features import FEATURES, image_features
from anystroke.models.volume_interval import central_volume, expected_volume, sureness, volume_interval
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.lesions_found import middle_plane
from anystroke.tasks.segmentation.mask import Prediction
from anystroke.tasks.segmentation.options import SegmentOptions
from anystroke.tasks.segmentation.risk import Risk, risk_of
from anystroke.tasks.segmentation.trust import cut_area

_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)
_FAINT = 0.02
_LARGEST_ODDS = 12.0
_SHELL = 2
# A part across the middle of which less has another side is compared with its surroundings alone.
_LEAST_MIRRORED = 0.25


@dataclass(frozen=True)
class Sign:
    """One sign.

    Attributes:
        what: What it measures.
        above: What is to be said where it speaks against a mask and is larger than usual; made of ``what`` if
            empty.
        below: Likewise if it is smaller.
    """

    what: str
    above: str = ""
    below: str = ""

    def says(self, *, above: bool) -> str:
        """Return what is to be said where it speaks against a mask."""
        words = self.above if above else self.below
        return words or f"{self.what} is {'larger' if above else 'smaller'} than usual"


_UNSURE = "nothing stands out surely enough"
SIGNS: Mapping[str, Sign] = {
    "volume": Sign("the volume of the mask (log)", "much is marked", "little or nothing is marked"),
    "expected": Sign("the expected volume (log)", "much may be lesion", "hardly anything looks like one"),
    "faint": Sign(
        "the volume of what is suspected faintly (log)",
        "much is suspected faintly",
        "hardly anything is even suspected",
    ),
    "left_out": Sign(
        "the volume that was suspected and left out (log)", "what was suspected was left out as too uncertain"
    ),
    "peak": Sign("the highest probability (log-odds)", below=_UNSURE),
    "mean_probability": Sign("the mean probability in the mask", below=_UNSURE),
    "part_peaks": Sign("the highest probability of the mask's parts", below=_UNSURE),
    "parts": Sign("the number of parts (log)", "the mask is in many parts"),
    "largest_share": Sign("the share of the largest part", below="the mask is scattered over several parts"),
    "mirrored": Sign(
        "the likeness of both sides", "what was found is found on the other side of the brain too"
    ),
    "against_mirror": Sign(
        "the contrast to the other side", below="what was found looks like the other side of the brain"
    ),
    "against_around": Sign(
        "the contrast to the surroundings", below="what was found hardly differs from its surroundings"
    ),
    "at_border": Sign("the share of the border that faces no brain", "much is marked at the brain's border"),
    "ragged": Sign("the share of voxels at the mask's surface", "the mask is thin or ragged"),
    "certainty": Sign("the certainty of the tissues", below="the network is unsure of the tissues"),
    "brain": Sign("the volume of the brain [l]", "the brain seems too large", "the brain seems too small"),
    "cut": Sign("the area where the brain is cut off (log)", "the brain is cut off"),
    "interval": Sign("the width of the interval of the volume (log)", "the volume is uncertain"),
    "out_of_range": Sign(
        "the distance to the training's images", "the image is unlike those of the training"
    ),
    **{
        name: Sign(words, f"{words.split(' (')[0]} is large", f"{words.split(' (')[0]} is small")
        for name, words in FEATURES.items()
    },
}
"""Name of each sign -> what it is."""


def reason_of(risk: Risk) -> str:
    """Say why a mask with this risk is not to be trusted.

    Example:
        >>> reason_of(Risk(0.7, 0.4, "peak", 1.0, above=False))
        'nothing stands out surely enough: 7 of 10 such masks miss the lesion or mark 5 ml of healthy tissue'
    """
    if not risk.driver:
        return risk.in_words
    return f"{driver_of(risk)}: {risk.in_words}"


def driver_of(risk: Risk) -> str:
    """Say which sign speaks most against a mask; empty where none does.

    Example:
        >>> driver_of(Risk(0.7, 0.4, "parts", 1.0))
        'the mask is in many parts'
    """
    return SIGNS[risk.driver].says(above=risk.above) if risk.driver else ""


def risk_of_prediction(
    prediction: Prediction, config: SegmentationConfig, options: SegmentOptions, scan: Volume
) -> Risk | None:
    """Compute how likely the mask of a prediction is to fail.

    Args:
        prediction: What the network says.
        config: Of the network.
        options: What was asked for.
        scan: What it says that of.

    Returns:
        The risk; None if it was not measured for the model, or not for masks that are made as this one is.
    """
    as_measured = options.preset == "default" and prediction.threshold == config.threshold
    if config.risk is None or not as_measured or options.min_volume > 0:
        return None
    return risk_of(signs_of(prediction, config, scan=scan), config.risk)


def signs_of(prediction: Prediction, config: SegmentationConfig, *, scan: Volume) -> dict[str, float]:
    """Measure the signs of a prediction; what depends on the size of voxels, on the network's grid.

    Args:
        prediction: What the network says.
        config: Of the network.
        scan: What it says that of.

    Returns:
        A value for each of ``SIGNS``; empty if the prediction does not come with what the network saw.
    """
    image = prediction.image
    if image is None:
        return {}
    seen = _Seen.of(prediction, image)
    features = prediction.features or image_features(image.data[0], spacing=config.spacing)
    values, voxel = prediction.probability.data, prediction.probability.voxel_volume
    volume = float((prediction.mask.data > 0).sum()) * voxel
    sure = sureness(prediction.mask, prediction.probability)
    expected = expected_volume(prediction.probability)
    brain = prediction.brain
    healthy = 0.0 if brain is None else float(brain.data.sum()) * brain.voxel_volume / 1000
    return {
        "volume": math.log1p(volume),
        "expected": math.log1p(expected),
        "faint": math.log1p(float((values >= _FAINT).sum()) * voxel),
        "left_out": math.log1p(max(float((values >= prediction.threshold).sum()) * voxel - volume, 0.0)),
        "peak": _log_odds(float(values.max())),
        "mean_probability": sure,
        **_parts(seen),
        **_looks(seen),
        "certainty": prediction.certainty or 0.0,
        "brain": healthy,
        "cut": 0.0 if brain is None else math.log1p(cut_area(brain, scan)),
        "interval": _width(central_volume(volume, prediction.probability), volume, sure, config),
        "out_of_range": _out_of_range(features, config.image_range),
        **features,
    }


@dataclass(frozen=True, eq=False)
class _Seen:
    """A prediction on the network's grid.

    Attributes:
        image: (X, Y, Z).
        probability: Of lesion, (X, Y, Z).
        mask: (X, Y, Z) bool.
        brain: Healthy brain, (X, Y, Z) bool; the head if it is not known.
        affine: Voxels to mm.
    """

    image: Array
    probability: Array
    mask: Array
    brain: Array
    affine: Tensor

    @classmethod
    def of(cls, prediction: Prediction, image: Volume) -> "_Seen":
        def on_grid(volume: Volume) -> Array:
            fine = Volume(volume.data.float(), volume.affine)
            values: Array = fine.resample_to(image.affine, image.shape, antialias=True).data[0].numpy()
            return values

        data = image.data[0].numpy()
        brain = data > data.mean() if prediction.brain is None else on_grid(prediction.brain) >= 0.5
        return cls(
            data,
            on_grid(prediction.probability).clip(0, 1),
            on_grid(prediction.mask) >= 0.5,
            brain,
            image.affine,
        )

    def suspected(self) -> Array:
        """Return the mask; where it is empty, what is most probable."""
        if self.mask.any():
            return self.mask
        found: Array = self.probability >= max(self.probability.max() / 2, _FAINT)
        return found


def _log_odds(probability: float) -> float:
    if probability <= 0 or probability >= 1:
        return math.copysign(_LARGEST_ODDS, probability - 0.5)
    return max(-_LARGEST_ODDS, min(math.log(probability / (1 - probability)), _LARGEST_ODDS))


def _width(central: float, volume: float, sure: float, config: SegmentationConfig) -> float:
    """Return the logarithm of the ratio of both ends of the volume's interval, 1 ml added to each."""
    if config.volume_errors is None:
        return 0.0
    interval = volume_interval(central, volume, config.volume_errors, sure)
    return math.log((interval.high + 1) / (interval.low + 1))


def _parts(seen: _Seen) -> dict[str, float]:
    """Measure the connected parts of the mask."""
    labels, count = ndimage.label(seen.mask, structure=_NEIGHBOURS)
    if not count:
        return {"part_peaks": 0.0, "parts": 0.0, "largest_share": 1.0}
    sizes = np.bincount(labels.ravel())[1:]
    peaks = np.asarray(ndimage.maximum(seen.probability, labels, range(1, count + 1)))
    return {
        "part_peaks": float((peaks * sizes).sum() / sizes.sum()),
        "parts": math.log1p(count),
        "largest_share": float(sizes.max() / sizes.sum()),
    }


def _looks(seen: _Seen) -> dict[str, float]:
    """Compare what is suspected with its surroundings and with the other side of the brain."""
    names = ("mirrored", "against_mirror", "against_around", "at_border", "ragged")
    found = seen.suspected()
    inside = seen.brain | found
    spread = float(seen.image[inside].std()) if inside.any() else 0.0
    if not found.any() or spread == 0:
        return dict.fromkeys(names, 0.0)
    near = _around(found)
    part, brain, image = found[near], seen.brain[near], seen.image[near]
    shell = ndimage.binary_dilation(part, _NEIGHBOURS, iterations=_SHELL) & ~part
    core = ndimage.binary_erosion(part, _NEIGHBOURS)
    level = float(image[part].mean())
    around = shell & brain
    opposite = _mirror(seen, found)
    far = seen.image[tuple(opposite.T)]
    around_contrast = abs(level - float(image[around].mean())) / spread if around.any() else 0.0
    if len(opposite) < _LEAST_MIRRORED * found.sum():
        opposite = opposite[:0]
    own = float(seen.probability[found].mean())
    other = float(seen.probability[tuple(opposite.T)].mean()) if len(opposite) else 0.0
    values = (
        min(other / own, 1.0),
        abs(level - float(far.mean())) / spread if len(opposite) else around_contrast,
        around_contrast,
        float((shell & ~brain).sum() / max(shell.sum(), 1)),
        1 - float(core.sum() / part.sum()),
    )
    return dict(zip(names, values, strict=True))


def _around(found: Array) -> tuple[slice, ...]:
    """Return the box of what is marked, widened by what its surroundings take."""
    [box] = ndimage.find_objects(found.astype(np.uint8))
    return tuple(slice(max(side.start - _SHELL - 1, 0), side.stop + _SHELL + 1) for side in box)


def _mirror(seen: _Seen, found: Array) -> Array:
    """Return the voxels at the mirror image of what was found, but for those of the part itself."""
    whole = (seen.brain | found)[None].astype(np.uint8)
    plane = middle_plane(Volume(torch.from_numpy(whole), seen.affine))
    normal, offset = plane[:3], plane[3]
    labels, _ = ndimage.label(found, structure=_NEIGHBOURS)
    index = np.argwhere(found)
    matrix = seen.affine.numpy()
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    points = points - 2 * np.outer((points @ normal + offset) / (normal @ normal), normal)
    back = np.linalg.inv(matrix)
    mirrored = np.rint(points @ back[:3, :3].T + back[:3, 3]).astype(int)
    fits = ((mirrored >= 0) & (mirrored < np.array(found.shape))).all(axis=1)
    there: Array = mirrored[fits]
    own = labels[tuple(there.T)] == labels[tuple(index[fits].T)]
    others: Array = there[~own]
    return others


def _out_of_range(features: Mapping[str, float], usual: Mapping[str, tuple[float, float]]) -> float:
    """Add up by how many widths of its range each feature is outside, each at most one."""
    total = 0.0
    for name, (low, high) in usual.items():
        if name in features and high > low:
            total += min(max(low - features[name], features[name] - high, 0.0) / (high - low), 1.0)
    return total
