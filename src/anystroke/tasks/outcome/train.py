"""Train a model of outcomes and say how good it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.tasks.outcome.calibrate import Conformal, fit_temperature
from anystroke.tasks.outcome.cohort import Files, OutcomeCohort, gather
from anystroke.tasks.outcome.config import OutcomeConfig
from anystroke.tasks.outcome.evaluate import (
    FoldSettings,
    OutOfFold,
    cross_validate,
    out_of_fold_scores,
    subgroups,
)
from anystroke.tasks.outcome.files import OutcomeModel, describe_atlas, member_configs
from anystroke.tasks.outcome.fitting import fit_model
from anystroke.tasks.outcome.models import FittedModel, ModelSpec, find_model_spec, uses_lesions, uses_scans
from anystroke.tasks.outcome.scores import MAIN_SCORE, chances, scores
from anystroke.tasks.outcome.table import (
    Column,
    OutcomeError,
    PatientTable,
    Target,
    TargetKind,
    apply_target,
    choose_columns,
    first_few,
    read_target,
)

FEWEST_FOR_NETWORKS = 40
FEWEST_PATIENTS = 12


@dataclass(frozen=True)
class TrainOptions:
    """What a model is trained for.

    Attributes:
        target: Column.
        columns: To predict from; those known at admission if None.
        kind: Of the target; found out if None.
        above: Makes two classes of numbers: above this or not.
        at_least: Likewise: from this on.
    """

    target: str
    columns: tuple[str, ...] | None = None
    kind: TargetKind | None = None
    above: float | None = None
    at_least: float | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """Patients that a model is trained on, and what was decided on the way."""

    cohort: OutcomeCohort
    target: Target
    columns: tuple[Column, ...]
    files: Files
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with its evaluation."""

    model: OutcomeModel
    out_of_fold: OutOfFold
    evaluation: dict[str, Any]


def open_study(
    table: PatientTable,
    options: TrainOptions,
    files: Files,
    specs: Sequence[ModelSpec],
    progress: Callable[[], None] = lambda: None,
) -> Study:
    """Read the patients to train on; those without a target are left out.

    Args:
        table: Of patients.
        options: What is predicted, and from what.
        files: Where images are.
        specs: Models that are to be trained, which say whether scans are registered.
        progress: Called after each patient with a mask or scan.

    Raises:
        OutcomeError: The table, a mask or the target cannot be used.
    """
    notes: list[str] = []
    target, values = read_target(
        table, options.target, kind=options.kind, above=options.above, at_least=options.at_least
    )
    unknown = [each for each, value in zip(table.ids, values, strict=True) if np.isnan(value)]
    if unknown:
        notes.append(f"{len(unknown)} of {len(table.ids)} patients have no {target.name} and are left out")
        gone = set(unknown)
        table = table.only([each for each in table.ids if each not in gone])
    columns, left_out = choose_columns(table, target.name, options.columns)
    notes += left_out
    cohort = gather(
        table,
        columns,
        lambda rows: apply_target(rows, target),
        files,
        sees_scans=any(spec.sees_scans for spec in specs),
        notes=notes,
        progress=progress,
    )
    _check_size(cohort, target)
    gaps: dict[str, int] = {}
    for name, column in zip(cohort.column_names, cohort.columns.T, strict=True):
        if missing := int(np.isnan(column).sum()):
            gaps[name.split("=")[0]] = missing
    if gaps:
        counted = first_few([f"{name} ({count})" for name, count in gaps.items()])
        notes.append(
            f"missing values of {counted} become the medians of the training patients, within each fold too"
        )
    return Study(cohort, target, columns, files, notes)


