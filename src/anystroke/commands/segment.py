"""The verbs ``segment`` and ``bids`` of the command."""

import logging
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from anystroke.commands.options import Debug, Device, ModelName, Output, Threads, with_options
from anystroke.tasks.segmentation.options import CohortOptions, SegmentOptions, WriteOptions

if TYPE_CHECKING:
    from anystroke.core.tables import Row
    from anystroke.io.inputs import Found
    from anystroke.io.results import Outcome
    from anystroke.tasks.segmentation.predict import Model

Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Scans of any contrast (NIfTI, MGH, NRRD, MetaImage); folders of scans, of DICOM files or of a "
        "BIDS data set; .tsv or .csv tables with a column image.",
    ),
]


@dataclass(frozen=True)
class SegmentRun:
    """What segments, where it works and how much it says."""

    model: ModelName = "default"
    work: Annotated[
        Path | None,
        typer.Option("--work-dir", "-w", metavar="DIR", help="For converted DICOM.", show_default="removed"),
    ] = None
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False


@dataclass(frozen=True)
class Selection:
    """What to take of a BIDS data set."""

    participant_label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Participants to take.", show_default="all")
    ] = None
    session_label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Sessions to take.", show_default="all")
    ] = None
    bids_filter_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON of filters, as for fMRIPrep.")
    ] = None


@with_options
def segment(
    inputs: Inputs,
    output: Output,
    options: SegmentOptions,
    write: WriteOptions,
    cohort: CohortOptions,
    run: SegmentRun,
) -> int:
    """Find the lesion in scans.

    Writes a mask, a probability map, a picture and the volume of each, in the scan's own grid.

    Example: anystroke segment patient_T2w.nii.gz -o results
    """
    check_folder(output)
    if any(item.is_dir() and item.resolve() == output.resolve() for item in inputs):
        raise ArgumentError(f"--output is the folder of the scans ({output}); name another or one in it")
    from anystroke.io.finding import find_scans

    def find(folder: Path) -> "Found":
        return find_scans(inputs, folder, allow_ct=cohort.allow_ct)

    return _segment(find, output, options, write, cohort, run)


