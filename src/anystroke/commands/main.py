"""The command. Each verb imports what it needs when it runs, so that help is quick."""

import logging
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from anystroke.commands import estimate_qmri, evaluate, pseudo_label, segment, train
from anystroke.commands.common import (
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    ArgumentError,
    check_folder,
    complain,
    progress_bar,
)

_SMALLEST, _LARGEST = 16, 320
Choice = TypeVar("Choice", bound=str)

app = typer.Typer(
    help="Find the stroke lesion in a brain MR image, whatever the sequence. Research use only.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.command()(segment.segment)
app.command()(segment.bids)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anystroke {version('anystroke')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Say nothing more than the application's own help."""


@app.command()
def models() -> int:
    """List the models that come with the program."""
    from anystroke.models.checkpoints import find_model, shipped_models

    for name in shipped_models(None):
        typer.echo(f"{name}\t{find_model(name)}")
    return OK


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    labels: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Label maps with FreeSurfer numbers.", show_default="the MNI152 brain", metavar="[LABELS]..."
        ),
    ] = None,
    lesions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Lesion masks in MNI space.", show_default="made-up lesions"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Patients of each label map.")] = 1,
    weighting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="W[,W]...",
            help="T1w, T2w, PDw, FLAIR, DWI, T2starw, ADC, UNIT1, STIR, DIR, MTw or bSSFP; several give one "
            "scan each of the same patient.",
            show_default="any",
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="chronic, acute or subacute.", show_default="any")] = None,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="realistic, typical, estimator, paper, paper_code, qatlas, or a TOML file.",
        ),
    ] = "realistic",
    priors: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="literature, paper, or a TOML file that fit-priors wrote."),
    ] = "literature",
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, metavar="MM", help="Voxel size.")] = 2.0,
    shape: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Voxels.", show_default="192 x 224 x 192 mm")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other scans.")] = 1,
    maps: Annotated[bool, typer.Option("--maps", help="Write the quantitative maps too.")] = False,
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="bids|nnunet",
            help="Files named as in BIDS, or an nnU-Net raw data set in DIR, named like Dataset501_Stroke.",
        ),
    ] = "bids",
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Give nnU-Net the tissue classes too, not lesion alone.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the scans of another run.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> int:
    """Simulate scans of patients with stroke.

    Writes images, lesion masks, tissue classes and protocols. A run that was cut short goes on where it was.

    Example: anystroke simulate -o simulated --weighting T1w,FLAIR --count 3
    """
    check_folder(output)
    voxels = _parse_shape(shape) if shape else _voxels_of_head(spacing)
    from anystroke.acquisition.presets.distributions import PresetError
    from anystroke.acquisition.presets.preset import load_preset
    from anystroke.anatomy.lesions.stages import STAGES
    from anystroke.io.datasets import DatasetError
    from anystroke.qmri.tissue_priors import PriorError, load_table
    from anystroke.simulation.files import FORMATS, Request, SimulationError, simulate_files
    from anystroke.simulation.nnunet import NnunetError
    from anystroke.simulation.settings import SynthesisSettings

    names = [name.strip() for text in weighting or [] for name in text.split(",")]
    try:
        weightings = load_preset(preset).weightings
        load_table(priors)
    except PresetError as error:
        raise ArgumentError(f"--preset: {error}") from error
    except PriorError as error:
        raise ArgumentError(f"--priors: {error}") from error
    try:
        request = Request(
            label_maps=tuple(labels or ()),
            lesions=lesions,
            count=count,
            stage=_among("--stage", stage, STAGES),
            seed=seed,
            maps=maps,
            synthesis=SynthesisSettings(shapes=(voxels,), spacing=spacing, preset=preset, priors=priors),
            weightings=tuple(_one_of("--weighting", name, weightings) for name in names),
            format=_one_of("--format", layout, FORMATS),
            all_classes=all_classes,
        )
    except SimulationError as error:
        raise ArgumentError(str(error)) from error
    failed = False
    scans = count * max(len(request.label_maps), 1) * len(request.channels)
    with progress_bar() as progress:
        task = progress.add_task("simulating", total=scans)
        try:
            for outcome in simulate_files(request, output, overwrite=overwrite):
                progress.advance(task, outcome.samples)
                if outcome.status == "failed":
                    failed = True
                    complain(f"error: {outcome.message}")
                    continue
                if outcome.message:
                    complain(f"note: {outcome.message}")
                row, kept = outcome.row, " (was there)" if outcome.status == "kept" else ""
                typer.echo(f"{output / row['image']}: {row['anatomy']}, lesion {row['lesion_ml']} ml{kept}")
        except DatasetError as error:
            raise ArgumentError(f"--lesions: {error}") from error
        except NnunetError as error:
            raise ArgumentError(f"--output: {error}") from error
    return FAILED if failed else OK


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")
    ] = Path("demo"),
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="A shipped model, or a model folder.")
    ] = "default",
    seed: Annotated[
        int | None, typer.Option(help="Another seed gives another patient.", show_default="1")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> int:
    """Simulate a patient with stroke, find the lesion, and show both on a page.

    Needs no data and no network.

    Example: anystroke demo
    """
    check_folder(output)
    from anystroke.models.checkpoints import CheckpointError
    from anystroke.studies.demo import DEFAULT_SEED, run_demo
    from anystroke.tasks.segmentation.predict import Model

    try:
        opened = Model.open(model)
    except CheckpointError as error:
        if model == "default":
            raise
        raise ArgumentError(f"--model: {error}") from error
    made = run_demo(output, opened, seed=DEFAULT_SEED if seed is None else seed, overwrite=overwrite)
    typer.echo(made.protocol)
    typer.echo(f"lesion: {made.predicted_ml:.1f} ml found, {made.true_ml:.1f} ml true, Dice {made.dice:.2f}")
    typer.echo(f"report: {made.page}")
    return OK


@app.command("fit-priors")
def fit_priors(
    maps: Annotated[
        list[Path],
        typer.Argument(metavar="MAPS...", help="Folders of maps and segmentations, named as in BIDS."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The prior table (TOML).")],
    source: Annotated[str, typer.Option(help="Where the numbers come from; written into the table.")],
    field_strength: Annotated[float, typer.Option(metavar="TESLA", help="Static field of the maps.")] = 3.0,
    tissues: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME|JSON", help="Meaning of the labels.", show_default="each segmentation's JSON"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier table.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> int:
    """Estimate tissue priors from quantitative maps and segmentations.

    Reads PDmap, R1map, R2map, R2starmap, MTsat and ADC with a dseg or probseg of each subject. What was not
    measured comes from the package's own table, and the result says so.

    Example: anystroke fit-priors study -o priors.toml --source "Our study" --tissues synthseg
    """
    if output.exists() and not overwrite:
        raise ArgumentError(f"{output} exists already; name another file or use --overwrite")
    if not output.parent.is_dir():
        raise ArgumentError(f"expected a folder at {output.parent} to write {output.name} to; make it first")
    from anystroke.qmri.fit_files import find_subjects, fit_priors_from_files

    subjects = [subject for folder in maps for subject in find_subjects(folder)]
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(subjects))
        fitted = fit_priors_from_files(
            subjects,
            field_strength=field_strength,
            source=source,
            tissues=tissues,
            on_subject=lambda name: progress.update(task, advance=1, description=f"measuring {name}"),
        )
    fitted.save(output, overwrite=overwrite)
    for name, reason in fitted.skipped.items():
        complain(f"error: {name}: {reason}")
    for note in fitted.notes:
        complain(f"note: {note}")
    typer.echo(f"{output}: {len(fitted.subjects)} subjects, {len(fitted.priors.names)} tissues")
    return FAILED if fitted.skipped else OK


@app.command()
def doctor(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write results to.")
    ] = Path("."),
) -> int:
    """Say what this installation can do, and what is wrong with it.

    Example: anystroke doctor
    """
    from anystroke.studies.doctor import examine

    good = True
    for finding in examine(output):
        good = good and finding.good
        typer.echo(finding.text if finding.good else f"problem: {finding.text}")
    return OK if good else FAILED


app.command("estimate-qmri")(estimate_qmri.estimate_qmri)
app.command()(train.train)
app.command()(train.finetune)
app.command()(train.calibrate)
app.command("pseudo-label")(pseudo_label.pseudo_label)
for _verb in evaluate.VERBS:
    app.command()(_verb)


def _among(option: str, value: str | None, known: Sequence[Choice]) -> Choice | None:
    """Find the choice that the user meant, if any, whatever its case."""
    return None if value is None else _one_of(option, value, known)


def _one_of(option: str, value: str, known: Sequence[Choice]) -> Choice:
    for choice in known:
        if choice.lower() == value.lower():
            return choice
    raise ArgumentError(f"{option} must be one of {', '.join(known)}, got {value!r}")


def _parse_shape(text: str) -> tuple[int, int, int]:
    try:
        x, y, z = (int(part) for part in text.split(","))
    except ValueError:
        x = y = z = 0
    if not all(_SMALLEST <= side <= _LARGEST for side in (x, y, z)):
        raise ArgumentError(
            f"--shape is three numbers of voxels, {_SMALLEST} to {_LARGEST}, such as 96,112,96; got {text!r}"
        )
    return x, y, z


def _voxels_of_head(spacing: float) -> tuple[int, int, int]:
    return round(192 / spacing), round(224 / spacing), round(192 / spacing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the program's name; by default those of the process.

    Returns:
        0 all done, 1 some inputs failed, 2 wrong usage, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        main(["--help"])
        return USAGE
    if "--debug" not in arguments:
        # It speaks of caches where there is no home folder.
        logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    command = typer.main.get_command(app)
    arguments = segment.as_bids_app(arguments, list(getattr(command, "commands", ())))
    try:
        result = command.main(arguments, prog_name="anystroke", standalone_mode=False)
    except typer.Exit as exit_:
        result = exit_.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except ArgumentError as error:
        complain(f"error: {error}")
        return USAGE
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            complain(f"error: {error.format_message().rstrip('.')}; see 'anystroke --help'")
            return USAGE
        if "--debug" in arguments:
            traceback.print_exc()
        complain(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return FAILED
    if result == INTERRUPTED:
        complain("interrupted; what was finished is kept")
    return result if isinstance(result, int) else OK
