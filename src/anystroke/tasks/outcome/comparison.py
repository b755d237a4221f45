"""Compare models on the same folds, and what the table and the image give alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.core.files import write_json
from anystroke.core.tables import write_table
from anystroke.evaluation.statistics import holm
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.evaluate import (
    FoldSettings,
    OutOfFold,
    compare_two,
    cross_validate,
    out_of_fold_scores,
    permutation_test,
    subgroups,
)
from anystroke.tasks.outcome.fitting import fit_model
from anystroke.tasks.outcome.folds import close_box, group_differences, matched_groups, open_box
from anystroke.tasks.outcome.models import EnsembleMember, ModelSpec, is_known
from anystroke.tasks.outcome.scores import MAIN_SCORE, scores
from anystroke.tasks.outcome.train import Study

_RECORD = "lock_box_openings.json"


@dataclass(frozen=True)
class ComparisonSettings:
    """How models are compared.

    Attributes:
        validation: Folds and repeats.
        lock_box: Share of patients kept apart until the models are compared.
        permutations: Shuffles of the target, for the first model.
    """

    validation: FoldSettings
    lock_box: float = 0.0
    permutations: int = 0


def compare_outcome_models(
    study: Study,
    specs: Sequence[ModelSpec],
    options: ComparisonSettings,
    folder: Path,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Cross-validate models and test their differences.

    Beside the named models, the first one is also given the table without the image and the image without the
    table, where it has both.

    Args:
        study: Of patients.
        specs: The models.
        options: How.
        folder: Where openings of the lock box are written down; made if missing.
        progress: Called after each fold.

    Returns:
        Facts for tables and the page.
    """
    kind, main = study.target.kind, MAIN_SCORE[study.target.kind]
    notes = list(study.notes)
    inside = np.zeros(len(study.cohort.ids), dtype=bool)
    if options.lock_box > 0:
        inside, sentence = _boxed(study.cohort, options)
        notes.append(sentence)
    cohort = study.cohort.rows(np.flatnonzero(~inside))
    found = [
        cross_validate(each, cohort, kind, options.validation, progress)
        for each in (*specs, *_alone(specs[0], cohort))
    ]
    rows = []
    for each in found:
        values = out_of_fold_scores(each, cohort.target, kind, seed=options.validation.seed)
        low, high = values.pop(f"{main}_interval")
        values.pop(f"{main}_repeats")
        rows.append({"model": each.model, main: values.pop(main), "low": low, "high": high, **values})
    tests = [compare_two(found[0], each, cohort.target, kind) for each in found[1:]]
    for row, p in zip(tests, holm([test["bootstrap_p"] for test in tests]), strict=True):
        row["holm"] = p
    made: dict[str, Any] = {
        "target": study.target.model_dump(),
        "patients": len(cohort.ids),
        "folds": options.validation.folds,
        "repeats": options.validation.repeats,
        "main_score": main,
        "columns": list(rows[0]),
        "models": rows,
        "tests": tests,
        "subgroups": [
            {"model": each.model, **row} for each in found for row in subgroups(cohort, each, kind)
        ],
        "permutation": None,
        "lock_box": None,
        "notes": notes,
    }
    if options.permutations:
        made["permutation"] = permutation_test(
            specs[0], cohort, kind, observed=float(rows[0][main]), draws=options.permutations
        )
    if options.lock_box > 0:
        best = max(range(len(specs)), key=lambda k: rows[k][main])
        made["lock_box"] = _opened(study, specs[best], inside, options, folder)
    made["out_of_fold"] = _rows(cohort, found)
    return made


def _alone(spec: ModelSpec, cohort: OutcomeCohort) -> list[ModelSpec]:
    """Return the model with the table alone and the image alone."""
    if not spec.members or not cohort.columns.shape[1]:
        return []
    if not all(any(g != "columns" and is_known(g, cohort) for g in m.groups) for m in spec.members):
        return []
    groups = [set(member.groups) for member in spec.members]
    if not all("columns" in each and len(each) > 1 for each in groups):
        return []
    table = tuple(EnsembleMember(("columns",), member.estimator) for member in spec.members)
    image = tuple(
        EnsembleMember(tuple(group for group in member.groups if group != "columns"), member.estimator)
        for member in spec.members
    )
    return [ModelSpec(f"{spec.name} (table alone)", table), ModelSpec(f"{spec.name} (image alone)", image)]


def matching_values(cohort: OutcomeCohort) -> Array:
    """Return what groups are matched for: target, lesion size and the table's columns, gaps as medians."""
    parts = [cohort.target[:, None]]
    if cohort.measured is not None:
        parts.append(cohort.measured.values["size"])
    if cohort.columns.shape[1]:
        middle = np.nanmedian(np.where(np.isnan(cohort.columns).all(axis=0), 0.0, cohort.columns), axis=0)
        parts.append(np.where(np.isnan(cohort.columns), middle, cohort.columns))
    return np.concatenate(parts, axis=1)


def _boxed(cohort: OutcomeCohort, options: ComparisonSettings) -> tuple[Array, str]:
    """Choose the patients of the lock box: one of several groups matched for what is known of them."""
    count = max(2, round(1 / options.lock_box))
    values = matching_values(cohort)
    groups = matched_groups(values, count, seed=options.validation.seed)
    widest = float(group_differences(values, groups).max())
    return groups == count - 1, (
        f"patients were dealt to {count} groups whose means differ by at most {widest:.2f} SD; the last "
        "is the lock box"
    )


def _opened(
    study: Study, spec: ModelSpec, inside: Array, options: ComparisonSettings, folder: Path
) -> dict[str, Any]:
    """Train the best model outside of the lock box, open it and predict who is in it."""
    cohort, kind = study.cohort, study.target.kind
    folder.mkdir(parents=True, exist_ok=True)
    outside, boxed = cohort.rows(np.flatnonzero(~inside)), cohort.rows(np.flatnonzero(inside))
    fitted = fit_model(spec, outside, kind, seed=options.validation.seed, epochs=options.validation.epochs)
    box = open_box(close_box(cohort.ids, cohort.target, inside), folder / _RECORD)
    return {
        "model": spec.name,
        "patients": len(boxed.ids),
        "sha256": box.sha256,
        "openings": box.openings,
        "scores": scores(fitted.raw(boxed), boxed.target, kind),
    }


def _rows(cohort: OutcomeCohort, found: Sequence[OutOfFold]) -> list[dict[str, Any]]:
    rows = []
    for k, name in enumerate(cohort.ids):
        row: dict[str, Any] = {"participant_id": name, "target": float(cohort.target[k])}
        rows.append(row | {each.model: float(each.mean[k].mean()) for each in found})
    return rows


def write_comparison(folder: Path, made: dict[str, Any]) -> None:
    """Write models, tests, subgroups and out-of-fold predictions as tables, and all but these as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "models.tsv", made["columns"], made["models"])
    for name in ("tests", "subgroups", "out_of_fold"):
        if made[name]:
            write_table(folder / f"{name}.tsv", tuple(made[name][0]), made[name])
    write_json(
        folder / "comparison.json", {key: value for key, value in made.items() if key != "out_of_fold"}
    )