@with_options
def bids(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="The data set.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder for the derivatives.")],
    level: Annotated[str, typer.Argument(metavar="participant|group", help="What to do.")],
    selection: Selection,
    options: SegmentOptions,
    write: WriteOptions,
    cohort: CohortOptions,
    run: SegmentRun,
) -> int:
    """Segment a BIDS data set, as a BIDS-App; also without the word bids.

    Example: anystroke bids study study/derivatives/anystroke participant --participant-label 01 02
    """
    check_folder(output)
    if level not in ("participant", "group"):
        raise ArgumentError(f"the analysis level is participant or group, got {level!r}")
    if bids_dir.resolve() == output.resolve():
        raise ArgumentError(f"the output folder is the data set itself ({output}); name derivatives in it")
    if level == "group":
        return _group(output, bids_dir)
    from anystroke.io.bids_input import find_bids_scans, read_filter
    from anystroke.io.finding import prepared

    found = find_bids_scans(
        bids_dir,
        participants=_labels(selection.participant_label),
        sessions=_labels(selection.session_label),
        filters=read_filter(selection.bids_filter_file) if selection.bids_filter_file else [],
    )
    return _segment(
        lambda folder: prepared(found, folder), output, options, write, cohort, run, source=bids_dir
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


def _open(run: SegmentRun) -> "Model":
    from anystroke.tasks.segmentation.predict import Model

    if not run.debug:
        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    compute_on(run.device, run.threads)
    return Model.open(run.model)


def _group(output: Path, source: Path) -> int:
    """Write the table and the page of all results in a folder."""
    from anystroke.tasks.segmentation.group import GROUP_PAGE, GROUP_TABLE, describe_results, write_group

    count = write_group(output, participants=_participants(source)) if output.is_dir() else 0
    if not count:
        raise ArgumentError(f"{output} holds no results of anystroke; run the level participant first")
    describe_results(output)
    typer.echo(f"{count} scans -> {output / GROUP_TABLE}, {output / GROUP_PAGE}")
    return OK


def _segment(
    find: "Callable[[Path], Found]",
    output: Path,
    options: SegmentOptions,
    write: WriteOptions,
    cohort: CohortOptions,
    run: SegmentRun,
    *,
    source: Path | None = None,
) -> int:
    """Find the scans, segment them and say what became of each."""
    from anystroke.core.staging import staging_prefix
    from anystroke.tasks.segmentation.files import segment_files
    from anystroke.tasks.segmentation.group import describe_results, write_group

    write.open_atlas()
    model = _open(run)
    if options.preset != "default" and model.config.spacing != 1.0:
        complain(
            f"note: the preset {options.preset} is for models of 1 mm, but {model.config.name} was "
            f"trained at {model.config.spacing:g} mm"
        )
    _make(output)
    with (
        tempfile.TemporaryDirectory(prefix=staging_prefix(), dir=output) as temporary,
        progress_bar() as progress,
    ):
        found = find(run.work or Path(temporary))
        for text in found.skipped:
            complain(f"note: {text}")
        total, done = len(found.scans) + len(found.problems), list["Outcome"]()
        task = progress.add_task("segmenting", total=total)
        outcomes = segment_files(
            found.scans, output, model, options, write=write, cohort=cohort, problems=found.problems
        )
        try:
            for outcome in outcomes:
                progress.advance(task)
                done.append(outcome)
                _tell(outcome, f"{len(done)}/{total} " if total > 1 else "", run.debug)
        except OSError as error:
            complain(
                f"error: {output} cannot be written ({error.strerror or error}); make room or mend it, and "
                "run again: what was finished is kept"
            )
            return FAILED
    if write_group(output, pictures=write.report, participants=_participants(source)):
        describe_results(output, source=source)
    if len(done) > 1:
        typer.echo(f"{_summary(done)} -> {output}")
    return FAILED if any(outcome.status == "failed" for outcome in done) else OK


def _participants(source: Path | None) -> "dict[str, Row]":
    """Return what a data set says of its participants, nothing where it has no table that can be read."""
    from anystroke.core.tables import TableError
    from anystroke.io.participants import participants_by_id

    table = source / "participants.tsv" if source else None
    if table is None or not table.exists():
        return {}
    try:
        return participants_by_id(table)
    except TableError as error:
        complain(f"warning: the page of all scans has no columns of the participants: {error}")
        return {}


def _make(output: Path) -> None:
    """Make the output folder and see that it can be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise ArgumentError(
            f"--output: {output} cannot be written ({error.strerror}); name another folder"
        ) from error


def _tell(outcome: "Outcome", place: str, debug: bool) -> None:
    """Print what became of one scan, in a line of its own."""
    if tell_trouble(outcome, debug):
        return
    details = outcome.details
    for reason in details["reasons"]:
        complain(f"do not trust: {outcome.name}: {reason}")
    lesions = f"{details['lesions']} lesion{'' if details['lesions'] == 1 else 's'}"
    time = "was there" if outcome.status == "kept" else f"{details['seconds']:.1f} s"
    typer.echo(
        f"{place}{outcome.name}: {details['volume_ml']:.1f} ml, {lesions}, {time} -> {outcome.files[0]}"
    )


def _summary(outcomes: "Sequence[Outcome]") -> str:
    """Say in one line what became of all scans."""
    good = [outcome for outcome in outcomes if outcome.status != "failed"]
    counts = {
        "segmented": sum(outcome.status == "done" for outcome in good),
        "there before": sum(outcome.status == "kept" for outcome in good),
        "failed": len(outcomes) - len(good),
        "not to be trusted": sum(bool(outcome.details["reasons"]) for outcome in good),
    }
    parts = [f"{number} {what}" for what, number in counts.items() if number]
    if good:
        middle = statistics.median(outcome.details["volume_ml"] for outcome in good)
        parts.append(f"median {middle:.1f} ml")
    return f"{len(outcomes)} scan{'' if len(outcomes) == 1 else 's'}: {', '.join(parts)}"
