"""Honest evaluation: repeated nested cross-validation, permutations, subgroups, a lock box."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anystroke.core.arrays import Array
from anystroke.core.rng import stream
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.fitting import fit_model
from anystroke.tasks.outcome.folds import stratified_folds
from anystroke.tasks.outcome.models import ModelSpec
from anystroke.tasks.outcome.scores import (
    MAIN_SCORE,
    bootstrap,
    corrected_t_test,
    scores,
    white_t_test,
)
from anystroke.tasks.outcome.table import TargetKind


@dataclass(frozen=True)
class FoldSettings:
    """How models are cross-validated.

    Attributes:
        folds: Of each repeat.
        repeats: With other folds each.
        seed: Of all folds.
        epochs: Of networks; their own number if None.
        shrink: So many pixels along each axis become one before networks see them.
    """

    folds: int = 5
    repeats: int = 2
    seed: int = 1
    epochs: int | None = None
    shrink: int = 1


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of patients by models that did not learn from them.

    Attributes:
        model: Name.
        raw: float64 (repeats, patients, heads).
        folds: int64 (repeats, patients): which fold each was in.
    """

    model: str
    raw: Array
    folds: Array

    @property
    def mean(self) -> Array:
        """Predictions averaged over repeats, (patients, heads)."""
        averaged: Array = self.raw.mean(axis=0)
        return averaged


def cross_validate(
    spec: ModelSpec,
    cohort: OutcomeCohort,
    kind: TargetKind,
    validation: FoldSettings,
    progress: Callable[[], None] = lambda: None,
) -> OutOfFold:
    """Predict each patient by models trained on the others; all that is chosen is chosen among these.

    Args:
        spec: The model.
        cohort: Patients, all with a target.
        kind: Of the target.
        validation: Folds and repeats.
        progress: Called after each fold.
    """
    heads = 1 if kind == "number" else int(cohort.target.max())
    raw = np.empty((validation.repeats, len(cohort.ids), heads))
    folds = repeated_folds(cohort.target, kind, validation)
    for repeat in range(validation.repeats):
        for k in range(validation.folds):
            held = np.flatnonzero(folds[repeat] == k)
            training = cohort.rows(np.flatnonzero(folds[repeat] != k))
            model = fit_model(spec, training, kind, seed=validation.seed + repeat, epochs=validation.epochs)
            found = model.raw(cohort.rows(held))
            raw[repeat, held] = np.pad(found, ((0, 0), (0, heads - found.shape[1])), constant_values=-20.0)
            progress()
    return OutOfFold(spec.name, raw, folds)


def repeated_folds(target: Array, kind: TargetKind, validation: FoldSettings) -> Array:
    """Return int64 (repeats, patients), the same for all models."""
    return np.stack(
        [
            stratified_folds(target, validation.folds, seed=validation.seed + k, classes=kind != "number")
            for k in range(validation.repeats)
        ]
    )


def out_of_fold_scores(
    found: OutOfFold, target: Array, kind: TargetKind, *, seed: int = 1, draws: int = 1000
) -> dict[str, Any]:
    """Measure out-of-fold predictions.

    Returns:
        Scores of the repeats' mean prediction of each patient, ``<main>_interval`` from a bootstrap over
        patients, and ``<main>_repeats`` of each repeat.
    """
    main = MAIN_SCORE[kind]
    values: dict[str, Any] = dict(_repeat_mean([scores(raw, target, kind) for raw in found.raw]))
    rng = stream(seed, "outcome", "bootstrap")
    interval = bootstrap(
        lambda rows: scores(found.mean[rows], target[rows], kind)[main], len(target), rng=rng, draws=draws
    )
    values[f"{main}_interval"] = list(interval)
    values[f"{main}_repeats"] = [scores(raw, target, kind)[main] for raw in found.raw]
    return values


