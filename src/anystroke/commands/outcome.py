"""The verb ``outcome`` with what it does: train, predict, explain, compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder, complain, progress_bar
from anystroke.commands.evaluate import Debug, split

if TYPE_CHECKING:
    from anystroke.tasks.outcome.cohort import Files
    from anystroke.tasks.outcome.train import Study, TrainOptions

outcome = typer.Typer(
    help="Predict what becomes of a patient, from lesions, images and tables.", no_args_is_help=True
)

Table = Annotated[Path, typer.Argument(metavar="TABLE", help="TSV with a row a patient and participant_id.")]
ModelPath = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of outcome train, or a shipped name.")
]
Target = Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.")]
Images = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Scans; masks on their grid are registered to MNI space.")
]
Masks = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Lesion masks, in MNI space or on the scans.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME]...",
        help="Columns to predict from, or none.",
        show_default="those known at admission",
    ),
]
AtlasPath = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Label map in MNI space with more regions.")
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out patients without mask or image.")
]
KindName = Annotated[
    str | None,
    typer.Option(
        "--kind", metavar="number|two-classes|ordered", show_default="found out", help="Of the target."
    ),
]
Above = Annotated[float | None, typer.Option(help="Make two classes: above this number or not.")]
AtLeast = Annotated[float | None, typer.Option(help="Make two classes: from this number on or below.")]
Folds = Annotated[int, typer.Option(min=2, max=20, help="Of the cross-validation.")]
Repeats = Annotated[int, typer.Option(min=1, max=50, help="Of the cross-validation, with other folds.")]
Seed = Annotated[int, typer.Option(help="Of folds and networks.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Of networks.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]


@outcome.command()
def train(
    table: Table,
    target: Target,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="Folder of the model.")],
    images: Images = None,
    masks: Masks = None,
    columns: Columns = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="[REPRESENTATION:]ESTIMATOR; see the docs.")
    ] = "default",
    atlas: AtlasPath = None,
    kind: KindName = None,
    above: Above = None,
    at_least: AtLeast = None,
    rate: Annotated[float, typer.Option(help="Share of patients that intervals hold.")] = 0.9,
    folds: Folds = 5,
    repeats: Repeats = 2,
    epochs: Epochs = None,
    seed: Seed = 1,
    skip_missing: SkipMissing = False,
    show: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw what models see of the first patients there.")
    ] = None,
    overwrite: Overwrite = False,
    _debug: Debug = False,
) -> int:
    """Train a model that predicts a column of a table, and cross-validate it.

    Example: anystroke outcome train patients.tsv --target nihss --masks lesions -o model
    """
    if not 0.5 <= rate < 1:
        raise ArgumentError(f"--rate is a share from 0.5 to below 1, got {rate:g}; try 0.9")
    check_folder(output)
    if (output / "config.json").exists() and not overwrite:
        raise ArgumentError(f"{output} holds a model already; name another folder or use --overwrite")
    from anystroke.tasks.outcome.evaluate import Validation
    from anystroke.tasks.outcome.models import find_model_spec
    from anystroke.tasks.outcome.train import TrainOptions, check_model, train_outcome

    with _sentences():
        spec = find_model_spec(model)
        options = TrainOptions(target, _columns(columns), _kind(kind), above, at_least, rate)
        study = _study(table, options, _files(masks, images, atlas, skip_missing))
        check_model(spec, study)
        if show is not None:
            from anystroke.tasks.outcome.show import show_representations

            typer.echo(f"pictures: {show_representations(study.cohort, show)}")
        validation = Validation(folds=folds, repeats=repeats, seed=seed, epochs=epochs)
        with progress_bar() as bar:
            task = bar.add_task("training", total=folds * repeats + 1)
            trained = train_outcome(
                study,
                model,
                output.name,
                rate=rate,
                validation=validation,
                progress=lambda: bar.advance(task),
            )
    _write_model(output, trained, study, table)
    return OK


def _write_model(output: Path, trained: Any, study: "Study", table: Path) -> None:
    from anystroke.core.tables import write_table
    from anystroke.reports.outcome import write_training_page
    from anystroke.tasks.outcome.files import save_outcome, write_json
    from anystroke.tasks.outcome.train import model_card, out_of_fold_rows

    save_outcome(output, trained.model, model_card(trained, study.columns, table.name))
    rows = out_of_fold_rows(trained, study.cohort)
    write_json(output / "evaluation.json", trained.evaluation)
    write_table(output / "out_of_fold.tsv", ("participant_id", "target", "prediction"), rows)
    page = write_training_page(output / "report.html", trained.evaluation, rows)
    main = trained.evaluation["main_score"]
    low, high = trained.evaluation["scores"][f"{main}_interval"]
    typer.echo(
        f"{len(rows)} patients; cross-validated {main} {trained.evaluation['scores'][main]:.3f} "
        f"({low:.3f} to {high:.3f})"
    )
    for name, value in trained.evaluation["scores"].items():
        if isinstance(value, float) and name != main:
            typer.echo(f"{name:>18}: {value:.3f}")
    typer.echo(f"model: {output}")
    typer.echo(f"report: {page}")


@outcome.command()
def predict(
    model: ModelPath,
    table: Table,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="TSV of predictions.")],
    images: Images = None,
    masks: Masks = None,
    atlas: AtlasPath = None,
    skip_missing: SkipMissing = False,
    overwrite: Overwrite = False,
    _debug: Debug = False,
) -> int:
    """Predict patients with a trained model.

    Numbers come with an interval, classes with a probability.

    Example: anystroke outcome predict model patients.tsv --masks lesions -o predictions.tsv
    """
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ArgumentError(
            f"--output must be a file in a folder that exists, got {output}; name a .tsv file"
        )
    if output.exists() and not overwrite:
        raise ArgumentError(f"{output} exists already; name another file or use --overwrite")
    from anystroke.core.tables import write_table
    from anystroke.tasks.outcome.files import load_outcome
    from anystroke.tasks.outcome.predict import predict_rows, prediction_columns

    with _sentences():
        loaded = load_outcome(model)
        cohort = _patients(loaded.config, table, _files(masks, images, atlas, skip_missing))
        rows = predict_rows(loaded, cohort)
    write_table(output, prediction_columns(loaded.config), rows)
    typer.echo(f"{len(rows)} patients predicted; research use only")
    typer.echo(f"table: {output}")
    return OK


@outcome.command()
def explain(
    model: ModelPath,
    table: Table,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for pages and tables.")
    ],
    images: Images = None,
    masks: Masks = None,
    atlas: AtlasPath = None,
    skip_missing: SkipMissing = False,
    patients: Annotated[int, typer.Option(min=0, help="How many patients get a page of their own.")] = 20,
    overwrite: Overwrite = False,
    _debug: Debug = False,
) -> int:
    """Say what a model's predictions rest on: columns, regions, and for each patient a page.

    Example: anystroke outcome explain model patients.tsv --masks lesions -o explained
    """
    check_folder(output)
    if (output / "report.html").exists() and not overwrite:
        raise ArgumentError(f"{output} holds a report already; name another folder or use --overwrite")
    from anystroke.tasks.outcome.explain import explain_model
    from anystroke.tasks.outcome.files import load_outcome
    from anystroke.tasks.outcome.pages import write_explanation

    with _sentences():
        loaded = load_outcome(model)
        cohort = _patients(loaded.config, table, _files(masks, images, atlas, skip_missing))
        explanation = explain_model(loaded, cohort)
        page = write_explanation(output, loaded, cohort, explanation, patients=patients)
    for name, value in explanation.importance[:8]:
        typer.echo(f"{name:>36}: {value:.4f}")
    typer.echo(f"report: {page}")
    return OK


@outcome.command()
def compare(
    table: Table,
    target: Target,
    models: Annotated[str, typer.Option(metavar="NAME,NAME...", help="Models to compare.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for tables and the page.")
    ],
    images: Images = None,
    masks: Masks = None,
    columns: Columns = None,
    atlas: AtlasPath = None,
    kind: KindName = None,
    above: Above = None,
    at_least: AtLeast = None,
    folds: Folds = 5,
    repeats: Repeats = 2,
    epochs: Epochs = None,
    seed: Seed = 1,
    lock_box: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.5, help="Patients kept apart until all is chosen.")
    ] = 0.0,
    permutations: Annotated[int, typer.Option(min=0, help="Shuffles that show what chance gives.")] = 0,
    skip_missing: SkipMissing = False,
    overwrite: Overwrite = False,
    _debug: Debug = False,
) -> int:
    """Compare models by nested cross-validation on the same folds, with tests, and the table and image alone.

    Example: anystroke outcome compare t.tsv --target nihss --models default,loads:ridge --masks m -o compared
    """
    check_folder(output)
    if (output / "models.tsv").exists() and not overwrite:
        raise ArgumentError(f"{output} holds a comparison already; name another folder or use --overwrite")
    from anystroke.reports.outcome import write_comparison_page
    from anystroke.tasks.outcome.comparison import CompareOptions, compare_models, write_comparison
    from anystroke.tasks.outcome.evaluate import Validation
    from anystroke.tasks.outcome.models import find_model_spec
    from anystroke.tasks.outcome.train import TrainOptions, check_model

    with _sentences():
        names = list(dict.fromkeys(split([models])))
        specs = [find_model_spec(name) for name in names]
        if not specs:
            raise ArgumentError("--models needs at least one name, got none; try default,loads:ridge")
        options = TrainOptions(target, _columns(columns), _kind(kind), above, at_least)
        study = _study(table, options, _files(masks, images, atlas, skip_missing))
        for spec in specs:
            check_model(spec, study)
        how = CompareOptions(
            Validation(folds=folds, repeats=repeats, seed=seed, epochs=epochs), lock_box, permutations
        )
        with progress_bar() as bar:
            task = bar.add_task("comparing", total=None)
            made = compare_models(study, specs, how, output, progress=lambda: bar.advance(task))
        write_comparison(output, made)
    page = write_comparison_page(output / "report.html", made)
    for row in made["models"]:
        low, high = row["low"], row["high"]
        typer.echo(
            f"{row['model']:>28}: {made['main_score']} {row[made['main_score']]:.3f} ({low:.3f} to "
            f"{high:.3f})"
        )
    for text in made["notes"]:
        complain(f"note: {text}")
    typer.echo(f"report: {page}")
    return OK


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn errors of input into one sentence and exit code 2."""
    from anystroke.anatomy.registration.atlas import AtlasError
    from anystroke.core.tables import TableError
    from anystroke.tasks.outcome.table import OutcomeError

    try:
        yield
    except (OutcomeError, TableError, AtlasError) as error:
        raise ArgumentError(str(error)) from error


