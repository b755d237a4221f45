"""The verb ``simulate``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from anystroke.acquisition.weightings import listed, preset_weightings
from anystroke.commands.common import FAILED, OK, ArgumentError, check_folder, complain, progress_bar
from anystroke.commands.options import Debug, Output, with_options

_SMALLEST, _LARGEST = 16, 320
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class SimulatedPatients:
    """The patients."""

    lesions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Lesion masks in MNI space.", show_default="made-up lesions"),
    ] = None
    count: Annotated[int, typer.Option(min=1, help="Patients of each label map.")] = 1
    stage: Annotated[str | None, typer.Option(help="chronic, acute or subacute.", show_default="any")] = None
    seed: Annotated[int, typer.Option(help="Another seed gives other scans.")] = 1


@dataclass(frozen=True)
class ScanOptions:
    """Their scans."""

    weighting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="W[,W]...",
            help=f"{listed(preset_weightings('realistic'))}; several give one scan each of the same patient.",
            show_default="any",
        ),
    ] = None
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="realistic, typical, estimator, paper, paper_code, qatlas, or a TOML file.",
        ),
    ] = "realistic"
    priors: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="literature, paper, or a TOML file that fit-priors wrote."),
    ] = "literature"
    spacing: Annotated[float, typer.Option(min=0.7, max=4.0, metavar="MM", help="Voxel size.")] = 2.0
    shape: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Voxels.", show_default="192 x 224 x 192 mm")
    ] = None


@dataclass(frozen=True)
class SimulationFiles:
    """What is written."""

    maps: Annotated[bool, typer.Option("--maps", help="Write the quantitative maps too.")] = False
    layout: Annotated[
        Literal["bids", "nnunet"],
        typer.Option(
            "--format",
            help="A BIDS data set, or an nnU-Net raw data set in DIR, named like Dataset501_Stroke.",
        ),
    ] = "bids"
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Give nnU-Net the tissue classes too, not lesion alone.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the scans of another run.")] = False
    debug: Debug = False


@with_options
def simulate(
    output: Output,
    labels: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Label maps with FreeSurfer numbers, or folders of them.",
            show_default="the MNI152 brain",
            metavar="[LABELS]...",
        ),
    ] = None,
    *,
    patients: SimulatedPatients,
    looks: ScanOptions,
    write: SimulationFiles,
) -> int:
    """Simulate scans of patients with stroke.

    Writes images, lesion masks, tissue classes and protocols. A run that was cut short goes on where it was.

    Example: anystroke simulate -o simulated --weighting T1w,FLAIR --count 3
    """
    check_folder(output)
    voxels = _parse_shape(looks.shape) if looks.shape else _voxels_of_head(looks.spacing)
    from anystroke.acquisition.presets.preset import load_preset
    from anystroke.anatomy.lesions.stages import STAGES
    from anystroke.qmri.tissue_priors import load_table
    from anystroke.simulation.files import Request, simulate_files
    from anystroke.simulation.settings import SynthesisSettings

    names = [name.strip() for text in looks.weighting or [] for name in text.split(",")]
    weightings = load_preset(looks.preset).weightings
    load_table(looks.priors)
    request = Request(
        label_maps=_label_maps(labels or []),
        lesions=patients.lesions,
        count=patients.count,
        stage=_among("--stage", patients.stage, STAGES),
        seed=patients.seed,
        maps=write.maps,
        synthesis=SynthesisSettings(
            shapes=(voxels,), spacing=looks.spacing, preset=looks.preset, priors=looks.priors
        ),
        weightings=tuple(_one_of("--weighting", name, weightings) for name in names),
        format=write.layout,
        all_classes=write.all_classes,
    )
    failed = False
    scans = patients.count * max(len(request.label_maps), 1) * len(request.channels)
    with progress_bar() as progress:
        task = progress.add_task("simulating", total=scans)
        for outcome in simulate_files(request, output, overwrite=write.overwrite):
            progress.advance(task, outcome.details.get("samples", 1))
            if outcome.status == "failed":
                failed = True
                complain(f"error: {outcome.message}")
                continue
            if outcome.messages:
                complain(f"note: {outcome.message}")
            row, kept = outcome.details, " (was there)" if outcome.status == "kept" else ""
            typer.echo(f"{output / row['image']}: {row['anatomy']}, lesion {row['lesion_ml']} ml{kept}")
    return FAILED if failed else OK


def _among(option: str, value: str | None, known: Sequence[Choice]) -> Choice | None:
    """Find the choice that the user meant, if any, whatever its case."""
    return None if value is None else _one_of(option, value, known)


def _label_maps(given: Sequence[Path]) -> tuple[Path, ...]:
    """Name the images in folders, one by one; say what else lies there."""
    from anystroke.io.folders import walk
    from anystroke.io.inputs import is_image_name

    found: list[Path] = []
    for path in given:
        files = walk(path) if path.is_dir() else [path]
        images = [file for file in files if is_image_name(file)] if path.is_dir() else files
        if not images:
            raise ArgumentError(
                f"expected label maps in {path}, but it has no image files; name a folder that holds them"
            )
        if others := [file.name for file in files if file not in set(images)]:
            complain(f"note: {len(others)} files of {path} are no images: {', '.join(others[:5])}")
        found += images
    return tuple(found)


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
