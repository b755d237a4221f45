"""Patients with everything that is known of them, ready to learn from or to predict."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.arrays import Array
from anystroke.tasks.outcome.features import Measured, measure_lesions
from anystroke.tasks.outcome.masks import (
    FoundFiles,
    Lesion,
    check_sides,
    find_files,
    load_lesion,
    scan_in_mni,
)
from anystroke.tasks.outcome.table import Column, OutcomeError, PatientTable, encode, first_few

_SIDE_COLUMNS = ("lesion_side", "side", "hemisphere", "lesion_hemisphere", "stroke_side")


@dataclass(frozen=True, eq=False)
class OutcomeCohort:
    """Patients.

    Attributes:
        ids: Of the patients.
        columns: float64 (patients, features of the table), NaN where not known.
        column_names: Of these features.
        target: float64 (patients,), numbers or classes from 0; NaN where not known.
        lesions: Of the patients; empty without masks.
        measured: Of the lesions; None without masks.
        images: Files of scans, empty without.
    """

    ids: tuple[str, ...]
    columns: Array
    column_names: tuple[str, ...]
    target: Array
    lesions: tuple[Lesion, ...] = ()
    measured: Measured | None = None
    images: tuple[Path, ...] = ()

    def rows(self, index: Sequence[int] | Array) -> "OutcomeCohort":
        """Return some of the patients."""
        chosen = np.asarray(index, dtype=np.int64)
        return replace(
            self,
            ids=tuple(self.ids[k] for k in chosen),
            columns=self.columns[chosen],
            target=self.target[chosen],
            lesions=tuple(self.lesions[k] for k in chosen) if self.lesions else (),
            measured=self.measured.rows(chosen) if self.measured else None,
            images=tuple(self.images[k] for k in chosen) if self.images else (),
        )


@dataclass(frozen=True)
class Files:
    """Where images of patients are.

    Attributes:
        masks: Folder of lesion masks.
        images: Folder of scans.
        atlas: Whose regions are measured too.
        skip_missing: Leave patients out whose mask or scan is missing or cannot be used, instead of stopping.
    """

    masks: Path | None = None
    images: Path | None = None
    atlas: Atlas | None = None
    skip_missing: bool = False


def gather(
    table: PatientTable,
    columns: Sequence[Column],
    target: Callable[[PatientTable], Array],
    files: Files,
    *,
    sees_scans: bool,
    notes: list[str],
    progress: Callable[[], None] = lambda: None,
) -> OutcomeCohort:
    """Read masks and scans of the patients of a table.

    Args:
        table: Of patients.
        columns: To predict from.
        target: Reads the target of a table.
        files: Where images are.
        sees_scans: Whether something is predicted from the scans, so that all of them are registered.
        notes: Sentences about what was left out are added.
        progress: Called after each patient with a mask or scan.

    Raises:
        OutcomeError: A mask or scan is missing or cannot be used and ``files.skip_missing`` is not set; or
            there is none that can be used.
    """
    masks = find_files(files.masks, table.ids, masks=True) if files.masks else FoundFiles()
    images = find_files(files.images, table.ids, masks=False) if files.images else FoundFiles()
    notes += [*masks.notes, *images.notes]
    table = _complete(table, files, masks, images, notes)
    encode(table, columns)  # refuses what is wrong with the table before hours of images
    table, lesions = _opened(table, masks.files, images.files, files, sees_scans, notes, progress)
    measured = None
    if files.masks:
        _check_sides(table, lesions)
        empty = [each for each, lesion in zip(table.ids, lesions, strict=True) if not len(lesion.voxels)]
        if empty:
            notes.append(f"{len(empty)} masks are empty ({first_few(empty)}), which counts as no lesion")
        measured = measure_lesions(lesions, files.atlas)
    names = tuple(name for column in columns for name in column.features)
    scans = tuple(images.files[each] for each in table.ids) if files.images else ()
    return OutcomeCohort(table.ids, encode(table, columns), names, target(table), lesions, measured, scans)


def _complete(
    table: PatientTable, files: Files, masks: FoundFiles, images: FoundFiles, notes: list[str]
) -> PatientTable:
    """Leave out the patients without mask or scan, or stop."""
    wanted = [kind for kind, folder in ((masks, files.masks), (images, files.images)) if folder]
    missing = [each for each in table.ids if any(each not in kind.files for kind in wanted)]
    if not missing:
        return table
    kinds = " or ".join(word for word, folder in (("mask", files.masks), ("image", files.images)) if folder)
    reasons = {**images.reasons, **masks.reasons}
    shown = [f"{each} ({reasons[each]})" if each in reasons else each for each in missing]
    # Those that have a file are what a user can mend.
    shown.sort(key=lambda text: "(" not in text)
    counted = f"{len(missing)} of {len(table.ids)} patients have no {kinds}: {first_few(shown, 12)}"
    if not files.skip_missing:
        raise OutcomeError(f"{counted}; add them, or leave these patients out with --skip-missing")
    if len(missing) == len(table.ids):
        why = f" ({next(iter(reasons.values()))})" if reasons else ""
        raise OutcomeError(
            f"none of the {len(table.ids)} ids of {table.source} has a {kinds}{why}; check the names"
        )
    notes.append(f"{counted}; they are left out")
    gone = set(missing)
    return table.only([each for each in table.ids if each not in gone])


def _opened(
    table: PatientTable,
    masks: Mapping[str, Path],
    images: Mapping[str, Path],
    files: Files,
    sees_scans: bool,
    notes: list[str],
    progress: Callable[[], None],
) -> tuple[PatientTable, tuple[Lesion, ...]]:
    """Load masks and register scans, and leave out the patients with any that cannot be used, or stop."""
    failed: dict[str, str] = {}

    def opened(each: str) -> Lesion | None:
        try:
            if sees_scans and each in images:
                scan_in_mni(images[each])
            return load_lesion(masks[each], images.get(each)) if each in masks else None
        except OutcomeError as error:
            if not files.skip_missing:
                raise OutcomeError(f"{error}; --skip-missing leaves such patients out") from None
            failed[each] = str(error)
            return None
        finally:
            progress()

    if not masks and not (sees_scans and images):
        return table, ()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(opened, table.ids))
    if len(failed) == len(table.ids):
        raise OutcomeError(f"no mask or scan can be used: {next(iter(failed.values()))}")
    if failed:
        shown = first_few([f"{each} ({failed[each]})" for each in table.ids if each in failed])
        notes.append(f"{len(failed)} of {len(table.ids)} patients are left out: {shown}")
        table = table.only([each for each in table.ids if each not in failed])
    return table, tuple(lesion for lesion in found if lesion is not None)


def _check_sides(table: PatientTable, lesions: Sequence[Lesion]) -> None:
    column = next((name for name in table.columns if name.lower() in _SIDE_COLUMNS), None)
    if column is None:
        return
    said = dict(zip(table.ids, table.cells(column), strict=True))
    wrong = check_sides(dict(zip(table.ids, lesions, strict=True)), said)
    if wrong:
        raise OutcomeError(
            f"the masks of {len(wrong)} patients ({first_few(wrong)}) lie on the other side than {column} "
            "says; check "
            "whether left and right are exchanged"
        )
