"""The verbs ``segment`` and ``bids`` of the command."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anystroke.commands.common import FAILED, OK, ArgumentError, check_folder, complain, progress_bar

if TYPE_CHECKING:
    from anystroke.anatomy.registration.atlas import Atlas
    from anystroke.io.inputs import Found
    from anystroke.tasks.segmentation.files import Outcome
    from anystroke.tasks.segmentation.predict import Model

Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Scans of any contrast (NIfTI, MGH, NRRD, MetaImage); folders of scans, of DICOM files or of a "
        "BIDS data set; .tsv or .csv tables with a column image.",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")]
ModelName = Annotated[
    str, typer.Option("--model", metavar="NAME|DIR", help="A shipped model, or a model folder.")
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Probability from which a voxel is lesion.", show_default="the model's own"),
]
MinVolume = Annotated[float, typer.Option(help="Leave out lesions smaller than this [ml].")]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the mirrored head; takes twice as long.")]
AllowCt = Annotated[bool, typer.Option("--allow-ct", help="Take CT too, which the networks never saw.")]
Work = Annotated[
    Path | None,
    typer.Option("--work-dir", "-w", metavar="DIR", help="For converted DICOM.", show_default="removed"),
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="default|paper|paper-one-pass",
        help="paper: 1 mm, equalised histogram, windows of 192 voxels, eight flips, as published; slow. "
        "paper-one-pass: the same without flips.",
    ),
]
NoRefinement = Annotated[
    bool, typer.Option("--no-refinement", help="Do not look again at small lesions at a finer grid.")
]
FusionName = Annotated[
    str, typer.Option("--fusion", metavar="probability|logit", help="What --together takes the mean of.")
]
Uncertainty = Annotated[
    bool,
    typer.Option("--uncertainty", help="Write how much the probability varies when the head is mirrored."),
]
Tissues = Annotated[bool, typer.Option("--tissues", help="Write a segmentation of the tissues.")]
FmriprepRoi = Annotated[
    bool, typer.Option("--write-fmriprep-roi", help="Write the mask as fMRIPrep reads it (label-lesion_roi).")
]
DicomSeg = Annotated[
    bool, typer.Option("--dicom-seg", help="Write a DICOM segmentation of scans that came as DICOM.")
]
AtlasFile = Annotated[
    Path | None,
    typer.Option(
        "--atlas", metavar="LABELS", help="Territories in MNI space, named in the table of lesions."
    ),
]
AtlasNames = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Their names.", show_default="LABELS with the ending .tsv or .txt"),
]
NoReport = Annotated[
    bool,
    typer.Option(
        "--no-report", help="No page, pictures and places in MNI space of each scan; saves seconds."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]


def segment(
    inputs: Inputs,
    output: Output,
    model: ModelName = "default",
    threshold: Threshold = None,
    min_volume: MinVolume = 0.0,
    flip: Flip = False,
    preset: Preset = "default",
    no_refinement: NoRefinement = False,
    together: Annotated[
        bool, typer.Option("--together", help="The scans are contrasts of one patient: fuse their results.")
    ] = False,
    fusion: FusionName = "probability",
    uncertainty: Uncertainty = False,
    tissues: Tissues = False,
    write_fmriprep_roi: FmriprepRoi = False,
    dicom_seg: DicomSeg = False,
    atlas: AtlasFile = None,
    atlas_names: AtlasNames = None,
    no_report: NoReport = False,
    allow_ct: AllowCt = False,
    work: Work = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    debug: Debug = False,
) -> int:
    """Find the lesion in scans.

    Writes a mask, a probability map, a picture and the volume of each, in the scan's own grid.

    Example: anystroke segment patient_T2w.nii.gz -o results
    """
    _check(output, threshold, min_volume, preset, fusion)
    if any(item.is_dir() and item.resolve() == output.resolve() for item in inputs):
        raise ArgumentError(f"--output is the folder of the scans ({output}); name another or one in it")
    from anystroke.io.finding import find_scans

    return _segment(
        lambda folder: find_scans(inputs, folder, allow_ct=allow_ct),
        output,
        model,
        {
            "threshold": threshold,
            "min_volume": min_volume,
            "flip": flip,
            "preset": preset,
            "refine": not no_refinement,
        },
        extras=(not no_report, uncertainty, tissues, write_fmriprep_roi, dicom_seg),
        atlas=_atlas(atlas, atlas_names),
        together=fusion if together else None,
        work=work,
        allow_ct=allow_ct,
        overwrite=overwrite,
        threads=threads,
        debug=debug,
    )


def bids(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="The data set.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder for the derivatives.")],
    level: Annotated[str, typer.Argument(metavar="participant|group", help="What to do.")],
    participant_label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Participants to take.", show_default="all")
    ] = None,
    session_label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Sessions to take.", show_default="all")
    ] = None,
    bids_filter_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of filters, as for fMRIPrep.")
    ] = None,
    model: ModelName = "default",
    threshold: Threshold = None,
    min_volume: MinVolume = 0.0,
    flip: Flip = False,
    preset: Preset = "default",
    no_refinement: NoRefinement = False,
    together: Annotated[
        bool, typer.Option("--together", help="Fuse the contrasts of each participant and session.")
    ] = False,
    fusion: FusionName = "probability",
    uncertainty: Uncertainty = False,
    tissues: Tissues = False,
    write_fmriprep_roi: FmriprepRoi = False,
    dicom_seg: DicomSeg = False,
    atlas: AtlasFile = None,
    atlas_names: AtlasNames = None,
    no_report: NoReport = False,
    allow_ct: AllowCt = False,
    work: Work = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    debug: Debug = False,
) -> int:
    """Segment a BIDS data set, as a BIDS-App; also without the word bids.

    Example: anystroke bids study study/derivatives/anystroke participant --participant-label 01 02
    """
    _check(output, threshold, min_volume, preset, fusion)
    if level not in ("participant", "group"):
        raise ArgumentError(f"the analysis level is participant or group, got {level!r}")
    if bids_dir.resolve() == output.resolve():
        raise ArgumentError(f"the output folder is the data set itself ({output}); name derivatives in it")
    if level == "group":
        return _group(output)
    from anystroke.io.bids_input import find_bids_scans, read_filter
    from anystroke.io.inputs import IntakeError

    try:
        filters = read_filter(bids_filter_file) if bids_filter_file else []
        found = find_bids_scans(
            bids_dir,
            participants=_labels(participant_label),
            sessions=_labels(session_label),
            filters=filters,
        )
    except IntakeError as error:
        raise ArgumentError(str(error)) from error
    return _segment(
        lambda _folder: found,
        output,
        model,
        {
            "threshold": threshold,
            "min_volume": min_volume,
            "flip": flip,
            "preset": preset,
            "refine": not no_refinement,
        },
        extras=(not no_report, uncertainty, tissues, write_fmriprep_roi, dicom_seg),
        atlas=_atlas(atlas, atlas_names),
        together=fusion if together else None,
        source=bids_dir,
        work=work,
        allow_ct=allow_ct,
        overwrite=overwrite,
        threads=threads,
        debug=debug,
    )


def as_bids_app(arguments: Sequence[str], verbs: Sequence[str]) -> list[str]:
    """Turn the call of a BIDS-App into that of the verb, and spread labels that share an option.

    Args:
        arguments: What follows the program's name.
        verbs: Names of the program's verbs.

    Returns:
        Arguments for the verb ``bids``, or those given where they are no such call.

    Example:
        >>> as_bids_app(["in", "out", "participant", "--participant-label", "1", "2"], ["segment"])
        ['bids', 'in', 'out', 'participant', '--participant-label', '1', '--participant-label', '2']
    """
    words = list(arguments)
    if words and words[0] == "bids":
        words = words[1:]
    elif not words or words[0] in verbs or not {"participant", "group"} & set(words):
        return words
    spread: list[str] = []
    option = ""
    for word in words:
        if word.startswith("-"):
            option = word.replace("_", "-") if word in ("--participant_label", "--session_label") else word
            spread.append(option)
        elif option in ("--participant-label", "--session-label") and spread[-1] != option:
            spread += [option, word]
        else:
            spread.append(word)
    return ["bids", *spread]


def _labels(given: Sequence[str] | None) -> list[str]:
    return [label for text in given or () for label in text.replace(",", " ").split()]


def _check(output: Path, threshold: float | None, min_volume: float, preset: str, fusion: str) -> None:
    for option, value, known in (
        ("--preset", preset, ("default", "paper", "paper-one-pass")),
        ("--fusion", fusion, ("probability", "logit")),
    ):
        if value not in known:
            raise ArgumentError(f"{option} must be one of {', '.join(known)}, got {value!r}")
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise ArgumentError(f"--threshold is a probability above 0 and below 1, got {threshold:g}; try 0.5")
    if not min_volume >= 0.0:
        raise ArgumentError(f"--min-volume is 0 ml or more, got {min_volume:g}")
    check_folder(output)


def _atlas(labels: Path | None, names: Path | None) -> "Atlas | None":
    if labels is None:
        if names is not None:
            raise ArgumentError(f"--atlas-names is given ({names}) without --atlas; name the label map too")
        return None
    from anystroke.anatomy.registration.atlas import Atlas, AtlasError

    try:
        return Atlas.load(labels, names)
    except AtlasError as error:
        raise ArgumentError(f"--atlas: {error}") from error


def _open(name: str, threads: int | None, debug: bool) -> "Model":
    import torch

    from anystroke.models.checkpoints import CheckpointError
    from anystroke.tasks.segmentation.predict import Model

    if not debug:
        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return Model.open(name)
    except CheckpointError as error:
        raise ArgumentError(f"--model: {error}") from error


def _group(output: Path) -> int:
    """Write the table and the page of all results in a folder."""
    from anystroke.tasks.segmentation.group import PAGE, TABLE, describe_dataset, write_group

    count = write_group(output) if output.is_dir() else 0
    if not count:
        raise ArgumentError(f"{output} holds no results of anystroke; run the level participant first")
    describe_dataset(output)
    typer.echo(f"{count} scans -> {output / TABLE}, {output / PAGE}")
    return OK


def _segment(
    find: "Callable[[Path], Found]",
    output: Path,
    model: str,
    options: dict[str, Any],
    *,
    extras: tuple[bool, ...],
    atlas: "Atlas | None",
    together: str | None,
    source: Path | None = None,
    work: Path | None,
    allow_ct: bool,
    overwrite: bool,
    threads: int | None,
    debug: bool,
) -> int:
    """Find the scans, segment them and say what became of each."""
    from anystroke.tasks.segmentation.files import segment_files, staging_prefix
    from anystroke.tasks.segmentation.group import describe_dataset, write_group
    from anystroke.tasks.segmentation.results import Extras

    opened = _open(model, threads, debug)
    if options["preset"] != "default" and opened.config.spacing != 1.0:
        complain(
            f"note: the preset {options['preset']} is for models of 1 mm, but {opened.config.name} was "
            f"trained at {opened.config.spacing:g} mm"
        )
    _make(output)
    with (
        tempfile.TemporaryDirectory(prefix=staging_prefix(), dir=output) as temporary,
        progress_bar() as progress,
    ):
        found = find(work or Path(temporary))
        for text in found.skipped:
            complain(f"note: {text}")
        failed = False
        task = progress.add_task("segmenting", total=len(found.scans) + len(found.problems))
        try:
            for outcome in segment_files(
                found.scans,
                output,
                opened,
                problems=found.problems,
                overwrite=overwrite,
                allow_ct=allow_ct,
                together=together,  # type: ignore[arg-type]
                extras=Extras(*extras),
                atlas=atlas,
                **options,
            ):
                progress.advance(task)
                failed = _tell(outcome, output, debug) or failed
        except OSError as error:
            complain(
                f"error: {output} cannot be written ({error.strerror or error}); make room or mend it, and "
                "run again: what was finished is kept"
            )
            return FAILED
    if write_group(output, pictures=extras[0]):
        describe_dataset(output, source=source)
    return FAILED if failed else OK


def _make(output: Path) -> None:
    """Make the output folder and see that it can be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise ArgumentError(
            f"--output: {output} cannot be written ({error.strerror}); name another folder"
        ) from error


def _tell(outcome: "Outcome", output: Path, debug: bool) -> bool:
    """Print what became of one scan; True if it failed."""
    if outcome.status == "failed":
        complain(f"{outcome.details if debug else ''}error: {outcome.message}")
        return True
    if outcome.message:
        complain(f"warning: {outcome.message}")
    for reason in outcome.reasons:
        complain(f"do not trust: {outcome.source}: {reason}")
    lesions = f"{outcome.lesions} lesion{'' if outcome.lesions == 1 else 's'}"
    time = "was there" if outcome.status == "kept" else f"{outcome.seconds:.1f} s"
    typer.echo(f"{outcome.source}: {outcome.volume:.1f} ml, {lesions}, {time} -> {output / outcome.mask}")
    return False
