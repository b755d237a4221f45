"""The verb ``outcome`` with what it does: train, predict, explain, compare."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder, check_new, complain, progress_bar
from anystroke.commands.evaluate import split
from anystroke.commands.options import Debug, Overwrite, with_options

if TYPE_CHECKING:
    from anystroke.tasks.outcome.cohort import Files, OutcomeCohort
    from anystroke.tasks.outcome.config import OutcomeConfig
    from anystroke.tasks.outcome.evaluate import FoldSettings
    from anystroke.tasks.outcome.models import ModelSpec
    from anystroke.tasks.outcome.train import Study, Trained

outcome = typer.Typer(
    help="Predict what becomes of a patient, from lesions, images and tables.", no_args_is_help=True
)

Table = Annotated[Path, typer.Argument(metavar="TABLE", help="TSV with a row a patient and participant_id.")]
ModelPath = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of outcome train, or a shipped name.")
]
TargetOptions = Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.")]
Show = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Draw what models see of the first patients there.")
]


@dataclass(frozen=True)
class PatientFiles:
    """Where images of patients are."""

    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Scans; masks on their grid are registered to MNI space."),
    ] = None
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Lesion masks, in MNI space or on the scans.")
    ] = None
    atlas: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Label map in MNI space with more regions.")
    ] = None
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Leave out patients without mask or image that can be used."),
    ] = False


@dataclass(frozen=True)
class Question:
    """What is predicted, from which columns."""

    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]...",
            help="Columns to predict from, or none.",
            show_default="those known at admission",
        ),
    ] = None
    kind: Annotated[
        Literal["number", "two-classes", "ordered"] | None,
        typer.Option(help="Of the target.", show_default="found out"),
    ] = None
    above: Annotated[float | None, typer.Option(help="Make two classes: above this number or not.")] = None
    at_least: Annotated[
        float | None, typer.Option(help="Make two classes: from this number on or below.")
    ] = None


@dataclass(frozen=True)
class CrossValidation:
    """How models are judged."""

    folds: Annotated[int, typer.Option(min=2, max=20, help="Of the cross-validation.")] = 5
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Of it, with other folds.")] = 2
    epochs: Annotated[int | None, typer.Option(min=1, help="Of networks.", show_default="30")] = None
    shrink: Annotated[
        int, typer.Option(min=1, max=8, help="Networks see so many times fewer pixels along each axis.")
    ] = 1
    seed: Annotated[int, typer.Option(help="Of folds and networks.")] = 1


@dataclass(frozen=True)
class TrainChoices:
    """What is trained."""

    model: Annotated[str, typer.Option(metavar="NAME", help="[REPRESENTATION:]ESTIMATOR; see the docs.")] = (
        "default"
    )
    rate: Annotated[float, typer.Option(help="Share of patients that intervals hold.")] = 0.9
    show: Show = None
    overwrite: Overwrite = False
    debug: Debug = False


@dataclass(frozen=True)
class CompareChoices:
    """What is shown beside the scores."""

    lock_box: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.5, help="Patients kept apart until all is chosen.")
    ] = 0.0
    permutations: Annotated[
        int, typer.Option(min=0, help="Shuffles of the target, which show what chance gives.")
    ] = 0
    overwrite: Overwrite = False
    debug: Debug = False


@outcome.command()
@with_options
def train(
    table: Table,
    target: TargetOptions,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="Folder of the model.")],
    *,
    files: PatientFiles,
    question: Question,
    judged: CrossValidation,
    choices: TrainChoices,
) -> int:
    """Train a model that predicts a column of a table, and cross-validate it.

    Example: anystroke outcome train patients.tsv --target nihss --masks lesions -o model
    """
    if not 0.5 <= choices.rate < 1:
        raise ArgumentError(f"--rate is a share from 0.5 to below 1, got {choices.rate:g}; try 0.9")
    check_folder(output)
    check_new(output / "config.json", choices.overwrite)
    from anystroke.tasks.outcome.models import find_model_spec
    from anystroke.tasks.outcome.train import check_model, train_outcome

    spec = find_model_spec(choices.model)
    study = _study(table, target, question, files, [spec])
    check_model(spec, study)
    if choices.show is not None:
        from anystroke.tasks.outcome.show import show_representations

        typer.echo(f"pictures: {show_representations(study.cohort, choices.show)}")
    with progress_bar() as bar:
        task = bar.add_task("training", total=judged.folds * judged.repeats + 1)
        trained = train_outcome(
            study,
            choices.model,
            output.absolute().name,
            rate=choices.rate,
            validation=_validation(judged),
            progress=lambda: bar.advance(task),
        )
    _write_model(output, trained, study, table)
    return OK


def _write_model(output: Path, trained: "Trained", study: "Study", table: Path) -> None:
    from anystroke.core.files import write_json
    from anystroke.core.tables import write_table
    from anystroke.reports.outcome import write_training_page
    from anystroke.tasks.outcome.files import save_outcome
    from anystroke.tasks.outcome.train import model_card, out_of_fold_rows

    save_outcome(output, trained.model, model_card(trained, study.columns, table.name))
    rows = out_of_fold_rows(trained, study.cohort)
    write_json(output / "evaluation.json", trained.evaluation)
    write_table(output / "out_of_fold.tsv", ("participant_id", "target", "prediction"), rows)
    page = write_training_page(output / "report.html", trained.evaluation, rows)
    main = trained.evaluation["main_score"]
    found = trained.evaluation["scores"]
    low, high = found[f"{main}_interval"]
    typer.echo(f"{len(rows)} patients; cross-validated {main} {found[main]:.3f} ({low:.3f} to {high:.3f})")
    for name, value in found.items():
        if isinstance(value, float) and name != main:
            typer.echo(f"{name:>18}: {value:.3f}")
    typer.echo(f"model: {output}")
    typer.echo(f"report: {page}")


@outcome.command()
@with_options
def predict(
    model: ModelPath,
    table: Table,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="TSV of predictions.")],
    overwrite: Overwrite = False,
    debug: Debug = False,
    *,
    files: PatientFiles,
) -> int:
    """Predict patients with a trained model.

    Numbers come with an interval, classes with a probability.

    Example: anystroke outcome predict model patients.tsv --masks lesions -o predictions.tsv
    """
    del debug
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ArgumentError(
            f"--output must be a file in a folder that exists, got {output}; name a .tsv file"
        )
    check_new(output, overwrite)
    from anystroke.core.tables import write_table
    from anystroke.tasks.outcome.files import load_outcome
    from anystroke.tasks.outcome.predict import predict_rows, prediction_columns

    loaded = load_outcome(model)
    cohort = _patients(loaded.config, table, files)
    rows = predict_rows(loaded, cohort)
    write_table(output, prediction_columns(loaded.config), rows)
    typer.echo(f"{len(rows)} patients predicted; research use only")
    typer.echo(f"table: {output}")
    return OK


@outcome.command()
@with_options
def explain(
    model: ModelPath,
    table: Table,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for pages and tables.")
    ],
    patients: Annotated[int, typer.Option(min=0, help="How many patients get a page of their own.")] = 10,
    overwrite: Overwrite = False,
    debug: Debug = False,
    *,
    files: PatientFiles,
) -> int:
    """Say what a model's predictions rest on: columns, regions, and for each patient a page.

    Example: anystroke outcome explain model patients.tsv --masks lesions -o explained
    """
    del debug
    check_folder(output)
    check_new(output / "report.html", overwrite)
    from anystroke.tasks.outcome.explain import explain_model
    from anystroke.tasks.outcome.files import load_outcome
    from anystroke.tasks.outcome.pages import write_explanation

    loaded = load_outcome(model)
    cohort = _patients(loaded.config, table, files)
    explanation = explain_model(loaded, cohort, patients=max(patients, 40))
    page = write_explanation(output, loaded, cohort, explanation, patients=patients)
    for name, value in explanation.importance[:8]:
        typer.echo(f"{name:>36}: {value:.4f}")
    typer.echo(f"report: {page}")
    return OK


@outcome.command()
@with_options
def compare(
    table: Table,
    target: TargetOptions,
    models: Annotated[str, typer.Option(metavar="NAME,NAME...", help="Models to compare.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for tables and the page.")
    ],
    *,
    files: PatientFiles,
    question: Question,
    judged: CrossValidation,
    choices: CompareChoices,
) -> int:
    """Compare models by nested cross-validation on the same folds, with tests, and the table and image alone.

    Example: anystroke outcome compare t.tsv --target nihss --models default,loads:ridge --masks m -o compared
    """
    check_folder(output)
    check_new(output / "models.tsv", choices.overwrite)
    from anystroke.reports.outcome import write_comparison_page
    from anystroke.tasks.outcome.comparison import (
        ComparisonSettings,
        compare_outcome_models,
        write_comparison,
    )
    from anystroke.tasks.outcome.models import find_model_spec
    from anystroke.tasks.outcome.train import check_model

    specs = [replace(find_model_spec(name), shrink=judged.shrink) for name in dict.fromkeys(split([models]))]
    if not specs:
        raise ArgumentError("--models needs at least one name, got none; try default,loads:ridge")
    study = _study(table, target, question, files, specs)
    for spec in specs:
        check_model(spec, study)
    how = ComparisonSettings(_validation(judged), choices.lock_box, choices.permutations)
    with progress_bar() as bar:
        task = bar.add_task("comparing", total=None)
        made = compare_outcome_models(study, specs, how, output, progress=lambda: bar.advance(task))
    write_comparison(output, made)
    page = write_comparison_page(output / "report.html", made)
    main = made["main_score"]
    for row in made["models"]:
        typer.echo(f"{row['model']:>28}: {main} {row[main]:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    typer.echo(f"report: {page}")
    return OK


def _validation(judged: CrossValidation) -> "FoldSettings":
    from anystroke.tasks.outcome.evaluate import FoldSettings

    return FoldSettings(judged.folds, judged.repeats, judged.seed, judged.epochs, judged.shrink)


def _columns(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text.strip().lower() == "none" else split([text])


def _files(files: PatientFiles) -> "Files":
    from anystroke.anatomy.registration.atlas import Atlas
    from anystroke.tasks.outcome.cohort import Files

    atlas = Atlas.load(files.atlas) if files.atlas else None
    return Files(files.masks, files.images, atlas, files.skip_missing)


def _study(
    table: Path, target: str, question: Question, files: PatientFiles, specs: Sequence["ModelSpec"]
) -> "Study":
    from anystroke.tasks.outcome.table import read_table
    from anystroke.tasks.outcome.train import TrainOptions, open_study

    kind: Any = question.kind.replace("-", "_") if question.kind else None
    options = TrainOptions(target, _columns(question.columns), kind, question.above, question.at_least)
    rows = read_table(table)
    with progress_bar() as bar:
        task = bar.add_task("reading images", total=None)
        study = open_study(rows, options, _files(files), specs, progress=lambda: bar.advance(task))
    for text in study.notes:
        complain(f"note: {text}")
    return study


def _patients(config: "OutcomeConfig", table: Path, files: PatientFiles) -> "OutcomeCohort":
    from anystroke.tasks.outcome.predict import read_patients
    from anystroke.tasks.outcome.table import read_table

    notes: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("reading images", total=None)
        cohort = read_patients(config, read_table(table), _files(files), notes, lambda: bar.advance(task))
    for text in notes:
        complain(f"note: {text}")
    return cohort
