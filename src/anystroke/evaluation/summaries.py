"""Reduce the scores of models to what tables print, stratum by stratum, and test the differences."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anystroke.core.rng import stream
from anystroke.evaluation.metrics.measure import METRICS
from anystroke.evaluation.results import CaseResult, Results, ResultsError
from anystroke.evaluation.statistics import (
    Centre,
    PairedComparison,
    SeedSpread,
    bootstrap_interval,
    compare_pairs,
    holm,
    seed_spread,
    t_interval,
)

MAIN_METRICS = ("dice", "hausdorff95", "volume_difference", "lesion_count_difference", "lesion_f1")
ALL = "all"
SIZE = "lesion size"
SIZES_ML = ((0.0, 1.0), (1.0, 5.0), (5.0, 20.0), (20.0, 50.0), (50.0, math.inf))


@dataclass(frozen=True, eq=False)
class Judged:
    """The runs of one model; a case's score is the mean over them.

    Attributes:
        name: As in tables.
        runs: One, or several that differ in the seed.
    """

    name: str
    runs: tuple[Results, ...]

    def score(self, case: str, metric: str) -> float:
        """Return the mean over the runs; NaN if it is undefined in one of them, or the case failed."""
        return statistics.fmean(
            run.cases[case].values.get(metric, math.nan) if case in run.cases else math.nan
            for run in self.runs
        )

    def failed(self, case: str) -> bool:
        """Whether the case is missing or failed in a run."""
        return any(case not in run.cases or run.cases[case].failed for run in self.runs)


@dataclass(frozen=True)
class Stratum:
    """Cases that are looked at together.

    Attributes:
        kind: What they are sorted by, such as sequence.
        name: Such as FLAIR.
        cases: Their ids.
    """

    kind: str
    name: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """One metric of one model in one stratum.

    Attributes:
        stratum: The cases.
        model: Name of the model.
        metric: Name of the metric.
        count: Cases with a value.
        undefined: Cases measured without a value.
        failed: Cases that could not be measured or are missing.
        infinite: Cases among ``count`` that are infinite.
        mean: Over ``count``.
        median: Likewise.
        deviation: SD; NaN if a value is infinite.
        quartiles: First and third.
        t: t-interval around the centre of the table, as papers print it.
        bootstrap: Bootstrap interval of that centre.
    """

    stratum: Stratum
    model: str
    metric: str
    count: int
    undefined: int
    failed: int
    infinite: int
    mean: float
    median: float
    deviation: float
    quartiles: tuple[float, float]
    t: tuple[float, float]
    bootstrap: tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Two models in one stratum by one metric.

    Attributes:
        stratum: The cases.
        metric: Name of the metric.
        first: Name of a model.
        second: Name of another.
        found: The comparison.
        corrected: p-value of Wilcoxon's test after Holm, over all pairs and strata of the metric and kind.
    """

    stratum: Stratum
    metric: str
    first: str
    second: str
    found: PairedComparison
    corrected: float


def group_runs(results: Sequence[Results]) -> list[Judged]:
    """Put the runs of one name together, in the order of the first of each."""
    names = list(dict.fromkeys(one.name for one in results))
    return [Judged(name, tuple(one for one in results if one.name == name)) for name in names]


def all_cases(models: Sequence[Judged]) -> dict[str, CaseResult]:
    """Return every case of any run, measured ones before failed ones."""
    cases: dict[str, CaseResult] = {}
    for run in (run for model in models for run in model.runs):
        for name, case in run.cases.items():
            if name not in cases or (cases[name].failed and not case.failed):
                cases[name] = case
    return cases


def strata(models: Sequence[Judged], by: Sequence[str] = ()) -> list[Stratum]:
    """Sort cases: all together, by lesion size, and by each given column of facts.

    Raises:
        ResultsError: No case has such a column.
    """
    cases = all_cases(models)
    found = [Stratum(ALL, ALL, tuple(cases))]
    volumes = {name: case.values.get("truth_ml", math.nan) for name, case in cases.items()}
    sizes = [("no lesion", [name for name, ml in volumes.items() if ml == 0])]
    sizes += [
        (f"{low:g}-{high:g} ml" if math.isfinite(high) else f"over {low:g} ml",
         [name for name, ml in volumes.items() if ml > 0 and low <= ml < high])
        for low, high in SIZES_ML
    ]  # fmt: skip
    sizes.append(("unknown", [name for name, ml in volumes.items() if math.isnan(ml)]))
    found += [Stratum(SIZE, label, tuple(members)) for label, members in sizes if members]
    for column in by:
        groups: dict[str, list[str]] = {}
        for name, case in cases.items():
            groups.setdefault(case.facts.get(column, "n/a"), []).append(name)
        if set(groups) == {"n/a"}:
            known = sorted({key for case in cases.values() for key in case.facts})
            raise ResultsError(
                f"no case has a {column}; the columns are {', '.join(known) or 'none'}; name one of them"
            )
        found += [Stratum(column, label, tuple(groups[label])) for label in sorted(groups)]
    return found


def summarise_groups(
    models: Sequence[Judged],
    groups: Sequence[Stratum],
    metrics: Sequence[str] = MAIN_METRICS,
    *,
    centre: Centre = "median",
    seed: int = 1,
    units: Mapping[str, str] | None = None,
) -> list[Summary]:
    """Reduce scores to summaries.

    Args:
        models: Whose.
        groups: Strata.
        metrics: Names.
        centre: What intervals are around.
        seed: Of the bootstrap.
        units: What is independent, such as the patient of each case; each case if None.
    """
    return [
        _summary(model, stratum, metric, (centre, seed), units)
        for stratum in groups
        for metric in metrics
        for model in models
    ]


