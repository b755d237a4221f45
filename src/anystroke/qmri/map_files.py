"""Quantitative maps with lesion masks, found by their BIDS names."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.core.volume import SUFFIXES
from anystroke.io.folders import walk
from anystroke.io.names import Name
from anystroke.qmri.measured_maps import find_maps, map_of
from anystroke.qmri.units_check import UnitError

log = logging.getLogger(__name__)

NEEDED = ("proton_density", "r1", "r2star", "mt_saturation")
"""Maps that every subject must have; R2 is taken where it was measured."""


class MapDataError(AnystrokeError):
    """Maps or masks that cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True, kw_only=True)
class MapSubject:
    """The files of one subject, or of one session.

    Attributes:
        name: Such as ``sub-01`` or ``sub-01_ses-2``.
        maps: Map -> file.
        lesion: Lesion mask; one without a voxel says that there is no lesion.
        brain: Brain mask, if there is one.
        field_strength: Static field of the maps, T.
    """

    name: str
    maps: Mapping[str, Path]
    lesion: Path
    brain: Path | None = None
    field_strength: float = 3.0


def find_map_subjects(folder: str | Path) -> tuple[MapSubject, ...]:
    """Find subjects with quantitative maps and a lesion mask by their BIDS names, at any depth.

    Maps end in ``_PDmap``, ``_R1map``, ``_R2starmap``, ``_MTsat`` and, optionally, ``_R2map``. The lesion
    mask has ``label-L``, ``label-lesion`` or ``desc-lesion`` in its name, the brain mask ends in
    ``_desc-brain_mask`` or ``_label-brain_mask``. What ``anystroke simulate --maps`` writes is found too. A
    file without session belongs to every session of its subject. The field strength is read from the
    sidecar of the R1 map (``MagneticFieldStrength``), and is 3 T where it says nothing.

    Args:
        folder: Where to look.

    Returns:
        The subjects that can be used, sorted by name. The others are warned about, each with the reason.

    Raises:
        MapDataError: If there is no such folder, or no subject that can be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MapDataError(
            f"expected a folder of quantitative maps at {folder}, but there is none; check the path"
        )
    found, problems = [], []
    for name, paths in sorted(_groups(folder).items()):
        try:
            found.append(_subject(name, paths))
        except (MapDataError, UnitError) as error:
            problems.append(f"{name} ({error})")
    if problems:
        log.warning("%s: left out %s", folder, "; ".join(problems))
    if not found:
        reason = f"left out {'; '.join(problems)}" if problems else "found no map"
        raise MapDataError(
            f"expected subjects with maps and a lesion mask in {folder}, such as sub-01_R1map.nii.gz and "
            f"sub-01_label-L_mask.nii.gz, but {reason}"
        )
    return tuple(found)


def _groups(folder: Path) -> dict[str, list[Path]]:
    """Sort image files by subject and session."""
    owners: dict[str, dict[str, list[Path]]] = {}
    for name in (Name.parse(path) for path in walk(folder) if path.name.lower().endswith(SUFFIXES)):
        owner = next((f"{key}-{name.entities[key]}" for key in ("sub", "sim") if key in name.entities), "")
        session = f"ses-{name.entities['ses']}" if "ses" in name.entities else ""
        sessions = owners.setdefault(owner or name.path.parent.name, {})
        sessions.setdefault(session, []).append(name.path)
    groups = {}
    for owner, sessions in owners.items():
        shared = sessions.pop("", [])
        for session, paths in sessions.items():
            groups[f"{owner}_{session}"] = paths + shared
        if not sessions:
            groups[owner] = shared
    return {name: paths for name, paths in groups.items() if any(map_of(path) for path in paths)}


def _subject(name: str, paths: Sequence[Path]) -> MapSubject:
    wanted = (*NEEDED, "r2")
    maps = find_maps(path for path in paths if map_of(path) in wanted)
    if missing := [each for each in NEEDED if each not in maps]:
        raise MapDataError(f"no map of {', '.join(missing)}")
    lesions = [path for path in paths if Name.parse(path).is_lesion]
    # Distorted scans have masks of their own.
    plain = [path for path in lesions if "desc" not in Name.parse(path).entities]
    lesion = _only(plain or lesions, "lesion mask")
    if lesion is None:
        raise MapDataError("no lesion mask, such as sub-01_label-L_mask.nii.gz")
    return MapSubject(
        name=name,
        maps=maps,
        lesion=lesion,
        brain=_only([path for path in paths if Name.parse(path).is_brain], "brain mask"),
        field_strength=_field_strength(maps["r1"]),
    )


def _only(paths: Sequence[Path], what: str) -> Path | None:
    if len(paths) > 1:
        raise MapDataError(
            f"expected one {what}, got {', '.join(path.name for path in paths)}; remove the others"
        )
    return paths[0] if paths else None


def _field_strength(path: Path) -> float:
    sidecar = Name.parse(path).sidecar
    if not sidecar.is_file():
        return 3.0
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MapDataError(f"{sidecar.name} is not valid JSON: {error}; mend or remove it") from error
    value = content.get("MagneticFieldStrength", 3.0) if isinstance(content, dict) else 3.0
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise MapDataError(f"{sidecar.name}: expected a MagneticFieldStrength above 0 T, got {value!r}")
    return float(value)
