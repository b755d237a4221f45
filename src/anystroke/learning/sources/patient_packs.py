"""Label maps and lesion masks in the compact form that training reads."""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from anystroke.anatomy.lesions.bank import load_lesion_mask, pack_mask, unpack_mask
from anystroke.anatomy.lesions.made_up import blob_bank
from anystroke.anatomy.lesions.mni_box import why_outside
from anystroke.anatomy.registration.affine import (
    POOR_DICE,
    RegistrationError,
    registration_of,
    stored_registration,
)
from anystroke.anatomy.tissues.anatomies import PACKED_FOR, build_anatomy, pack_anatomy
from anystroke.anatomy.tissues.label_maps import label_map_problem, load_label_map
from anystroke.anatomy.tissues.labels import SYNTHSEG
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.files import sha256
from anystroke.core.packs import PackEntry, PackError, read_pack, write_pack
from anystroke.core.volume import Volume
from anystroke.io.datasets import DatasetError, images_in, is_held_out
from anystroke.io.names import image_stem
from anystroke.learning.recipe import DataSettings

log = logging.getLogger(__name__)

OnPatient = Callable[[str, int, int], None]
"""Told what is packed, how many of it are done, and of how many."""

_BLOB_SEED = 20260101
# Raised with each change of what is made of the same input.
_VERSION = "1"
_MOST_THREADS = 8
# A registration takes all cores by itself.
_REGISTERING = threading.Lock()

Item = TypeVar("Item")


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_HasName)


def pack_patients(
    data: DataSettings, folder: Path, on_patient: OnPatient = lambda *_: None
) -> dict[str, list[str]]:
    """Bring label maps and lesion masks into four compact files; what is there of unchanged inputs is kept.

    Files are read in threads, one for each core. Each of the four files is written whole or not at all.
    Where no inputs are named or their folders are gone, files that are there stay as they are.

    Args:
        data: The inputs, and which of them are held out.
        folder: Gets ``anatomies``, ``lesions`` and the ``held_out_`` part of each as safetensors.
        on_patient: Told how far it got.

    Returns:
        Names in each file.

    Raises:
        DatasetError: An input is missing, there is nothing to train on, or a file that is there was packed by
            another version; the message says what to do.
    """
    files = {
        name: folder / f"{name}.safetensors"
        for name in ("anatomies", "held_out_anatomies", "lesions", "held_out_lesions")
    }
    there = {name: _read(name, path) for name, path in files.items() if path.exists()}
    gone = [str(f) for f in (*data.anatomies, *data.lesions) if not f.is_dir()]
    named = bool(data.anatomies or data.lesions or data.package)
    if len(there) == len(files) and (gone or not named):
        if gone:
            log.warning("%s is not there, so what was packed before is used as it is", ", ".join(gone))
            if data.share < 1:
                log.warning("data.share = %g chooses nothing among what was packed before", data.share)
        return {name: [entry.name for entry in entries] for name, entries in there.items()}
    known = {entry.source: entry for entries in there.values() for entry in entries}
    _check_folders(data)
    with _one_torch_thread():
        masks = _masks(data, known, on_patient)
        _check_label_maps(data)
        anatomies = _anatomies(data, known, on_patient)
    own, made_up = _made_up(data.package, known) if data.package else ([], [])
    wanted = _split(data, anatomies, masks, own, made_up)
    for name, path in files.items():
        have = [entry.source for entry in there.get(name, ())]
        if name not in there or have != [entry.source for entry in wanted[name]]:
            _write(name, wanted[name], path)
    return {name: [entry.name for entry in entries] for name, entries in wanted.items()}


def _made_up(count: int, known: Mapping[str, PackEntry]) -> tuple[list[PackEntry], list[PackEntry]]:
    """Return the package's own anatomy and made-up lesions."""
    template = f"package {_VERSION}"
    sources = [f"made up {_VERSION} {_BLOB_SEED} {k}" for k in range(count)]
    own = known[template] if template in known else pack_anatomy(mni_anatomy(), template)
    if all(source in known for source in sources):
        return [own], [known[source] for source in sources]
    blobs = blob_bank(count, seed=_BLOB_SEED)
    return [own], [pack_mask(mask, source) for mask, source in zip(blobs, sources, strict=True)]


