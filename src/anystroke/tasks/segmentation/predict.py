"""Segment one scan: the function behind ``anystroke.segment``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anystroke.core.files import sha256
from anystroke.core.volume import Volume
from anystroke.io.formats import read_scan
from anystroke.models.checkpoints import ModelConfig, find_model, load_model
from anystroke.models.passes import PRESETS
from anystroke.models.volume_interval import VolumeErrors, VolumeInterval, expected_volume, volume_interval
from anystroke.tasks.segmentation.mask import predict, tally
from anystroke.tasks.segmentation.refinement import Refiner
from anystroke.tasks.segmentation.trust import reasons_not_to_trust

REFINEMENT = "refinement"
"""Folder within that of a model that holds its second network."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network that is ready for use.

    Attributes:
        network: Maps (B, 1, X, Y, Z) to logits (B, classes, X, Y, Z).
        config: What is needed to use it.
        sha256: Of its weights file; of both files, joined by ``+``, if it has a second network.
        refiner: Second network that looks again at small lesions, if the model has one.
    """

    network: nn.Module
    config: ModelConfig
    sha256: str
    refiner: Refiner | None = None

    @classmethod
    def open(cls, name: str | Path = "default") -> "Model":
        """Load a shipped model by its name, or one from a folder.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
        """
        network, config = load_model(name)
        folder = find_model(name)
        second = folder / REFINEMENT
        refiner = Refiner(*load_model(second)) if second.is_dir() else None
        weights = [each / "model.safetensors" for each in (folder, *([second] if refiner else []))]
        return cls(network, config, "+".join(sha256(path) for path in weights), refiner)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The lesion in one scan, in the scan's own grid.

    Attributes:
        scan: The scan.
        probability: Lesion probability, float32.
        mask: Lesion mask, uint8.
        threshold: Probability from which a voxel is in the mask.
        lesion_volume: Volume of the mask [ml].
        lesion_count: Number of connected components (26 neighbours) of the mask.
        model: Name of the model.
        model_version: Its version.
        model_sha256: SHA-256 of its weights.
        tissues: Probabilities of other classes that were asked for, by name.
        seconds: Duration of each stage by name.
        interval: How large the lesion may be [ml]; None if that was not measured for the model.
        lesion_errors: What intervals of single lesions are made of; None likewise.
        reasons: Why not to trust the result, a sentence each.
        brain: The healthy brain, uint8 on the network's grid, if the model tells.
        spread: Standard deviation of the probability over the flips, if it was asked for.
        preset: How the scan was processed.
        image: What the network saw, on its grid.
        features: Of that image, where the model knows those of its training.
    """

    scan: Volume
    probability: Volume
    mask: Volume
    threshold: float
    lesion_volume: float
    lesion_count: int
    model: str
    model_version: str
    model_sha256: str
    tissues: dict[str, Volume] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    interval: VolumeInterval | None = None
    lesion_errors: VolumeErrors | None = None
    reasons: tuple[str, ...] = ()
    brain: Volume | None = None
    spread: Volume | None = None
    preset: str = "default"
    image: Volume | None = None
    features: dict[str, float] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether there is no reason against the result."""
        return not self.reasons


def segment(
    image: str | Path | Volume | Any,
    model: str | Path | Model = "default",
    *,
    threshold: float | None = None,
    min_volume: float = 0.0,
    flip: bool = False,
    tissues: tuple[str, ...] = (),
    spread: bool = False,
    preset: str = "default",
    refine: bool = True,
    device: torch.device | str | None = None,
) -> Segmentation:
    """Find the stroke lesion in a brain MR image of any contrast, orientation and spacing.

    Research use only: this is not a medical device.

    Args:
        image: Path of a NIfTI, MGH, NRRD or MetaImage file, a `Volume`, or a nibabel image.
        model: Name of a shipped model, a model folder, or an opened `Model` (to load it once for many scans).
        threshold: Probability from which a voxel is lesion; by default the model's own.
        min_volume: Lesions smaller than this [ml] are left out of the mask.
        flip: Average with the prediction of the mirrored head; doubles the time.
        tissues: Classes of the model whose probabilities to return as well.
        spread: Return the spread over the flips too; doubles the time if ``flip`` is not set.
        preset: ``"default"``, or ``"paper"``: 1 mm, histogram equalisation, windows of 192 voxels that
            overlap by half, and eight flips, as published; or ``"paper-one-pass"``, without the flips.
        refine: Look again at small lesions in scans finer than the model's grid, if the model can.
        device: Where to compute; by default a GPU if there is one.

    Returns:
        Mask and probability in the grid of ``image``, and what was measured.

    Raises:
        VolumeError: The image cannot be used; the message says why and what to do.
        CheckpointError: The model cannot be loaded.
        ValueError: An option is out of range.

    Example:
        >>> config = ModelConfig(
        ...     name="toy", architecture="unet", classes=("background", "lesion"), spacing=2.0, divisor=16
        ... )
        >>> toy = Model(nn.Conv3d(1, 2, 1), config, sha256="")
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([2.0, 2, 2, 1])))
        >>> segment(scan, toy, device="cpu").mask.shape
        (40, 40, 40)
    """
    opened = model if isinstance(model, Model) else Model.open(model)
    scan = as_volume(image)
    if preset not in PRESETS:
        raise ValueError(f"the preset is one of {', '.join(PRESETS)}, got {preset!r}")
    prediction = predict(
        scan,
        opened.network,
        opened.config,
        threshold=threshold,
        min_volume=min_volume,
        flip=flip,
        tissues=tissues,
        spread=spread,
        processing=PRESETS[preset],
        refiner=opened.refiner if refine and preset == "default" else None,
        device=device,
    )
    volume, count = tally(prediction.mask)
    interval = interval_of(prediction.probability, volume, opened.config)
    reasons = reasons_not_to_trust(
        scan=scan,
        volume_ml=volume,
        interval=interval,
        brain=prediction.brain,
        certainty=prediction.certainty,
        features=prediction.features,
        image_range=opened.config.image_range,
    )
    return Segmentation(
        scan=scan,
        probability=prediction.probability,
        mask=prediction.mask,
        threshold=prediction.threshold,
        lesion_volume=volume,
        lesion_count=count,
        model=opened.config.name,
        model_version=opened.config.version,
        model_sha256=opened.sha256,
        tissues=prediction.tissues,
        seconds=prediction.seconds,
        interval=interval,
        lesion_errors=opened.config.lesion_errors,
        reasons=reasons,
        brain=prediction.brain,
        spread=prediction.spread,
        preset=preset,
        image=prediction.image,
        features=prediction.features,
    )


def interval_of(probability: Volume, mask_volume: float, config: ModelConfig) -> VolumeInterval | None:
    """Compute the interval of a volume, if the model's errors were measured.

    Args:
        probability: Lesion probability.
        mask_volume: [ml].
        config: Of the model.
    """
    if config.volume_errors is None:
        return None
    return volume_interval(expected_volume(probability), mask_volume, config.volume_errors)


def as_volume(image: str | Path | Volume | Any) -> Volume:
    """Take an image in any of the forms that `segment` takes.

    Raises:
        VolumeError: The image cannot be used.
        TypeError: It is something else.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        return read_scan(image)
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        return Volume.from_nibabel(image)
    raise TypeError(f"expected a path, a Volume or a nibabel image, got {type(image).__name__}")
