"""Files of one simulated patient: scans, their truth, sidecars, rows of the table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anystroke.acquisition.sidecars.writing import acquisition_fields, image_suffix
from anystroke.core.files import write_json
from anystroke.core.staging import staged
from anystroke.core.volume import Volume
from anystroke.io.results import generated_by
from anystroke.simulation.generator import CLASSES, Sample

SAMPLE_COLUMNS = (
    "sample",
    "image",
    "mask",
    "segmentation",
    "anatomy",
    "lesions",
    "stage",
    "weighting",
    "lesion_ml",
)
"""Columns of the table of simulated scans, one row per image."""

_ABBREVIATIONS = {"background": "BG", "grey_matter": "GM", "white_matter": "WM", "csf": "CSF", "lesion": "L"}
MAP_FILES = {
    "proton_density": ("PDmap", "%", "Proton density, percent of that of water"),
    "r1": ("R1map", "1/s", "Longitudinal relaxation rate"),
    "r2": ("R2map", "1/s", "Transverse relaxation rate"),
    "r2star": ("R2starmap", "1/s", "Effective transverse relaxation rate"),
    "mt_saturation": ("MTsat", "%", "Magnetisation transfer saturation, percent units"),
}
"""Map -> BIDS suffix, unit as the sidecar states it, description."""


def patient_target(scans: Sequence[Sample]) -> Tensor:
    """Give the one truth of a patient's undistorted scans: what at least one of them shows.

    The scans have the same voxels and the same patient; they differ in where the field of view ends.

    Args:
        scans: Those of one session.

    Returns:
        uint8 (X, Y, Z), numbers of ``CLASSES``.

    Raises:
        ValueError: There is no scan, or their voxels or tissues are not the same.

    Example:
        >>> scans = generator.session(anatomy, weightings=["T1w", "FLAIR"], rng=rng)  # doctest: +SKIP
        >>> patient_target(scans).shape  # doctest: +SKIP
        torch.Size([96, 112, 96])
    """
    if not scans:
        raise ValueError("expected the scans of one patient, got none")
    target = scans[0].target
    for scan in scans[1:]:
        if scan.target.shape != target.shape or not torch.equal(scan.affine, scans[0].affine):
            raise ValueError(
                f"expected scans with the same voxels, got {tuple(target.shape)} and "
                f"{tuple(scan.target.shape)}; simulate them with Generator.session"
            )
        if bool(((target != scan.target) & (target > 0) & (scan.target > 0)).any()):
            raise ValueError("expected scans of one patient, but their tissues differ; use Generator.session")
        target = torch.maximum(target, scan.target)
    return target


def scan_targets(scans: Sequence[Sample]) -> list[Tensor]:
    """Give the truth of each scan of a patient.

    Scans without distortion share one. Echo-planar scans show everything in other places, each its own.

    Args:
        scans: Those of one session.

    Returns:
        For each scan uint8 (X, Y, Z), numbers of ``CLASSES``.

    Raises:
        ValueError: As `patient_target`.
    """
    still = [scan for scan in scans if not _is_distorted(scan)]
    shared = patient_target(still) if still or not scans else None
    return [scan.target if shared is None or _is_distorted(scan) else shared for scan in scans]


def _is_distorted(scan: Sample) -> bool:
    return "phase_encoding_axis" in scan.record.get("scanner", {})


def scan_facts(sample: Sample, lesion_ml: float) -> dict[str, Any]:
    """Collect what the sidecar of a simulated scan says.

    Args:
        sample: The scan.
        lesion_ml: Volume of the patient's lesion.

    Returns:
        BIDS fields, ``SignalToNoiseRatio`` (mean of white matter over the noise SD of one channel) where the
        record has it, and ``Record``, which holds all that was drawn.

    Example:
        >>> scan_facts(sample, 12.5)["RepetitionTime"]  # doctest: +SKIP
        9.0
    """
    scanner = sample.record.get("scanner", {})
    facts = {"Description": "Simulated scan; not of a person", **acquisition_fields(sample.protocol)}
    for name, key in (
        ("SignalToNoiseRatio", "snr"),
        ("SliceThickness", "slice_thickness"),
        ("SpacingBetweenSlices", "slice_distance"),
    ):
        if key in scanner:
            facts[name] = scanner[key]
    return facts | {
        "LesionVolume": round(lesion_ml, 6),
        "LesionVolumeUnits": "ml",
        "GeneratedBy": generated_by(),
        "TorchVersion": torch.__version__,
        "Record": sample.record,
    }


def write_scans(
    scans: Sequence[Sample],
    folder: Path,
    stem: str,
    *,
    maps: bool = False,
    place: Callable[[str], str] = lambda name: name,
    on_image: Callable[[Path, Sample], object] = lambda path, scan: None,
) -> list[dict[str, str]]:
    """Write the scans of one patient the BIDS way, in place of earlier ones of the name.

    Each scan has an image and a sidecar; the patient has one lesion mask and one map of tissue classes. Of
    several scans those that are distorted have their own, called ``desc-`` and the scan's suffix.

    Args:
        scans: Those of one session, no two of the same weighting.
        folder: An existing folder.
        stem: Begin of the files' names.
        maps: Whether to write the quantitative maps of the first scan too; rates depend on its field.
        place: Says where in the folder a file goes, by its name.
        on_image: Told of each image that is written; what it writes beside it comes along.

    Returns:
        The row of the table of each scan.

    Raises:
        ValueError: Two scans would have the same name, or they are not of one patient.
        OSError: The folder cannot be written.

    Example:
        >>> write_scans([sample], Path("simulated"), "sim-0001")[0]["lesion_ml"]  # doctest: +SKIP
        '31.440'
    """
    images = [f"{stem}_{image_suffix(scan.protocol)}" for scan in scans]
    if len(set(images)) < len(images):
        raise ValueError(
            f"expected one scan of each weighting, got {', '.join(images)}; leave out the doubles"
        )
    targets, affine = scan_targets(scans), scans[0].affine
    own = [
        f"_desc-{image.rpartition('_')[2]}" if _is_distorted(scan) and len(scans) > 1 else ""
        for image, scan in zip(images, scans, strict=True)
    ]
    masks = [f"{stem}_label-L{desc}_mask.nii.gz" for desc in own]
    segmentations = [f"{stem}{desc}_dseg.nii.gz" for desc in own]
    volumes = [lesion_volume(target, affine) for target in targets]
    with staged(folder) as staging:

        def file(name: str) -> Path:
            path = staging / place(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        for image, scan, lesion_ml in zip(images, scans, volumes, strict=True):
            path = file(f"{image}.nii.gz")
            Volume(scan.image[None], affine).save(path)
            on_image(path, scan)
            write_json(file(f"{image}.json"), scan_facts(scan, lesion_ml))
        truths = dict(zip(zip(masks, segmentations, strict=True), targets, strict=True))
        for (mask, segmentation), target in truths.items():
            Volume((target == CLASSES.index("lesion"))[None], affine).save(file(mask))
            Volume(target[None], affine).save(file(segmentation), dtype=torch.uint8)
        file(f"{stem}_dseg.tsv").write_text(class_rows(), encoding="utf-8")
        for name, (suffix, units, description) in MAP_FILES.items() if maps else ():
            Volume(scans[0].maps[name][None], affine).save(file(f"{stem}_{suffix}.nii.gz"))
            facts: dict[str, Any] = {"Units": units, "Description": description}
            if name.startswith("r"):
                facts["MagneticFieldStrength"] = scans[0].protocol.field_strength
            write_json(file(f"{stem}_{suffix}.json"), facts)
    return [
        table_row(scan, stem, place(f"{image}.nii.gz"), place(mask), place(segmentation), lesion_ml)
        for scan, image, mask, segmentation, lesion_ml in zip(
            scans, images, masks, segmentations, volumes, strict=True
        )
    ]


def table_row(
    sample: Sample, stem: str, image: str, mask: str, segmentation: str, lesion_ml: float
) -> dict[str, str]:
    """Describe a scan in the table's words; ``n/a`` stands for what there is not.

    Args:
        sample: The scan.
        stem: Name of the patient.
        image: Its file, as a path within the table's folder, as the next two.
        mask: That of the lesion.
        segmentation: That of the tissue classes.
        lesion_ml: Volume of the patient's lesion.
    """
    values = (
        stem,
        image,
        mask,
        segmentation,
        sample.record["anatomy"],
        ",".join(sample.record["lesions"]) or "n/a",
        sample.record["stage"] if sample.record["lesions"] else "n/a",
        sample.protocol.weighting,
        f"{lesion_ml:.3f}",
    )
    return dict(zip(SAMPLE_COLUMNS, values, strict=True))


def lesion_volume(target: Tensor, affine: Tensor) -> float:
    """Return the volume of the lesion in ml.

    Args:
        target: (X, Y, Z) numbers of ``CLASSES``.
        affine: (4, 4) voxel -> mm.

    Example:
        >>> lesion_volume(torch.full((10, 10, 10), 4), torch.eye(4))
        1.0
    """
    voxels = int((target == CLASSES.index("lesion")).sum())
    return voxels * abs(float(torch.linalg.det(affine[:3, :3].double()))) / 1000


def class_rows() -> str:
    """Write the numbers of ``CLASSES`` as the look-up table of a BIDS segmentation."""
    lines = ["index\tname\tabbreviation"]
    lines += [f"{index}\t{name}\t{_ABBREVIATIONS[name]}" for index, name in enumerate(CLASSES)]
    return "\n".join(lines) + "\n"
