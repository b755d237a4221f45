"""Scans of one's own: which are held out, and whether a model is better on them than another."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anystroke.core.tables import write_table
from anystroke.io.labelled import LabelledScan
from anystroke.io.labelled_checks import CheckedScan
from anystroke.tasks.segmentation.calibrate import FEWEST_SCANS
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import Score, judge, real_patients, score_of

COLUMNS = ("scan", "lesion_ml", "dice_before", "dice_after", "f1_before", "f1_after", "ml_before", "ml_after")
"""Of the table of a comparison."""
_FEW = 5


def held_out_of(scans: Sequence[CheckedScan], share: float) -> list[CheckedScan]:
    """Choose the scans that are not learnt from, patient by patient, by a hash of the scans' names.

    Args:
        scans: All.
        share: Of the patients; at least one is held out where there are two, and at least one with a lesion.

    Returns:
        The scans of these patients; none if the share is 0 or there is one patient alone.
    """
    first = {each.patient: min(s.scan.name for s in scans if s.patient == each.patient) for each in scans}
    if share == 0 or len(first) < 2:
        return []
    order = sorted(first, key=lambda patient: hashlib.sha256(first[patient].encode()).digest())
    ill = [p for p in order if any(each.lesions for each in scans if each.patient == p)]
    if len(ill) == 1:  # something must be left to learn from
        order.remove(ill[0])
    count = min(max(1, round(share * len(first))), len(first) - 1, len(order))
    chosen = order[:count]
    if len(ill) > 1 and not set(chosen) & set(ill):
        chosen[-1] = ill[0]
    if ill and set(ill) <= set(chosen):
        chosen.remove(ill[-1])
    return [each for each in scans if each.patient in chosen]


def calibrating_of(held_out: Sequence[CheckedScan]) -> list[CheckedScan]:
    """Choose the held-out scans that calibrate a model; the others judge it.

    Every other patient calibrates, of those with a lesion and of those without.

    Args:
        held_out: The scans that were not learnt from.

    Returns:
        Their scans; none if on either side there would be fewer than ``FEWEST_SCANS`` with a lesion.
    """
    first = {
        each.patient: min(s.scan.name for s in held_out if s.patient == each.patient) for each in held_out
    }
    order = sorted(first, key=lambda patient: hashlib.sha256(first[patient].encode()).digest())
    ill = {each.patient for each in held_out if each.lesions}
    chosen = {
        *[patient for patient in order if patient in ill][1::2],
        *[patient for patient in order if patient not in ill][1::2],
    }
    sides = [
        sum(each.lesions > 0 and (each.patient in chosen) == side for each in held_out) for side in (0, 1)
    ]
    return [each for each in held_out if each.patient in chosen] if min(sides) >= FEWEST_SCANS else []


def judge_scans(
    model: Model, scans: Sequence[LabelledScan], on_scan: Callable[[], object] = lambda: None
) -> list[Score]:
    """Segment labelled scans in their own grids, and compare with their masks.

    Args:
        model: The network with its configuration.
        scans: With masks.
        on_scan: Called after each.
    """
    found = []
    for patient in real_patients(scans):
        found += judge(model, [patient])
        on_scan()
    return found


@dataclass(frozen=True)
class OwnComparison:
    """Two models on the same scans.

    Attributes:
        names: Of the scans.
        before: Scores of the first model.
        after: Of the second.
    """

    names: tuple[str, ...]
    before: tuple[Score, ...]
    after: tuple[Score, ...]

    @property
    def helped(self) -> bool:
        """Whether the second is better: by the mean of Dice and F1, less what is marked where nothing is."""
        return total(self.after) > total(self.before)

    def lines(self) -> list[str]:
        """Return what is to be said: a line a scan, the means, and how much that tells."""
        width = max(map(len, (*self.names, "mean")))
        lines = [
            f"{name.ljust(width)}  {_said(before)} -> {_said(after)}"
            for name, before, after in zip(self.names, self.before, self.after, strict=True)
        ]
        lines.append(f"{'mean'.ljust(width)}  {_means(self.before)} -> {_means(self.after)}")
        if len(self.names) < _FEW:
            lines.append(f"{len(self.names)} held-out scans tell little; label more, or look at the masks")
        return lines

    def write(self, path: Path) -> None:
        """Write a row a scan."""
        rows: list[dict[str, str | float]] = []
        for name, first, second in zip(self.names, self.before, self.after, strict=True):
            values = (
                *(name, first.truth, first.dice, second.dice, first.f1, second.f1),
                *(first.volume, second.volume),
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        write_table(path, COLUMNS, rows)


def total(scores: Sequence[Score]) -> float:
    """Return the score of a model, see `anystroke.tasks.segmentation.validate.score_of`.

    Without a lesion in any scan it is what the falsely marked volume costs.
    """
    ill = [score for score in scores if score.truth > 0]
    false = [score.volume for score in scores if score.truth == 0]
    if not ill:
        return score_of([0.0], [0.0], false)
    return score_of([score.dice for score in ill], [score.f1 for score in ill], false)


def _said(score: Score) -> str:
    if math.isnan(score.dice):
        return f"{score.volume:.1f} ml marked, no lesion"
    return f"Dice {score.dice:.2f}, {score.volume:.1f} of {score.truth:.1f} ml"


def _means(scores: Sequence[Score]) -> str:
    ill = [score for score in scores if score.truth > 0]
    if not ill:
        return f"{sum(score.volume for score in scores) / len(scores):.1f} ml marked, no lesion"
    dice, f1 = (sum(values) / len(ill) for values in ([s.dice for s in ill], [s.f1 for s in ill]))
    return f"Dice {dice:.2f}, lesion-wise F1 {f1:.2f}"