def _split(
    data: DataSettings,
    anatomies: list[PackEntry],
    masks: list[PackEntry],
    own: list[PackEntry],
    made_up: list[PackEntry],
) -> dict[str, list[PackEntry]]:
    """Say which entries go to which file; what is made up is held out where nothing else is."""
    seen = [a for a in anatomies if a.name not in data.held_out_anatomies] + own
    unseen = [a for a in anatomies if a.name in data.held_out_anatomies] or own
    if len(seen) == 1:
        unseen = unseen or seen
    masks = masks + made_up
    if not seen or not masks:
        raise DatasetError(
            f"expected anatomies and lesion masks to train on, got {len(seen)} and {len(masks)}; "
            "name their folders in data.anatomies and data.lesions, or set data.package"
        )
    masks = [m for m in masks if unpack_mask(m).volume_ml <= data.largest_lesion_ml]
    held = _held_out([m.name for m in masks], data)
    return {
        "anatomies": first_of(seen, data),
        "held_out_anatomies": unseen,
        "lesions": first_of([m for m, out in zip(masks, held, strict=True) if not out], data),
        "held_out_lesions": [m for m, out in zip(masks, held, strict=True) if out],
    }


def _held_out(names: Sequence[str], data: DataSettings) -> list[bool]:
    """Say which masks are held out; of few masks at least one, if any are to be."""
    held = [is_held_out(name, data.held_out_lesions, data.split) for name in names]
    if any(held) or not data.held_out_lesions or len(names) < 2:
        return held
    first = min(names, key=lambda name: _place(name, data))
    return [name == first for name in names]


def _place(name: str, data: DataSettings) -> bytes:
    return hashlib.sha256(f"{data.split}\n{name}".encode()).digest()


