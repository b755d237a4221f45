"""From a scan and a network to a lesion probability and a mask in the scan's own grid."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from anystroke.core.errors import OptionError
from anystroke.core.volume import Volume
from anystroke.models.image_features import image_features
from anystroke.models.model_space import ModelSpace, check_scan, head_from_zero, to_model_space
from anystroke.models.passes import PRESETS, Processing, best_device
from anystroke.models.passes import PredictionWarning as PredictionWarning
from anystroke.models.passes import fast_bfloat16 as fast_bfloat16
from anystroke.tasks.segmentation.adc_exponential import lesion_in_both
from anystroke.tasks.segmentation.calibration_curve import CalibrationCurve
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.lesions_found import LikelyPart
from anystroke.tasks.segmentation.options import SegmentOptions
from anystroke.tasks.segmentation.outside_brain import within_mni_brain
from anystroke.tasks.segmentation.part_probability import likely_parts
from anystroke.tasks.segmentation.second_look import (
    SecondNetwork,
    is_fine_enough,
    second_look,
)
from anystroke.tasks.segmentation.small_parts import mask_at
from anystroke.tasks.segmentation.trust import mean_certainty
from anystroke.tasks.segmentation.views import as_trained, probabilities_of_views, views_of

LESION_CLASS = "lesion"
# Parts that reach it are judged by where they lie before a second network can be certain of them.
_SUSPECTED = 0.2
_NEIGHBOURS = np.ones((3, 3, 3))  # 26 neighbours: voxels that share a corner are connected


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says about one scan, in the scan's own grid.

    Attributes:
        probability: What the networks say, float32, from which the mask is drawn.
        mask: Where the probability reaches the threshold, less the components that are too small or nowhere
            as probable as the model demands; uint8. After a second look they must be surer.
        threshold: The threshold used, of ``probability``.
        tissues: Probabilities of the other classes that were asked for, by name.
        seconds: Duration of each stage by name, such as ``second_look`` where there was one.
        brain: The healthy brain, uint8 on the network's grid; None if the model has no such classes.
        certainty: Mean probability of the most probable class within brain and lesion, if there is a brain.
        spread: Standard deviation of the lesion probability over views and flips, if it was asked for.
        image: The scan on the network's grid, as it is standardised before it is shown in other ways.
        features: Of that image; empty if it was processed in another way than the training's images.
        first: What the first network alone says, where there was a second look; None if not.
        parts: How likely each connected part of the mask is a lesion. None where that is not known: by models
            that do not tell, without a second look, and at thresholds, smallest volumes or spacings other
            than it was learnt at.
        curve: What ``probability`` means as a probability; None if that was not measured for such images.
    """

    probability: Volume
    mask: Volume
    threshold: float
    tissues: dict[str, Volume] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    brain: Volume | None = None
    certainty: float | None = None
    spread: Volume | None = None
    image: Volume | None = None
    features: dict[str, float] = field(default_factory=dict)
    first: Volume | None = None
    parts: tuple[LikelyPart, ...] | None = None
    curve: CalibrationCurve | None = None