def _repeat_mean(each: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def compare_two(
    first: OutOfFold, second: OutOfFold, target: Array, kind: TargetKind, *, seed: int = 1
) -> dict[str, Any]:
    """Test whether one model predicts the same patients better than another.

    Returns:
        ``difference`` of the main score over all patients with the interval and p of a paired bootstrap;
        and the
        corrected resampled t test over folds, and that with the degrees of freedom of White et al. 2024.
    """
    main = MAIN_SCORE[kind]

    def gap(rows: Array) -> float:
        one, other = (scores(f.mean[rows], target[rows], kind)[main] for f in (first, second))
        return one - other

    rng = stream(seed, "outcome", "paired")
    index = torch.randint(0, len(target), (1000, len(target)), generator=rng).numpy()
    drawn = np.array([gap(rows) for rows in index])
    drawn = drawn[~np.isnan(drawn)]
    low, high = (float(x) for x in np.quantile(drawn, [0.025, 0.975])) if drawn.size else (math.nan, math.nan)
    both = [float((drawn <= 0).mean()), float((drawn >= 0).mean())] if drawn.size else [1.0, 1.0]
    per_fold = np.array(
        [
            [
                scores(first.raw[r][rows], target[rows], kind)[main]
                - scores(second.raw[r][rows], target[rows], kind)[main]
                for k in range(int(first.folds.max()) + 1)
                for rows in [np.flatnonzero(first.folds[r] == k)]
            ]
            for r in range(len(first.raw))
        ]
    )
    per_fold = np.where(np.isnan(per_fold), 0.0, per_fold)
    count = per_fold.shape[1]
    corrected = corrected_t_test(per_fold.reshape(-1).tolist(), test_share=1 / (count - 1))
    white = white_t_test(per_fold.mean(axis=0).tolist())
    return {
        "first": first.model,
        "second": second.model,
        "score": main,
        "difference": gap(np.arange(len(target))),
        "low": low,
        "high": high,
        "bootstrap_p": min(1.0, 2 * max(min(both), 1 / (len(drawn) + 1))),
        "corrected_t": corrected.t,
        "corrected_p": corrected.p,
        "white_t": white.t,
        "white_dof": white.dof,
        "white_p": white.p,
    }


def permutation_test(
    spec: ModelSpec,
    cohort: OutcomeCohort,
    kind: TargetKind,
    *,
    observed: float,
    draws: int = 20,
    seed: int = 1,
) -> dict[str, Any]:
    """Repeat a cross-validation with shuffled targets, which shows what chance gives.

    Args:
        spec: The model.
        cohort: Patients with targets.
        kind: Of the target.
        observed: Main score with the true targets.
        draws: Number of shuffles.
        seed: Of the shuffles.

    Returns:
        ``mean``, ``highest`` and ``p`` of the shuffled scores.
    """
    from dataclasses import replace

    rng = stream(seed, "outcome", "permutation")
    main = MAIN_SCORE[kind]
    values = []
    for draw in range(draws):
        order = torch.randperm(len(cohort.ids), generator=rng).numpy()
        shuffled = replace(cohort, target=cohort.target[order])
        found = cross_validate(spec, shuffled, kind, FoldSettings(repeats=1, seed=seed + draw, epochs=1))
        score = scores(found.raw[0], shuffled.target, kind)[main]
        values.append(0.0 if math.isnan(score) else score)
    p = (1 + sum(value >= observed for value in values)) / (draws + 1)
    return {"draws": draws, "mean": float(np.mean(values)), "highest": float(max(values)), "p": p}


def subgroups(
    cohort: OutcomeCohort, found: OutOfFold, kind: TargetKind, *, fewest: int = 20
) -> list[dict[str, Any]]:
    """Measure predictions in parts of the patients: by lesion size, side, age and other columns.

    Returns:
        Rows with ``by``, ``group``, ``patients`` and the scores; parts of fewer than ``fewest`` are left out.
    """
    rows: list[dict[str, Any]] = []
    for by, groups in _parts(cohort).items():
        for name, inside in groups.items():
            if int(inside.sum()) >= fewest and len(np.unique(cohort.target[inside])) > 1:
                values = scores(found.mean[inside], cohort.target[inside], kind)
                rows.append({"by": by, "group": name, "patients": int(inside.sum()), **values})
    return rows


def _parts(cohort: OutcomeCohort) -> dict[str, dict[str, Array]]:
    parts: dict[str, dict[str, Array]] = {}
    for name, values in zip(cohort.column_names, cohort.columns.T, strict=True):
        known = ~np.isnan(values)
        if set(np.unique(values[known])) <= {0.0, 1.0}:
            parts[name] = {"no": known & (values == 0), "yes": known & (values == 1)}
        elif known.any():
            middle = float(np.median(values[known]))
            parts[name] = {
                f"up to {middle:.4g}": known & (values <= middle),
                f"above {middle:.4g}": known & (values > middle),
            }
    if cohort.lesions:
        size = np.array([lesion.volume_ml for lesion in cohort.lesions])
        low, high = np.quantile(size, [1 / 3, 2 / 3])
        parts["lesion volume"] = {
            f"up to {low:.1f} ml": size <= low,
            f"{low:.1f} to {high:.1f} ml": (size > low) & (size <= high),
            f"above {high:.1f} ml": size > high,
        }
        if cohort.measured is not None:
            left, right = cohort.measured.values["side"].T
            parts["side"] = {"left": left > right, "right": right > left}
    return parts
