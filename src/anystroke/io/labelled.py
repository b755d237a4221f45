"""Scans with a mask of their lesion: found in a BIDS data set, an nnU-Net raw folder or a table, and read."""

import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import check_columns, read_cells
from anystroke.core.volume import Grid, Volume, VolumeError
from anystroke.io.bids import pair_lesions
from anystroke.io.folders import folders_in, walk
from anystroke.io.inputs import is_image_name, usable_scan
from anystroke.io.kinds import reason_by_name, sidecar_of
from anystroke.io.names import image_stem
from anystroke.io.pairing import is_mask_name, pairs_of_folders

TABLES = ("pairs.tsv", "samples.tsv")
"""Tables that make a folder a data set: those of pseudo-labels and of simulated scans."""

_LESION_WORDS = ("lesion", "lesions", "stroke", "infarct", "infarction", "ischemia", "ischaemia")
_MISSING = ("", "n/a")
_LISTED = 30


class LabelledScanError(AnystrokeError):
    """A data set or a pair that cannot be used; the message says which, why and what to do."""


class LabelledScanWarning(UserWarning):
    """Scans that are left out."""


@dataclass(frozen=True)
class LabelledScan:
    """A scan and the mask of its lesion, on one grid.

    Attributes:
        name: Identifier, unlike all others of its data set.
        image: File of the scan.
        mask: File of the mask or of a label map.
        brain: File of a brain mask, where there is one.
        lesion_label: The lesion's number in the mask.
        labels: All numbers that the mask may hold; None for any whole numbers.
    """

    name: str
    image: Path
    mask: Path
    brain: Path | None = None
    lesion_label: int = 1
    labels: tuple[int, ...] | None = (0, 1)

    def load(self) -> tuple[Volume, Volume, Volume | None]:
        """Read and check the files.

        Returns:
            The scan, float32; its lesion, uint8 0 and 1; its brain, uint8 0 and 1, if there is such a file.
            An empty lesion is allowed.

        Raises:
            LabelledScanError: A file cannot be read, the image has voxels that are not finite, the mask holds
                other values than ``labels``, or the grids differ.

        Example:
            >>> scan.load()[1].data.unique()  # doctest: +SKIP
            tensor([0, 1], dtype=torch.uint8)
        """
        try:
            image = usable_scan(Volume.load(self.image), str(self.image))
            lesion = self._read_labels(self.mask, image, self.labels)
            brain = None if self.brain is None else self._read_labels(self.brain, image, None)
        except VolumeError as error:
            raise LabelledScanError(f"{self.name}: {error}") from error
        if bad := int((~torch.isfinite(image.data)).sum()):
            raise LabelledScanError(
                f"{self.name}: {self.image} has {bad} voxels that are NaN or infinite, expected finite ones; "
                f"repair it or leave it out"
            )
        inside = None if brain is None else Volume((brain.data > 0).to(torch.uint8), brain.affine)
        return image, Volume((lesion.data == self.lesion_label).to(torch.uint8), lesion.affine), inside

    def _read_labels(self, path: Path, image: Volume, labels: tuple[int, ...] | None) -> Volume:
        found = Volume.load(path)
        if difference := image.grid.difference(found.grid):
            raise LabelledScanError(
                f"{self.name}: {self.image} and {path} are on different grids ({difference}); resample one"
            )
        # Programs that scale what they store write 0.9999 for 1.
        whole = found.data.round()
        if not bool(((whole - found.data).abs() < 1e-3).all()):
            raise LabelledScanError(
                f"{self.name}: {path} holds values that are not whole numbers; threshold it"
            )
        values = [int(value) for value in torch.unique(whole).tolist()]
        if labels is not None and not set(values) <= set(labels):
            raise LabelledScanError(
                f"{self.name}: {path} holds the values {_listed(map(str, values))}, expected "
                f"{_listed(map(str, labels))}; name the lesion's number in the column 'label' of a table"
            )
        return Volume(whole, found.affine)


