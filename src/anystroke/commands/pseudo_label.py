"""The verb ``pseudo-label`` of the command."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import (
    FAILED,
    OK,
    check_folder,
    complain,
    compute_on,
    progress_bar,
    tell_trouble,
)
from anystroke.commands.options import Debug, Device, ModelName, Output, Threads, with_options

if TYPE_CHECKING:
    from anystroke.io.results import Outcome


@dataclass(frozen=True)
class Labeller:
    """What segments, and where."""

    model: ModelName = "default"
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False


@dataclass(frozen=True)
class Wanted:
    """Which masks are used, and what for."""

    smallest: Annotated[float, typer.Option(metavar="ML", help="Leave out smaller lesions.")] = 0.5
    largest: Annotated[float, typer.Option(metavar="ML", help="Leave out larger lesions.")] = 400.0
    confidence: Annotated[
        float, typer.Option(help="Leave out lesions of a lower mean probability, 0 to 1.")
    ] = 0.8
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Also take the lesions to MNI space, to simulate with.")
    ] = False


@with_options
def pseudo_label(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Scans without masks: .nii, .nii.gz or .mgz.")
    ],
    output: Output,
    labeller: Labeller,
    wanted: Wanted,
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

    compute_on(labeller.device, labeller.threads)
    if not labeller.debug:
        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

    def report_lesion(_name: str, problem: str) -> None:
        progress.advance(task)
        if problem:
            complain(f"left out of the lesions: {problem}")

    labels = []
    limits = Limits(wanted.smallest, wanted.largest, wanted.confidence)
    with progress_bar() as progress:
        task = progress.add_task("segmenting", total=len(inputs))
        for label in label_scans(inputs, output, model=Model.open(labeller.model), limits=limits):
            progress.advance(task)
            labels.append(label)
            _tell(label, labeller.debug)
        kept = sum(label.details["use"] for label in labels)
        if wanted.lesions:
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