@torch.inference_mode()
def predict(
    scan: Volume,
    network: nn.Module,
    config: SegmentationConfig,
    options: SegmentOptions | None = None,
    *,
    processing: Processing | None = None,
    second_network: SecondNetwork | None = None,
    **changes: Any,
) -> Prediction:
    """Find the lesion in one scan.

    The whole head goes through the network at once; heads that are larger than the limit go in overlapping
    windows.

    Args:
        scan: One channel, any orientation, spacing and contrast.
        network: Maps (1, 1, X, Y, Z) to logits (1, classes, X, Y, Z); it is moved to the device.
        config: The network's spacing, divisor, classes, thresholds and temperature.
        options: What is asked for.
        processing: Spacing, windows and flips; by default those of the options' preset.
        second_network: Looks at the brain again, where the scan is at most a quarter coarser than the first
            network's grid and the options do not say otherwise. It runs on the CPU.
        **changes: Fields of the options.

    Returns:
        Probability and mask in the scan's grid.

    Raises:
        VolumeError: The scan cannot be used (see `check_scan`).
        OptionError: An option is out of range, or names a class that the model does not have.

    Example:
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([2.0, 2, 2, 1])))
        >>> config = SegmentationConfig(
        ...     name="x", architecture="unet", classes=("background", "lesion"), spacing=2.0, divisor=16
        ... )
        >>> predict(scan, nn.Conv3d(1, 2, 1), config, device="cpu").mask.shape
        (40, 40, 40)
    """
    options = SegmentOptions.of(options, changes)
    tissues = options.tissues
    _check_classes(config, tissues)
    processing = PRESETS[options.preset] if processing is None else processing
    if options.flip:
        processing = processing.mirrored()
    if options.spread and len(views_of(config, processing)) == 1:
        processing = processing.with_spread()
    seconds: dict[str, float] = {}
    if second_network is not None and not (
        options.second_look and is_fine_enough(scan.spacing, config.spacing)
    ):
        second_network = None
    curve = config.calibrated_alone if second_network is None else config.calibrated_together
    curve = curve if as_trained(config, processing) else None
    threshold = threshold_said(config, options, curve)
    suspected = config.certain if second_network is None else min(config.certain, _SUSPECTED)
    with _timed(seconds, "preprocessing"):
        check_scan(scan)
        space = to_model_space(
            scan,
            spacing=processing.spacing or config.spacing,
            divisor=config.divisor,
            normalise=processing.normalisation or config.normalisation,
            crop=processing.crop,
        )
        features = _features(space.image[0], config, processing)
        seen = Volume(space.image, space.affine)
    with _timed(seconds, "network"):
        wanted = [config.classes.index(name) for name in (LESION_CLASS, *tissues, *config.brain)]
        values, deviation = probabilities_of_views(
            scan, space, network, wanted, config, processing, best_device(options.device)
        )
    brain, certainty = None, None
    if config.brain:
        healthy = values[1 + len(tissues) :]
        certainty = mean_certainty(values[0], healthy)
        if options.adc and config.adc_exponential and as_trained(config, processing):
            with _timed(seconds, "adc_exponential"):
                both = lesion_in_both(
                    torch.cat([values[:1], healthy]),
                    head_from_zero(scan),
                    space.affine,
                    network,
                    config,
                    processing,
                    best_device(options.device),
                )
            if both is None:
                del seconds["adc_exponential"]
            else:
                values[0] = both
        with _timed(seconds, "brain"):
            inside = healthy.sum(0) >= 0.5
            brain = Volume(inside[None].to(torch.uint8), space.affine)
            found = values[0] >= threshold / 2
            kept = within_brain(found, inside)
            likely = keep_certain((found & kept)[None], values[:1], suspected)[0]
            kept &= within_mni_brain(likely, inside, seen)
            values[0] *= kept
            deviation = deviation * kept
    with _timed(seconds, "resampling"):
        lesion = before = space.to_native(values[:1])
    if second_network is not None:
        with _timed(seconds, "second_look"):
            everything = Volume(torch.ones_like(values[:1], dtype=torch.uint8), space.affine)
            change = second_look(
                head_from_zero(scan),
                Volume(values[:1], space.affine),
                brain or everything,
                second_network,
                flip=options.flip,
            )
            lesion = _changed(before, change, space)
    with _timed(seconds, "mask"):
        others = {name: space.to_native(values[i + 1 : i + 2]) for i, name in enumerate(tissues)}
        mask = mask_of(lesion, config, threshold, options.min_volume)
        if second_network is not None:
            believed = keep_certain(mask.data > 0, lesion.data, config.certain_together)
            believed = keep_certain(believed, before.data, config.certain_alone)
            mask = replace(mask, data=believed.to(torch.uint8))
        first = None if second_network is None else before
        wide = space.to_native(deviation) if options.spread else None
    parts = None
    own = threshold == config.threshold and options.min_volume == 0 and as_trained(config, processing)
    if config.part_model is not None and first is not None and brain is not None and own:
        with _timed(seconds, "parts"):
            parts = likely_parts(mask, lesion, first, brain, scan, config.part_model)
    return Prediction(
        lesion, mask, threshold, others, seconds, brain, certainty, wide, seen, features, first, parts, curve
    )


def threshold_said(
    config: SegmentationConfig, options: SegmentOptions, curve: CalibrationCurve | None
) -> float:
    """Return the threshold of what networks say; the one asked for is of what it means.

    The model's own, as it is written, is the model's own.
    """
    if options.threshold is None:
        return config.threshold
    said = options.threshold if curve is None else curve.said_for(options.threshold)
    return config.threshold if math.isclose(said, config.threshold, rel_tol=1e-4) else said


def _features(image: Tensor, config: SegmentationConfig, processing: Processing) -> dict[str, float]:
    """Measure the image if there is something to compare it with."""
    if not (config.image_range and as_trained(config, processing)):
        return {}
    return image_features(image, spacing=config.spacing)


def _changed(lesion: Volume, change: Volume | None, space: ModelSpace) -> Volume:
    """Add to the lesion probability what the second network changes."""
    if change is None:
        return lesion
    new = replace(space, affine=change.affine).to_native(change.data).data
    return replace(lesion, data=(lesion.data + new).clamp(0, 1))


