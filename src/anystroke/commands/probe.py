"""The verb ``probe``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, check_folder, check_new
from anystroke.commands.options import Debug, Output, Overwrite


def probe(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Encoders: shipped names or model folders.")
    ],
    output: Output,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Packed data of a run; its held-out patients are scanned.",
            show_default="the package's own anatomy",
        ),
    ] = None,
    scans: Annotated[
        list[Path] | None, typer.Option("--scan", metavar="FILE", help="A real scan to show beside.")
    ] = None,
    patients: Annotated[int, typer.Option(min=4, help="Simulated patients.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed gives other patients.")] = 1,
    overwrite: Overwrite = False,
    _debug: Debug = False,
) -> int:
    """Show what the features of encoders hold: the patient, the contrast, the scanner.

    Writes a page with the share of patients that are found again by another contrast, what a linear layer
    reads, and scans in a plane (t-SNE); and the tables behind it.

    Example: anystroke probe encoder/model -o features --data encoder/data
    """
    check_folder(output)
    from anystroke.reports.features import PAGE
    from anystroke.studies.probing import ProbeSettings
    from anystroke.studies.probing import probe as look

    check_new(output / PAGE, overwrite)
    settings = ProbeSettings(patients=patients, seed=seed)
    try:
        page = look(models, output, settings=settings, data=data, scans=scans or ())
    except (OSError, ValueError) as error:
        raise ArgumentError(" ".join(str(error).split())) from error
    typer.echo(f"report: {page}")
    return OK
