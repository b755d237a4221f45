"""Calibrate an estimator of maps on simulated heads: take the mean bias of each map out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from anystroke.anatomy.anatomies import load_anatomies
from anystroke.anatomy.lesions import load_bank
from anystroke.inference.estimation import Estimator, estimate_maps
from anystroke.learning.checkpoints import EstimatorConfig
from anystroke.learning.estimation_cases import MapTargetSettings
from anystroke.learning.estimation_validation import Head, MapErrors, simulated_heads
from anystroke.learning.simulated import Pack
from anystroke.synthesis import SynthesisSettings
from anystroke.volume import Volume

BALANCED = ("grey_matter", "white_matter")
"""Tissues whose bias is taken out, as much of the one as of the other."""

SPACING = 1.0
"""Voxel size of the heads, as scans usually have it [mm]."""

OnHead = Callable[[int], None]
"""Told how many heads are done."""


@dataclass(frozen=True)
class EstimatorCalibration:
    """What was found.

    Attributes:
        gains: Map -> the factor, that of the former configuration included.
        bias: Map -> tissue -> relative bias of the mean before.
        heads: How many there were.
    """

    gains: dict[str, float]
    bias: dict[str, dict[str, float]]
    heads: int

    def applied_to(self, config: EstimatorConfig) -> EstimatorConfig:
        """Return the configuration of an estimator with the factors."""
        record = {"heads": self.heads, "relative_bias_before": self.bias}
        return config.model_copy(
            update={"gains": self.gains, "training": {**config.training, "calibration": record}}
        )


def measure_errors(
    estimator: Estimator, pack: Pack, *, heads: int, seed: int, on_head: OnHead = lambda done: None
) -> MapErrors:
    """Measure the errors of maps on simulated T1w scans of 1 mm, estimated as real ones are.

    Args:
        estimator: What to judge.
        pack: What the heads are made of.
        heads: How many to simulate.
        seed: Of the heads.
        on_head: Told of each head.
    """
    names = estimator.config.maps
    errors = MapErrors(names)
    made = heads_to_estimate(estimator.config, pack, count=heads, seed=seed)
    for number, head in enumerate(made, start=1):
        found = estimate_maps(scan_of(head), estimator)
        errors.add(torch.cat([found[name].data for name in names]), head.maps, head.classes)
        on_head(number)
    return errors


def heads_to_estimate(config: EstimatorConfig, pack: Pack, *, count: int, seed: int) -> Iterator[Head]:
    """Simulate T1w scans of 1 mm with the maps that an estimator should find in them."""
    return simulated_heads(
        pack,
        SynthesisSettings(preset="estimator", spacing=SPACING, fat_suppression={}),
        names=config.maps,
        target=MapTargetSettings(field_strength=config.field_strength),
        count=count,
        seed=seed,
    )


def scan_of(head: Head) -> Volume:
    """Return the scan of a head of `heads_to_estimate`."""
    return Volume(head.image[None], torch.diag(torch.tensor([SPACING] * 3 + [1.0], dtype=torch.float64)))


def calibrate_estimator(
    estimator: Estimator,
    pack: Path,
    *,
    heads: int = 12,
    seed: int = 2028,
    on_head: OnHead = lambda done: None,
) -> EstimatorCalibration:
    """Choose a factor for each map such that grey and white matter are, in geometric mean, as bright as true.

    Args:
        estimator: What to calibrate.
        pack: Data folder of a training run; its training anatomies and masks are used, so that the ones held
            out stay unseen.
        heads: How many to simulate.
        seed: Of the heads.
        on_head: Told of each head.

    Raises:
        OSError: A file of the pack is missing.
        ValueError: A tissue is in none of the heads, or a map of it is zero.
    """
    config = estimator.config
    trained_on = Pack(load_anatomies(pack / "anatomies.safetensors"), load_bank(pack / "lesions.safetensors"))
    errors = measure_errors(estimator, trained_on, heads=heads, seed=seed, on_head=on_head)
    result = errors.result()
    gains: dict[str, float] = {}
    bias: dict[str, dict[str, float]] = {}
    for name in config.maps:
        tissues = {tissue: result[tissue, name] for tissue in BALANCED if (tissue, name) in result}
        if len(tissues) < len(BALANCED) or any(
            one.truth <= 0 or one.truth + one.bias <= 0 for one in tissues.values()
        ):
            raise ValueError(
                f"{name} cannot be calibrated: a tissue is missing or zero in the simulated heads"
            )
        bias[name] = {tissue: round(one.bias / one.truth, 4) for tissue, one in tissues.items()}
        factor = math.prod(one.truth / (one.truth + one.bias) for one in tissues.values()) ** (
            1 / len(tissues)
        )
        gains[name] = round(factor * config.gains.get(name, 1.0), 4)
    return EstimatorCalibration(gains, bias, heads)
