"""Segment one scan: the function behind ``anystroke.segment``."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anystroke.core.volume import Volume
from anystroke.io.formats import read_scan
from anystroke.io.inputs import usable_scan
from anystroke.models.checkpoints import TrainedNetwork, find_model, open_network
from anystroke.models.volume_interval import VolumeInterval, expected_volume, volume_interval
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.mask import Prediction, predict, tally
from anystroke.tasks.segmentation.options import SegmentOptions
from anystroke.tasks.segmentation.refinement import Refiner
from anystroke.tasks.segmentation.trust import reasons_not_to_trust

REFINEMENT = "refinement"
"""Folder within that of a model that holds its second network."""


@dataclass(frozen=True, eq=False)
class Model(TrainedNetwork[SegmentationConfig]):
    """A network that segments, ready for use.

    Attributes:
        network: Maps (B, 1, X, Y, Z) to logits (B, classes, X, Y, Z).
        config: What is needed to use it.
        sha256: Of its weights file; of both files, joined by ``+``, if it has a second network.
        refiner: Second network that looks again at small lesions, if the model has one.
    """

    refiner: Refiner | None = None

    @classmethod
    def open(cls, name: str | Path = "default") -> "Model":
        """Load a shipped model by its name, or one from a folder.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
        """
        first = open_network(name, SegmentationConfig)
        second = find_model(name) / REFINEMENT
        if not second.is_dir():
            return cls(first.network, first.config, first.sha256)
        finer = open_network(second, SegmentationConfig)
        hashes = f"{first.sha256}+{finer.sha256}"
        return cls(first.network, first.config, hashes, Refiner(finer.network, finer.config))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The lesion in one scan, in the scan's own grid.

    Attributes:
        scan: The scan.
        prediction: What the network says.
        model: What segmented it.
        options: What was asked for.
        interval: How large the lesion may be [ml]; None if that was not measured for the model.
        reasons: Why not to trust the result, a sentence each.
    """

    scan: Volume
    prediction: Prediction
    model: Model
    options: SegmentOptions = SegmentOptions()  # noqa: RUF009  # immutable
    interval: VolumeInterval | None = None
    reasons: tuple[str, ...] = ()

    @property
    def probability(self) -> Volume:
        """Lesion probability, float32."""
        return self.prediction.probability

    @property
    def mask(self) -> Volume:
        """Lesion mask, uint8."""
        return self.prediction.mask

    @property
    def threshold(self) -> float:
        """Probability from which a voxel is in the mask."""
        return self.prediction.threshold

    @property
    def tissues(self) -> dict[str, Volume]:
        """Probabilities of other classes that were asked for, by name."""
        return self.prediction.tissues

    @property
    def spread(self) -> Volume | None:
        """Standard deviation of the probability over the flips, if it was asked for."""
        return self.prediction.spread

    @property
    def brain(self) -> Volume | None:
        """The healthy brain, uint8 on the network's grid, if the model tells."""
        return self.prediction.brain

    @cached_property
    def _tally(self) -> tuple[float, int]:
        return tally(self.mask)

    @property
    def lesion_volume(self) -> float:
        """Volume of the mask [ml]."""
        return self._tally[0]

    @property
    def lesion_count(self) -> int:
        """Number of connected components (26 neighbours) of the mask."""
        return self._tally[1]

    @property
    def trusted(self) -> bool:
        """Whether there is no reason against the result."""
        return not self.reasons


def segment(
    image: str | Path | Volume | Any,
    model: str | Path | Model = "default",
    options: SegmentOptions | None = None,
    **changes: Any,
) -> Segmentation:
    """Find the stroke lesion in a brain MR image of any contrast, orientation and spacing.

    Research use only: this is not a medical device.

    Args:
        image: Path of a NIfTI, MGH, NRRD or MetaImage file, a `Volume`, or a nibabel image.
        model: Name of a shipped model, a model folder, or an opened `Model` (to load it once for many scans).
        options: What is asked for.
        **changes: Fields of the options, such as ``threshold=0.3``.

    Returns:
        Mask and probability in the grid of ``image``, and what was measured.

    Raises:
        VolumeError: The image cannot be used; the message says why and what to do.
        CheckpointError: The model cannot be loaded.
        OptionError: An option is out of range.
        TypeError: There is no such option, or the image is something else.

    Example:
        >>> import torch
        >>> config = SegmentationConfig(
        ...     name="toy", architecture="unet", classes=("background", "lesion"), spacing=2.0, divisor=16
        ... )
        >>> toy = Model(torch.nn.Conv3d(1, 2, 1), config, sha256="")
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([2.0, 2, 2, 1])))
        >>> segment(scan, toy, device="cpu").mask.shape
        (40, 40, 40)
    """
    chosen = SegmentOptions.of(options, changes)
    opened = model if isinstance(model, Model) else Model.open(model)
    scan = usable_scan(as_volume(image), str(image) if isinstance(image, str | Path) else "the scan")
    refiner = opened.refiner if chosen.preset == "default" else None
    prediction = predict(scan, opened.network, opened.config, chosen, refiner=refiner)
    volume, _ = tally(prediction.mask)
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
    return Segmentation(scan, prediction, opened, chosen, interval, reasons)


def interval_of(probability: Volume, mask_volume: float, config: SegmentationConfig) -> VolumeInterval | None:
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
