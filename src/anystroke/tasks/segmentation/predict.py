"""Segment one scan: the function behind ``anystroke.segment``."""

import base64
import re
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import torch

from anystroke.core.volume import Volume
from anystroke.io.formats import as_volume
from anystroke.io.inputs import usable_scan
from anystroke.models.architectures.catalogue import inputs_of
from anystroke.models.checkpoints import CheckpointError, TrainedNetwork, find_model, open_network
from anystroke.models.volume_interval import VolumeInterval, central_volume, sureness, volume_interval
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.mask import Prediction, mask_of, predict, tally
from anystroke.tasks.segmentation.options import SegmentOptions, WriteOptions
from anystroke.tasks.segmentation.risk import Risk
from anystroke.tasks.segmentation.second_look import SecondNetwork
from anystroke.tasks.segmentation.signs import reason_of, risk_of_prediction
from anystroke.tasks.segmentation.trust import reasons_not_to_trust

SECOND_NETWORK = "second_network"
"""Folder within that of a model that holds its second network."""


@dataclass(frozen=True, eq=False)
class Model(TrainedNetwork[SegmentationConfig]):
    """A network that segments, ready for use.

    Attributes:
        network: Maps (B, 1, X, Y, Z) to logits (B, classes, X, Y, Z).
        config: What is needed to use it.
        sha256: Of its weights file; of both files, joined by ``+``, if it has a second network.
        second_network: Second network that looks again at a finer grid, if the model has one.
    """

    second_network: SecondNetwork | None = None

    @classmethod
    def open(cls, name: str | Path = "default") -> "Model":
        """Load a shipped model by its name, or one from a folder.

        Raises:
            CheckpointError: There is no such model, or it is damaged.
        """
        first = open_network(name, SegmentationConfig)
        if inputs_of(first.network) != 1:
            raise CheckpointError(
                f"the model {name} is a second network, which finds nothing alone; put its folder into that "
                f"of its first network and call it {SECOND_NETWORK!r}"
            )
        second = find_model(name) / SECOND_NETWORK
        if not second.is_dir():
            return cls(first.network, first.config, first.sha256)
        finer = open_network(second, SegmentationConfig)
        hashes = f"{first.sha256}+{finer.sha256}"
        return cls(first.network, first.config, hashes, SecondNetwork(finer.network, finer.config))


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
        source: The file, if it came from one.
        risk: How likely the mask is to fail; None if that was not measured for such masks of the model.

    Example:
        >>> found = segment("patient_T2w.nii.gz")  # doctest: +SKIP
        >>> found  # doctest: +SKIP
        Segmentation(12.3 ml in 2 lesions of patient_T2w.nii.gz, 90% interval 8.1 to 19.0 ml, model x 5)
    """

    scan: Volume
    prediction: Prediction
    model: Model
    options: SegmentOptions = SegmentOptions()  # noqa: RUF009  # immutable
    interval: VolumeInterval | None = None
    reasons: tuple[str, ...] = ()
    source: Path | None = None
    risk: Risk | None = None

    def __repr__(self) -> str:
        return f"Segmentation({'; '.join((self._described(), *self.reasons))})"

    def _described(self) -> str:
        count = self.lesion_count
        of = f" of {self.source.name}" if self.source else ""
        interval = self.interval
        likely = (
            f", {interval.rate:.0%} interval {interval.low:.1f} to {interval.high:.1f} ml" if interval else ""
        )
        model = f"model {self.model.config.name} {self.model.config.version}"
        return (
            f"{self.lesion_volume:.1f} ml in {count} lesion{'' if count == 1 else 's'}{of}{likely}, {model}"
        )

    def _repr_html_(self) -> str:
        """Show the mask on the scan, for notebooks."""
        from anystroke.reports.mosaic import mosaic_png

        lines = (self._described(), *(f"Do not trust: {reason}" for reason in self.reasons))
        text = "".join(f"<p>{escape(line)}</p>" for line in lines)
        picture = base64.b64encode(mosaic_png(self.scan, self.mask)).decode("ascii")
        alt = "The mask on slices of the scan"
        return f'{text}<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{picture}">'

    def save(self, folder: str | Path, *, name: str = "scan", write: WriteOptions | None = None) -> Path:
        """Write what the command writes of a scan: mask, probability, lesions, sidecars, picture and page.

        Args:
            folder: Made if missing; earlier results of the scan in it are replaced.
            name: What to call a scan that did not come from a file.
            write: What to write beside the usual.

        Returns:
            The mask.

        Raises:
            OSError: The folder cannot be written.
        """
        from anystroke.tasks.segmentation.results import save_result

        return save_result(self, Path(folder), name=name, write=write or WriteOptions())

    @cached_property
    def probability(self) -> Volume:
        """Lesion probability, float32; where that was measured, what that of the networks means.

        So it and `tissues`, which are as the networks say, need not add up to 1.
        """
        own, curve = self.prediction.probability, self.prediction.curve
        return own if curve is None else replace(own, data=curve.calibrated(own.data))

    @property
    def mask(self) -> Volume:
        """Lesion mask, uint8."""
        return self.prediction.mask

    @property
    def threshold(self) -> float:
        """Probability from which a voxel is in the mask, of `probability`."""
        own, curve = self.prediction.threshold, self.prediction.curve
        return own if curve is None else float(curve.calibrated(torch.tensor(own, dtype=torch.float64)))

    @property
    def tissues(self) -> dict[str, Volume]:
        """Probabilities of other classes that were asked for, by name."""
        return self.prediction.tissues

    @property
    def spread(self) -> Volume | None:
        """Standard deviation of the probability over views and flips, if it was asked for."""
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
    *,
    affine: Any = None,
    **changes: Any,
) -> Segmentation:
    """Find the stroke lesion in a brain MR image of any contrast, orientation and spacing.

    Research use only: this is not a medical device.

    Args:
        image: Path of a NIfTI, MGH, NRRD or MetaImage file, a `Volume`, a nibabel image, or an array
            (X, Y, Z) with its affine.
        model: Name of a shipped model, a model folder, or an opened `Model` (to load it once for many scans).
        options: What is asked for.
        affine: Of an array: (4, 4), voxel indices to RAS+ mm.
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
        >>> head = torch.zeros(1, 40, 40, 40)
        >>> head[:, 5:35, 5:35, 5:35] = 1 + torch.rand(1, 30, 30, 30)
        >>> scan = Volume(head, torch.diag(torch.tensor([2.0, 2, 2, 1])))
        >>> segment(scan, toy, device="cpu").mask.shape
        (40, 40, 40)
    """
    chosen = SegmentOptions.of(options, changes)
    if isinstance(image, str | Path) and is_named_adc(Path(image)):
        chosen = replace(chosen, adc=True)
    opened = model if isinstance(model, Model) else Model.open(model)
    scan = usable_scan(as_volume(image, affine), str(image) if isinstance(image, str | Path) else "the scan")
    second_network = opened.second_network if chosen.preset == "default" else None
    prediction = predict(scan, opened.network, opened.config, chosen, second_network=second_network)
    volume, _ = tally(prediction.mask)
    interval = interval_of(prediction.probability, prediction.mask, opened.config, prediction.threshold)
    risk = risk_of_prediction(prediction, opened.config, chosen, scan)
    reasons = reasons_not_to_trust(
        scan=scan,
        volume_ml=volume,
        # The width of the interval is one of the signs that the risk was learnt from.
        interval=interval if risk is None or risk.threshold is None else None,
        brain=prediction.brain,
        certainty=prediction.certainty,
        features=prediction.features,
        image_range=opened.config.image_range,
    )
    if risk is not None and risk.high:
        reasons = (reason_of(risk), *reasons)
    source = Path(image) if isinstance(image, str | Path) else None
    return Segmentation(scan, prediction, opened, chosen, interval, reasons, source, risk)


def is_named_adc(path: Path) -> bool:
    """Tell whether a file's name says that it is an ADC map: one of its words is ADC, in any case.

    Example:
        >>> is_named_adc(Path("sub-01_ses-2_adc.nii.gz")), is_named_adc(Path("cadccd_T2w.nii"))
        (True, False)
    """
    return "adc" in re.split("[^a-z0-9]+", path.name.casefold())


def interval_of(
    probability: Volume, mask: Volume, config: SegmentationConfig, threshold: float
) -> VolumeInterval | None:
    """Compute the interval of a volume, if the model's errors were measured.

    Args:
        probability: Lesion probability.
        mask: What was made of it.
        config: Of the model.
        threshold: Of the mask; errors were measured at the model's own.
    """
    if config.volume_errors is None:
        return None
    own = mask
    if threshold != config.threshold:
        own = mask_of(probability, config, config.threshold, 0.0)
    central = central_volume(tally(own)[0], probability)
    return volume_interval(central, tally(mask)[0], config.volume_errors, sureness(own, probability))
