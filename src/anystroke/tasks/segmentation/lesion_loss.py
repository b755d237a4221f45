"""Losses that count lesions and false parts one by one, whatever their size."""

import torch
from torch import Tensor

from anystroke.learning.cases import HEALTHY, IGNORED
from anystroke.learning.cells import MOST_CELLS
from anystroke.tasks.segmentation.losses import LossSettings, Reduce

_SMOOTHING = 1e-5
_CUBE_MM = 24.0


def parts_loss(
    logits: Tensor,
    target: Tensor,
    cells: Tensor,
    *,
    settings: LossSettings,
    spacing: float,
    reduce: Reduce,
) -> Tensor:
    r"""Return the weighted sum of what badly found lesions and false parts cost, the mean over the cases.

    Lesions cost :math:`\mathrm{mean}_k (1 - D_k)`, with the soft Dice :math:`D_k` of lesion k within its
    cell: each counts alike, and false voxels around it cost as in any Dice. No lesion costs nothing.

    False parts are what the network sees away from all cells. In cubes of 24 mm, each has the volume
    :math:`v = \sum p^2` [ml] of its voxels, where the square keeps a faint haze from hiding parts that are
    seen clearly. With :math:`S = \sum v / (v + v_0)`, nearly the number of false parts, they cost
    :math:`S / (1 + S) < 1`: with the half-cost volume :math:`v_0` of 0.5 ml, a false part of 0.1 ml costs
    0.14, one of 1 ml 0.4, and three of them 0.67.

    Args:
        logits: (B, K, X, Y, Z); the lesion is the last class.
        target: Hard or soft, with ``HEALTHY`` and ``IGNORED``; see
            `anystroke.tasks.segmentation.losses`. What is ignored counts in no way.
        cells: (B, X, Y, Z) uint8, see `anystroke.learning.cells.lesion_cells`.
        settings: The weights ``lesion_wise`` and ``false_parts``, and ``half_cost_ml``.
        spacing: Voxel size [mm].
        reduce: Sums over the processes of a distributed run.

    Returns:
        Scalar.

    Source: F. Kofler et al., blob loss, IPMI 2023 (a loss per component); L. Bouteille et al., Learning to
    look closer, arXiv 2511.17146 (Dice in Voronoi cells as a loss); the cost of false parts is an
    engineering choice.
    """
    probability = lesion_probability(logits, target, settings.partial_labels)
    if target.is_floating_point():
        lesion, seen = target[:, -1].to(probability.dtype), target.sum(1) > 0
    else:
        lesion, seen = (target == logits.shape[1] - 1).to(probability.dtype), target != IGNORED
    near = cells > 0
    cost = probability.new_zeros(len(logits))
    if settings.lesion_wise:
        cost = cost + settings.lesion_wise * _badly_found(probability, lesion, cells, near & seen)
    if settings.false_parts:
        false = probability.square() * (1 - lesion).masked_fill(near | ~seen, 0)
        cost = cost + settings.false_parts * _false(false, spacing, settings.half_cost_ml)
    packed = reduce(torch.stack([cost.sum(), cost.new_tensor(float(len(cost)))]))
    return packed[0] / packed[1]


def lesion_probability(logits: Tensor, target: Tensor, partial_labels: str) -> Tensor:
    """Return the probability (B, X, Y, Z) of the lesion.

    Args:
        logits: (B, K, X, Y, Z).
        target: Of the batch; cases with ``HEALTHY`` follow ``partial_labels``.
        partial_labels: See ``LossSettings``.
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    merged = exact.softmax(1)[:, -1]
    if partial_labels == "merged" or target.is_floating_point():
        return merged
    partial = (target == HEALTHY).flatten(1).any(1).reshape(-1, 1, 1, 1)
    return torch.where(partial, (exact[:, -1] - exact[:, 0]).sigmoid(), merged)


def _badly_found(probability: Tensor, lesion: Tensor, cells: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the lesions of each case (B,) of one minus their Dice; 0 without any."""
    size = MOST_CELLS + 1
    where = counted.flatten().nonzero()[:, 0]
    place = cells.flatten()[where] + where // cells[0].numel() * size
    inside, found = lesion.flatten()[where], probability.flatten().index_select(0, where)

    def summed(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(cells) * size).index_add(0, place, values)
        return sums.reshape(-1, size)[:, 1:]

    true, shared, predicted = summed(inside), summed(found * inside), summed(found)
    dice = (2 * shared + _SMOOTHING) / (predicted + true + _SMOOTHING)
    there = (true > 0).to(dice.dtype)
    return ((1 - dice) * there).sum(1) / there.sum(1).clamp(min=1)


def _false(squares: Tensor, spacing: float, half: float) -> Tensor:
    """Return what the false parts of each case (B,) cost, given the squares of their probabilities."""
    side = max(1, round(_CUBE_MM / spacing))
    sides = [min(side, length) for length in squares.shape[1:]]
    padding = [
        pad
        for length, each in zip(squares.shape[:0:-1], sides[::-1], strict=True)
        for pad in (0, -length % each)
    ]
    padded = torch.nn.functional.pad(squares[:, None], padding)
    means = torch.nn.functional.avg_pool3d(padded, sides)
    volumes = means.flatten(1) * (sides[0] * sides[1] * sides[2] * spacing**3 / 1000)
    parts = (volumes / (volumes + half)).sum(1)
    return parts / (1 + parts)
