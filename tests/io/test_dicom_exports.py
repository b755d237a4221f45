"""Folders of DICOM as they leave hospitals: what is in them is used, or named with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anystroke.core.volume import Volume, VolumeWarning
from anystroke.io.finding import find_scans
from anystroke.io.inputs import Found
from dicom_phantom import write_series
from stand_in import axial_affine, phantom

pydicom: Any = pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")

SHAPE = (40, 48, 24)
AFFINE = axial_affine(4.0, 4.0, 6.0, shape=SHAPE)


def _scan() -> Volume:
    noise = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) * 12
    return Volume((phantom(AFFINE, SHAPE).data + noise).round(), AFFINE)


def _export(folder: Path, change: Callable[[Any, int], object] = lambda item, k: None, **words: Any) -> None:
    """Write a series and let ``change`` edit each of its items."""
    write_series(folder, _scan(), **words)
    number = words.get("number", 3)
    for k, path in enumerate(sorted(folder.glob(f"s{number:02d}_*.dcm"))):
        item = pydicom.dcmread(path)
        change(item, k)
        item.save_as(path)


def _found(tmp_path: Path) -> Found:
    return find_scans([tmp_path / "export"], tmp_path / "work")


def _one(found: Found) -> Volume:
    assert found.problems == []
    [scan] = found.scans
    return scan.load()


def _place_of(volume: Volume, level: float = 150.0) -> torch.Tensor:
    """Mean world position of the bright lesion's voxels."""
    index = (volume.data[0] > level).nonzero().double().mean(0)
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]


@pytest.mark.parametrize("step", [(0.0, 1.5), (2.0, -1.0), (-3.0, 0.5)])
def test_sheared_stacks_lie_where_their_headers_say(step: tuple[float, float], tmp_path: Path) -> None:
    truth = torch.zeros(3, dtype=torch.float64)
    count = 0.0
    voxels = _scan()

    def shift(item: Any, k: int) -> None:
        nonlocal truth, count
        x, y, z = (float(v) for v in item.ImagePositionPatient)
        item.ImagePositionPatient = [x + step[0] * k, y + step[1] * k, z]
        bright = (voxels.data[0, :, :, k] > 150).nonzero().double()
        plane = torch.cat([bright, torch.full((len(bright), 1), float(k), dtype=torch.float64)], dim=1)
        here = plane @ voxels.affine[:3, :3].T + voxels.affine[:3, 3]
        # DICOM's x and y point to the left and to the back.
        here[:, 0] -= step[0] * k
        here[:, 1] -= step[1] * k
        truth = truth + here.sum(0)
        count += len(bright)

    _export(tmp_path / "export", shift)
    volume = _one(_found(tmp_path))
    torch.testing.assert_close(_place_of(volume), truth / count, atol=0.05, rtol=0)
    assert volume.voxel_volume == pytest.approx(4 * 4 * 6 / 1000, rel=1e-4)


def test_slices_that_jump_are_refused(tmp_path: Path) -> None:
    def jump(item: Any, k: int) -> None:
        x, y, z = (float(v) for v in item.ImagePositionPatient)
        item.ImagePositionPatient = [x + (25 if k > 12 else 0), y, z]

    _export(tmp_path / "export", jump)
    found = _found(tmp_path)
    assert found.scans == []
    [(_, problem)] = found.problems
    assert "away from an even stack" in problem


@pytest.mark.parametrize("jitter", [1e-5, 2e-4, 3e-3])
def test_rounded_orientations_are_no_localiser(jitter: float, tmp_path: Path) -> None:
    def turn(item: Any, k: int) -> None:
        sine = 0.125 + jitter * (-1) ** k
        cosine = (1 - sine**2) ** 0.5
        item.ImageOrientationPatient = [cosine, sine, 0.0, -sine, cosine, 0.0]

    _export(tmp_path / "export", turn)
    assert _one(_found(tmp_path)).shape == SHAPE


def test_many_missing_slices_are_missed(tmp_path: Path) -> None:
    _export(tmp_path / "export", leave_out=(2, 4, 6, 8, 10, 12, 14, 16))
    [(_, problem)] = _found(tmp_path).problems
    assert "misses 8 slices: one gap is 12.0 mm, the others 6.0 mm" in problem


def test_planes_of_three_directions_are_a_localiser(tmp_path: Path) -> None:
    planes = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])

    def turn(item: Any, k: int) -> None:
        item.ImageOrientationPatient = planes[k % 3]

    _export(tmp_path / "export", turn, description="views")
    [(_, problem)] = _found(tmp_path).problems
    assert "localiser" in problem


@pytest.mark.parametrize("form", ["implicit", "explicit", "meta header alone"])
def test_files_without_a_preamble(form: str, tmp_path: Path) -> None:
    _export(tmp_path / "export")
    for path in (tmp_path / "export").iterdir():
        item = pydicom.dcmread(path)
        if form == "meta header alone":
            path.write_bytes(path.read_bytes()[132:])
            continue
        raw = pydicom.filebase.DicomBytesIO()
        raw.is_little_endian, raw.is_implicit_VR = True, form == "implicit"
        pydicom.filewriter.write_dataset(raw, item)
        path.write_bytes(raw.getvalue())
        path.rename(path.with_suffix(""))
    found = _found(tmp_path)
    if form == "meta header alone":
        assert found.scans or found.problems
        return
    torch.testing.assert_close(_one(found).reorient("RAS").data, _scan().data)