def _columns(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text.strip().lower() == "none" else split([text])


def _kind(text: str | None) -> Any:
    if text is None:
        return None
    name = text.replace("-", "_")
    if name not in ("number", "two_classes", "ordered"):
        raise ArgumentError(f"--kind must be number, two-classes or ordered, got {text!r}")
    return name


def _files(masks: Path | None, images: Path | None, atlas: Path | None, skip_missing: bool) -> "Files":
    from anystroke.anatomy.registration.atlas import Atlas
    from anystroke.tasks.outcome.cohort import Files

    return Files(masks, images, Atlas.load(atlas) if atlas else None, skip_missing)


def _study(table: Path, options: "TrainOptions", files: "Files") -> "Study":
    from anystroke.tasks.outcome.table import read_table
    from anystroke.tasks.outcome.train import open_study

    rows = read_table(table)
    with progress_bar() as bar:
        task = bar.add_task("reading masks", total=None)
        study = open_study(rows, options, files, progress=lambda: bar.advance(task))
    for text in study.notes:
        complain(f"note: {text}")
    return study


def _patients(config: Any, table: Path, files: "Files") -> Any:
    from anystroke.tasks.outcome.predict import read_patients
    from anystroke.tasks.outcome.table import read_table

    notes: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("reading masks", total=None)
        cohort = read_patients(config, read_table(table), files, notes, lambda: bar.advance(task))
    for text in notes:
        complain(f"note: {text}")
    return cohort
