"""Calibrate an estimator of maps on simulated heads: replace estimates by the median truth behind them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from anystroke.anatomy.tissues.classes import CLASSES
from anystroke.core.volume import Volume
from anystroke.qmri.estimated_maps import Curve, along_curve
from anystroke.simulation.cohorts import Pack, load_pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.qmri.cases import MapTargetSettings
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.qmri.predict import Estimator, estimate_maps
from anystroke.tasks.qmri.validate import Head, MapErrors, simulated_heads

BALANCED = ("grey_matter", "white_matter")
"""Tissues whose bias is taken out, as much of the one as of the other."""

CALIBRATION_SPACING = 1.0
"""Voxel size of the heads, as scans usually have it [mm]."""

_POINTS = 40
_MOST_VOXELS = 100_000

OnHead = Callable[[int], None]
"""Told how many heads are done."""


@dataclass(frozen=True)
class EstimatorCalibration:
    """What was found.

    Attributes:
        curves: Map -> points (estimate, median of the truth there).
        bias: Map -> tissue -> relative bias of the mean without the curves.
        heads: How many there were.
    """

    curves: dict[str, Curve]
    bias: dict[str, dict[str, float]]
    heads: int

    def applied_to(self, config: EstimatorConfig) -> EstimatorConfig:
        """Return the configuration of an estimator with the curves."""
        record = {"heads": self.heads, "relative_bias_before": self.bias}
        return config.model_copy(
            update={"curves": self.curves, "training": {**config.training, "calibration": record}}
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
    errors = MapErrors(estimator.config.maps)
    for number, (found, head) in enumerate(_estimated(estimator, pack, heads, seed), start=1):
        errors.add(found, head.maps, head.classes)
        on_head(number)
    return errors


def _estimated(estimator: Estimator, pack: Pack, heads: int, seed: int) -> Iterator[tuple[Tensor, Head]]:
    """Give heads with what was estimated of them, (K, X, Y, Z)."""
    names = estimator.config.maps
    for head in heads_to_estimate(estimator.config, pack, count=heads, seed=seed):
        found = estimate_maps(scan_of_head(head), estimator)
        yield torch.cat([found[name].data for name in names]), head


def heads_to_estimate(config: EstimatorConfig, pack: Pack, *, count: int, seed: int) -> Iterator[Head]:
    """Simulate T1w scans of 1 mm with the maps that an estimator should find in them."""
    return simulated_heads(
        pack,
        SynthesisSettings(preset="estimator", spacing=CALIBRATION_SPACING, fat_suppression={}),
        names=config.maps,
        target=MapTargetSettings(field_strength=config.field_strength),
        count=count,
        seed=seed,
    )


def scan_of_head(head: Head) -> Volume:
    """Return the scan of a head of `heads_to_estimate`."""
    return Volume(
        head.image[None], torch.diag(torch.tensor([CALIBRATION_SPACING] * 3 + [1.0], dtype=torch.float64))
    )


def calibrate_estimator(
    estimator: Estimator,
    pack: Path,
    *,
    heads: int = 12,
    seed: int = 2028,
    on_head: OnHead = lambda done: None,
) -> EstimatorCalibration:
    """Find for each map the median truth behind each estimate, a rising function, over the voxels of brains.

    Voxels of fluid that were taken for tissue, or the other way round, would move the mean; and a FLAIR scan
    nulls fluid of the right R1 alone. Since medians draw tissues together all the same, a factor makes grey
    and white matter, in geometric mean, as bright as true.

    Args:
        estimator: What to calibrate.
        pack: Data folder of a training run; its training anatomies and masks are used, so that the ones held
            out stay unseen.
        heads: How many to simulate.
        seed: Of the heads.
        on_head: Told of each head.

    Raises:
        OSError: A file of the pack is missing.
        ValueError: A map is estimated as zero, or is zero, in all of the brain.

    Source:
        Isotonic regression: R. E. Barlow et al., Statistical inference under order restrictions, 1972.
    """
    config = estimator.config.model_copy(update={"curves": {}})
    plain = Estimator(estimator.network, config, estimator.sha256)
    trained_on = load_pack(pack)
    errors = MapErrors(config.maps)
    pairs, tissues = [], []
    for number, (found, head) in enumerate(_estimated(plain, trained_on, heads, seed), start=1):
        errors.add(found, head.maps, head.classes)
        brain = head.classes > CLASSES.index("background")
        both = torch.stack([found, head.maps])[:, :, brain]
        step = 1 + both.shape[2] // _MOST_VOXELS
        pairs.append(both[:, :, ::step])
        tissues.append(head.classes[brain][::step])
        on_head(number)
    estimates, truths = torch.cat(pairs, dim=2).double()
    tissue = torch.cat(tissues)
    curves = {
        name: _balanced(_curve(name, x.numpy(), y.numpy()), x, y, tissue)
        for name, x, y in zip(config.maps, estimates, truths, strict=True)
    }
    bias: dict[str, dict[str, float]] = {name: {} for name in config.maps}
    for (what, name), error in errors.result().items():
        if what in BALANCED and error.truth:
            bias[name][what] = round(error.bias / error.truth, 4)
    return EstimatorCalibration(curves, bias, heads)


def _balanced(curve: Curve, estimate: Tensor, truth: Tensor, tissue: Tensor) -> Curve:
    """Return the curve times the factor that makes the balanced tissues as bright as true."""
    factors = []
    for name in BALANCED:
        inside = tissue == CLASSES.index(name)
        if bool(inside.any()):
            factors.append(float(truth[inside].mean() / along_curve(estimate[inside], curve).mean()))
    factor = math.prod(factors) ** (1 / max(len(factors), 1))
    return tuple((x, float(f"{factor * y:.4g}")) for x, y in curve)


def _curve(name: str, estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> Curve:
    """Fit the median truth as a rising function of the estimate, through groups of equal size."""
    above = estimate > 0
    order = estimate[above].argsort()
    x, y = (
        np.array([middle(group) for group in np.array_split(values[above][order], _POINTS) if group.size])
        for values, middle in ((estimate, np.mean), (truth, np.median))
    )
    rising = isotonic_regression(y).x if len(y) else y
    points = [
        (float(f"{a:.4g}"), float(f"{b:.4g}")) for a, b in zip(x.tolist(), rising.tolist(), strict=True)
    ]
    apart = tuple(point for last, point in pairwise([(0.0, 0.0), *points]) if point[0] > last[0])
    if not apart or apart[-1][1] <= 0:
        raise ValueError(f"{name} cannot be calibrated: it is zero in all brains, true or estimated")
    return apart