def _check_size(cohort: OutcomeCohort, target: Target) -> None:
    if len(cohort.ids) < FEWEST_PATIENTS:
        raise OutcomeError(
            f"expected at least {FEWEST_PATIENTS} patients with a target to train on, got "
            f"{len(cohort.ids)}; add patients"
        )
    if len(np.unique(cohort.target)) < 2:
        raise OutcomeError(
            f"all patients that are left have the same {target.name}, expected at least two values"
        )
    if target.kind != "number":
        for k, name in enumerate(target.classes):
            count = int((cohort.target == k).sum())
            if count < 4:
                raise OutcomeError(
                    f"expected at least 4 patients of each class of {target.name}, got {count} of {name} "
                    "among those "
                    "with images; join classes, for example with --above"
                )


def check_model(spec: ModelSpec, study: Study) -> None:
    """Refuse a model that these patients cannot train.

    Raises:
        OutcomeError: It is a network and there are fewer than 40 patients, or no pictures.
    """
    if spec.network and len(study.cohort.ids) < FEWEST_FOR_NETWORKS:
        raise OutcomeError(
            f"the network {spec.network} needs at least {FEWEST_FOR_NETWORKS} patients, got "
            f"{len(study.cohort.ids)}; use a model such as ridge"
        )
    if spec.network and not (study.cohort.lesions or study.cohort.images):
        raise OutcomeError(f"the network {spec.network} needs images or masks; give --images or --masks")


