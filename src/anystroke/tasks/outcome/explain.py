"""What predictions rest on: shuffled columns, exchanged regions, gradients of pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from anystroke.anatomy.regions.grid import REGION_SHAPE
from anystroke.anatomy.regions.regions import load_regions, region_labels, region_names
from anystroke.core.arrays import Array
from anystroke.core.rng import stream
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.features import measure_lesions
from anystroke.tasks.outcome.files import OutcomeModel
from anystroke.tasks.outcome.masks import Lesion
from anystroke.tasks.outcome.models import FittedModel
from anystroke.tasks.outcome.scan_features import SCAN_GROUPS, SIDED_REGIONS, measure_scans
from anystroke.tasks.outcome.scores import MAIN_SCORE, chances, scores

_MOST_PREDICTORS = 21
_MOST_REGIONS = 12
_SMALLEST_SHARE = 0.02
# Predicted chances beyond which a patient counts as of the opposite class (White et al. 2024).
_OPPOSITE = (0.15, 0.75)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model's predictions of a cohort rest on.

    Attributes:
        importance: Column or group and how much worse the main score gets when it is shuffled (or,
            without targets, how far predictions move), most first.
        measure: What ``importance`` is in.
        regions: Region with side -> mean change of the prediction that its damage makes; or, where scans
            are seen without masks, mean size of the change that its asymmetry makes.
        by_patient: Id -> region -> change.
        saliency: float32 (91, 109, 91), where predictions of a network are sensitive; None without network.
    """

    importance: tuple[tuple[str, float], ...]
    measure: str
    regions: dict[str, float]
    by_patient: dict[str, dict[str, float]]
    saliency: Array | None


def explain_model(
    model: OutcomeModel, cohort: OutcomeCohort, *, patients: int = 40, seed: int = 1
) -> Explanation:
    """Explain a model by what it does with a cohort.

    Args:
        model: Of the cohort's kind.
        cohort: Patients; their targets may be missing.
        patients: For how many regions are exchanged.
        seed: Of shuffles and exchanges.
    """
    importance, unit = permutation_importance(model.fitted, cohort, seed=seed)
    by_patient: dict[str, dict[str, float]] = {}
    if cohort.lesions and (model.fitted.network is None or not model.config.images):
        predicted = one_number(model.fitted, model.fitted.raw(cohort))
        for k in range(min(patients, len(cohort.ids))):
            by_patient[cohort.ids[k]] = region_importance(model.fitted, cohort, k, predicted)
    elif any("asymmetry" in member.transform.groups for member in model.fitted.members):
        for k in range(min(patients, len(cohort.ids))):
            by_patient[cohort.ids[k]] = asymmetry_effects(model.fitted, cohort, k)
    saliency = None
    if model.fitted.network is not None:
        saliency = model.fitted.network.saliency(
            cohort.rows(range(min(patients, len(cohort.ids)))), seed=seed
        )
    sizes = by_patient
    if not cohort.lesions:
        sizes = {name: {each: abs(x) for each, x in of.items()} for name, of in by_patient.items()}
    return Explanation(importance, unit, _mean_of_regions(sizes), by_patient, saliency)


