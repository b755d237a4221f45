"""A DICOM series made from a volume, as a scanner would store it: one file for each slice, axes LPS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anystroke.core.volume import Volume

pydicom: Any = pytest.importorskip("pydicom")


def write_series(
    folder: Path,
    volume: Volume,
    *,
    patient: str = "P1",
    number: int = 3,
    description: str = "T2 TSE",
    modality: str = "MR",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND"),
    leave_out: tuple[int, ...] = (),
) -> Volume:
    """Write slices along the last axis; the volume's values must fit 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    data = volume.data[0].round().numpy().astype(np.uint16)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine.numpy()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    series, study, frame = (
        pydicom.uid.generate_uid(entropy_srcs=[patient, str(number), word])
        for word in ("series", "study", "frame")
    )
    for k in range(data.shape[2]):
        if k in leave_out:
            continue
        uid = pydicom.uid.generate_uid(entropy_srcs=[patient, str(number), str(k)])
        item = pydicom.Dataset()
        item.file_meta = pydicom.dataset.FileMetaDataset()
        item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = pydicom.uid.MRImageStorage
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = uid
        item.PatientID, item.PatientName, item.Modality = patient, patient, modality
        item.PatientBirthDate, item.PatientSex, item.AccessionNumber, item.ReferringPhysicianName = (
            "",
            "",
            "",
            "",
        )
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.StudyDate, item.StudyTime, item.StudyID = "20200101", "120000", "1"
        item.Manufacturer, item.ImageType = "SIEMENS", list(image_type)
        item.SeriesNumber, item.InstanceNumber, item.SeriesDescription = number, k + 1, description
        item.RepetitionTime, item.EchoTime, item.MagneticFieldStrength = 4000.0, 90.0, 3.0
        # The first array axis runs along the rows of the picture.
        item.ImageOrientationPatient = [float(v) for v in (*axes[:, 0], *axes[:, 1])]
        item.ImagePositionPatient = [float(v) for v in lps[:3, 3] + k * lps[:3, 2]]
        item.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        item.SliceThickness = item.SpacingBetweenSlices = float(spacing[2])
        item.Columns, item.Rows = data.shape[0], data.shape[1]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated = item.BitsStored = 16
        item.HighBit, item.PixelRepresentation = 15, 0
        item.PixelData = np.ascontiguousarray(data[:, :, k].T).tobytes()
        item.save_as(folder / f"s{number:02d}_{k:04d}.dcm", enforce_file_format=True)
    return Volume(volume.data.round(), volume.affine)


def write_enhanced(folder: Path, volume: Volume, *, leave_out: tuple[int, ...] = ()) -> Volume:
    """Write all slices along the last axis as the frames of one Enhanced MR object."""
    folder.mkdir(parents=True, exist_ok=True)
    data = volume.data[0].round().numpy().astype(np.uint16)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine.numpy()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    taken = [k for k in range(data.shape[2]) if k not in leave_out]
    study, series, frame_of_reference, dimensions, uid = (
        pydicom.uid.generate_uid(entropy_srcs=["enhanced", word])
        for word in ("study", "series", "frame", "dimensions", "instance")
    )
    item = pydicom.Dataset()
    item.file_meta = pydicom.dataset.FileMetaDataset()
    item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = uid
    item.PatientID, item.PatientName, item.Modality = "P1", "P1", "MR"
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = (
        study,
        series,
        frame_of_reference,
    )
    item.StudyDate, item.StudyTime, item.StudyID = "20200101", "120000", "1"
    item.ContentDate, item.ContentTime, item.AcquisitionDateTime = "20200101", "120000", "20200101120000"
    item.Manufacturer, item.ImageType = "SIEMENS", ["ORIGINAL", "PRIMARY", "M", "NONE"]
    item.SeriesNumber, item.InstanceNumber, item.SeriesDescription = 3, 1, "T2 TSE"
    item.MagneticFieldStrength, item.PulseSequenceName = 3.0, "tse"
    index = pydicom.Dataset()
    index.DimensionOrganizationUID = dimensions
    item.DimensionOrganizationSequence = [index]
    pointers = []
    for tag in ("StackID", "InStackPositionNumber"):
        pointer = pydicom.Dataset()
        pointer.DimensionOrganizationUID = dimensions
        pointer.DimensionIndexPointer = pydicom.datadict.tag_for_keyword(tag)
        pointer.FunctionalGroupPointer = pydicom.datadict.tag_for_keyword("FrameContentSequence")
        pointers.append(pointer)
    item.DimensionIndexSequence = pointers
    item.SharedFunctionalGroupsSequence = [
        _group(
            PixelMeasuresSequence={
                "PixelSpacing": [float(spacing[1]), float(spacing[0])],
                "SliceThickness": float(spacing[2]),
                "SpacingBetweenSlices": float(spacing[2]),
            },
            PlaneOrientationSequence={
                "ImageOrientationPatient": [float(v) for v in (*axes[:, 0], *axes[:, 1])]
            },
            MRTimingAndRelatedParametersSequence={"RepetitionTime": 4000.0, "FlipAngle": 90.0},
            MREchoSequence={"EffectiveEchoTime": 90.0},
        )
    ]
    item.PerFrameFunctionalGroupsSequence = [
        _group(
            FrameContentSequence={
                "StackID": "1",
                "InStackPositionNumber": n,
                "DimensionIndexValues": [1, n],
                "FrameAcquisitionDateTime": "20200101120000",
            },
            PlanePositionSequence={"ImagePositionPatient": [float(v) for v in lps[:3, 3] + k * lps[:3, 2]]},
        )
        for n, k in enumerate(taken, start=1)
    ]
    item.NumberOfFrames, item.Columns, item.Rows = len(taken), data.shape[0], data.shape[1]
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated = item.BitsStored = 16
    item.HighBit, item.PixelRepresentation = 15, 0
    item.PixelData = b"".join(np.ascontiguousarray(data[:, :, k].T).tobytes() for k in taken)
    item.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return Volume(volume.data.round(), volume.affine)


def _group(**sequences: dict[str, Any]) -> Any:
    """Make the functional groups of a frame: sequences of one item each."""
    group = pydicom.Dataset()
    for name, values in sequences.items():
        inner = pydicom.Dataset()
        for key, value in values.items():
            setattr(inner, key, value)
        setattr(group, name, [inner])
    return group
