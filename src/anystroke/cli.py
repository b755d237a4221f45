"""The command. Each verb imports what it needs when it runs, so that help is quick."""

import logging
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Find the stroke lesion in a brain MR image, whatever the sequence. Research use only.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class ArgumentError(Exception):
    """Arguments that cannot be used, found after parsing; the message is one sentence."""


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
def segment(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Scans: .nii, .nii.gz or .mgz; any contrast.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="A shipped model, or a model folder.")
    ] = "default",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability from which a voxel is lesion.", show_default="the model's own"),
    ] = None,
    min_volume: Annotated[float, typer.Option(help="Leave out lesions smaller than this [ml].")] = 0.0,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average with the mirrored head; takes twice as long.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> int:
    """Find the lesion in scans.

    Writes a mask, a probability map, a picture and the volume of each, in the scan's own grid.

    Example: anystroke segment patient_T2w.nii.gz -o results
    """
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise ArgumentError(f"--threshold is a probability above 0 and below 1, got {threshold:g}; try 0.5")
    if not min_volume >= 0.0:
        raise ArgumentError(f"--min-volume is 0 ml or more, got {min_volume:g}")
    if output.exists() and not output.is_dir():
        raise ArgumentError(f"--output must be a folder, but {output} is a file; name another")
    import torch

    from anystroke.batch import segment_files
    from anystroke.inference.segmentation import Model
    from anystroke.learning.checkpoints import CheckpointError

    if not debug:
        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        opened = Model.open(model)
    except CheckpointError as error:
        raise ArgumentError(f"--model: {error}") from error
    failed = False
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("segmenting", total=len(inputs))
        for outcome in segment_files(
            inputs,
            output,
            opened,
            overwrite=overwrite,
            threshold=threshold,
            min_volume=min_volume,
            flip=flip,
        ):
            progress.advance(task)
            if outcome.status == "failed":
                failed = True
                _complain(f"{outcome.details if debug else ''}error: {outcome.message}")
                continue
            if outcome.message:
                _complain(f"warning: {outcome.message}")
            lesions = f"{outcome.lesions} lesion{'' if outcome.lesions == 1 else 's'}"
            typer.echo(
                f"{outcome.source}: {outcome.volume:.1f} ml, {lesions}, {outcome.seconds:.1f} s "
                f"-> {output / outcome.mask}"
            )
    return FAILED if failed else OK


@app.command()
def models() -> int:
    """List the models that come with the program."""
    from anystroke.learning.checkpoints import find_model, shipped_models

    for name in shipped_models():
        typer.echo(f"{name}\t{find_model(name)}")
    return OK


def _complain(text: str) -> None:
    typer.echo(text, err=True)


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
    command = typer.main.get_command(app)
    try:
        result = command.main(arguments, prog_name="anystroke", standalone_mode=False)
    except typer.Exit as exit_:
        return int(exit_.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; what was finished is kept")
        return INTERRUPTED
    except ArgumentError as error:
        _complain(f"error: {error}")
        return USAGE
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _complain(f"error: {error.format_message().rstrip('.')}; see 'anystroke --help'")
            return USAGE
        if "--debug" in arguments:
            traceback.print_exc()
        _complain(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return FAILED
    return result if isinstance(result, int) else OK