def train_outcome(
    study: Study,
    model_name: str,
    name: str,
    *,
    rate: float = 0.9,
    validation: FoldSettings | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Trained:
    """Cross-validate a model, calibrate it on what was held out, and train it on all patients.

    Args:
        study: Of patients.
        model_name: As in ``--model``.
        name: Of the result.
        rate: Share of patients that intervals hold.
        validation: Folds and repeats.
        progress: Called after each fold and after the last training.
    """
    validation = validation or FoldSettings()
    spec = replace(find_model_spec(model_name), shrink=validation.shrink)
    check_model(spec, study)
    cohort, kind = study.cohort, study.target.kind
    found = cross_validate(spec, cohort, kind, validation, progress)
    fitted = fit_model(spec, cohort, kind, seed=validation.seed, epochs=validation.epochs)
    progress()
    evaluation: dict[str, Any] = {
        "target": study.target.model_dump(),
        "model": model_name,
        "patients": len(cohort.ids),
        "folds": validation.folds,
        "repeats": validation.repeats,
        "main_score": MAIN_SCORE[kind],
        "scores": out_of_fold_scores(found, cohort.target, kind),
        "subgroups": subgroups(cohort, found, kind),
        "notes": study.notes,
    }
    conformal, temperature = None, 1.0
    if kind == "number":
        conformal = Conformal.fit(found.mean[:, 0], cohort.target, rate=rate)
        evaluation["interval"] = _interval_facts(found, cohort.target, rate)
    else:
        temperature = fit_temperature(*_logits(found.mean, cohort.target))
        evaluation["calibration"] = _calibration_facts(found, cohort.target, kind, temperature)
    config = OutcomeConfig(
        name=name,
        model=model_name,
        target=study.target,
        columns=study.columns,
        masks=bool(cohort.lesions) and (bool(spec.network) or uses_lesions(fitted)),
        images=bool(cohort.images) and (bool(spec.network) or uses_scans(fitted)),
        atlas=describe_atlas(study.files.atlas) if study.files.atlas else None,
        members=member_configs(fitted),
        network=fitted.network.config() if fitted.network is not None else None,
        bounds=fitted.bounds,
        conformal=conformal,
        temperature=temperature,
        training={
            "patients": len(cohort.ids),
            "parameters": _parameters(fitted),
            "scores": evaluation["scores"],
        },
    )
    return Trained(OutcomeModel(fitted, config), found, evaluation)


def _parameters(fitted: FittedModel) -> int:
    """Count the numbers that a model holds."""
    if fitted.network is not None:
        return int(sum(tensor.numel() for tensor in fitted.network.tensors().values()))
    arrays = [array for member in fitted.members for part in member.parts for array in part.arrays.values()]
    return int(sum(array.size for array in arrays))


def _logits(raw: Array, target: Array) -> tuple[Array, Array]:
    positive = np.stack([target > k for k in range(raw.shape[1])], axis=1).astype(np.float64)
    return raw, positive


def _interval_facts(found: OutOfFold, target: Array, rate: float) -> dict[str, float]:
    """Measure the rate of intervals on patients that neither the model nor the interval has seen."""
    held, widths = np.zeros(len(target), dtype=bool), np.zeros(len(target))
    for k in range(int(found.folds.max()) + 1):
        inside = found.folds[0] == k
        interval = Conformal.fit(found.raw[0][~inside, 0], target[~inside], rate=rate)
        low, high = interval.interval(found.raw[0][inside, 0])
        held[inside] = (low <= target[inside]) & (target[inside] <= high)
        widths[inside] = high - low
    return {"rate": rate, "held": float(held.mean()), "mean_width": float(widths.mean())}


def _calibration_facts(
    found: OutOfFold, target: Array, kind: TargetKind, temperature: float
) -> dict[str, float]:
    """Measure calibration before and after a temperature that the patients in question did not set."""
    facts = {"temperature": temperature}
    if kind != "two_classes":
        return facts
    raw = found.raw[0]
    scaled = np.empty_like(raw)
    for k in range(int(found.folds.max()) + 1):
        inside = found.folds[0] == k
        scaled[inside] = raw[inside] / fit_temperature(*_logits(raw[~inside], target[~inside]))
    facts["ece_before"] = scores(raw, target, kind)["ece"]
    facts["ece_after"] = scores(scaled, target, kind)["ece"]
    return facts


def out_of_fold_rows(trained: Trained, cohort: OutcomeCohort) -> list[dict[str, Any]]:
    """Return one row a patient: target and out-of-fold prediction."""
    kind = trained.model.config.target.kind
    raw = trained.out_of_fold.mean
    if kind == "number":
        predicted = raw[:, 0]
    else:
        probabilities = chances(raw / trained.model.config.temperature)
        predicted = (
            probabilities[:, 1]
            if kind == "two_classes"
            else probabilities @ np.arange(probabilities.shape[1])
        )
    return [
        {"participant_id": name, "target": float(target), "prediction": float(p)}
        for name, target, p in zip(cohort.ids, cohort.target, predicted, strict=True)
    ]


def model_card(trained: Trained, columns: Sequence[Column], source: str) -> str:
    """Write a card: what it predicts, from what, how well, and what it must not be used for."""
    config, evaluation = trained.model.config, trained.evaluation
    main = evaluation["main_score"]
    low, high = evaluation["scores"][f"{main}_interval"]
    named = ", ".join(column.name for column in columns) or "no columns"
    lines = [
        f"# {config.name}, version {config.version}",
        "",
        f"Predicts **{config.target.name}** ({config.target.kind.replace('_', ' ')}) from "
        f"{'lesion masks' if config.masks else 'scans' if config.images else 'a table alone'}, with {named}. "
        "Research use only: not a medical device.",
        "",
        f"* Model: `{config.model}`, {config.training['parameters']:,} parameters, trained on "
        f"{evaluation['patients']} patients of `{source}`.",
        f"* Cross-validated ({evaluation['repeats']} x {evaluation['folds']} folds, by patient, all "
        "choices made "
        f"within the training folds): {main} {evaluation['scores'][main]:.3f} (95 % interval {low:.3f} to "
        f"{high:.3f}).",
    ]
    lines += [
        f"* {name}: {value:.3g}" for name, value in evaluation["scores"].items() if isinstance(value, float)
    ]
    if "interval" in evaluation:
        facts = evaluation["interval"]
        lines.append(
            f"* Intervals of {100 * facts['rate']:.0f} % held {100 * facts['held']:.1f} % of held-out "
            "patients."
        )
    lines += [
        "",
        "It holds sums over patients (medians, weights, trees), and no row, mask or image of any of them.",
        "",
        "Not for decisions about a patient, for other diseases than stroke, or for other stages than "
        "those it was "
        "trained on. What it learnt are associations in one group of patients; they are no causes.",
        "",
    ]
    return "\n".join(lines)
