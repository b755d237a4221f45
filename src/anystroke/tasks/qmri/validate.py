"""What an estimator of quantitative maps is judged on: simulated heads whose maps are known."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anystroke.anatomy.tissues.classes import CLASSES
from anystroke.core.fields import GridShape
from anystroke.learning.task import ValidationRow, Verdict
from anystroke.models.model_space import normalise_intensity
from anystroke.qmri.estimated_maps import activate
from anystroke.simulation.cohorts import Cohort, Member, Pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.qmri.cases import MapTargetSettings, SimulatedMapSource
from anystroke.tasks.qmri.config import EstimatorConfig

JUDGED = CLASSES[1:]
"""Classes that errors are reported of."""

CRITERION = "mean_accuracy"
"""What the best model has most of: 1 minus the relative error of grey and white matter."""

_HEAD_MM = (192.0, 224.0, 192.0)
_LEAST_VOXELS = 10


@dataclass(frozen=True)
class Head:
    """A simulated T1w scan with its truth.

    Attributes:
        image: (X, Y, Z), not normalised.
        maps: (K, X, Y, Z) in their units.
        classes: (X, Y, Z) uint8, numbers of ``CLASSES``.
    """

    image: Tensor
    maps: Tensor
    classes: Tensor


def simulated_heads(
    pack: Pack,
    settings: SynthesisSettings,
    *,
    names: Sequence[str],
    target: MapTargetSettings,
    count: int,
    seed: int,
    divisor: int = 16,
) -> Iterator[Head]:
    """Simulate a fixed set of heads, each whole in the field of view.

    Args:
        pack: Anatomies and lesion masks.
        settings: What scans look like, and the voxel size.
        names: The maps.
        target: The field that they belong to.
        count: How many.
        seed: Decides all that is random.
        divisor: Sides are multiples of it.
    """
    x, y, z = (divisor * math.ceil(side / settings.spacing / divisor) for side in _HEAD_MM)
    shape: GridShape = (x, y, z)
    whole = settings.model_copy(update={"cut": 0.0, "lesion_centred": 0.0, "anywhere": 0.0})
    source = SimulatedMapSource(pack, whole, names=names, target=target)
    generator = source.generator(shape)
    members = [Member(generator.generate, ("validation", number), continued=True) for number in range(count)]
    for sample in Cohort(pack.anatomies, members, seed):
        case, classes = source.known(sample, generator)
        yield Head(case.image, case.target[:-1], classes)


@torch.no_grad()
def estimate_head(network: nn.Module, config: EstimatorConfig, image: Tensor) -> Tensor:
    """Return the maps (K, X, Y, Z) that a network finds in an image (X, Y, Z) on its own grid."""
    seen = normalise_intensity(image, config.normalisation)[None, None]
    return activate(network(seen).float(), config.maps)[0]


@dataclass(frozen=True)
class MapError:
    """How well a map was found in one tissue of several heads.

    Attributes:
        heads: Heads that have the tissue.
        truth: Mean of the true map over all voxels, in the unit of the map.
        bias: Mean error over all voxels.
        sd: Standard deviation of the error over all voxels.
        sd_of_means: Root mean square error of the tissue's mean in a head.
        spread: Standard deviation of the true voxels: the error of who knows tissue and population, no more.
        spread_of_means: Standard deviation of the tissue's true means over heads, likewise.
    """

    heads: int
    truth: float
    bias: float
    sd: float
    sd_of_means: float
    spread: float
    spread_of_means: float

    @property
    def relative(self) -> float:
        """Root mean square error of a voxel over the true mean."""
        return math.hypot(self.bias, self.sd) / self.truth if self.truth else math.nan


class MapErrors:
    """Errors of maps by tissue, added up head by head.

    Args:
        names: The maps.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._means: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def add(self, found: Tensor, truth: Tensor, classes: Tensor) -> None:
        """Add one head.

        Args:
            found: (K, X, Y, Z).
            truth: Likewise.
            classes: (X, Y, Z) numbers of ``CLASSES``.
        """
        for tissue in JUDGED:
            inside = classes == CLASSES.index(tissue)
            if int(inside.sum()) < _LEAST_VOXELS:
                continue
            for name, a, b in zip(self.names, found, truth, strict=True):
                true = b[inside].double()
                error = a[inside].double() - true
                ones = torch.tensor(float(len(true)), dtype=torch.float64)
                parts = torch.stack(
                    [ones, error.sum(), error.square().sum(), true.sum(), true.square().sum()]
                )
                self._sums[tissue, name] = self._sums.get((tissue, name), torch.zeros(5).double()) + parts
                pair = (float(true.mean() + error.mean()), float(true.mean()))
                self._means.setdefault((tissue, name), []).append(pair)

    def result(self) -> Mapping[tuple[str, str], MapError]:
        """Return the error of each tissue and map that occurred."""
        errors = {}
        for key, sums in self._sums.items():
            count, error, squares, truth, truths = sums.tolist()
            means = torch.tensor(self._means[key], dtype=torch.float64)
            off = means[:, 0] - means[:, 1]
            errors[key] = MapError(
                heads=len(means),
                truth=truth / count,
                bias=error / count,
                sd=math.sqrt(max(squares / count - (error / count) ** 2, 0.0)),
                sd_of_means=float(off.square().mean().sqrt()),
                spread=math.sqrt(max(truths / count - (truth / count) ** 2, 0.0)),
                spread_of_means=float(means[:, 1].std(correction=0)),
            )
        return errors


def judge_estimator(network: nn.Module, config: EstimatorConfig, heads: Sequence[Head]) -> Verdict:
    """Return a row for each tissue, after one for grey and white matter together.

    Args:
        network: On the CPU, ready for inference.
        config: Its configuration.
        heads: What to estimate.
    """
    errors = MapErrors(config.maps)
    for head in heads:
        errors.add(estimate_head(network, config, head.image), head.maps, head.classes)
    found = errors.result()
    rows = []
    for tissue in ("all", *JUDGED):
        of = ("grey_matter", "white_matter") if tissue == "all" else (tissue,)
        row: ValidationRow = {"set": "simulated", "group": tissue, "scans": len(heads)}
        relative = [
            found[each, name].relative for each in of for name in config.maps if (each, name) in found
        ]
        row[CRITERION] = 1 - sum(relative) / len(relative) if relative else math.nan
        for name in config.maps:
            known = [found[each, name] for each in of if (each, name) in found]
            row[f"{name}_bias"] = sum(e.bias for e in known) / len(known) if known else math.nan
            row[f"{name}_sd"] = sum(e.sd for e in known) / len(known) if known else math.nan
        rows.append(row)
    return rows