def with_held_out_anatomies(data: DataSettings) -> DataSettings:
    """Hold out a seventh of the label maps, at least one, if none of those named is among them.

    Args:
        data: What a run is to be judged on too.

    Returns:
        The same with the names, if there are two label maps or more and the package's own are not used.

    Example:
        >>> with_held_out_anatomies(DataSettings(package=20)).held_out_anatomies
        ()
    """
    if data.package or not all(folder.is_dir() for folder in data.anatomies):
        return data
    names = [image_stem(path) for folder in data.anatomies for path in images_in(folder)]
    if len(names) < 2 or set(names) & set(data.held_out_anatomies):
        return data
    chosen = sorted(names, key=lambda name: _place(name, data))[: max(1, len(names) // 7)]
    return data.model_copy(update={"held_out_anatomies": tuple(sorted(chosen))})


def first_of(entries: Sequence[Named], data: DataSettings) -> list[Named]:
    """Return the share of entries that is trained on, at least one, in the order that they had.

    Args:
        entries: Patients, each with a name.
        data: Says which share; its split names the order in which they are chosen.
    """
    if data.share == 1:
        return list(entries)

    count = max(round(data.share * len(entries)), 1)
    chosen = {entry.name for entry in sorted(entries, key=lambda entry: _place(entry.name, data))[:count]}
    return [entry for entry in entries if entry.name in chosen]


def _check_folders(data: DataSettings) -> None:
    """Refuse data folders that are not there."""
    if missing := [str(folder) for folder in (*data.anatomies, *data.lesions) if not folder.is_dir()]:
        raise DatasetError(
            f"expected label maps and lesion masks in {', '.join(missing)}, as the recipe says, but there is "
            "no such folder; name yours with --anatomies DIR and --lesions DIR, or use the package's own "
            "brain and made-up lesions with --override data.anatomies=[] --override data.lesions=[] "
            "--override data.package=200"
        )


def _check_label_maps(data: DataSettings) -> None:
    """Look at all label maps that are not known to the package before the first is registered."""
    paths = [path for folder in data.anatomies for path in images_in(folder)]
    problems = [problem for path in paths if not _is_stored(path) and (problem := label_map_problem(path))]
    if problems:
        raise DatasetError(
            f"{len(problems)} of {len(paths)} label maps cannot be used: " + "; ".join(problems)
        )


def _is_stored(path: Path) -> bool:
    try:
        stored_registration(path)
    except RegistrationError:
        return False
    return True


def _anatomies(data: DataSettings, known: Mapping[str, PackEntry], on_patient: OnPatient) -> list[PackEntry]:
    def prepare(path: Path) -> PackEntry:
        if not _is_stored(path):
            return _own_anatomy(path, known)
        registration = stored_registration(path)
        source = _source(path, registration.sha256, str(registration.affine.tolist()))
        if source in known:
            return known[source]
        labels = Volume.load(path, dtype=None)
        anatomy = build_anatomy(labels, SYNTHSEG, registration.affine, name=image_stem(path))
        return pack_anatomy(anatomy, source)

    paths = [path for source in data.anatomies for path in images_in(source)]
    return [entry for entry in _in_order(prepare, paths, "label maps", on_patient) if entry]


def _own_anatomy(path: Path, known: Mapping[str, PackEntry]) -> PackEntry:
    """Pack a label map that has to be registered to MNI space."""
    source = _source(path, sha256(path), "registered")
    if source in known:
        return known[source]
    labels, scheme = load_label_map(path)
    with _REGISTERING:
        registration, note = registration_of(path, labels, scheme)
    log.log(logging.WARNING if registration.brain_dice < POOR_DICE else logging.INFO, "%s", note)
    return pack_anatomy(build_anatomy(labels, scheme, registration.affine, name=image_stem(path)), source)


def _masks(data: DataSettings, known: Mapping[str, PackEntry], on_patient: OnPatient) -> list[PackEntry]:
    def prepare(path: Path) -> PackEntry | None:
        source = _source(path, sha256(path))
        if source in known:
            return known[source]
        try:
            mask = load_lesion_mask(path)
        except ValueError as error:
            log.warning("%s", error)
            return None
        if reason := why_outside(mask):
            outside.append(path.name)
            log.warning("%s is left out: %s", path, reason)
            return None
        return pack_mask(mask, source)

    outside: list[str] = []
    paths = [path for source in data.lesions for path in images_in(source)]
    found = [entry for entry in _in_order(prepare, paths, "lesion masks", on_patient) if entry]
    if len(outside) > len(found):
        raise DatasetError(
            f"expected lesion masks in MNI space, but {len(outside)} of {len(paths)} lie elsewhere, such as "
            f"{min(outside)}; bring them to MNI152 (scans and masks of one patient each go to 'finetune')"
        )
    return found


def _source(path: Path, *parts: str) -> str:
    return hashlib.sha256("\n".join((_VERSION, path.name, *parts)).encode()).hexdigest()


def _in_order(
    prepare: Callable[[Path], Item], paths: Sequence[Path], what: str, on_patient: OnPatient
) -> Iterator[Item]:
    """Prepare files in threads; a failure or an interruption stops those that have not begun."""
    pool = ThreadPoolExecutor(min(_cores(), _MOST_THREADS), thread_name_prefix="packing")
    try:
        for done, item in enumerate(pool.map(prepare, paths), 1):
            on_patient(what, done, len(paths))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(name: str, path: Path) -> list[PackEntry]:
    try:
        if "lesions" in name:
            return read_pack(path, kind="lesions")
        return read_pack(path, kind="anatomies", about=PACKED_FOR)
    except PackError as error:
        raise DatasetError(str(error)) from error


def _write(name: str, entries: Sequence[PackEntry], path: Path) -> None:
    if "lesions" in name:
        write_pack(entries, path, kind="lesions")
    else:
        write_pack(entries, path, kind="anatomies", about=PACKED_FOR)
