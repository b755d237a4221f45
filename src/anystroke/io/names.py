"""Names of files in the manner of BIDS, also of files that are not named so: taken apart, and derived."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anystroke.core.text import readable
from anystroke.io.formats import SCAN_SUFFIXES

DERIVED = ("space", "res", "den", "label", "seg", "desc")
"""Entities that say what was done to an image, not which image it was."""
MASK_SUFFIXES = ("mask", "roi", "msk")

_ENTITY = re.compile(r"([a-zA-Z]+)-([^-].*)")
_LONGEST_FIRST = sorted(SCAN_SUFFIXES, key=len, reverse=True)
_LABEL = re.compile(r"[a-zA-Z0-9+]+")


@dataclass(frozen=True)
class Name:
    """What a file's name says: ``sub-01_ses-2_T1w.nii.gz``.

    Attributes:
        path: The file.
        stem: Its name without the folder and the image suffix.

    Example:
        >>> name = Name.parse("sub-01_run-2_space-MNI_T2w.nii.gz")
        >>> name.suffix, name.source
        ('T2w', {'sub': '01', 'run': '2'})
    """

    path: Path
    stem: str

    @classmethod
    def parse(cls, path: str | Path) -> "Name":
        """Take a file's name apart."""
        return cls(Path(path), image_stem(path))

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What lies between underscores."""
        return tuple(self.stem.split("_"))

    @cached_property
    def entities(self) -> dict[str, str]:
        """Keys and labels, such as ``{"sub": "01", "run": "2"}``."""
        found = (_ENTITY.fullmatch(part) for part in self.parts)
        return {match[1]: match[2] for match in found if match}

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The parts that are no entities, the suffix last."""
        return tuple(part for part in self.parts if not _ENTITY.fullmatch(part))

    @property
    def suffix(self) -> str:
        """The last word, such as ``"T2w"``; empty if there is none."""
        return self.words[-1] if self.words else ""

    @property
    def subject(self) -> str | None:
        """Label of the subject."""
        return self.entities.get("sub")

    @property
    def session(self) -> tuple[str | None, str | None]:
        """Labels of subject and session."""
        return self.entities.get("sub"), self.entities.get("ses")

    @property
    def source(self) -> dict[str, str]:
        """The entities that say which image it is or was made of."""
        return {key: label for key, label in self.entities.items() if key not in DERIVED}

    @property
    def is_bids(self) -> bool:
        """Whether it is named as BIDS demands: a subject first, entities, and a suffix."""
        *entities, suffix = self.parts
        return (
            self.stem.startswith("sub-")
            and len(entities) == len(self.entities) > 0
            and all(map(_LABEL.fullmatch, self.entities.values()))
            and suffix.isalnum()
        )

    @property
    def is_lesion(self) -> bool:
        """Whether the name is that of a lesion mask."""
        if self.suffix not in MASK_SUFFIXES:
            return False
        label, description = (self.entities.get(key, "").casefold() for key in ("label", "desc"))
        return label in ("l", "lesion") or "lesion" in description or self.suffix == "msk"

    @property
    def is_brain(self) -> bool:
        """Whether the name is that of a brain mask."""
        return self.suffix == "mask" and "brain" in (self.entities.get("desc"), self.entities.get("label"))

    @property
    def sidecar(self) -> Path:
        """The JSON file beside it, there or not."""
        return self.beside(".json")

    def beside(self, ending: str) -> Path:
        """Return the file of the same stem with another ending, there or not."""
        # Not of the stem, in which letters may have been replaced that no other program can read.
        return self.path.with_name(_without_suffix(self.path.name) + ending)

    def derive(
        self, *, label: str = "L", entity: str = "label", described: str = "", space: str = "orig"
    ) -> str:
        """Name what is derived from an image, up to the BIDS suffix.

        A BIDS source keeps its entities, and its suffix becomes ``desc-`` so that the derivatives of a
        subject's T1w and FLAIR can share a folder. Any other source keeps its whole stem.

        Args:
            label: BIDS abbreviation of the class; L is Lesion.
            entity: What the label is of: ``label`` for one class, ``seg`` for a segmentation into several.
            described: What was done, such as ``fused``; goes into ``desc-``.
            space: The grid: that of the image, or a template.

        Returns:
            The stem; append for example ``_mask.nii.gz``.

        Example:
            >>> Name.parse("sub-01_ses-2_FLAIR.nii.gz").derive()
            'sub-01_ses-2_space-orig_label-L_desc-FLAIR'
            >>> Name.parse("patient 7.nii").derive()
            'patient 7_space-orig_label-L'
        """
        if not self.is_bids:
            more = f"_desc-{described}" if described else ""
            return f"{self.stem}_space-{space}_{entity}-{label}{more}"
        before = self.entities.get("desc", "")
        description = f"desc-{before}{self.suffix}{described.capitalize()}"
        return "_".join([*self.of_source(), f"space-{space}", f"{entity}-{label}", description])

    def of_source(self) -> list[str]:
        """Return the parts of the name that say which image it is: the entities but for ``DERIVED``."""
        return [f"{key}-{label}" for key, label in self.source.items()]


def image_stem(path: str | Path) -> str:
    """Strip the folder and the image suffix of a path.

    Example:
        >>> image_stem("sub-01/anat/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    return readable(_without_suffix(Path(path).name))


def _without_suffix(name: str) -> str:
    ending = next((each for each in _LONGEST_FIRST if name.lower().endswith(each)), "")
    return name[: len(name) - len(ending)]


def derivative_stem(
    source: str | Path,
    *,
    label: str = "L",
    entity: str = "label",
    described: str = "",
    space: str = "orig",
) -> str:
    """Name what is derived from a source image, up to the BIDS suffix: `Name.derive` of its path.

    Example:
        >>> derivative_stem("sub-01_ses-2_FLAIR.nii.gz")
        'sub-01_ses-2_space-orig_label-L_desc-FLAIR'
    """
    return Name.parse(source).derive(label=label, entity=entity, described=described, space=space)
