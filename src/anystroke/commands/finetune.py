"""The verb ``finetune``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.calibrate import calibration_said, shown_on
from anystroke.commands.common import OK, ArgumentError, check_folder, complain, compute_on, progress_bar
from anystroke.commands.options import with_options
from anystroke.commands.own_scans import looked_at, paired_sources
from anystroke.commands.train import ComputeOptions, RunOptions, is_first_process, run_recipe

if TYPE_CHECKING:
    from anystroke.io.labelled import LabelledScan
    from anystroke.io.labelled_checks import CheckedScan
    from anystroke.tasks.segmentation.finetuned import Recalibration
    from anystroke.tasks.segmentation.own_scans import OwnComparison
    from anystroke.tasks.segmentation.validate import Score


@dataclass(frozen=True)
class StartOptions:
    """What it starts from, and what it must not forget."""

    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="What to start from: a shipped model, or a model folder.")
    ] = "default"
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated scans for each of yours, so that nothing is forgotten.")
    ] = 1
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default="1000")] = None


@dataclass(frozen=True)
class OwnScans:
    """The scans, and what is done with them."""

    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Masks of one folder of scans, named alike.", show_default="beside the scans"
        ),
    ] = None
    held_out: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Share of the patients that tells whether it helped; 0: none."),
    ] = 0.2
    check: Annotated[bool, typer.Option("--check", help="Look at the scans and masks, and stop.")] = False


@with_options
def finetune(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Scans with masks: a BIDS data set, an nnU-Net raw folder, a folder or a TSV of paths.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the run.")],
    own: OwnScans,
    start: StartOptions,
    run: RunOptions,
    compute: ComputeOptions,
) -> int:
    """Go on training a model with scans and masks of one's own.

    All scans and masks are looked at first. Some patients are held out; the model is judged on them before
    and after, and the better one is in DIR/model, with a card. Where they are many enough, half of them
    calibrate the fine-tuned model and the other half judges. What 'train' leaves is in DIR/run.

    Example: anystroke finetune my_scans --masks my_masks -o my_model --steps 500
    """
    started = time.monotonic()
    check_folder(output)
    devices = compute.chosen()
    if (output / "run" / "state.safetensors").exists() and not (run.resume or own.check):
        raise ArgumentError(
            f"{output} already holds a run; pass --resume to go on with it, or another folder"
        )
    compute_on(compute.accelerator)
    sources = paired_sources(data, own.masks, output)
    scans = looked_at(sources)
    from anystroke.tasks.segmentation.finetune import finetuning_recipe
    from anystroke.tasks.segmentation.finetuned import complete_finetuned, keep_better
    from anystroke.tasks.segmentation.own_scans import calibrating_of, held_out_of

    unseen = held_out_of(scans, own.held_out)
    calibrating = [each.scan for each in calibrating_of(unseen)]
    held_out = [each.scan for each in unseen if each.scan not in calibrating]
    learnt_from = [each.scan.name for each in scans if each not in unseen]
    _say_split(scans, held_out, calibrating)
    steps = [] if start.steps is None else [f"optimiser.steps={start.steps}"]
    settings = finetuning_recipe(
        sources,
        model=start.model,
        simulated=start.simulated,
        held_out=[each.scan.name for each in unseen],
        overrides=[*steps, *run.overrides],
    )
    if own.check:
        return OK
    first = is_first_process()
    before = _judged(start.model, held_out, "before") if first and held_out else []
    run_recipe(settings, output / "run", run, devices, started, said=False)
    if not first:
        return OK
    tuned = output / "run" / "model"
    complete_finetuned(tuned, start.model, learnt_from)
    recalibration = _calibrated(tuned, calibrating)
    comparison = _compared(held_out, before, _judged(tuned, held_out, "after")) if held_out else None
    if comparison is not None:
        comparison.write(output / "before_after.tsv")
        typer.echo("\n".join(("held-out scans, before -> after:", *comparison.lines())))
    chosen = keep_better(
        output / "model",
        tuned=tuned,
        start=start.model,
        comparison=comparison,
        learnt_from=learnt_from,
        recalibration=recalibration,
    )
    if chosen != tuned:
        complain(
            f"note: fine-tuning did not help on the held-out scans, so {output / 'model'} is the model of "
            f"before; the other one is {tuned}"
        )
    typer.echo(f"model: {output / 'model'}")
    return OK


def _say_split(
    scans: "Sequence[CheckedScan]", held_out: "Sequence[LabelledScan]", calibrating: "Sequence[LabelledScan]"
) -> None:
    patients = len({each.patient for each in scans})
    healthy = sum(each.lesions == 0 for each in scans)
    typer.echo(f"{len(scans)} scans of {patients} patients, {healthy} without a lesion")
    if held_out:
        typer.echo(f"held out, to tell whether it helps: {', '.join(scan.name for scan in held_out)}")
    else:
        complain("note: no scan is held out, so nothing will tell whether fine-tuning helped")
    if calibrating:
        typer.echo(f"held out, to calibrate on: {', '.join(scan.name for scan in calibrating)}")


def _calibrated(tuned: Path, scans: "Sequence[LabelledScan]") -> "Recalibration | None":
    """Calibrate the fine-tuned model if there are scans to do so, and say what became of it."""
    from anystroke.tasks.segmentation.finetuned import KEPT_CALIBRATION, recalibrated

    if not scans:
        complain(f"note: {KEPT_CALIBRATION[0].lower()}{KEPT_CALIBRATION[1:]}")
        return None
    with progress_bar() as bar:
        found = recalibrated(tuned, scans, on_patient=shown_on(bar))
    typer.echo(calibration_said(found.calibration))
    typer.echo(found.sentence())
    return found


def _judged(model: str | Path, scans: "Sequence[LabelledScan]", when: str) -> "list[Score]":
    from anystroke.tasks.segmentation.own_scans import judge_scans
    from anystroke.tasks.segmentation.predict import Model

    opened = Model.open(model)
    with progress_bar() as bar:
        task = bar.add_task(f"judging {when}", total=len(scans))
        return judge_scans(opened, scans, lambda: bar.advance(task))


def _compared(
    scans: "Sequence[LabelledScan]", before: "Sequence[Score]", after: "Sequence[Score]"
) -> "OwnComparison":
    from anystroke.tasks.segmentation.own_scans import OwnComparison

    return OwnComparison(tuple(scan.name for scan in scans), tuple(before), tuple(after))
