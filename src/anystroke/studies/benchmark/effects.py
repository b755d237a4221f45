"""What each change of a scan costs a model, all else being equal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anystroke.core.rng import stream
from anystroke.evaluation.results import Results
from anystroke.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class Effect:
    """What changing one thing costs a model, within patients and sequences.

    Attributes:
        model: Name.
        factor: What was changed.
        level: To what.
        sequence: In which scans, or ``"all"``.
        metric: Name of the metric.
        pairs: Changed scans with a value beside their standard one.
        standard: Mean of the standard scans.
        changed: Mean of the changed ones.
        low: Bootstrap interval of the mean difference.
        high: Likewise.
    """

    model: str
    factor: str
    level: str
    sequence: str
    metric: str
    pairs: int
    standard: float
    changed: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Mean of changed minus standard."""
        return self.changed - self.standard


def measure_effects(results: Results) -> list[Effect]:
    """Compare every changed scan with the standard one of the same patient and sequence.

    Scans without lesion are compared by the predicted volume, all others by Dice.
    """
    standard = {
        (case.facts["patient"], case.facts["sequence"]): case
        for case in results.cases.values()
        if case.facts.get("factor") == "standard"
    }
    sequences = list(dict.fromkeys(sequence for _, sequence in standard))
    levels = dict.fromkeys(
        (case.facts["factor"], case.facts["level"])
        for case in results.cases.values()
        if case.facts.get("factor", "standard") != "standard"
    )
    found = []
    for factor, level in levels:
        metric = "predicted_ml" if level == "0 ml" else "dice"
        for sequence in ("all", *sequences):
            pairs = [
                (
                    standard[key].values.get(metric, math.nan),
                    case.values.get(metric, math.nan),
                    case.facts["patient"],
                )
                for case in results.cases.values()
                if (case.facts.get("factor"), case.facts.get("level")) == (factor, level)
                and sequence in ("all", case.facts["sequence"])
                and (key := (case.facts["patient"], case.facts["sequence"])) in standard
            ]
            found.append(_effect(results.name, factor, level, sequence, metric, pairs))
    return found


def _effect(
    model: str, factor: str, level: str, sequence: str, metric: str, pairs: Sequence[tuple[float, float, str]]
) -> Effect:
    measured = [pair for pair in pairs if not any(map(math.isnan, pair[:2]))]
    known = np.array([pair[:2] for pair in measured]).reshape(-1, 2)
    patients = [patient for _, _, patient in measured]
    rng = stream(1, "effect", model, factor, level, sequence)
    low, high = bootstrap_interval(known[:, 1] - known[:, 0], rng=rng, centre="mean", units=patients)
    before, after = known.mean(axis=0) if len(known) else (math.nan, math.nan)
    return Effect(model, factor, level, sequence, metric, len(known), float(before), float(after), low, high)
