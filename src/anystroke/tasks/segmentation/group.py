"""All results of a folder: one table, one page, and what makes the folder a BIDS derivative."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anystroke.core.files import atomic_path
from anystroke.core.staging import staging_prefix
from anystroke.core.tables import write_table
from anystroke.core.volume import Volume
from anystroke.io.folders import walk
from anystroke.io.names import Name
from anystroke.io.results import describe_dataset, read_facts
from anystroke.reports.glass_brain import glass_brain, overlap
from anystroke.reports.scan import methods_text, write_group_report

GROUP_TABLE, GROUP_PAGE = "group.tsv", "group.html"
GROUP_COLUMNS = (
    "participant_id",
    "session_id",
    "scan",
    "volume_ml",
    "volume_low_ml",
    "volume_high_ml",
    "lesions",
    "left_ml",
    "right_ml",
    "trust",
    "risk",
    "reasons",
    "territory",
    "model",
    "mask",
)
# No suffix of BIDS fits these.
_IGNORED = (
    "*_mosaic.png",
    "*_glassbrain.png",
    "*_territories.tsv",
    "*_report.html",
    "*_lesions.tsv",
    "*_spread.*",
    "*_seg.dcm",
    "*_agreement.tsv",
    "*_registrations.tsv",
    "*lesion_roi.nii.gz",
    "*_dseg.tsv",
    "volumes.tsv",
    "group.*",
    "logs/",
)


def describe_results(folder: Path, *, source: Path | None = None) -> None:
    """Say what makes the folder a BIDS derivative, where that is missing.

    Args:
        folder: The derivatives.
        source: The data set that they are of, if it is one.

    Raises:
        OSError: The folder cannot be written.
    """
    describe_dataset(
        folder,
        name="Stroke lesions found by anystroke",
        description="Stroke lesion segmentation; research use only, not a medical device",
        source=source,
        ignored=_IGNORED,
    )


def read_results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Find the masks of anystroke below a folder, by their sidecars.

    Returns:
        Path and content of each sidecar, by name.
    """
    found = []
    for path in walk(folder):
        if "label-L" not in path.name or not path.name.endswith("_mask.json"):
            continue
        facts = read_facts(path)
        if "LesionVolumeInterval" in facts:
            found.append((path, facts))
    return found


def write_group(
    folder: Path, *, pictures: bool = True, participants: Mapping[str, Mapping[str, str]] | None = None
) -> int:
    """Write the table and the page of all results in a folder.

    Args:
        folder: The output folder of one or more runs.
        pictures: Draw the overlap of the lesions in MNI space, where there are several.
        participants: What is known of them by ``participant_id``, for further columns; those that are named
            like one of ours are left out.

    Returns:
        The number of scans.

    Raises:
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> write_group(Path(tempfile.mkdtemp()))
        0
    """
    results = read_results(folder)
    if not results:
        return 0
    rows = [_row(path, facts, folder) for path, facts in results]
    known = [(participants or {}).get(row["participant_id"], {}) for row in rows]
    others = [name for name in dict.fromkeys(name for each in known for name in each) if name not in rows[0]]
    rows = [
        row | {name: each.get(name, "n/a") for name in others} for row, each in zip(rows, known, strict=True)
    ]
    write_table(folder / GROUP_TABLE, (*GROUP_COLUMNS, *others), rows)
    methods = _common_methods([facts for _, facts in results])
    with tempfile.TemporaryDirectory(prefix=staging_prefix(), dir=folder) as drawn:
        glass, count = Path(drawn) / "glass.png", 0
        if pictures:
            count = _draw_overlap(results, glass)
        with atomic_path(folder / GROUP_PAGE, overwrite=True) as temporary:
            write_group_report(
                temporary,
                others=others,
                rows=rows,
                methods=methods,
                glass_brain=glass if glass.exists() else None,
                in_mni=count,
            )
    return len(rows)


def _draw_overlap(results: Sequence[tuple[Path, dict[str, Any]]], path: Path) -> int:
    """Draw how many lesions there are where in MNI space, if several scans are known there; count these."""
    names = [(path.parent, (facts.get("MNI") or {}).get("Lesion", "")) for path, facts in results]
    files = [folder / name for folder, name in names if name and (folder / name).is_file()]
    if len(files) < 2:
        return len(files)
    maps = (Volume.load(file) for file in files)
    glass_brain(overlap(maps), path, title=f"{len(files)} scans", count=len(files))
    return len(files)


def _row(path: Path, facts: dict[str, Any], folder: Path) -> dict[str, str]:
    entities = Name.parse(path).entities
    mask = path.relative_to(folder).as_posix().replace(".json", ".nii.gz")
    low, high = facts["LesionVolumeInterval"] or (None, None)
    beside = {
        key: mask.replace("_mask.nii.gz", ending)
        for key, ending in (("mosaic", "_mosaic.png"), ("report", "_report.html"))
    }
    return {
        "participant_id": f"sub-{entities['sub']}" if "sub" in entities else "n/a",
        "session_id": f"ses-{entities['ses']}" if "ses" in entities else "n/a",
        "scan": str(facts.get("Name", Path(facts["Sources"][0]).name)),
        "volume_ml": f"{facts['LesionVolume']:.3f}",
        "volume_low_ml": "n/a" if low is None else f"{low:.3f}",
        "volume_high_ml": "n/a" if high is None else f"{high:.3f}",
        "lesions": str(facts["LesionCount"]),
        "left_ml": f"{facts['LeftLesionVolume']:.3f}",
        "right_ml": f"{facts['RightLesionVolume']:.3f}",
        "trust": "no" if facts["DoNotTrust"] else "yes",
        "risk": "n/a" if facts.get("Risk") is None else f"{facts['Risk']:.2f}",
        "reasons": "; ".join(facts["ReasonsNotToTrust"]) or "n/a",
        "territory": next(iter(facts.get("TerritoryVolumes") or {}), "n/a"),
        "model": f"{facts['Model']['Name']} {facts['Model']['Version']}",
        "mask": mask,
    } | {key: name if (folder / name).is_file() else "" for key, name in beside.items()}


def _common_methods(facts: Sequence[dict[str, Any]]) -> str:
    texts = dict.fromkeys(methods_text(each) for each in facts)
    return (
        next(iter(texts)) if len(texts) == 1 else "Scans were processed in several ways: " + " ".join(texts)
    )
