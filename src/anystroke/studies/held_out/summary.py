"""Rows of held-out patients, summed up by contrast, stage, size and visibility."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from anystroke.anatomy.lesions.stages import STAGES
from anystroke.evaluation.metrics.calibration import Reliability
from anystroke.simulation.settings import SynthesisSettings
from anystroke.studies.held_out.judge import PatientRow
from anystroke.tasks.segmentation.calibrate import CALIBRATION_WEIGHTINGS

SIZE_BANDS = ((1.0, 5.0), (5.0, 20.0), (20.0, 50.0), (50.0, 1e9))
CONTRASTS_TO_NOISE = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 1e9))
VISIBLE_FROM = SynthesisSettings().visible_from

Keep = Callable[[PatientRow], bool]


def band(low: float, high: float) -> str:
    """Name a band of values.

    Example:
        >>> band(1.0, 5.0), band(50.0, 1e9)
        ('1-5', '>50')
    """
    return f"{low:g}-{high:g}" if high < 1e9 else f">{low:g}"


def within(key: str, low: float, high: float) -> Keep:
    """Return what tells rows with a value from ``low`` on and below ``high``."""
    return lambda row: low <= row[key] < high


def among(**facts: str) -> Keep:
    """Return what tells rows with these values."""
    return lambda row: all(row[key] == value for key, value in facts.items())


def both(one: Keep, other: Keep) -> Keep:
    """Return what tells rows that both take."""
    return lambda row: one(row) and other(row)


VISIBLE = within("contrast_to_noise", VISIBLE_FROM, math.inf)


def summary(rows: Sequence[PatientRow]) -> dict[str, Any]:
    """Return Dice over groups of patients with a lesion, see `group_scores`.

    Args:
        rows: Of `judge_sample`, all with a lesion.
    """
    sizes = {band(*ends): within("truth_ml", *ends) for ends in SIZE_BANDS}
    contrasts = {band(*ends): within("contrast_to_noise", *ends) for ends in CONTRASTS_TO_NOISE}
    scans = {each: among(weighting=each) for each in CALIBRATION_WEIGHTINGS}
    stages: dict[str, Keep] = {each: among(stage=each) for each in STAGES}

    def each_of(groups: Mapping[str, Keep]) -> dict[str, Any]:
        return {name: group_scores(rows, keep) for name, keep in groups.items()}

    def crossed(groups: Mapping[str, Keep]) -> dict[str, Any]:
        return each_of({f"{w} {name}": both(scans[w], keep) for w in scans for name, keep in groups.items()})

    return {
        "all": group_scores(rows, lambda _: True),
        "by_weighting": each_of(scans),
        "by_stage": each_of(stages),
        "by_size_ml": each_of(sizes),
        "by_contrast_to_noise": each_of(contrasts),
        "visible": group_scores(rows, VISIBLE),
        "visible_by_size_ml": each_of({name: both(keep, VISIBLE) for name, keep in sizes.items()}),
        "by_weighting_and_stage": crossed(stages),
        "by_weighting_and_size_ml": crossed(sizes),
    }


def group_scores(rows: Sequence[PatientRow], keep: Keep) -> dict[str, float | int]:
    """Return median, quartiles and mean of Dice, lesions missed, and how many nobody could see.

    Args:
        rows: With a lesion.
        keep: Which of them count; of fewer than two there is but their number.
    """
    kept = [row for row in rows if keep(row)]
    found: dict[str, float | int] = {"n": len(kept), "unseen": sum(not VISIBLE(row) for row in kept)}
    if len(kept) < 2:
        return found
    dice = [row["dice"] for row in kept]
    low, middle, high = statistics.quantiles(dice, n=4)
    return found | {
        "median": round(middle, 3),
        "q1": round(low, 3),
        "q3": round(high, 3),
        "mean": round(statistics.fmean(dice), 3),
        "missed": sum(each == 0 for each in dice),
        "mean_f1": round(statistics.fmean(row["lesion_f1"] for row in kept), 3),
    }


def false_volumes(rows: Sequence[PatientRow]) -> dict[str, Any] | None:
    """Return the volumes of masks of patients without a lesion [ml]; None without patients."""
    volumes = sorted(row["predicted_ml"] for row in rows)
    if not volumes:
        return None
    by_weighting = {
        w: [row["predicted_ml"] for row in rows if row["weighting"] == w] for w in CALIBRATION_WEIGHTINGS
    }
    return {
        "n": len(volumes),
        "median": round(statistics.median(volumes), 3),
        "q3": round(volumes[3 * len(volumes) // 4], 3),
        "max": round(volumes[-1], 3),
        "by_weighting": {w: round(statistics.median(each), 3) for w, each in by_weighting.items() if each},
    }


def coverage(rows: Sequence[PatientRow]) -> dict[str, Any] | None:
    """Return how often the interval of the volume holds the truth, and how wide it is; None without any."""
    known = [row for row in rows if row["interval_ml"]]
    if not known:
        return None
    held = [row["interval_ml"][0] <= row["truth_ml"] <= row["interval_ml"][1] for row in known]
    empty = [holds for holds, row in zip(held, known, strict=True) if row["truth_ml"] == 0]
    return {
        "n": len(known),
        "coverage": round(statistics.fmean(held), 3),
        "without_lesion": round(statistics.fmean(empty), 3) if empty else None,
        "median_width_ml": round(
            statistics.median(row["interval_ml"][1] - row["interval_ml"][0] for row in known), 2
        ),
    }


def lesion_coverage(rows: Sequence[PatientRow]) -> dict[str, Any] | None:
    """Return how often the interval of a single lesion holds the true volume of what it belongs to."""
    known = [interval for row in rows for interval in row["lesion_intervals_ml"]]
    if not known:
        return None
    return {
        "n": len(known),
        "coverage": round(statistics.fmean(low <= true <= high for low, high, true in known), 3),
        "of_no_lesion": round(statistics.fmean(true == 0 for *_, true in known), 3),
        "median_width_ml": round(statistics.median(high - low for low, high, _ in known), 2),
    }


def calibration(sums: Reliability) -> dict[str, Any]:
    """Return the errors of the probabilities, and of each bin its voxels and mean, predicted and true."""
    pairs = list(zip(sums.predicted, sums.true, sums.count, strict=True))
    return {
        "expected_calibration_error": round(sums.expected_calibration_error(), 4),
        "brier": round(sums.brier(), 4),
        "voxels": sums.count.tolist(),
        "predicted": [round(float(p / n), 4) if n else None for p, _, n in pairs],
        "true": [round(float(t / n), 4) if n else None for _, t, n in pairs],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """Return the tables of a model card.

    Args:
        found: Of `summary`.
    """
    lines = [
        "| simulated scans | n | median Dice | quartiles | mean lesion-wise F1 | missed |",
        "|---|---|---|---|---|---|",
    ]
    groups = {"all": found["all"], **found["by_weighting"], **found["by_stage"]}
    groups |= {f"{k} ml": v for k, v in found["by_size_ml"].items()}
    groups |= {f"contrast to noise {k}": v for k, v in found["by_contrast_to_noise"].items()}
    groups["visible"] = found["visible"]
    groups |= {f"visible, {k} ml": v for k, v in found["visible_by_size_ml"].items()}
    lines += [
        f"| {name} | {row['n']} | {row['median']:.2f} | {row['q1']:.2f}-{row['q3']:.2f} | "
        f"{row['mean_f1']:.2f} | {row['missed']} |"
        for name, row in groups.items()
        if row["n"] >= 2
    ]
    lines += [
        "",
        "| scan, stage | n | not visible | median Dice | | scan, size | n | median Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    stages = [
        f"{k} | {v['n']} | {v['unseen']} | {_median(v)}" for k, v in found["by_weighting_and_stage"].items()
    ]
    sizes = [f"{k} ml | {v['n']} | {_median(v)}" for k, v in found["by_weighting_and_size_ml"].items()]
    for left, right in zip_longest(stages, sizes):
        lines.append(f"| {left or ' | | | '} | | {right or ' | | '} |")
    return "\n".join(lines) + "\n"


def _median(scored: Mapping[str, Any]) -> str:
    return f"{scored['median']:.2f}" if "median" in scored else "-"