def test_a_disc_with_a_viewer(tmp_path: Path) -> None:
    _export(tmp_path / "export" / "DICOM" / "PAT00001")
    for k in range(60):
        path = tmp_path / "export" / "CDVIEWER" / f"part{k:02d}.dll"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"MZ" + bytes(400))
    (tmp_path / "export" / "AUTORUN.INF").write_text("[autorun]\r\nopen=start.exe\r\n")
    (tmp_path / "export" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(50))
    (tmp_path / "export" / "README").write_text("Thank you for choosing our hospital. " * 20)
    (tmp_path / "export" / "._s03_0000.dcm").write_bytes(bytes(200))
    found = _found(tmp_path)
    assert _one(found).shape == SHAPE
    assert found.skipped == []


def test_copies_are_used_once(tmp_path: Path) -> None:
    _export(tmp_path / "export" / "a")
    _export(tmp_path / "export" / "copy of a")
    found = _found(tmp_path)
    assert _one(found).shape == SHAPE
    [note] = found.skipped
    assert "24 DICOM files are there twice" in note


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "link"])
def test_one_broken_file_is_named_and_other_series_are_used(damage: str, tmp_path: Path) -> None:
    _export(tmp_path / "export")
    _export(tmp_path / "export", number=5, description="FLAIR")
    broken = tmp_path / "export" / "s05_0023.dcm"
    raw = broken.read_bytes()
    broken.unlink()
    if damage == "link":
        broken.symlink_to("nowhere.dcm")
    else:
        broken.write_bytes({"cut": raw[:1500], "text": b"see the other disc", "empty": b""}[damage])
    found = _found(tmp_path)
    assert [scan.path.name.split("_")[-1] for scan in found.scans] == ["T2-TSE.nii", "FLAIR.nii"]
    [(name, problem)] = found.problems
    assert name.endswith("s05_0023.dcm")
    assert "copy it again" in problem or "datalad get" in problem


def test_magnitude_and_phase_in_one_series(tmp_path: Path) -> None:
    def magnitude(item: Any, k: int) -> None:
        item.Manufacturer = "Philips Medical Systems"
        item.ImageType = ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]

    def phase(item: Any, k: int) -> None:
        magnitude(item, k)
        item.ImageType = ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]
        item.SOPInstanceUID = f"{item.SOPInstanceUID[:-3]}999"
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
        item.InstanceNumber = 101 + k
        item.RescaleSlope, item.RescaleIntercept = "0.001534", "-3.141592"

    _export(tmp_path / "export" / "m", magnitude)
    _export(tmp_path / "export" / "p", phase)
    found = _found(tmp_path)
    torch.testing.assert_close(_one(found).reorient("RAS").data, _scan().data)
    [note] = found.skipped
    assert "24 of its images are left out: it is a phase image" in note


@pytest.mark.parametrize(
    ("image_type", "taken"),
    [
        (("DERIVED", "PRIMARY", "M", "ND", "DIS2D", "NORM"), True),
        (("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"), True),
        (("DERIVED", "PRIMARY", "M", "ND", "UNI"), True),
        (("DERIVED", "SECONDARY", "MPR"), False),
        (("DERIVED", "PRIMARY", "T1 MAP", "ND"), False),
        (("DERIVED", "PRIMARY", "DIFFUSION", "FA", "ND"), False),
        (("DERIVED", "PRIMARY", "RCBF"), False),
        (("ORIGINAL", "PRIMARY", "I", "ND"), False),
    ],
)
def test_which_image_types_are_scans(image_type: tuple[str, ...], taken: bool, tmp_path: Path) -> None:
    _export(tmp_path / "export", image_type=image_type)
    found = _found(tmp_path)
    assert bool(found.scans) == taken
    assert bool(found.problems) != taken  # named, with its reason


def test_a_trace_series_with_b0_becomes_three_scans_that_are_fused(tmp_path: Path) -> None:
    def weighted(b: float) -> Callable[[Any, int], None]:
        def change(item: Any, k: int) -> None:
            item.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"]
            item.DiffusionBValue = b
            item.InstanceNumber = k + 1 + (100 if b else 0)
            item.SOPInstanceUID = f"{item.SOPInstanceUID[:-4]}{int(b):04d}"
            item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
            if b:
                pixels = np.frombuffer(item.PixelData, np.uint16)
                item.PixelData = (pixels * 0.45).astype(np.uint16).tobytes()

        return change

    _export(tmp_path / "export" / "b0", weighted(0.0), description="trace")
    _export(tmp_path / "export" / "b1000", weighted(1000.0), description="trace")
    found = _found(tmp_path)
    assert found.problems == []
    names = [scan.path.name.rsplit("_", 1)[-1] for scan in found.scans]
    assert names == ["trace.nii.gz", "b0.nii.gz", "ADC.nii.gz"]
    assert len({scan.fused for scan in found.scans}) == 1
    assert found.scans[0].fused
    adc = found.scans[2].load().data
    assert float(adc[adc > 0].median()) == pytest.approx(800, abs=30)


def test_images_beside_dicom_are_used_too(tmp_path: Path) -> None:
    _export(tmp_path / "export")
    _scan().save(tmp_path / "export" / "earlier_FLAIR.nii.gz")
    found = _found(tmp_path)
    assert found.problems == []
    assert [scan.path.name for scan in found.scans] == [
        "earlier_FLAIR.nii.gz",
        "export_series-003_T2-TSE.nii",
    ]


def test_padding_and_warnings_come_with_the_scan(tmp_path: Path) -> None:
    def pad(item: Any, k: int) -> None:
        item.PixelRepresentation = 1
        pixels = np.frombuffer(item.PixelData, np.int16).reshape(item.Rows, item.Columns).copy()
        pixels[:6], pixels[:, :6] = -2000, -2000
        item.PixelData = pixels.tobytes()

    _export(tmp_path / "export", pad)
    [scan] = _found(tmp_path).scans
    with pytest.warns(VolumeWarning, match="padding"):
        assert float(scan.load().data.min()) >= 0
