"""The verb ``estimate-qmri`` of the command."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import FAILED, OK, ArgumentError, check_folder, complain, progress_bar

if TYPE_CHECKING:
    from anystroke.tasks.qmri.files import EstimateOptions, Outcome
    from anystroke.tasks.qmri.predict import Estimator
    from anystroke.tasks.segmentation.predict import Model


def estimate_qmri(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[T1W]...",
            help="T1w MPRAGE scans (NIfTI, MGH, NRRD, MetaImage), with or without the skull; or folders "
            "of them or of DICOM files, BIDS data sets, and tables with a column image.",
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|TSV",
            help="Scans with lesion masks (BIDS, nnU-Net or a table), made a folder of maps to train on.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME|DIR", help="A shipped estimator, or a model folder.")
    ] = "estimator",
    segmenter: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="The model that finds the brain.")
    ] = "default",
    simulate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="W[,W]...",
            help="Also make typical images of the maps: T1w, T2w, PDw, FLAIR, T2starw, STIR or DIR.",
        ),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over eight mirror images; takes eight times as long.")
    ] = False,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Adjust PD and R1 until they give the scan under its own protocol."),
    ] = False,
    sidecar: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="The protocol of the scans.", show_default="the JSON beside each"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    _debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> int:
    """Estimate PD, R1, R2* and MT maps from T1w MPRAGE scans.

    Writes the maps with their units, a brain mask and the scan simulated again, in the scan's own grid.

    Example: anystroke estimate-qmri sub-01_T1w.nii.gz -o maps --simulate flair,t2w
    """
    check_folder(output)
    files = scans or []
    if bool(files) == (dataset is not None):
        raise ArgumentError("expected T1w scans or --dataset, one of the two; see 'estimate-qmri --help'")
    for path in files:
        if not path.exists():
            raise ArgumentError(f"{path} does not exist")
    if sidecar is not None and not sidecar.is_file():
        raise ArgumentError(f"--sidecar: {sidecar} does not exist")
    from anystroke.models.checkpoints import CheckpointError
    from anystroke.tasks.qmri.files import EstimateError, EstimateOptions, scan_protocol
    from anystroke.tasks.qmri.predict import Estimator, named_protocols
    from anystroke.tasks.segmentation.predict import Model

    names = [name.strip() for text in simulate or [] for name in text.split(",")]
    try:
        protocols = named_protocols(names)
        if sidecar is not None:
            scan_protocol(sidecar, sidecar)
    except EstimateError as error:
        raise ArgumentError(f"--sidecar: {error}") from error
    except ValueError as error:
        raise ArgumentError(f"--simulate: {error}") from error
    try:
        opened = Estimator.open(model), Model.open(segmenter)
    except CheckpointError as error:
        raise ArgumentError(f"--model or --segmenter: {error}") from error
    if not opened[1].config.brain:
        raise ArgumentError(f"--segmenter: {segmenter} does not tell the brain; name a model that does")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    options = EstimateOptions(tuple(protocols), flips, refine, sidecar, overwrite)
    return _run(files, dataset, output, *opened, options)


def _estimate_found(
    inputs: list[Path],
    output: Path,
    model: "Estimator",
    segmenter: "Model",
    options: "EstimateOptions",
) -> "Iterator[Outcome]":
    """Find the scans in what was named, and estimate their maps."""
    from anystroke.io.finding import find_scans
    from anystroke.tasks.qmri.files import Outcome, estimate_files, t1w_alone

    with tempfile.TemporaryDirectory(prefix=".anystroke-", dir=output) as work:
        found = t1w_alone(find_scans(inputs, Path(work)), inputs)
        for text in found.skipped:
            complain(f"note: {text}")
        for named, problem in found.problems:
            yield Outcome(named, "failed", output, problem)
        yield from estimate_files(found.scans, output, model, segmenter, options)


def _run(
    files: list[Path],
    dataset: Path | None,
    output: Path,
    model: "Estimator",
    segmenter: "Model",
    options: "EstimateOptions",
) -> int:
    """Estimate all scans and say what became of each."""
    from anystroke.io.labelled import LabelledScanError
    from anystroke.tasks.qmri.files import EstimateError, estimate_dataset

    failed = False
    try:
        output.mkdir(parents=True, exist_ok=True)
        outcomes = (
            _estimate_found(files, output, model, segmenter, options)
            if dataset is None
            else estimate_dataset(dataset, output, model, segmenter, options)
        )
        with progress_bar() as progress:
            task = progress.add_task("estimating", total=None)
            for outcome in outcomes:
                progress.advance(task)
                if outcome.status == "failed":
                    failed = True
                    complain(f"error: {outcome.message}")
                    continue
                for text in outcome.warnings:
                    complain(f"warning: {outcome.name}: {text}")
                kept = ", was there" if outcome.status == "kept" else ""
                typer.echo(
                    f"{outcome.name}: simulated again it correlates {outcome.correlation:.3f} with the scan"
                    f"{kept} -> {outcome.folder}"
                )
    except (LabelledScanError, EstimateError) as error:
        raise ArgumentError(f"--dataset: {error}" if dataset else str(error)) from error
    except OSError as error:
        raise ArgumentError(f"--output: {output} cannot be written ({error.strerror or error})") from error
    return FAILED if failed else OK
