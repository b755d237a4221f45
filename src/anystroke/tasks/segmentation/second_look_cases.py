"""What the first network finds in simulated heads, as training cases of the second one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import local

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from anystroke.core.arrays import Array
from anystroke.core.fields import GridShape
from anystroke.core.rng import chance, integer, normal, on_cpu, stream, uniform
from anystroke.core.volume import Grid, Volume
from anystroke.learning.cases import Case
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.models.model_space import has_contrast, head_from_zero, normalise_intensity, to_model_space
from anystroke.models.passes import PRESETS
from anystroke.tasks.segmentation.adc_exponential import lesion_in_both
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.mask import within_brain
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.second_look import with_log_odds
from anystroke.tasks.segmentation.views import probabilities_of_views

_NEIGHBOURS = np.ones((3, 3, 3))
# Shifts [voxels].
_LARGEST_SHIFT, _LARGEST_SHIFT_AGAIN = 6, 20
_MISSED = 2
_MOST = 8
_LARGE_ML = 8.0
_ELSEWHERE = 0.5
_MOST_DRAWS = 100
_SILENT, _INVENTED = 1 / 6, 1 / 4
_MOST_TOLD = 2.303


@dataclass(frozen=True)
class _Seen:
    """A head, what the first network says of it, and where the second one is to look."""

    key: int
    head: Case
    probability: Volume
    corners: list[GridShape]


class _Last(local):
    seen: _Seen | None = None


class SecondLookCases:
    """Parts of simulated heads where the first network finds or misses lesions; a `CaseSource`.

    The parts of a head are its cases (`ScansPatients`): what the network takes for possible, the lesions that
    it misses and one place elsewhere in the brain, in random order and each shifted by up to 6 voxels; then
    these again, shifted by up to 20 voxels, or further places elsewhere.

    An image has two channels: the scan, and the first network's log-odds (`with_log_odds`), which are
    changed, so that they are not believed blindly.

    Args:
        heads: Simulates whole heads.
        head: Voxels of their grid.
        first: The first network, a model's name or folder; opened with the first case.
        doubtful: Probability from which something is possible.
    """

    def __init__(self, heads: SimulatedSource, head: GridShape, first: str, doubtful: float) -> None:
        self._heads, self._head, self._first, self._doubtful = heads, head, first, doubtful
        self._lesion = len(TARGET_SCHEMES[heads.scheme]) - 1
        self._last = _Last()

    @cached_property
    def _model(self) -> Model:
        return Model.open(self._first)

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make the first part of a head, see `CaseSource`."""
        return self.scan(shape, 0, rng=rng)

    def scan(self, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
        """Make one part of a head, see `ScansPatients`.

        Args:
            shape: Voxels of the part.
            number: Of the part.
            rng: Random stream of the head.
        """
        key = on_cpu(rng).initial_seed()
        for attempt in range(_MOST_DRAWS):
            seen = self._seen(shape, key, attempt)
            first = self._first_voxel(seen, shape, number)
            if has_contrast(seen.head.image[_cut(first, shape)]):
                return self._part(seen, shape, first)
        raise RuntimeError(f"expected a part that shows something, got {_MOST_DRAWS} constant ones in a row")

    def _first_voxel(self, seen: _Seen, shape: GridShape, number: int) -> list[int]:
        draws = stream(seen.key, "part", number)
        sides = seen.head.target.shape
        if number < len(seen.corners):
            corner, most = seen.corners[number], _LARGEST_SHIFT
        elif chance(draws, _ELSEWHERE):
            corner, most = self._elsewhere(seen.head.target, shape, draws), 0
        else:
            corner, most = seen.corners[integer(draws, 0, len(seen.corners) - 1)], _LARGEST_SHIFT_AGAIN
        shifted = [first + integer(draws, -most, most) for first in corner]
        return [min(max(a, 0), n - side) for a, n, side in zip(shifted, sides, shape, strict=True)]

    def _part(self, seen: _Seen, shape: GridShape, first: list[int]) -> Case:
        cut = _cut(first, shape)
        affine = torch.eye(4, dtype=torch.float64) * self._heads.settings.spacing
        affine[3, 3] = 1.0
        affine[:3, 3] = self._heads.settings.spacing * torch.tensor(first, dtype=torch.float64)
        image = normalise_intensity(seen.head.image[cut], self._model.config.normalisation)
        both = with_log_odds(image[None], seen.probability, Grid(shape, affine))
        both[1] = _doubted(both[1], stream(seen.key, "doubt", *first))
        record = seen.head.record | {"first": list(first)}
        return Case(both, seen.head.target[cut].clone(), record, standardised=True)

    def _seen(self, shape: GridShape, key: int, attempt: int) -> _Seen:
        key = stream(key, "head", attempt).initial_seed()
        if self._last.seen is None or self._last.seen.key != key:
            self._last.seen = self._looked_at(shape, key)
        return self._last.seen

    def _looked_at(self, shape: GridShape, key: int) -> _Seen:
        head = self._heads.case(self._head, rng=stream(key, "scan"))
        model, spacing = self._model, self._heads.settings.spacing
        draws = stream(key, "parts")
        # Voxels of the network's grid lie anywhere between those of the scan, as they do in real ones.
        offset = torch.tensor([uniform(draws, 0.0, model.config.spacing) for _ in range(3)])
        affine = torch.diag(torch.tensor([spacing] * 3 + [1.0], dtype=torch.float64))
        affine[:3, 3] = offset
        is_adc = head.record.get("weighting") == "ADC"
        probability = first_probability(
            Volume(head.image[None], affine), model.network, model.config, adc=is_adc
        )
        moved = probability.affine.clone()
        moved[:3, 3] -= offset
        probability = replace(probability, affine=moved)
        corners = [_corner(place / spacing, shape) for place in _possible(probability, self._doubtful, draws)]
        corners += self._missed(head.target, probability, shape)
        corners.append(self._elsewhere(head.target, shape, draws))
        order = torch.randperm(len(corners), generator=draws).tolist()
        return _Seen(key, head, probability, [corners[k] for k in order])

    def _missed(self, target: Tensor, probability: Volume, shape: GridShape) -> list[GridShape]:
        """Return where the largest lesions are that the first network does not find."""
        labels, count = ndimage.label((target == self._lesion).numpy(), structure=_NEIGHBOURS)
        if not count:
            return []
        affine = torch.diag(torch.tensor([self._heads.settings.spacing] * 3 + [1.0], dtype=torch.float64))
        nearby = probability.resample_to(affine, labels.shape).data[0].numpy()
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[np.unique(labels[nearby >= self._model.config.threshold])] = 0
        sizes[0] = 0
        largest = [int(k) for k in np.argsort(-sizes)[:_MISSED] if sizes[k] > 0]
        return [_corner(ndimage.center_of_mass(labels == k), shape) for k in largest]

    def _elsewhere(self, target: Tensor, shape: GridShape, draws: torch.Generator) -> GridShape:
        """Return a part about a random voxel of the healthy brain."""
        places = ((target > 0) & (target < self._lesion)).nonzero()
        if not len(places):
            return 0, 0, 0
        return _corner(places[integer(draws, 0, len(places) - 1)].numpy(), shape)


@torch.inference_mode()
def first_probability(
    scan: Volume, network: nn.Module, config: SegmentationConfig, *, adc: bool = False
) -> Volume:
    """Compute the lesion probability of a first network on its own grid, as `predict` does but for MNI space.

    Args:
        scan: One channel.
        network: The first network.
        config: Of it.
        adc: Whether the scan is known to be an ADC map.

    Returns:
        (1, X, Y, Z), zero where a part of it is outside of the brain.
    """
    space = to_model_space(
        scan, spacing=config.spacing, divisor=config.divisor, normalise=config.normalisation
    )
    wanted = [config.classes.index(name) for name in ("lesion", *config.brain)]
    processing, cpu = PRESETS["default"], torch.device("cpu")
    values, _ = probabilities_of_views(scan, space, network, wanted, config, processing, cpu)
    lesion = values[:1]
    if adc and config.adc_exponential:
        both = lesion_in_both(values, head_from_zero(scan), space.affine, network, config, processing, cpu)
        lesion = lesion if both is None else both[None]
    if config.brain:
        found = lesion[0] >= config.threshold / 2
        lesion = lesion * within_brain(found, values[1:].sum(0) >= 0.5)
    return Volume(lesion.clone(), space.affine)


def _doubted(odds: Tensor, draws: torch.Generator) -> Tensor:
    """Change what the first network says, which in real scans is less right than in simulated ones.

    Nothing is said in every sixth part; in the others all log-odds are scaled and shifted, and in every
    fourth of them a lesion is made up.

    Args:
        odds: (X, Y, Z), see `with_log_odds`.
        draws: Random stream.

    Returns:
        Likewise.
    """
    lowest = float(odds.min())
    if chance(draws, _SILENT):
        return torch.full_like(odds, min(lowest, -1.0))
    changed = odds * uniform(draws, 0.6, 1.2) + normal(draws, 0.0, 0.25)
    if chance(draws, _INVENTED):
        radius, peak = uniform(draws, 3.0, 9.0), uniform(draws, 0.0, 1.5)
        place = [integer(draws, 8, side - 9) for side in odds.shape]
        squares = [
            ((torch.arange(side) - middle) / (radius * uniform(draws, 0.6, 1.4))) ** 2
            for side, middle in zip(odds.shape, place, strict=True)
        ]
        away = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        changed = torch.maximum(changed, peak - away)
    return changed.clamp(-_MOST_TOLD, _MOST_TOLD)


def _cut(first: Sequence[int], shape: GridShape) -> tuple[slice, ...]:
    return tuple(slice(a, a + side) for a, side in zip(first, shape, strict=True))


def _possible(probability: Volume, doubtful: float, draws: torch.Generator) -> list[Array]:
    """Return places (3,) [mm] in what is possible: the middles of small parts, somewhere in large ones."""
    data = probability.data[0].numpy()
    labels, count = ndimage.label(data >= doubtful, structure=_NEIGHBOURS)
    if not count:
        return []
    peaks = ndimage.maximum(data, labels, range(1, count + 1))
    places = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        voxels = np.argwhere(labels[box] == number) + [side.start for side in box]
        chosen = voxels.mean(0)
        if len(voxels) * probability.voxel_volume > _LARGE_ML:
            chosen = voxels[integer(draws, 0, len(voxels) - 1)]
        place = probability.affine[:3, :3].numpy() @ chosen + probability.affine[:3, 3].numpy()
        places.append(place)
    return [places[k] for k in np.argsort(-peaks)[:_MOST]]


def _corner(middle: object, shape: GridShape) -> GridShape:
    x, y, z = (round(float(m) - (side - 1) / 2) for m, side in zip(np.asarray(middle), shape, strict=True))
    return x, y, z