def _summary(
    model: Judged,
    stratum: Stratum,
    metric: str,
    options: tuple[Centre, int],
    units: Mapping[str, str] | None,
) -> Summary:
    centre, seed = options
    measured = [case for case in stratum.cases if not model.failed(case)]
    scores = np.array([model.score(case, metric) for case in measured])
    values = scores[~np.isnan(scores)]
    drawn = None
    if units is not None:
        drawn = [units[case] for case, score in zip(measured, scores, strict=True) if not math.isnan(score)]
    count = int(values.size)
    finite = bool(count) and bool(np.isfinite(values).all())
    mean, median = (float(values.mean()), float(np.median(values))) if count else (math.nan, math.nan)
    deviation = float(values.std(ddof=1)) if finite and count > 1 else math.nan
    middle = median if centre == "median" else mean
    rng = stream(seed, "bootstrap", stratum.kind, stratum.name, metric, model.name)
    low, high = np.quantile(values, [0.25, 0.75], method="inverted_cdf") if count else (math.nan, math.nan)
    return Summary(
        stratum=stratum,
        model=model.name,
        metric=metric,
        count=count,
        undefined=len(measured) - count,
        failed=len(stratum.cases) - len(measured),
        infinite=int(np.isinf(values).sum()),
        mean=mean,
        median=median,
        deviation=deviation,
        quartiles=(float(low), float(high)),
        t=t_interval(middle, deviation, count, bounds=METRICS[metric].bounds),
        bootstrap=bootstrap_interval(values, rng=rng, centre=centre, units=drawn),
    )


def compare_models(
    models: Sequence[Judged],
    groups: Sequence[Stratum],
    metrics: Sequence[str] = MAIN_METRICS,
    *,
    seed: int = 1,
    units: Mapping[str, str] | None = None,
) -> list[Difference]:
    """Compare every two models in every stratum.

    Args:
        models: Which.
        groups: Strata.
        metrics: Names.
        seed: Of bootstrap and permutations.
        units: What is independent, such as the patient of each case; its scores are averaged before testing.
    """
    found: list[Difference] = []
    for kind in dict.fromkeys(stratum.kind for stratum in groups):
        for metric in metrics:
            family = list(_compare(models, [s for s in groups if s.kind == kind], metric, seed, units))
            corrected = holm([comparison.wilcoxon for _, _, _, comparison in family])
            found += [
                Difference(stratum, metric, first, second, comparison, p)
                for (stratum, first, second, comparison), p in zip(family, corrected, strict=True)
            ]
    return found


def _compare(
    models: Sequence[Judged],
    groups: Sequence[Stratum],
    metric: str,
    seed: int,
    units: Mapping[str, str] | None,
) -> Iterator[tuple[Stratum, str, str, PairedComparison]]:
    for stratum in groups:
        for one, other in itertools.combinations(models, 2):
            rng = stream(seed, "pairs", stratum.kind, stratum.name, metric, one.name, other.name)
            scores = [[model.score(case, metric) for case in stratum.cases] for model in (one, other)]
            if units is not None:
                scores = _averaged(scores, [units[case] for case in stratum.cases])
            yield stratum, one.name, other.name, compare_pairs(*scores, rng=rng)


def _averaged(scores: Sequence[Sequence[float]], units: Sequence[str]) -> list[list[float]]:
    """Average both models' scores over the cases of each unit in which both have one."""
    members: dict[str, list[tuple[float, float]]] = {}
    for first, second, unit in zip(*scores, units, strict=True):
        if not (math.isnan(first) or math.isnan(second)):
            members.setdefault(unit, []).append((first, second))
    return [[statistics.fmean(pair[k] for pair in pairs) for pairs in members.values()] for k in range(2)]


def independent_units(models: Sequence[Judged], column: str | None) -> dict[str, str] | None:
    """Return the unit of each case by a column of facts; a case without it is its own unit.

    Returns:
        None if there is no column, or no two cases share a unit.
    """
    if column is None:
        return None
    cases = all_cases(models)
    units = {name: case.facts.get(column, "n/a") for name, case in cases.items()}
    units = {name: name if unit == "n/a" else f"{column} {unit}" for name, unit in units.items()}
    return units if len(set(units.values())) < len(units) else None


def spread_of_seeds(model: Judged, metric: str) -> SeedSpread:
    """Split the spread of a model's scores into that of its runs and that of the cases."""
    cases = sorted(set.intersection(*(set(run.cases) for run in model.runs)))
    scores = [[run.cases[case].values.get(metric, math.nan) for case in cases] for run in model.runs]
    return seed_spread(np.array(scores, dtype=np.float64).reshape(len(model.runs), len(cases)))


def worst_cases(model: Judged, count: int = 10) -> list[tuple[str, Mapping[str, float]]]:
    """Rank a model's failures in its first run: lowest Dice, then largest volume difference.

    A case without lesion in which one was predicted has Dice 0; one in which nothing was predicted is right.
    """
    run = model.runs[0]
    ranked = sorted(
        (case for case in run.cases.values() if not math.isnan(case.values.get("dice", math.nan))),
        key=lambda case: (case.values["dice"], -case.values.get("volume_difference", 0.0), case.id),
    )
    return [(case.id, case.values) for case in ranked[:count]]
