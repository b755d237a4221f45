"""Names of derivatives in the manner of BIDS, also for sources that are not named so."""

import re
from pathlib import Path

from anystroke.core.text import readable
from anystroke.io.formats import SCAN_SUFFIXES

_ENTITY = re.compile(r"[a-zA-Z]+-[a-zA-Z0-9+]+")
# Entities of a source that its derivatives set themselves.
_OWN = ("space", "res", "den", "label", "seg", "desc")


def image_stem(path: str | Path) -> str:
    """Strip the folder and the image suffix of a path.

    Example:
        >>> image_stem("sub-01/anat/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = readable(Path(path).name)
    for suffix in sorted(SCAN_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def derivative_stem(
    source: str | Path,
    *,
    label: str = "L",
    entity: str = "label",
    described: str = "",
    space: str = "orig",
) -> str:
    """Name what is derived from a source image, up to the BIDS suffix.

    A BIDS source keeps its entities, and its suffix becomes ``desc-`` so that the derivatives of a subject's
    T1w and FLAIR can share a folder. Any other source keeps its whole stem.

    Args:
        source: Path of the image.
        label: BIDS abbreviation of the class; L is Lesion.
        entity: What the label is of: ``label`` for one class, ``seg`` for a segmentation into several.
        described: What was done, such as ``fused``; goes into ``desc-``.
        space: The grid: that of the image, or a template.

    Returns:
        The stem; append for example ``_mask.nii.gz``.

    Example:
        >>> derivative_stem("sub-01_ses-2_FLAIR.nii.gz")
        'sub-01_ses-2_space-orig_label-L_desc-FLAIR'
        >>> derivative_stem("patient 7.nii")
        'patient 7_space-orig_label-L'
    """
    stem = image_stem(source)
    *entities, suffix = stem.split("_")
    if not (
        entities
        and entities[0].startswith("sub-")
        and all(map(_ENTITY.fullmatch, entities))
        and suffix.isalnum()
    ):
        more = f"_desc-{described}" if described else ""
        return f"{stem}_space-{space}_{entity}-{label}{more}"
    before = "".join(e.removeprefix("desc-") for e in entities if e.startswith("desc-"))
    kept = [entity for entity in entities if entity.split("-")[0] not in _OWN]
    description = f"desc-{before}{suffix}{described.capitalize()}"
    return "_".join([*kept, f"space-{space}", f"{entity}-{label}", description])