def find_labelled_scans(source: str | Path) -> list[LabelledScan]:
    """Find the scans with lesion masks of a data set.

    Known are a BIDS data set (a folder with ``sub-*``; see `anystroke.io.bids.pair_lesions`), a raw
    folder of nnU-Net (``dataset.json``; each channel is a scan), what ``anystroke simulate`` and
    ``anystroke pseudo-label`` write, a folder with masks beside scans (`anystroke.io.pairing`),
    and a table: a .tsv or .csv file with columns ``image`` and ``mask``
    and, if wanted, ``name``, ``brain``, ``label`` (the lesion's number in the mask) and ``kept`` (yes or no),
    its paths relative to the table. Headers alone are read; `LabelledScan.load` looks at the voxels.

    Args:
        source: The folder or the table.

    Returns:
        The scans, sorted by name.

    Raises:
        LabelledScanError: The data set is none of these or is empty, a file is missing, image and mask are on
            different grids, or two scans have the same name; all that is wrong is listed.
        TableError: The table is damaged, or lacks a column.

    Warns:
        LabelledScanWarning: Lists the images that have no mask.

    Example:
        >>> [scan.name for scan in find_labelled_scans("ds004884")][:2]  # doctest: +SKIP
        ['sub-M2001_ses-1_T2w', 'sub-M2002_ses-1_T2w']
    """
    source = Path(source)
    scans, left_out, problems = _reader(source)(source)
    problems += [problem for scan in scans if (problem := _problem(scan)) is not None]
    if problems:
        raise LabelledScanError(
            f"{source} has {len(problems)} pairs or files that cannot be used: " + _listed(problems, "; ")
        )
    skipped = _listed(f"{image_stem(image)} ({reason})" for image, reason in left_out)
    if not scans:
        raise LabelledScanError(
            f"expected scans with lesion masks in {source}, but there are none; "
            + (f"left out are {skipped}" if skipped else "check the path and the names of the files")
        )
    check_names(scans)
    if left_out:
        total = len(left_out) + len(scans)
        warnings.warn(
            f"{len(left_out)} of {total} images in {source} are left out: {skipped}",
            LabelledScanWarning,
            stacklevel=2,
        )
    return sorted(scans, key=lambda scan: scan.name)


def check_names(scans: Iterable[LabelledScan]) -> None:
    """Make sure that each scan has a name of its own, whatever its case, that can be a file's.

    Raises:
        LabelledScanError: Two scans have the same name, or a name cannot be a file's.
    """
    seen: dict[str, LabelledScan] = {}
    for scan in scans:
        if not re.fullmatch(r"[^/\\.][^/\\\x00-\x1f]*", scan.name):
            raise LabelledScanError(
                f"the name of {scan.image} cannot be that of a file: {scan.name!r}; "
                f"write another in the table"
            )
        other = seen.setdefault(scan.name.casefold(), scan)
        if other is not scan:
            raise LabelledScanError(
                f"two scans are called {scan.name!r}: {other.image} and {scan.image}; "
                f"name each in the column 'name' of a table"
            )


_Found = tuple[list[LabelledScan], list[tuple[Path, str]], list[str]]


def _reader(source: Path) -> Callable[[Path], _Found]:
    """Find out what kind of data set it is."""
    if source.is_file() and source.suffix.lower() in (".tsv", ".csv"):
        return _read_table
    if not source.is_dir():
        raise LabelledScanError(
            f"expected a folder or a .tsv or .csv table at {source}, but there is none; check the path"
        )
    if (source / "dataset.json").is_file():
        return _read_nnunet
    for name in TABLES:
        if (source / name).is_file():
            return lambda folder: _read_table(folder / name)
    if folders_in(source, "sub-"):
        return _read_bids
    if any(is_mask_name(path) for path in walk(source) if is_image_name(path)):
        return _read_folder
    raise LabelledScanError(
        f"{source} is no data set of a known kind: expected folders sub-* (BIDS), dataset.json (nnU-Net), "
        f"one of {', '.join(TABLES)}, or masks beside scans, such as p1_T2w.nii.gz and p1_lesion.nii.gz; "
        "name the folder of the masks with --masks, or write a table with the columns image and mask"
    )


def _problem(scan: LabelledScan) -> str | None:
    """Say what is wrong with a pair as far as headers tell."""
    try:
        grid = Grid.of_file(scan.image)
        if grid.count > 1:
            return f"{scan.image} holds {grid.count} volumes, expected one"
        for path in (scan.mask, scan.brain):
            if path is not None and (difference := grid.difference(Grid.of_file(path))):
                return f"{scan.image} and {path} are on different grids ({difference})"
    except VolumeError as error:
        return str(error)
    return None


def _read_bids(folder: Path) -> _Found:
    found = pair_lesions(folder)
    scans = [LabelledScan(image_stem(image), image, mask, brain) for image, mask, brain in found.pairs]
    return scans, found.left_out, found.problems


