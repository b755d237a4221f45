"""Which mask belongs to which scan where file names alone tell: folders as people have them."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import write_table
from anystroke.io.folders import walk
from anystroke.io.formats import SCAN_SUFFIXES
from anystroke.io.names import image_stem

_MASK_WORDS = (
    *("mask", "masks", "lesion", "lesions", "lesionmask", "roi", "msk", "seg", "segmentation", "dseg"),
    *("label", "labels", "truth", "gt", "groundtruth", "manual", "stroke", "infarct", "annotation", "voi"),
)
_ENTITIES = re.compile(r"(?:^|(?<=_))(?:label|desc|space)-[A-Za-z0-9]+")
_JOINTS = re.compile(r"[^a-z0-9+]+")
_LISTED = 8

Words = tuple[str, ...]


class PairingError(AnystrokeError):
    """Scans and masks whose names do not go together; the message says which and what to do."""


@dataclass
class Pairing:
    """Scans and the masks that are named like them.

    Attributes:
        pairs: Scan and mask.
        without_mask: Scans that no mask is named like.
        without_scan: Masks that no scan is named like.
        unclear: Sentences on scans that several masks are named like.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    without_mask: list[Path] = field(default_factory=list)
    without_scan: list[Path] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    def named(self) -> list[tuple[str, Path, Path]]:
        """Return the pairs, each with the name of its scan, and of its folder where others are called so."""
        stems = Counter(image_stem(scan) for scan, _ in self.pairs)
        return [
            (stem if stems[stem] < 2 else f"{scan.parent.name}_{stem}", scan, mask)
            for scan, mask in self.pairs
            for stem in (image_stem(scan),)
        ]


def pairs_of_folders(scans: Path, masks: Path | None = None) -> Pairing:
    """Pair the images of two folders, or of one that holds both, by their names.

    Folders within count as parts of names. Of a mask's name, words such as ``mask`` and ``lesion`` do not
    count; what is left must be the beginning of the scan's name, word by word, or the other way round. So
    ``p1_lesion.nii`` is the mask of ``p1.nii``, ``p1_T2w.nii`` and ``p1_FLAIR.nii``, not of ``p10.nii``.

    Args:
        scans: Folder of scans; in one folder, images with such a word in their name are masks.
        masks: Folder of masks; None if they are among the scans.

    Raises:
        PairingError: A folder is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("p1_T2w", "p1_lesion", "p10_T2w"):
        ...     (folder / f"{name}.nii.gz").touch()
        >>> found = pairs_of_folders(folder)
        >>> [(scan.name, mask.name) for scan, mask in found.pairs], [scan.name for scan in found.without_mask]
        ([('p1_T2w.nii.gz', 'p1_lesion.nii.gz')], ['p10_T2w.nii.gz'])
    """
    images = _images(scans)
    if masks is not None and masks.resolve() != scans.resolve():
        drawn = {path: _without_mask_words(_words(path, masks)) for path in _images(masks)}
        inside = {path.resolve() for path in drawn}
        taken = {path: _words(path, scans) for path in images if path.resolve() not in inside}
    else:
        drawn = {path: _without_mask_words(_words(path, scans)) for path in images if is_mask_name(path)}
        taken = {path: _words(path, scans) for path in images if path not in drawn}
    return _paired(taken, drawn)


def is_mask_name(path: Path) -> bool:
    """Tell whether a file is named like a mask.

    Example:
        >>> is_mask_name(Path("p1-lesion.nii.gz")), is_mask_name(Path("p1_T2w.nii.gz"))
        (True, False)
    """
    return not set(_split(image_stem(path))).isdisjoint(_MASK_WORDS)


def write_pairs(pairing: Pairing, path: Path) -> list[str]:
    """Write pairs as a table of scans that `anystroke.io.labelled.find_labelled_scans` reads.

    Args:
        pairing: Scans without a mask become rows that say so.
        path: The table; its folder is made.

    Returns:
        Sentences on masks that no scan is named like.

    Raises:
        PairingError: There is no pair, or it is unclear which masks are meant.
    """
    if pairing.unclear:
        raise PairingError("; ".join(pairing.unclear))
    if not pairing.pairs:
        raise PairingError(
            f"no mask is named like a scan: scans are {_listed(pairing.without_mask)}, masks are "
            f"{_listed(pairing.without_scan)}; rename them alike, or write a table of image and mask"
        )
    rows = [
        {"name": name, "image": str(scan.resolve()), "mask": str(mask.resolve())}
        for name, scan, mask in pairing.named()
    ]
    rows += [
        {"name": image_stem(scan), "image": str(scan.resolve()), "mask": "n/a"}
        for scan in pairing.without_mask
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, ("name", "image", "mask"), rows)
    return [f"{mask} is left out: no scan is named like it" for mask in pairing.without_scan]


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise PairingError(f"expected a folder of images at {folder}, but there is none; check the path")
    return [path for path in walk(folder) if path.name.lower().endswith(SCAN_SUFFIXES)]


def _split(stem: str) -> list[str]:
    return [word for word in _JOINTS.split(stem.casefold()) if word]


def _words(path: Path, root: Path) -> Words:
    """Return the words of a path below a folder."""
    *folders, _ = path.relative_to(root).parts
    return tuple(word for part in (*folders, image_stem(path)) for word in _split(_ENTITIES.sub("", part)))


def _without_mask_words(words: Words) -> Words:
    return tuple(word for word in words if word not in _MASK_WORDS)


def _shared(scan: Words, mask: Words) -> int:
    """Return how many words a scan and a mask begin with, if one of them begins with all of the other's."""
    count = min(len(scan), len(mask))
    return count if scan[:count] == mask[:count] else 0


def _paired(scans: dict[Path, Words], masks: dict[Path, Words]) -> Pairing:
    found = Pairing()
    used = set()
    for scan, words in scans.items():
        shared = {mask: _shared(words, own) for mask, own in masks.items()}
        most = max(shared.values(), default=0)
        best = [mask for mask, count in shared.items() if count == most] if most else []
        exact = [mask for mask in best if masks[mask] == words]
        chosen = exact if len(exact) == 1 else best
        if len(chosen) > 1:
            found.unclear.append(
                f"{scan} may have {len(chosen)} masks: {_listed(chosen)}; leave one there, or write a table "
                "with the columns image and mask"
            )
        elif chosen:
            found.pairs.append((scan, chosen[0]))
        else:
            found.without_mask.append(scan)
        used |= set(chosen)
    found.without_scan += [mask for mask in masks if mask not in used]
    return found


def _listed(paths: Iterable[Path]) -> str:
    names = [path.name for path in paths]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more if names else "none"
