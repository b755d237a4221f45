"""Label maps and lesion masks in the compact form that training reads."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from anystroke.anatomy.lesions.bank import load_lesion_mask, pack_mask, unpack_mask
from anystroke.anatomy.lesions.made_up import blob_bank
from anystroke.anatomy.registration.affine import stored_registration
from anystroke.anatomy.tissues.anatomies import PACKED_FOR, build_anatomy, pack_anatomy
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
    with _one_torch_thread():
        anatomies, masks = _anatomies(data, known, on_patient), _masks(data, known, on_patient)
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
    unseen = [a for a in anatomies if a.name in data.held_out_anatomies] or own
    seen = [a for a in anatomies if a.name not in data.held_out_anatomies] + own
    masks = masks + made_up
    if not seen or not masks:
        raise DatasetError(
            f"expected anatomies and lesion masks to train on, got {len(seen)} and {len(masks)}; "
            "name their folders in data.anatomies and data.lesions, or set data.package"
        )
    masks = [m for m in masks if unpack_mask(m).volume_ml <= data.largest_lesion_ml]
    held = [is_held_out(m.name, data.held_out_lesions, data.split) for m in masks]
    return {
        "anatomies": first_of(seen, data),
        "held_out_anatomies": unseen,
        "lesions": first_of([m for m, out in zip(masks, held, strict=True) if not out], data),
        "held_out_lesions": [m for m, out in zip(masks, held, strict=True) if out],
    }


def first_of(entries: Sequence[Named], data: DataSettings) -> list[Named]:
    """Return the share of entries that is trained on, at least one, in the order that they had.

    Args:
        entries: Patients, each with a name.
        data: Says which share; its split names the order in which they are chosen.
    """
    if data.share == 1:
        return list(entries)

    def place(entry: Named) -> bytes:
        return hashlib.sha256(f"{data.split}\n{entry.name}".encode()).digest()

    count = max(round(data.share * len(entries)), 1)
    chosen = {entry.name for entry in sorted(entries, key=place)[:count]}
    return [entry for entry in entries if entry.name in chosen]


def _anatomies(data: DataSettings, known: Mapping[str, PackEntry], on_patient: OnPatient) -> list[PackEntry]:
    def prepare(path: Path) -> PackEntry:
        registration = stored_registration(path)
        source = _source(path, registration.sha256, str(registration.affine.tolist()))
        if source in known:
            return known[source]
        labels = Volume.load(path, dtype=None)
        anatomy = build_anatomy(labels, SYNTHSEG, registration.affine, name=image_stem(path))
        return pack_anatomy(anatomy, source)

    paths = [path for source in data.anatomies for path in images_in(source)]
    return [entry for entry in _in_order(prepare, paths, "label maps", on_patient) if entry]


def _masks(data: DataSettings, known: Mapping[str, PackEntry], on_patient: OnPatient) -> list[PackEntry]:
    def prepare(path: Path) -> PackEntry | None:
        source = _source(path, sha256(path))
        if source in known:
            return known[source]
        try:
            return pack_mask(load_lesion_mask(path), source)
        except ValueError as error:
            log.warning("%s", error)
            return None

    paths = [path for source in data.lesions for path in images_in(source)]
    return [entry for entry in _in_order(prepare, paths, "lesion masks", on_patient) if entry]


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