def mask_of(
    probability: Volume,
    config: SegmentationConfig,
    threshold: float,
    min_volume: float = 0.0,
) -> Volume:
    """Make the mask of a probability map.

    Args:
        probability: Lesion probability.
        config: Says how certain a component must be somewhere, and which small parts have a threshold of
            their own at that of the model.
        threshold: Probability from which a voxel is lesion.
        min_volume: Components smaller than this [ml] are removed.

    Returns:
        uint8 mask on the grid of ``probability``.
    """
    small_parts = config.small_parts if threshold == config.threshold else None
    mask = mask_at(probability.data[0], threshold, small_parts, voxel_ml=probability.voxel_volume)[None]
    if config.certain > threshold:
        mask = keep_certain(mask, probability.data, config.certain)
    if min_volume > 0:
        mask = remove_small(mask, min_volume / probability.voxel_volume)
    return replace(probability, data=mask.to(torch.uint8))


def tally(mask: Volume) -> tuple[float, int]:
    """Return the volume of a mask [ml] and the number of its connected components (26 neighbours).

    Example:
        >>> tally(Volume(torch.ones(1, 10, 10, 10, dtype=torch.uint8), torch.eye(4)))
        (1.0, 1)
    """
    return float(mask.data.sum()) * mask.voxel_volume, count_lesions(mask.data)


def within_brain(lesion: Tensor, brain: Tensor) -> Tensor:
    """Tell lesions in the brain from what only looks like one: eyes, sinuses, muscles.

    A connected part of the lesion stays if at least a quarter of the voxels around it belong to the largest
    connected part of the healthy brain.

    Args:
        lesion: Boolean (X, Y, Z).
        brain: Boolean (X, Y, Z), healthy brain and its fluid.

    Returns:
        Boolean (X, Y, Z): False in the parts that do not stay, True elsewhere. All True if there is no brain.

    Example:
        >>> line = torch.tensor([1, 1, 0, 0, 0, 1, 0]).bool().view(7, 1, 1)
        >>> brain = torch.tensor([0, 0, 1, 1, 0, 0, 0]).bool().view(7, 1, 1)
        >>> within_brain(line, brain).flatten().tolist()
        [True, True, True, True, True, False, True]
    """
    keep = torch.ones_like(lesion)
    if not bool(brain.any()):
        return keep
    parts, count = ndimage.label(brain.numpy())
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    main = parts == sizes.argmax()
    found, _ = ndimage.label(lesion.numpy(), structure=_NEIGHBOURS)
    for number, box in enumerate(ndimage.find_objects(found), start=1):
        around = tuple(
            slice(max(side.start - 1, 0), min(side.stop + 1, n))
            for side, n in zip(box, found.shape, strict=True)
        )
        inside = found[around] == number
        shell = ndimage.binary_dilation(inside, _NEIGHBOURS) & ~inside
        if main[around][shell].sum() < 0.25 * shell.sum():
            keep[around][torch.from_numpy(inside)] = False
    return keep


def keep_certain(mask: Tensor, probability: Tensor, certain: float) -> Tensor:
    """Keep the connected components (26 neighbours) in which some voxel is as probable as ``certain``.

    Args:
        mask: Boolean (1, X, Y, Z).
        probability: (1, X, Y, Z).
        certain: Probability that a component must reach somewhere.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> probability = torch.tensor([0.6, 0.0, 0.6, 0.9]).view(1, 4, 1, 1)
        >>> keep_certain(probability >= 0.5, probability, 0.8).flatten().tolist()
        [False, False, True, True]
    """
    labels, count = ndimage.label(mask[0].numpy(), structure=_NEIGHBOURS)
    keep = np.zeros(count + 1, dtype=bool)
    keep[labels[probability[0].numpy() >= certain]] = True
    keep[0] = False
    return torch.from_numpy(keep[labels])[None]


def remove_small(mask: Tensor, minimum: float) -> Tensor:
    """Remove connected components (26 neighbours) of fewer than ``minimum`` voxels.

    Args:
        mask: Boolean (1, X, Y, Z).
        minimum: Voxels a component must have to stay.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> remove_small(torch.tensor([1, 0, 1, 1]).bool().view(1, 4, 1, 1), 2).flatten().tolist()
        [False, False, True, True]
    """
    labels, count = ndimage.label(mask[0].numpy(), structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= minimum
    keep[0] = False
    return torch.from_numpy(keep[labels])[None]


def count_lesions(mask: Tensor) -> int:
    """Count the connected components (26 neighbours) of a mask (1, X, Y, Z).

    Example:
        >>> count_lesions(torch.tensor([1, 0, 1, 1]).view(1, 4, 1, 1))
        2
    """
    return int(ndimage.label(mask[0].numpy(), structure=_NEIGHBOURS)[1])


def _check_classes(config: SegmentationConfig, tissues: tuple[str, ...]) -> None:
    for name in (LESION_CLASS, *tissues, *config.brain):
        if name not in config.classes:
            raise OptionError(
                f"the model {config.name} has no class {name!r}; it has {', '.join(config.classes)}"
            )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
