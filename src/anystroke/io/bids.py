"""Find the scans of a BIDS data set and the lesion mask of each.

Masks lie beside the scans or in ``derivatives``. Published data sets name them in several ways:
``label-L_mask`` (BIDS), ``label-lesion_roi`` (BIDS before 1.4), ``desc-lesion_mask`` (derivatives on
OpenNeuro), ``msk`` (the ISLES challenges).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from anystroke.core.volume import SUFFIXES, Grid, VolumeError
from anystroke.io.folders import walk
from anystroke.io.kinds import reason_by_name, sidecar_of
from anystroke.io.names import image_stem

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

_DATA_TYPES = ("anat", "dwi", "swi")
_MASK_SUFFIXES = ("mask", "roi", "msk")
# Entities that say what was done to an image, not which image it was.
_DERIVED = ("space", "res", "den", "label", "desc")


@dataclass(frozen=True)
class BidsFile:
    """An image file and what its name says.

    Attributes:
        path: The file.
        entities: Such as ``{"sub": "01", "run": "2"}``.
        words: The parts of the name that are no entities, the suffix last.
    """

    path: Path
    entities: dict[str, str]
    words: tuple[str, ...]

    @classmethod
    def parse(cls, path: Path) -> "BidsFile":
        """Take a file's name apart.

        Example:
            >>> BidsFile.parse(Path("sub-01_run-2_T2w.nii.gz")).words
            ('T2w',)
        """
        parts = image_stem(path).split("_")
        entities = dict(part.split("-", 1) for part in parts if "-" in part)
        return cls(path, entities, tuple(part for part in parts if "-" not in part))

    @property
    def suffix(self) -> str:
        """The last word of the name, such as ``"T2w"``."""
        return self.words[-1] if self.words else ""

    @property
    def session(self) -> tuple[str | None, str | None]:
        """Subject and session."""
        return self.entities.get("sub"), self.entities.get("ses")

    @property
    def core(self) -> dict[str, str]:
        """The entities that say which image it is or was made of."""
        return {key: value for key, value in self.entities.items() if key not in _DERIVED}

    @property
    def is_lesion(self) -> bool:
        """Whether the name is that of a lesion mask."""
        if self.suffix not in _MASK_SUFFIXES:
            return False
        label, description = (self.entities.get(key, "").casefold() for key in ("label", "desc"))
        return label in ("l", "lesion") or "lesion" in description or self.suffix == "msk"

    @property
    def is_brain(self) -> bool:
        """Whether the name is that of a brain mask."""
        return self.suffix == "mask" and "brain" in (self.entities.get("desc"), self.entities.get("label"))

    @property
    def is_image(self) -> bool:
        """Whether the name and the folder are those of a scan."""
        plain = self.suffix in IMAGE_SUFFIXES and "label" not in self.entities
        return plain and self.path.parent.name in _DATA_TYPES

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
    files = list(_files(root))
    raw = [file for file in files if "derivatives" not in file.path.relative_to(root).parts]
    for image in (file for file in raw if file.is_image):
        if reason := reason_by_name(image.path, sidecar_of(image.path)):
            found.left_out.append((image.path, reason))
            continue
        try:
            _match(image, [file for file in files if file.session == image.session], found)
        except VolumeError as error:
            found.problems.append(str(error))
    return found


def _files(root: Path) -> Iterable[BidsFile]:
    for path in walk(root):
        if path.name.startswith("sub-") and path.name.lower().endswith(SUFFIXES):
            yield BidsFile.parse(path)


def _match(image: BidsFile, files: Sequence[BidsFile], found: Matches) -> None:
    masks = [file for file in files if file.is_lesion]
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
        brains = _best(image, [file for file in files if file.is_brain])
        found.pairs.append((image.path, best[0].path, brains[0].path if len(brains) == 1 else None))
    else:
        named = [mask for mask in masks if _kinship(image, mask) == 2]
        if not named:
            found.left_out.append((image.path, "no lesion mask on its grid"))
            return
        difference = image.grid.difference(named[0].grid)
        found.problems.append(
            f"{image.path} and its mask {named[0].path.name} are on different grids ({difference}); "
            f"resample one"
        )


def _best(image: BidsFile, masks: Sequence[BidsFile]) -> list[BidsFile]:
    """Return the masks on the image's grid that are closest to it by name."""
    fitting = [mask for mask in masks if image.grid.difference(mask.grid) is None]
    closest = max((_kinship(image, mask) for mask in fitting), default=0)
    return [mask for mask in fitting if _kinship(image, mask) == closest]


def _kinship(image: BidsFile, mask: BidsFile) -> int:
    """Count what of the image the mask's name names: its entities, and its suffix."""
    kind = image.suffix.casefold().removesuffix("w")
    description = mask.entities.get("desc", "").casefold()
    named = kind in description or image.suffix in mask.words[:-1]
    return int(mask.core == image.core) + int(named)
