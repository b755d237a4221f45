"""Find the scans of a BIDS data set and the lesion mask of each.

Masks lie beside the scans or in ``derivatives``. Published data sets name them in several ways:
``label-L_mask`` (BIDS), ``label-lesion_roi`` (BIDS before 1.4), ``desc-lesion_mask`` (derivatives on
OpenNeuro), ``msk`` (the ISLES challenges).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from anystroke.core.volume import SUFFIXES, Grid, VolumeError
from anystroke.io.folders import walk
from anystroke.io.kinds import reason_by_name, sidecar_of
from anystroke.io.names import Name

IMAGE_SUFFIXES = (
    *(
        "T1w",
        "T2w",
        "FLAIR",
        "PDw",
        "PDT2",
        "T2starw",
        "MTw",
        "UNIT1",
        "inplaneT1",
        "inplaneT2",
        "SWI",
        "swi",
    ),
    *("dwi", "trace", "TRACE", "ADC", "adc"),
)
"""Last parts of the names of what counts as a scan."""

_LOWER_SUFFIXES = {suffix.casefold() for suffix in IMAGE_SUFFIXES}
_DATA_TYPES = ("anat", "dwi", "swi")


@dataclass(frozen=True)
class _Image:
    """An image file: what its name says, and its grid."""

    name: Name

    @property
    def path(self) -> Path:
        return self.name.path

    @cached_property
    def grid(self) -> Grid:
        """Where the voxels are.

        Raises:
            VolumeError: The file is no image.
        """
        return Grid.of_file(self.path)


@dataclass
class Matches:
    """What was found in a data set.

    Attributes:
        pairs: Image, lesion mask, and brain mask if there is one.
        left_out: Image and why it has no mask.
        problems: Sentences on files that cannot be used.
    """

    pairs: list[tuple[Path, Path, Path | None]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def unreadable(self, error: OSError) -> None:
        """Note a folder that cannot be read."""
        self.problems.append(f"{error.filename} cannot be read ({error.strerror}); check its permissions")


def pair_lesions(root: Path) -> Matches:
    """Find the lesion mask of each scan.

    A mask serves the scans of its subject and session on its own grid. Where several do, the one that names
    the scan, by its entities and by the scan's suffix in ``desc-`` or among its words, is taken.

    Args:
        root: A folder with ``sub-*`` folders.

    Returns:
        Pairs in the order of their names, and all that has none.

    Example:
        >>> pair_lesions(Path("ds004884")).left_out[0]  # doctest: +SKIP
        (PosixPath('sub-M2001/ses-1/anat/sub-M2001_ses-1_T1w.nii.gz'), 'no lesion mask of its session')
    """
    found = Matches()
    files = [
        _Image(Name.parse(path)) for path in walk(root, on_error=found.unreadable) if _is_of_subject(path)
    ]
    raw = [file for file in files if "derivatives" not in file.path.relative_to(root).parts]
    for image in (file for file in raw if _is_scan(file.name)):
        if reason := reason_by_name(image.path, sidecar_of(image.path)):
            found.left_out.append((image.path, reason))
            continue
        try:
            _match(image, [file for file in files if file.name.session == image.name.session], found)
        except VolumeError as error:
            found.problems.append(str(error))
    return found


def _is_of_subject(path: Path) -> bool:
    return path.name.startswith("sub-") and path.name.lower().endswith(SUFFIXES)


def _is_scan(name: Name) -> bool:
    """Tell whether the name and the folder are those of a scan."""
    plain = name.suffix in IMAGE_SUFFIXES and "label" not in name.entities
    return plain and name.path.parent.name in _DATA_TYPES


def _match(image: _Image, files: Sequence[_Image], found: Matches) -> None:
    masks = [file for file in files if file.name.is_lesion]
    if not masks:
        found.left_out.append((image.path, "no lesion mask of its session"))
        return
    if image.grid.count > 1:
        found.left_out.append((image.path, f"it holds {image.grid.count} volumes"))
        return
    best = _best(image, masks)
    if len(best) > 1:
        names = ", ".join(mask.path.name for mask in best)
        found.left_out.append((image.path, f"{len(best)} lesion masks may be meant: {names}"))
    elif best:
        brains = _best(image, [file for file in files if file.name.is_brain])
        found.pairs.append((image.path, best[0].path, brains[0].path if len(brains) == 1 else None))
    else:
        named = [mask for mask in masks if _kinship(image.name, mask.name) == 2]
        if not named:
            found.left_out.append((image.path, "no lesion mask on its grid"))
            return
        difference = image.grid.difference(named[0].grid)
        found.problems.append(
            f"{image.path} and its mask {named[0].path.name} are on different grids ({difference}); "
            f"resample one"
        )


def _best(image: _Image, masks: Sequence[_Image]) -> list[_Image]:
    """Return the masks on the image's grid that are closest to it by name."""
    fitting = [mask for mask in masks if image.grid.difference(mask.grid) is None]
    closest = max((_kinship(image.name, mask.name) for mask in fitting), default=0)
    return [mask for mask in fitting if _kinship(image.name, mask.name) == closest]


def _kinship(image: Name, mask: Name) -> int:
    """Count what of the image the mask's name names, its entities and its suffix, less another's suffix."""
    kind = image.suffix.casefold().removesuffix("w")
    description = mask.entities.get("desc", "").casefold()
    named = kind in description or image.suffix in mask.words[:-1]
    other = not named and description in _LOWER_SUFFIXES
    return int(mask.source == image.source) + int(named) - int(other)
