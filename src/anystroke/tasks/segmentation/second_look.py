"""Look at the brain again at a finer grid than that of the whole head, knowing what was found there.

A second network sees overlapping windows of the brain, and the first one's log-odds beside each, wherever the
first takes a lesion to be possible at all. The log-odds of both are averaged, those of the second counting
more. So small lesions that the first network is unsure of are found, and what only looks like one at its grid
is not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from anystroke.core.volume import Grid, Volume
from anystroke.models.architectures.catalogue import inputs_of
from anystroke.models.model_space import has_contrast, normalise_intensity
from anystroke.models.passes import fast_bfloat16
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.views import log_odds

POSSIBLE = 0.08
"""Windows in which the first network finds nothing at least as probable are not looked at."""
WINDOW = 64
"""Side of the windows [voxels]."""
_STEP = 48
_RAMP = 12
_SHARE = 0.7
_AT_ONCE = 4
# Holes of the healthy brain, such as lesions, are closed over this many voxels of the first network's grid.
_CLOSED = 4
# What the second network sees of the first's log-odds is about 1.
_LOG_ODDS = 3.0


@dataclass(frozen=True)
class SecondNetwork:
    """The second network.

    Attributes:
        network: Maps (B, 2, X, Y, Z), see `with_log_odds`, to logits (B, classes, X, Y, Z); or the image
            alone, (B, 1, X, Y, Z).
        config: What is needed to use it.
    """

    network: nn.Module
    config: SegmentationConfig


def is_fine_enough(spacing: Sequence[float], coarse: float) -> bool:
    """Tell whether a scan is fine enough for a second look: at most a quarter coarser than the coarse grid.

    Args:
        spacing: Of the scan [mm]; its second smallest counts.
        coarse: Of the first network's grid [mm].

    Example:
        >>> is_fine_enough((2.0, 2.0, 5.0), 2.0), is_fine_enough((3.0, 3.0, 3.0), 2.0)
        (True, False)
    """
    return sorted(spacing)[1] <= 1.25 * coarse


def with_log_odds(image: Tensor, probability: Volume, grid: Grid) -> Tensor:
    """Put what the first network says beside an image.

    Args:
        image: (1, X, Y, Z), standardised, on the grid.
        probability: Lesion probability of the first network on its own grid.
        grid: Where.

    Returns:
        (2, X, Y, Z): the image, and a third of the log-odds of probabilities between 0.001 and 0.999.
    """
    there = probability.resample_to(grid.affine, grid.shape).data
    return torch.cat([image, (log_odds(there) / _LOG_ODDS).to(image.dtype)])


def second_look(
    head: Volume, first: Volume, brain: Volume, second_network: SecondNetwork, *, flip: bool = False
) -> Volume | None:
    """Compute what the second network changes.

    Args:
        head: The scan from zero, in RAS order.
        first: Lesion probability of the first network, on a grid along the world's axes.
        brain: The healthy brain on the same grid, uint8.
        second_network: The second network.
        flip: Average its log-odds with those of the windows mirrored left to right.

    Returns:
        What to add to the lesion probability, on the second network's grid around the brain; zero outside of
        it. None if there is no brain.
    """
    spacing, divisor = second_network.config.spacing, second_network.config.divisor
    inside = whole_brain(brain, first)
    grid = _grid_around(inside, spacing, WINDOW)
    if grid is None:
        return None
    side = divisor * math.ceil(WINDOW / divisor)
    weight = _SHARE * Volume(inside.data.float(), inside.affine).resample_to(grid.affine, grid.shape).data[0]
    image = head.resample_to(grid.affine, grid.shape, antialias=True).data
    before = first.resample_to(grid.affine, grid.shape).data[0]
    odds = log_odds(before)
    wanted = (before >= POSSIBLE) & (weight > 0)
    total, seen, everywhere = (torch.zeros(grid.shape) for _ in range(3))
    ramp = _ramp(side)
    for cut in _cuts(grid.shape, side):
        everywhere[cut] += ramp
    for cuts, batch in _windows(image, odds, wanted, side, second_network):
        said = _second_log_odds(batch, second_network)
        if flip:
            said = (said + _second_log_odds(batch.flip(2), second_network).flip(1)) / 2
        for cut, in_window in zip(cuts, said, strict=True):
            total[cut] += ramp * in_window
            seen[cut] += ramp
    limit = float(log_odds(torch.tensor(1.0)))
    second = (total / seen.clamp(min=1e-6)).clamp(-limit, limit)
    share = weight * seen / everywhere
    after = torch.sigmoid((1 - share) * odds + share * second)
    return Volume(torch.where(share > 0, after - torch.sigmoid(odds), 0.0)[None], grid.affine)


def whole_brain(brain: Volume, lesion: Volume) -> Volume:
    """Fill what is missing of a healthy brain: lesions above all.

    Args:
        brain: The healthy brain, uint8.
        lesion: Lesion probability on the same grid.

    Returns:
        Its largest connected part, together with the lesion, without holes and narrow inlets.
    """
    labels, count = ndimage.label((brain.data[0] > 0).numpy())
    if not count:
        return brain
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = (labels == sizes.argmax()) | (lesion.data[0] >= 0.5).numpy()
    closed = ndimage.binary_closing(np.pad(largest, 2 * _CLOSED), iterations=_CLOSED)
    filled = ndimage.binary_fill_holes(closed)[(slice(2 * _CLOSED, -2 * _CLOSED),) * 3]
    return Volume(torch.from_numpy(filled.astype(np.uint8))[None], brain.affine)


def _grid_around(brain: Volume, spacing: float, smallest: int) -> Grid | None:
    """Lay a grid around a brain, at least so many voxels a side."""
    found = ndimage.find_objects(brain.data[0].numpy().astype(np.int32))
    if not found:
        return None
    step = brain.spacing[0]
    corner = brain.affine[:3, 3] + step * torch.tensor([side.start - 0.5 for side in found[0]])
    sides = [round(step * (side.stop - side.start) / spacing) for side in found[0]]
    x, y, z = (max(side, smallest) for side in sides)
    affine = torch.diag(torch.tensor([spacing] * 3 + [1.0], dtype=torch.float64))
    affine[:3, 3] = corner + spacing / 2
    return Grid((x, y, z), affine)


def _windows(
    image: Tensor, odds: Tensor, wanted: Tensor, side: int, second_network: SecondNetwork
) -> Iterator[tuple[list[tuple[slice, ...]], Tensor]]:
    """Yield the windows that show something wanted, a few at a time, with what the network sees there."""
    both = inputs_of(second_network.network) == 2
    cuts: list[tuple[slice, ...]] = []
    parts: list[Tensor] = []
    for cut in _cuts(image.shape[1:], side):
        part = image[(slice(None), *cut)]
        if not bool(wanted[cut].any()) or not has_contrast(part):
            continue
        part = normalise_intensity(part, second_network.config.normalisation)
        cuts.append(cut)
        parts.append(torch.cat([part, odds[cut][None] / _LOG_ODDS]) if both else part)
        if len(parts) == _AT_ONCE:
            yield cuts, torch.stack(parts)
            cuts, parts = [], []
    if parts:
        yield cuts, torch.stack(parts)


def _cuts(shape: Sequence[int], side: int) -> Iterator[tuple[slice, ...]]:
    """Yield windows that overlap evenly."""
    firsts = []
    for length in shape:
        steps = math.ceil((length - side) / _STEP)
        firsts.append([round(k * (length - side) / max(steps, 1)) for k in range(steps + 1)])
    yield from (tuple(slice(a, a + side) for a in corner) for corner in product(*firsts))


def _second_log_odds(batch: Tensor, second_network: SecondNetwork) -> Tensor:
    """Return the lesion log-odds (B, X, Y, Z) of the second network."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(torch.device("cpu"))):
        logits = second_network.network(batch)
    logits = logits.float() / second_network.config.temperature
    lesion = second_network.config.classes.index("lesion")
    others = torch.cat([logits[:, :lesion], logits[:, lesion + 1 :]], dim=1)
    odds: Tensor = logits[:, lesion] - others.logsumexp(1)
    return odds


def _ramp(side: int) -> Tensor:
    """Return weights (side, side, side) that fall towards the border, and are nowhere zero."""
    place = torch.arange(side, dtype=torch.float32)
    line = ((torch.minimum(place, side - 1 - place) + 1) / _RAMP).clamp(max=1)
    return line[:, None, None] * line[:, None] * line
