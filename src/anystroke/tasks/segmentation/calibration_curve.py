"""What a network's probabilities mean: a curve through how often they were right, in log-odds.

One temperature makes all probabilities surer or less sure. Networks that learn with more weight on lesions
and on their overlap are too sure of what is faint and not sure enough of what is less faint, which no
temperature mends.

Source: Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates,
KDD 2002 (isotonic regression); the curve between its steps is linear in log-odds.
"""

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.config import StrictModel

_RANGE, _BINS_OF_ONE = 12, 16
_BINS = 2 * _RANGE * _BINS_OF_ONE
_FEWEST_VOXELS = 100
_FEWEST_KNOTS = 3
_SMALLEST = 1e-7
_LEAST_RISE = 1e-3
_SLAB = 1 << 22


class CalibrationCurve(StrictModel):
    """What probabilities mean, as a line through points; beyond them log-odds rise one by one.

    Attributes:
        said: Log-odds of a network, rising.
        meant: The log-odds that they mean, rising.
    """

    said: tuple[float, ...]
    meant: tuple[float, ...]

    @model_validator(mode="after")
    def _rises(self) -> "CalibrationCurve":
        if len(self.said) != len(self.meant) or len(self.said) < _FEWEST_KNOTS:
            raise ValueError(
                f"expected as many log-odds that are meant as are said, {_FEWEST_KNOTS} or more, got "
                f"{len(self.said)} and {len(self.meant)}"
            )
        if not all(np.all(np.diff(values) > 0) for values in (self.said, self.meant)):
            raise ValueError("expected log-odds that rise from point to point")
        return self

    def calibrated(self, probability: Tensor) -> Tensor:
        """Return what probabilities mean; 0 and 1 stay.

        Args:
            probability: Of any shape.

        Example:
            >>> curve = CalibrationCurve(said=(-4.0, 0.0, 4.0), meant=(-5.0, 1.0, 4.0))
            >>> curve.calibrated(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]))
            tensor([0.0000, 0.0915, 0.7311, 0.9339, 1.0000])
        """
        flat = probability.detach().cpu().reshape(-1)
        changed = torch.empty_like(flat)
        said, meant = torch.tensor(self.said, dtype=flat.dtype), torch.tensor(self.meant, dtype=flat.dtype)
        slopes = torch.cat([torch.ones(1), torch.diff(meant) / torch.diff(said), torch.ones(1)]).to(flat)
        for start in range(0, len(flat), _SLAB):
            values = flat[start : start + _SLAB]
            odds = torch.logit(values.clamp(_SMALLEST, 1 - _SMALLEST))
            place = torch.bucketize(odds, said)
            at = (place - 1).clamp_(min=0)
            odds = (odds - said[at]) * slopes[place] + meant[at]
            kept = (values <= 0) | (values >= 1)
            changed[start : start + _SLAB] = torch.where(kept, values, torch.sigmoid(odds))
        return changed.reshape(probability.shape).to(probability)

    def said_for(self, probability: float) -> float:
        """Return the probability of the network that means one.

        Example:
            >>> curve = CalibrationCurve(said=(-4.0, 0.0, 4.0), meant=(-5.0, 1.0, 4.0))
            >>> round(curve.said_for(0.7310586), 4)
            0.5
        """
        back = CalibrationCurve(said=self.meant, meant=self.said)
        return float(back.calibrated(torch.tensor(probability, dtype=torch.float64)))


class LogOddsCounts:
    """Counts lesion and other voxels by what a network says of them."""

    def __init__(self) -> None:
        self.counts: Array = np.zeros((2, _BINS))
        """(2, bins): other voxels, lesions."""
        self.sums: Array = np.zeros(_BINS)
        """Of the log-odds in each bin."""

    def add(self, probability: Tensor, truth: Tensor, ignored: Tensor | None = None) -> None:
        """Count the voxels of one patient.

        Args:
            probability: (X, Y, Z) lesion probability; voxels of 0 are outside of what is looked at.
            truth: (X, Y, Z) bool.
            ignored: (X, Y, Z) bool, voxels that do not count; None for none.
        """
        counted = probability > 0
        if ignored is not None:
            counted &= ~ignored
        odds = _log_odds(probability[counted].double().numpy()).clip(-_RANGE, _RANGE)
        place = np.minimum(((odds + _RANGE) * _BINS_OF_ONE).astype(np.int64), _BINS - 1)
        lesion = truth[counted].numpy()
        for row, chosen in enumerate((~lesion, lesion)):
            self.counts[row] += np.bincount(place[chosen], minlength=_BINS)
        self.sums += np.bincount(place, weights=odds, minlength=_BINS)

    def curve(self) -> CalibrationCurve | None:
        """Fit the curve, with a point for each unit of log-odds that enough voxels have.

        Returns:
            The curve; None where lesions or other voxels are too few for three points.

        Example:
            >>> counts, rng = LogOddsCounts(), torch.Generator().manual_seed(1)
            >>> said = torch.rand((40, 40, 40), generator=rng)
            >>> counts.add(said, torch.rand((40, 40, 40), generator=rng) < said**2)
            >>> [round(float(p), 2) for p in counts.curve().calibrated(torch.tensor([0.3, 0.5, 0.7]))]
            [0.1, 0.25, 0.49]
        """
        from sklearn.isotonic import IsotonicRegression

        units = self.counts.reshape(2, -1, _BINS_OF_ONE).sum(2)
        voxels = units.sum(0)
        enough = voxels >= _FEWEST_VOXELS
        if enough.sum() < _FEWEST_KNOTS or not units[1].any():
            return None
        said = (self.sums.reshape(-1, _BINS_OF_ONE).sum(1)[enough] / voxels[enough]).round(4)
        # Half a voxel of each kind: a unit of one kind alone does not mean that there is no other.
        share = (units[1][enough] + 0.5) / (voxels[enough] + 1)
        risen = IsotonicRegression(out_of_bounds="clip").fit_transform(
            said, share, sample_weight=voxels[enough]
        )
        meant = _log_odds(np.asarray(risen, np.float64)) + _LEAST_RISE * np.arange(len(said))
        return CalibrationCurve(
            said=tuple(float(value) for value in said),
            meant=tuple(round(float(value), 4) for value in meant),
        )


def _log_odds(probability: Array) -> Array:
    kept: Array = probability.clip(_SMALLEST, 1 - _SMALLEST)
    odds: Array = np.log(kept / (1 - kept))
    return odds
