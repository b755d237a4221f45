"""The verb ``pseudo-label`` of the command."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import FAILED, OK, check_folder, complain, progress_bar, tell_trouble

if TYPE_CHECKING:
    from anystroke.io.results import Outcome


def pseudo_label(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Scans without masks: .nii, .nii.gz or .mgz.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="A shipped model, or a model folder.")
    ] = "default",
    smallest: Annotated[float, typer.Option(metavar="ML", help="Leave out smaller lesions.")] = 0.5,
    largest: Annotated[float, typer.Option(metavar="ML", help="Leave out larger lesions.")] = 400.0,
    confidence: Annotated[
        float, typer.Option(help="Leave out lesions of a lower mean probability, 0 to 1.")
    ] = 0.8,
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Also take the lesions to MNI space, to simulate with.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> int:
    """Segment scans to train on: masks, and a table of which to use.

    The folder is a data set for 'train'; its lesions_mni, if asked for, one for 'simulate --lesions'. A run
    that was cut short goes on where it was.

    Example: anystroke pseudo-label scans/*.nii.gz -o pseudo --confidence 0.9
    """
    check_folder(output)
    from anystroke.tasks.segmentation.predict import Model
    from anystroke.tasks.segmentation.pseudo_labels import LABELS_TABLE, Limits, pseudo_lesions
    from anystroke.tasks.segmentation.pseudo_labels import pseudo_label as label_scans

    if not debug:
        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

    def report_lesion(_name: str, problem: str) -> None:
        progress.advance(task)
        if problem:
            complain(f"left out of the lesions: {problem}")

    labels = []
    limits = Limits(smallest, largest, confidence)
    with progress_bar() as progress:
        task = progress.add_task("segmenting", total=len(inputs))
        for label in label_scans(inputs, output, model=Model.open(model), limits=limits):
            progress.advance(task)
            labels.append(label)
            _tell(label, debug)
        kept = sum(label.details["use"] for label in labels)
        if lesions:
            task = progress.add_task("registering", total=kept)
            found = pseudo_lesions(labels, output, on_scan=report_lesion)
            typer.echo(f"lesions: {len(found)} of {kept} in MNI space")
    typer.echo(f"{output / LABELS_TABLE}: {kept} of {len(labels)} scans kept")
    return FAILED if any(label.status == "failed" for label in labels) else OK


def _tell(label: "Outcome", debug: bool) -> None:
    """Print what became of one scan."""
    if tell_trouble(label, debug):
        return
    facts = label.details
    verdict = "kept" if facts["use"] else f"left out: {facts['reason']}"
    typer.echo(f"{label.name}: {facts['volume_ml']:.1f} ml, {verdict}")
