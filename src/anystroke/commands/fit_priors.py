"""The verb ``fit-priors``."""

from pathlib import Path
from typing import Annotated

import typer

from anystroke.commands.common import FAILED, OK, ArgumentError, complain, progress_bar


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
    from anystroke.qmri.fit_files import find_subjects
    from anystroke.qmri.fit_files import fit_priors as fit_table

    subjects = [subject for folder in maps for subject in find_subjects(folder)]
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(subjects))
        fitted = fit_table(
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
