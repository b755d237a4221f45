"""The verb ``estimate-qmri`` of the command."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.acquisition.weightings import listed, preset_weightings
from anystroke.commands.common import (
    FAILED,
    OK,
    ArgumentError,
    check_folder,
    complain,
    compute_on,
    progress_bar,
    tell_trouble,
)
from anystroke.commands.options import Debug, Device, Output, Overwrite, Threads, with_options

if TYPE_CHECKING:
    from anystroke.io.results import Outcome
    from anystroke.tasks.qmri.files import EstimateOptions
    from anystroke.tasks.qmri.predict import Estimator
    from anystroke.tasks.segmentation.predict import Model


@dataclass(frozen=True)
class EstimatorOptions:
    """The networks, and how many threads they get."""

    model: Annotated[
        str, typer.Option("--model", metavar="NAME|DIR", help="A shipped estimator, or a model folder.")
    ] = "estimator"
    segmenter: Annotated[str, typer.Option(metavar="NAME|DIR", help="The model that finds the brain.")] = (
        "default"
    )
    device: Device = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class MapOptions:
    """What is made of each scan."""

    simulate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="W[,W]...",
            help=f"Also make typical images of the maps: {listed(preset_weightings('typical'))}.",
        ),
    ] = None
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over eight mirror images; takes eight times as long.")
    ] = False
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Adjust PD and R1 until they give the scan under its own protocol."),
    ] = False
    sidecar: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="The protocol of the scans.", show_default="the JSON beside each"),
    ] = None
    overwrite: Overwrite = False
    debug: Debug = False


@with_options
def estimate_qmri(
    output: Output,
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
    *,
    networks: EstimatorOptions,
    maps: MapOptions,
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
    if maps.sidecar is not None and not maps.sidecar.is_file():
        raise ArgumentError(f"--sidecar: {maps.sidecar} does not exist")
    from anystroke.tasks.qmri.files import EstimateOptions, scan_protocol
    from anystroke.tasks.qmri.predict import Estimator, named_protocols
    from anystroke.tasks.segmentation.predict import Model

    names = [name.strip() for text in maps.simulate or [] for name in text.split(",")]
    protocols = named_protocols(names)
    if maps.sidecar is not None:
        scan_protocol(maps.sidecar, maps.sidecar)
    opened = Estimator.open(networks.model), Model.open(networks.segmenter)
    if not opened[1].config.brain:
        raise ArgumentError(
            f"--segmenter: {networks.segmenter} does not tell the brain; name a model that does"
        )
    compute_on(networks.device, networks.threads)
    options = EstimateOptions(tuple(protocols), maps.flips, maps.refine, maps.sidecar, maps.overwrite)
    return _run(files, dataset, output, *opened, options, maps.debug)


def _estimate_found(
    inputs: list[Path],
    output: Path,
    model: "Estimator",
    segmenter: "Model",
    options: "EstimateOptions",
) -> "Iterator[Outcome]":
    """Find the scans in what was named, and estimate their maps."""
    from anystroke.core.staging import staging_prefix
    from anystroke.io.finding import find_scans
    from anystroke.io.results import Outcome
    from anystroke.tasks.qmri.files import estimate_files, t1w_alone

    with tempfile.TemporaryDirectory(prefix=staging_prefix(), dir=output) as work:
        found = t1w_alone(find_scans(inputs, Path(work)), inputs)
        for text in found.skipped:
            complain(f"note: {text}")
        for named, problem in found.problems:
            yield Outcome(named, "failed", messages=(problem,))
        yield from estimate_files(found.scans, output, model, segmenter, options)


def _run(
    files: list[Path],
    dataset: Path | None,
    output: Path,
    model: "Estimator",
    segmenter: "Model",
    options: "EstimateOptions",
    debug: bool,
) -> int:
    """Estimate all scans and say what became of each."""
    from anystroke.tasks.qmri.files import estimate_dataset

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
                if tell_trouble(outcome, debug):
                    failed = True
                    continue
                kept = ", was there" if outcome.status == "kept" else ""
                alike, place = outcome.details["correlation"], output / outcome.details["place"]
                typer.echo(
                    f"{outcome.name}: simulated again it correlates {alike:.3f} with the scan{kept}"
                    f" -> {place}"
                )
    except OSError as error:
        raise ArgumentError(f"--output: {output} cannot be written ({error.strerror or error})") from error
    return FAILED if failed else OK