def _mean_of_regions(by_patient: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average over all patients that were looked at; an undamaged region changes nothing."""
    total: dict[str, float] = {}
    for changes in by_patient.values():
        for name, value in changes.items():
            total[name] = total.get(name, 0.0) + value / len(by_patient)
    return dict(sorted(total.items(), key=lambda item: -abs(item[1])))


def one_number(fitted: FittedModel, raw: Array) -> Array:
    """Return one number a patient: the prediction, the chance of the second class, or the mean grade."""
    if fitted.kind == "number":
        return raw[:, 0]
    probabilities = chances(raw)
    number: Array = probabilities @ np.arange(probabilities.shape[1])
    return number


def permutation_importance(
    fitted: FittedModel, cohort: OutcomeCohort, *, repeats: int = 5, seed: int = 1
) -> tuple[tuple[tuple[str, float], ...], str]:
    """Shuffle what is known of patients, one thing at a time.

    Returns:
        Pairs of a name and its importance, most first, and what the importance is in.
    """
    known = bool(len(cohort.ids)) and not np.isnan(cohort.target).any() and len(np.unique(cohort.target)) > 1
    raw = fitted.raw(cohort)
    main = MAIN_SCORE[fitted.kind]
    base = scores(raw, cohort.target, fitted.kind)[main] if known else 0.0
    predicted = one_number(fitted, raw)
    rng = stream(seed, "outcome", "importance")
    found = []
    for name, change in _changes(fitted, cohort):
        losses = []
        for _ in range(repeats):
            order = torch.randperm(len(cohort.ids), generator=rng).numpy()
            moved = fitted.raw(change(order))
            if known:
                losses.append(base - scores(moved, cohort.target, fitted.kind)[main])
            else:
                losses.append(float(np.abs(one_number(fitted, moved) - predicted).mean()))
        mean = float(np.mean(losses))
        found.append((name, 0.0 if math.isnan(mean) else mean))
    words = f"loss of {main} when shuffled" if known else "mean change of the prediction when shuffled"
    return tuple(sorted(found, key=lambda pair: -pair[1])), words


def _changes(fitted: FittedModel, cohort: OutcomeCohort) -> list[tuple[str, Any]]:
    """List what can be shuffled, each with what makes the shuffled cohort of an order."""
    listed: list[tuple[str, Any]] = []
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(cohort.column_names):
        groups.setdefault(name.split("=")[0], []).append(k)
    for name, places in groups.items():
        listed.append((name, lambda order, places=places: _with_columns(cohort, places, order)))
    used = {group for member in fitted.members for group in member.transform.groups}
    measured = cohort.measured
    if measured is not None:
        for group in sorted(used & set(measured.values)):
            listed.append((f"lesion: {group}", lambda order, group=group: _with_group(cohort, group, order)))
        if "low-rank" in used:
            listed.append(
                (
                    "lesion: low-rank",
                    lambda order: replace(cohort, measured=replace(measured, maps=measured.maps[order])),
                )
            )
    if fitted.network is not None or used & set(SCAN_GROUPS):
        name = "scan" if fitted.network is None else "picture"
        listed.append((name, lambda order: _with_pictures(cohort, order)))
    return listed


def _with_columns(cohort: OutcomeCohort, places: Sequence[int], order: Array) -> OutcomeCohort:
    columns = cohort.columns.copy()
    columns[:, places] = columns[order][:, places]
    return replace(cohort, columns=columns)


def _with_group(cohort: OutcomeCohort, group: str, order: Array) -> OutcomeCohort:
    if cohort.measured is None:
        return cohort
    values = {**cohort.measured.values, group: cohort.measured.values[group][order]}
    return replace(cohort, measured=replace(cohort.measured, values=values))


def _with_pictures(cohort: OutcomeCohort, order: Array) -> OutcomeCohort:
    other = cohort.rows(order)
    return replace(cohort, lesions=other.lesions, images=other.images, measured=other.measured)


def region_importance(
    fitted: FittedModel, cohort: OutcomeCohort, patient: int, predicted: Array
) -> dict[str, float]:
    """Exchange damaged regions of a patient with those of the nearest one of opposite prediction.

    Single regions and pairs are exchanged; a linear model of the changed predictions, its predictors
    chosen by Akaike's criterion, says what each region did (after White et al., NeuroImage: Clinical 2024).
    Where the other patient has more damage of a region, the exchange adds damage instead of taking it away,
    so that the sign is turned.

    Args:
        fitted: The model.
        cohort: Patients with lesions.
        patient: Whose prediction is explained.
        predicted: Of all patients, as `one_number` returns it.

    Returns:
        Region with side -> how much higher the prediction is for more damage of it.
    """
    lesion = cohort.lesions[patient]
    touched = _touched(lesion)
    if not touched:
        return {}
    other = cohort.lesions[_opposite(cohort, patient, predicted)]
    exchanges = [(k,) for k in range(len(touched))] + list(combinations(range(len(touched)), 2))
    changed = [_exchanged(lesion, other, [touched[k] for k in each]) for each in exchanges]
    maker = cohort.rows([patient] * len(changed))
    atlas_free = replace(maker, lesions=tuple(changed), measured=_measured_like(cohort, changed, patient))
    moved = predicted[patient] - one_number(fitted, fitted.raw(atlas_free))
    design = np.zeros((len(exchanges), len(touched)))
    for row, each in enumerate(exchanges):
        design[row, list(each)] = 1
    more = np.sign((_loads(lesion) - _loads(other))[touched])
    weights = _stepwise(design, moved) * more
    names = [_region_name(number) for number in touched]
    return {name: float(w) for name, w in zip(names, weights, strict=True) if w != 0}


def asymmetry_effects(fitted: FittedModel, cohort: OutcomeCohort, patient: int) -> dict[str, float]:
    """Say how much each region's asymmetry moves a prediction away from that with a typical one.

    Args:
        fitted: Of estimators that see scans.
        cohort: Patients with scans.
        patient: Whose prediction is explained.

    Returns:
        Region with side -> change of the prediction.
    """
    rows = []
    for member in fitted.members:
        transform = member.transform
        x = transform.apply(cohort.rows([patient])).repeat(len(SIDED_REGIONS) + 1, axis=0)
        if "asymmetry" in transform.groups:
            typical = (transform.median - transform.mean) / transform.scale
            for k, region in enumerate(SIDED_REGIONS, 1):
                column = transform.names.index(f"asymmetry {region}")
                x[k, column] = typical[column]
        rows.append(x)
    raw = fitted.of_rows(rows)
    number = one_number(fitted, np.clip(raw, *fitted.bounds) if fitted.kind == "number" else raw)
    return {name: float(number[0] - value) for name, value in zip(SIDED_REGIONS, number[1:], strict=True)}


def _measured_like(cohort: OutcomeCohort, lesions: Sequence[Lesion], patient: int) -> Any:
    """Measure lesions; loads of an atlas stay those of the patient."""
    made = measure_lesions(lesions)
    if cohort.measured is not None and "atlas" in cohort.measured.values:
        kept = np.repeat(cohort.measured.values["atlas"][[patient]], len(lesions), axis=0)
        return replace(
            made,
            names={**made.names, "atlas": cohort.measured.names["atlas"]},
            values={**made.values, "atlas": kept},
        )
    return made


def _sided_labels() -> Array:
    """Number regions with sides: twice the region's number less one on the left, less none on the right."""
    labels = region_labels().reshape(-1).astype(np.int64)
    sided: Array = np.where(labels > 0, 2 * labels - 1 + load_regions().side, 0)
    return sided


def _region_name(number: int) -> str:
    return SIDED_REGIONS[number - 1]


def _loads(lesion: Lesion) -> Array:
    """Return how much of a lesion each region with side holds, and of none at 0 [voxels]."""
    labels = _sided_labels()
    load: Array = np.bincount(labels[lesion.voxels], lesion.shares, minlength=int(labels.max()) + 1)
    return load


def _touched(lesion: Lesion) -> list[int]:
    """Return the regions that hold most of a lesion."""
    load = _loads(lesion)
    load[0] = 0
    order = np.argsort(-load, kind="stable")[:_MOST_REGIONS]
    return [int(k) for k in order if load[k] > _SMALLEST_SHARE * float(lesion.shares.sum())]


def _opposite(cohort: OutcomeCohort, patient: int, predicted: Array) -> int:
    """Find the patient of opposite prediction whose map is nearest."""
    own = predicted[patient]
    if float(predicted.min()) >= 0 and float(predicted.max()) <= 1:
        low, high = _OPPOSITE
    else:
        low, high = (float(x) for x in np.quantile(predicted, [0.25, 0.75]))
    wanted = predicted <= low if own > np.median(predicted) else predicted >= high
    wanted[patient] = False
    if not wanted.any():
        far = np.abs(predicted - own)
        wanted = far >= np.quantile(far, 0.75)
        wanted[patient] = False
    if cohort.measured is None or not wanted.any():
        return patient
    maps = cohort.measured.maps.reshape(len(cohort.ids), -1)
    distance = ((maps - maps[patient]) ** 2).sum(axis=1)
    return int(np.flatnonzero(wanted)[distance[wanted].argmin()])


def _exchanged(lesion: Lesion, other: Lesion, regions: Sequence[int]) -> Lesion:
    """Return a lesion with some regions as they are in another."""
    labels = _sided_labels()
    stay = ~np.isin(labels[lesion.voxels], regions)
    come = np.isin(labels[other.voxels], regions)
    voxels = np.concatenate([lesion.voxels[stay], other.voxels[come]])
    shares = np.concatenate([lesion.shares[stay], other.shares[come]])
    order = voxels.argsort()
    return Lesion(voxels[order], shares[order])


def _stepwise(design: Array, values: Array) -> Array:
    """Fit a linear model without constant whose predictors are added while Akaike's criterion falls."""
    chosen: list[int] = []
    weights = np.zeros(design.shape[1])
    n = len(values)

    def criterion(columns: list[int]) -> tuple[float, Array]:
        part, *_ = np.linalg.lstsq(design[:, columns], values, rcond=None)
        error = float(((design[:, columns] @ part - values) ** 2).sum())
        return n * math.log(max(error / n, 1e-12)) + 2 * len(columns), part

    best = n * math.log(max(float((values**2).mean()), 1e-12))
    while len(chosen) < min(_MOST_PREDICTORS, design.shape[1]):
        rest = [k for k in range(design.shape[1]) if k not in chosen]
        tried = {k: criterion([*chosen, k])[0] for k in rest}
        k = min(tried, key=lambda each: tried[each])
        if tried[k] >= best:
            break
        chosen.append(k)
        best = tried[k]
    if chosen:
        weights[chosen] = criterion(chosen)[1]
    return weights


def region_map(regions: dict[str, float]) -> Array:
    """Paint the importance of regions into the brain, float32 (91, 109, 91), without sign."""
    numbers = {_region_name(k): k for k in range(1, 2 * len(region_names()) + 1)}
    table = np.zeros(2 * len(region_names()) + 1, dtype=np.float32)
    for name, value in regions.items():
        table[numbers[name]] = abs(value)
    return table[_sided_labels()].reshape(REGION_SHAPE)


def column_effects(fitted: FittedModel, cohort: OutcomeCohort, patient: int) -> dict[str, float]:
    """Say how much each column moves a patient's prediction away from that with the training's median."""
    own = cohort.rows([patient])
    base = one_number(fitted, fitted.raw(own))[0]
    effects: dict[str, float] = {}
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(cohort.column_names):
        groups.setdefault(name.split("=")[0], []).append(k)
    for name, places in groups.items():
        columns = own.columns.copy()
        columns[:, places] = np.nan
        without = one_number(fitted, fitted.raw(replace(own, columns=columns)))[0]
        effects[name] = float(base - without)
    return effects


def patients_like(cohort: OutcomeCohort, patient: int, count: int = 5) -> list[int]:
    """Find the patients whose lesions, or scans without masks, and columns are most like a patient's."""
    parts = []
    if cohort.columns.shape[1]:
        spread = np.nanstd(np.where(np.isnan(cohort.columns).all(axis=0), 0.0, cohort.columns), axis=0)
        standard = (cohort.columns - cohort.columns[patient]) / np.where(spread > 0, spread, 1.0)
        parts.append((np.where(np.isnan(standard), 1.0, standard) ** 2).mean(axis=1))
    if cohort.measured is not None:
        maps = cohort.measured.maps.reshape(len(cohort.ids), -1)
        sizes = (maps**2).sum(axis=1)
        # From 0 for the same map to 1 for maps that have no voxel in common.
        parts.append(4 * ((maps - maps[patient]) ** 2).sum(axis=1) / np.maximum(sizes + sizes[patient], 1e-9))
        volume = cohort.measured.values["size"][:, 0]
        parts.append((volume - volume[patient]) ** 2)
    elif cohort.images:
        scans = measure_scans(cohort, "asymmetry")
        spread = np.where(scans.std(axis=0) > 0, scans.std(axis=0), 1.0)
        parts.append((((scans - scans[patient]) / spread) ** 2).mean(axis=1))
    total = np.sum(parts, axis=0)
    total[patient] = np.inf
    return [int(k) for k in np.argsort(total)[: min(count, len(cohort.ids) - 1)]]
