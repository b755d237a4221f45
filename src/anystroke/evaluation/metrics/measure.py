"""All metrics of a predicted mask under named settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from torch import Tensor

from anystroke.evaluation.metrics.calibration import Reliability, reliability
from anystroke.evaluation.metrics.distance_transform import Spacing
from anystroke.evaluation.metrics.lesion_wise import LesionMatch, LesionScore, match_lesions
from anystroke.evaluation.metrics.overlap import (
    Confusion,
    EmptyPolicy,
    Mask,
    boolean_pair,
    confusion,
    dice,
    share_when_empty,
    volume_ml,
)
from anystroke.evaluation.metrics.settings import MetricSettings, load_settings
from anystroke.evaluation.metrics.surface_distances import distance_when_missed, surface_distances

__all__ = [
    "METRICS",
    "EmptyPolicy",
    "Measurement",
    "Metric",
    "MetricSettings",
    "dice",
    "load_settings",
    "measure",
    "volume_ml",
]

_ORTHOGONAL = 0.01


@dataclass(frozen=True)
class Metric:
    """What a column of a table of results means.

    Attributes:
        title: Short name for tables.
        meaning: One sentence.
        unit: Such as mm; empty for a share.
        best: Whether high or low values are good; None if neither.
        bounds: Smallest and largest possible value.
    """

    title: str
    meaning: str
    unit: str = ""
    best: Literal["high", "low"] | None = "high"
    bounds: tuple[float, float] = (0.0, 1.0)


_LENGTH, _COUNT = (0.0, math.inf), (0.0, math.inf)
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "dice": Metric("Dice", "Twice the overlap over the sum of both volumes"),
        "surface_dice": Metric("NSD", "Share of both surfaces within the tolerance of the other"),
        "hausdorff95": Metric("HD95", "95th percentile of surface distances", "mm", "low", _LENGTH),
        "hausdorff": Metric("HD", "Largest surface distance", "mm", "low", _LENGTH),
        "hausdorff95_to_truth": Metric(
            "HD95 P-T", "95th percentile from the predicted to the true surface", "mm", "low", _LENGTH
        ),
        "hausdorff95_to_prediction": Metric(
            "HD95 T-P", "95th percentile from the true to the predicted surface", "mm", "low", _LENGTH
        ),
        "volume_difference": Metric("AVD", "Absolute difference of the volumes", "ml", "low", _COUNT),
        "lesion_count_difference": Metric("ALD", "Absolute difference of lesion counts", "", "low", _COUNT),
        "lesion_count_error": Metric("LCE", "Difference of lesion counts over their sum", "", "low"),
        "lesion_f1": Metric("LF1", "Found lesions over found and the mean of missed and false ones"),
        "lesion_precision": Metric("LP", "Found lesions over found and false ones"),
        "lesion_recall": Metric("LR", "Found lesions over true lesions"),
        "lesion_dice": Metric("LDice", "Mean Dice of the true lesions; a false one counts as a 0"),
        "sensitivity": Metric("Sens", "Found share of the true volume"),
        "specificity": Metric("Spec", "Share of healthy voxels left alone; depends on the field of view"),
        "positive_predictive_value": Metric("PPV", "Right share of the predicted volume"),
        "brier": Metric("Brier", "Mean squared difference of probability and truth", "", "low"),
        "calibration_error": Metric("ECE", "Expected calibration error", "", "low"),
        "truth_ml": Metric("True", "True volume", "ml", None, _COUNT),
        "predicted_ml": Metric("Predicted", "Predicted volume", "ml", None, _COUNT),
        "truth_lesions": Metric("True lesions", "Number of true lesions", "", None, _COUNT),
        "predicted_lesions": Metric("Predicted lesions", "Number of predicted lesions", "", None, _COUNT),
    }
)
"""Every column that `measure` can give, in the order of tables."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of one case.

    Attributes:
        values: By name of ``METRICS``; NaN is undefined. Calibration is there if probabilities were given.
        lesions: Every lesion of the truth and of the prediction.
        settings: What the numbers mean.
        reliability: Sums for a reliability diagram, if probabilities were given.
    """

    values: Mapping[str, float]
    lesions: tuple[LesionScore, ...]
    settings: MetricSettings
    reliability: Reliability | None = None

    @property
    def undefined(self) -> tuple[str, ...]:
        """Names of the metrics that have no value for this case."""
        return tuple(name for name, value in self.values.items() if math.isnan(value))


def measure(
    prediction: Mask,
    truth: Mask,
    *,
    affine: Tensor,
    settings: MetricSettings | None = None,
    probability: Tensor | np.ndarray[Any, Any] | None = None,
) -> Measurement:
    """Measure a predicted mask against the true one.

    ``settings.resample_to`` is not applied here; `anystroke.evaluation.evaluate` does that.

    Args:
        prediction: (X, Y, Z) boolean.
        truth: (X, Y, Z) boolean.
        affine: (4, 4) voxel -> mm.
        settings: What metrics mean; those of the preset ``anystroke`` if None.
        probability: (X, Y, Z) lesion probability, for the calibration.

    Raises:
        ValueError: The masks are not boolean and 3-D, shapes differ, probabilities are not within 0 and 1, or
            the axes are not orthogonal.

    Example:
        >>> import torch
        >>> truth = torch.zeros(8, 8, 8, dtype=torch.bool)
        >>> truth[2:5, 2:5, 2:5] = True
        >>> found = measure(truth.roll(1, 0), truth, affine=torch.diag(torch.tensor([2.0, 1, 1, 1])))
        >>> round(found.values["dice"], 3), found.values["hausdorff95"]
        (0.667, 2.0)
    """
    settings = settings or load_settings()
    predicted, true = boolean_pair(prediction, truth)
    spacing = _spacing(affine)
    voxel = math.prod(spacing) / 1000
    shape = tuple(max(n, settings.pad_to or n) for n in predicted.shape)
    counts = confusion(predicted, true)
    outside = math.prod(shape) - predicted.size
    counts = Confusion(
        counts.true_positive, counts.false_positive, counts.false_negative, counts.true_negative + outside
    )
    match = match_lesions(
        predicted,
        true,
        voxel_ml=voxel,
        connectivity=settings.connectivity,
        rule=settings.overlap_rule,
        threshold=settings.overlap_threshold,
        smallest_ml=settings.smallest_mm3 / 1000,
        merge=settings.merge,
    )
    values = {
        **_overlaps(counts, settings.both_empty),
        **_distances(predicted, true, spacing, shape, settings),
        **_lesions(match, settings.both_empty),
        "volume_difference": abs(counts.predicted - counts.true) * voxel,
        "truth_ml": counts.true * voxel,
        "predicted_ml": counts.predicted * voxel,
    }
    sums = None
    if probability is not None:
        bins, floor = settings.calibration_bins, settings.calibration_floor
        sums = reliability(probability, true, bins=bins, floor=floor)
        nothing = 1 - share_when_empty(settings.both_empty)
        values["brier"] = sums.brier() if sums.voxels else nothing
        values["calibration_error"] = sums.expected_calibration_error() if sums.voxels else nothing
    ordered = {name: float(values[name]) for name in METRICS if name in values}
    return Measurement(MappingProxyType(ordered), match.lesions, settings, sums)


def _overlaps(counts: Confusion, empty: EmptyPolicy) -> dict[str, float]:
    return {
        "dice": counts.dice(empty),
        "sensitivity": counts.sensitivity(empty),
        "specificity": counts.specificity(),
        "positive_predictive_value": counts.positive_predictive_value(empty),
    }


def _distances(
    predicted: np.ndarray[Any, Any],
    true: np.ndarray[Any, Any],
    spacing: Spacing,
    shape: tuple[int, ...],
    settings: MetricSettings,
) -> dict[str, float]:
    names = ("hausdorff95", "hausdorff", "hausdorff95_to_truth", "hausdorff95_to_prediction")
    found = surface_distances(predicted, true, spacing=spacing, definition=settings.hausdorff)
    if found is None:
        missed = distance_when_missed(settings.missed_distance, shape=shape, spacing=spacing)
        if predicted.any() or true.any():
            return {**dict.fromkeys(names, missed), "surface_dice": 0.0}
        nothing = {"perfect": 0.0, "worst": missed, "undefined": math.nan}[settings.both_empty]
        return {**dict.fromkeys(names, nothing), "surface_dice": share_when_empty(settings.both_empty)}
    areas = (
        found
        if settings.hausdorff == "surface_distance"
        else surface_distances(predicted, true, spacing=spacing, definition="surface_distance")
    )
    if areas is None:
        raise RuntimeError("two masks that are not empty have surfaces")
    robust = (found.percentile(95), found.percentile(100), *found.directed(95))
    return {**dict(zip(names, robust, strict=True)), "surface_dice": areas.surface_dice(settings.tolerance)}


def _lesions(match: LesionMatch, empty: EmptyPolicy) -> dict[str, float]:
    return {
        "lesion_count_difference": match.count_difference,
        "lesion_count_error": match.count_error(empty),
        "lesion_f1": match.f1(empty),
        "lesion_precision": match.precision(empty),
        "lesion_recall": match.recall(empty),
        "lesion_dice": match.dice(empty),
        "truth_lesions": match.count("true"),
        "predicted_lesions": match.count("predicted"),
    }


def _spacing(affine: Tensor) -> Spacing:
    """Return the voxel size of a grid with orthogonal axes [mm]."""
    axes = affine[:3, :3].detach().cpu().double()
    x, y, z = (float(length) for length in axes.norm(dim=0))
    cosines = (axes.T @ axes) / (axes.norm(dim=0)[:, None] * axes.norm(dim=0))
    worst = float((cosines - cosines.diag().diag()).abs().max())
    if not worst <= _ORTHOGONAL:
        raise ValueError(
            f"distances need a grid with orthogonal axes, got a cosine of {worst:.3f} between two of them; "
            "resample the masks to such a grid"
        )
    return x, y, z
