"""The verb ``demo``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import OK, check_folder


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
    from anystroke.studies.demo import DEFAULT_SEED, run_demo
    from anystroke.tasks.segmentation.predict import Model

    opened = Model.open(model)
    made = run_demo(output, opened, seed=DEFAULT_SEED if seed is None else seed, overwrite=overwrite)
    typer.echo(made.protocol)
    typer.echo(f"lesion: {made.predicted_ml:.1f} ml found, {made.true_ml:.1f} ml true, Dice {made.dice:.2f}")
    typer.echo(f"report: {made.page}")
    return OK
