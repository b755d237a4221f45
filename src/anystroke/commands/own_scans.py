"""Scans with masks of one's own, as verbs take them: paired, looked at, and told of."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anystroke.commands.common import ArgumentError, complain

if TYPE_CHECKING:
    from anystroke.io.labelled_checks import CheckedScan

PAIRS = "pairs.tsv"
"""Table of scans and the masks that were found for them."""


def paired_sources(data: Sequence[Path], masks: Path | None, folder: Path) -> list[Path]:
    """Return data sets of scans; of a folder of scans and one of masks it is a table of pairs.

    Args:
        data: The data sets.
        masks: Folder of masks of the only one; None if masks are among the scans.
        folder: Gets the table.

    Raises:
        ArgumentError: There are several data sets.
        PairingError: Names do not go together.
    """
    if masks is None:
        return list(data)
    if len(data) != 1:
        raise ArgumentError("--masks are those of one folder of scans; name one folder")
    from anystroke.io.pairing import pairs_of_folders, write_pairs

    for sentence in write_pairs(pairs_of_folders(data[0], masks), folder / PAIRS):
        complain(f"warning: {sentence}")
    return [folder / PAIRS]


def looked_at(sources: Sequence[Path]) -> "list[CheckedScan]":
    """Find and look at all scans with masks, and print a line of each.

    Raises:
        LabelledScanError: One of them cannot be used.
    """
    from anystroke.io.labelled import check_names, find_labelled_scans
    from anystroke.io.labelled_checks import check_labelled_scans

    scans = [scan for source in sources for scan in find_labelled_scans(source)]
    check_names(scans)
    return check_labelled_scans(scans, on_scan=lambda each: typer.echo(str(each)))