def _read_folder(folder: Path) -> _Found:
    """Pair scans with the masks beside them by their names."""
    found = pairs_of_folders(folder)
    scans: list[LabelledScan] = []
    left_out = [(path, "no mask is named like it") for path in found.without_mask]
    left_out += [(path, "a mask that no scan is named like") for path in found.without_scan]
    for name, image, mask in found.named():
        if reason := reason_by_name(image, sidecar_of(image)):
            left_out.append((image, reason))
        else:
            scans.append(LabelledScan(name, image, mask))
    return scans, left_out, found.unclear


def _read_table(path: Path) -> _Found:
    columns, rows = read_cells(path)
    check_columns(path, columns, ("image", "mask"))
    scans: list[LabelledScan] = []
    left_out: list[tuple[Path, str]] = []
    problems: list[str] = []
    for number, cells in rows:
        image, mask, brain, label = (
            None if cells.get(key, "") in _MISSING else cells[key]
            for key in ("image", "mask", "brain", "label")
        )
        if cells.get("kept", "yes").casefold() in ("no", "false", "0"):
            continue
        if image is None:
            problems.append(f"line {number} names no image")
        elif mask is None:
            left_out.append((Path(image), "no mask in the table"))
        elif reason := reason_by_name(Path(image), sidecar_of(path.parent / image)):
            left_out.append((Path(image), reason))
        elif label is not None and not label.isdecimal():
            problems.append(f"line {number} has the label {label!r}, expected a whole number")
        else:
            name = cells.get("name", "")
            scans.append(
                LabelledScan(
                    name=image_stem(image) if name in _MISSING else name,
                    image=path.parent / image,
                    mask=path.parent / mask,
                    brain=None if brain is None else path.parent / brain,
                    lesion_label=1 if label is None else int(label),
                    labels=(0, 1) if label is None else None,
                )
            )
    return scans, left_out, problems


def _read_nnunet(folder: Path) -> _Found:
    description = folder / "dataset.json"
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        ending = str(content.get("file_ending", ".nii.gz"))
        labels = {str(name): value for name, value in content["labels"].items()}
        channels = len(content.get("channel_names", content.get("modality", [])))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise LabelledScanError(f"{description} does not describe an nnU-Net data set ({error!r})") from error
    lesion, known = _lesion_label(labels, description)
    images: dict[str, list[Path]] = {}
    for path in sorted((folder / "imagesTr").glob(f"[!.]*_[0-9][0-9][0-9][0-9]{ending}")):
        images.setdefault(path.name[: -len(ending) - 5], []).append(path)
    masks = {path.name[: -len(ending)]: path for path in sorted((folder / "labelsTr").glob(f"[!.]*{ending}"))}
    scans, problems = [], []
    for case, mask in masks.items():
        files = images.get(case, [])
        if len(files) < max(channels, 1):
            problems.append(f"{mask} has {len(files)} of {max(channels, 1)} images in {folder / 'imagesTr'}")
        scans += [LabelledScan(image_stem(path), path, mask, None, lesion, known) for path in files]
    left_out = [
        (path, "no label map") for case, files in images.items() if case not in masks for path in files
    ]
    return scans, left_out, problems


def _lesion_label(labels: dict[str, Any], description: Path) -> tuple[int, tuple[int, ...]]:
    """Find the number of the lesion by its name, and all numbers."""
    if labels and all(name.isdecimal() for name in labels):  # version 1: number -> name
        labels = {str(value): int(name) for name, value in labels.items()}
    lesions = [name for name in labels if set(re.split(r"[^a-z]+", name.casefold())) & set(_LESION_WORDS)]
    if len(lesions) != 1 or not all(isinstance(value, int) for value in labels.values()):
        raise LabelledScanError(
            f"{description}: expected one label with a name like 'lesion' or 'stroke' and a whole number for "
            f"each label, got {labels}; rename the lesion or write a table with the column label"
        )
    if "ignore" in labels:
        raise LabelledScanError(
            f"{description}: labels to be ignored are not supported; leave out their cases"
        )
    return int(labels[lesions[0]]), tuple(labels.values())


def _listed(parts: Iterable[str], separator: str = ", ") -> str:
    """Join what is to be listed, up to a readable number."""
    items = list(parts)
    more = f"{separator}and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return separator.join(items[:_LISTED]) + more
