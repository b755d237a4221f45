"""The lesion as a DICOM segmentation of the series that the scan was converted from (needs highdicom)."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume, VolumeError

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_dicom_seg(
    mask: Volume, series: Sequence[Path], path: Path, *, model: str, model_version: str
) -> None:
    """Write a binary DICOM SEG with one segment.

    Each pixel of the series asks the mask for the voxel at its own place in the patient, so that no
    convention of axes or order of slices can mirror it.

    Args:
        mask: Not zero in lesions, in the world of the series.
        series: The single-frame DICOM files of the scan.
        path: The file to write.
        model: Name of the model, for the record.
        model_version: Its version.

    Raises:
        VolumeError: highdicom is missing, or the series is of multi-frame files.

    Example:
        >>> write_dicom_seg(mask, files, path, model="default", model_version="2")  # doctest: +SKIP
    """
    try:
        import highdicom
        import pydicom
        from pydicom.sr.codedict import codes
        from pydicom.sr.coding import Code
    except ImportError as error:
        raise VolumeError("writing DICOM SEG needs the package highdicom; install it with pip") from error
    images = [pydicom.dcmread(file) for file in series]
    if any("PerFrameFunctionalGroupsSequence" in image for image in images):
        raise VolumeError(
            f"{series[0].parent} holds multi-frame images, expected one file a slice; leave out --dicom-seg"
        )
    frames = np.stack([_frame(image, mask) for image in images])
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"anystroke {model}", version=model_version, family=codes.DCM.ArtificialIntelligence
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Stroke lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=Code("55641003", "SCT", "Infarct"),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_description="Stroke lesion, research use only",
        series_number=9000 + int(images[0].get("SeriesNumber") or 0),
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="anystroke",
        manufacturer_model_name="anystroke",
        software_versions=version("anystroke"),
        device_serial_number="0",
        content_description="Stroke lesion, research use only",
        omit_empty_frames=bool(frames.any()),
    ).save_as(path)


def _frame(image: Any, mask: Volume) -> Array:
    """Look up the mask at each pixel of a slice, (rows, columns)."""
    orientation = np.array([float(v) for v in image.ImageOrientationPatient])
    position = np.array([float(v) for v in image.ImagePositionPatient])
    down, across = (float(v) for v in image.PixelSpacing)
    rows, columns = np.meshgrid(np.arange(image.Rows), np.arange(image.Columns), indexing="ij")
    points = (
        position + columns[..., None] * across * orientation[:3] + rows[..., None] * down * orientation[3:]
    )
    points = np.concatenate([points, np.ones((*rows.shape, 1))], axis=-1)
    to_index = np.linalg.inv(mask.affine.numpy()) @ _TO_RAS
    index = np.rint((points @ to_index.T)[..., :3]).astype(int)
    shape = np.array(mask.shape)
    inside = ((index >= 0) & (index < shape)).all(axis=-1)
    i, j, k = np.clip(index, 0, shape - 1).transpose(2, 0, 1)
    values = (mask.data[0] > 0).numpy()[i, j, k] & inside
    frame: Array = values.astype(np.uint8)
    return frame
