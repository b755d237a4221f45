"""Headers as people have them: read as other programs read them, or refused, and never silently elsewhere."""

import gzip
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from anystroke.core.volume import Grid, Volume, VolumeError, VolumeWarning

SHAPE = (40, 44, 36)
AFFINE = np.array([[-5.0, 0, 0, 100], [0, 5, 0, -110], [0, 0, 5, -90], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(1).integers(0, 1000, SHAPE).astype(np.int16)
QFORM_CODE, SFORM_CODE, PIXDIM, QUATERNION, SROWS, UNITS = 252, 254, 76, 256, 280, 123
Change = tuple[int, str, float | tuple[float, ...]]


def _write(
    path: Path, *changes: Change, affine: np.ndarray[tuple[int, int], np.dtype[np.float64]] = AFFINE
) -> Path:
    """Write the scan as plain NIfTI with both forms, and overwrite fields of its header."""
    image = nib.Nifti1Image(VOXELS, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path.with_name("plain.nii"))
    raw = bytearray(path.with_name("plain.nii").read_bytes())
    path.with_name("plain.nii").unlink()
    for offset, form, values in changes:
        struct.pack_into(f"<{form}", raw, offset, *(values if isinstance(values, tuple) else (values,)))
    path.write_bytes(raw)
    return path


def _read(path: Path) -> tuple[Volume, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = Volume.load(path)
    assert [str(each.message) for each in caught if not issubclass(each.category, VolumeWarning)] == []
    return volume, [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param([(SFORM_CODE, "h", 0), (QUATERNION, "3f", (0.0, 1.0000005, 0.0))], None, id="rounded"),
        pytest.param([(SFORM_CODE, "h", 0), (QUATERNION, "3f", (0.0, 1.004, 0.0))], None, id="too long"),
        pytest.param([(QUATERNION, "3f", (9.0, 9.0, 9.0))], None, id="no quaternion"),
        pytest.param([(QUATERNION, "f", float("nan"))], None, id="NaN in the quaternion"),
        pytest.param([(SROWS, "12f", (0.0,) * 12)], "the qform is used", id="empty sform"),
        pytest.param([(SROWS + 16, "f", float("nan"))], "the qform is used", id="NaN in the sform"),
        pytest.param([(PIXDIM, "f", 0.0), (QFORM_CODE, "h", 0)], None, id="qfac 0"),
        pytest.param([(112, "f", float("inf"))], None, id="infinite slope"),
        pytest.param([(108, "f", 0.0)], None, id="no offset"),
        pytest.param([(UNITS, "B", 0)], None, id="no unit"),
        pytest.param([(UNITS, "B", 1)], "says metres, but its numbers are millimetres", id="not metres"),
        pytest.param([(UNITS, "B", 3)], "says micrometres, but", id="not micrometres"),
        pytest.param([(40, "8h", (7, *SHAPE, 1, 1, 1, 1))], None, id="seven dimensions"),
    ],
)
def test_headers_that_leave_no_doubt_are_read(
    changes: list[Change], words: str | None, tmp_path: Path
) -> None:
    turned = np.diag([-5.0, 5, -5, 1])
    turned[:3, 3] = (100, -110, 90)
    affine = AFFINE if len(changes) == 1 or changes[0][0] != SFORM_CODE else turned
    volume, said = _read(_write(tmp_path / "a.nii", *changes, affine=affine))
    np.testing.assert_allclose(volume.affine.numpy(), affine, atol=1e-3)
    np.testing.assert_array_equal(volume.data[0].numpy(), VOXELS)
    assert len(said) == (words is not None), said
    assert words is None or words in said[0]


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (3, 1e3)])
def test_other_units_become_millimetres(unit: int, factor: float, tmp_path: Path) -> None:
    affine = np.diag([factor, factor, factor, 1]) @ AFFINE
    path = _write(tmp_path / "a.nii", (UNITS, "B", unit), affine=affine)
    volume, said = _read(path)
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE, rtol=1e-5)
    assert len(said) == 1
    assert "voxels of 5 x 5 x 5 mm" in said[0]
    volume.save(tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("plain.nii.gz", bytes),
        ("packed.nii", gzip.compress),
        ("twice.nii.gz", lambda raw: gzip.compress(gzip.compress(raw))),
    ],
)
def test_files_are_read_by_their_first_bytes(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    raw = _write(tmp_path / "a.nii").read_bytes()
    (tmp_path / name).write_bytes(pack(raw))
    volume, said = _read(tmp_path / name)
    np.testing.assert_array_equal(volume.data[0].numpy(), VOXELS)
    assert len(said) == (not name.startswith("twice"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(500), "a ZIP archive, expected NIfTI or MGH; unpack it"),
        (b"<!DOCTYPE html><html>" + bytes(500), "web page"),
        (b"/annex/objects/MD5E-s1--aa.nii.gz\n", "datalad get"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"NRRD0004\n" + bytes(400), "call it .nrrd"),
        (bytes(128) + b"DICM" + bytes(300), "DICOM"),
        ((348).to_bytes(4, "little") + bytes(400), "Analyze"),
    ],
)
def test_other_kinds_of_files_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VolumeError, match=words) as caught:
            Volume.load(tmp_path / name)
        assert name in str(caught.value)


def test_a_link_without_a_target_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to("../.git/annex/objects/a.nii.gz")
    with pytest.raises(VolumeError, match=r"target is missing \(\.\./\.git/annex.*datalad get"):
        Volume.load(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 2.0), (5.0, 5.0, 6.5), (5.0, 5.0, 0.0)])
def test_two_voxel_sizes_are_both_named(sizes: tuple[float, ...], tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii", (QFORM_CODE, "h", 0), (PIXDIM + 4, "3f", sizes))
    _, [said] = _read(path)
    assert "5 x 5 x 5 mm by its affine" in said
    assert f"{' x '.join(f'{size:g}' for size in sizes if size)}" in said or "1" in said


def test_headers_alone_are_read_without_a_word(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii", (QFORM_CODE, "h", 0), (PIXDIM + 4, "3f", (1.0, 1.0, 2.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Grid.of_file(path).shape == SHAPE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(40, "8h", (3, 30000, 30000, 30000, 1, 1, 1, 1))], "truncated"),
        ([(SROWS + 12, "f", 1e20), (QFORM_CODE, "h", 0)], "away from the world's origin"),
        ([(UNITS, "B", 1), (SROWS, "12f", (100.0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 100, 0))], "in metres"),
        ([(SFORM_CODE, "h", 0), (QUATERNION, "3f", (9.0, 9.0, 9.0))], "says nothing about orientation"),
    ],
)
def test_headers_that_leave_a_doubt_are_refused(changes: list[Change], words: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii", *changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(VolumeError, match=words):
            Volume.load(path)


_INTERESTING = (0.0, -1.0, 1.0, float("nan"), float("inf"), 1e30, -1e30, 1e-30, 1e-3, 1.5)
_SHORTS = (0, -1, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 256, 512, 768, 2304, 32767, -32768)


def _damage(raw: bytes, rng: random.Random) -> bytes:
    """Change, cut or pack a NIfTI file in ways that disks, programs and people do."""
    data = bytearray(raw)
    kind = rng.choice(("byte", "float", "short", "cut", "unit"))
    for _ in range(rng.choice((1, 1, 2, 5))):
        if kind == "byte":
            data[rng.randrange(352)] = rng.randrange(256)
        elif kind == "float":
            place = rng.choice((*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4)))
            struct.pack_into("<f", data, place, rng.choice(_INTERESTING))
        elif kind == "short":
            place = rng.choice((*range(40, 56, 2), 70, 72, 252, 254))
            struct.pack_into("<h", data, place, rng.choice(_SHORTS))
        elif kind == "unit":
            data[UNITS] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data))] if kind == "cut" else data)


def test_damaged_headers_never_move_a_scan_without_a_word(tmp_path: Path) -> None:
    """A header of which one form alone is set cannot be checked; half a voxel is within rounding."""
    raw = _write(tmp_path / "a.nii").read_bytes()
    rng = random.Random(7)
    outcomes = {"read": 0, "refused": 0, "warned": 0}
    corners = np.array([[x, y, z, 1.0] for x in (0, 39) for y in (0, 43) for z in (0, 35)]).T
    for number in range(500):
        path = tmp_path / rng.choice(("x.nii", "x.nii.gz"))
        damaged = _damage(raw, rng)
        path.write_bytes(gzip.compress(damaged, 1) if rng.random() < 0.4 else damaged)
        try:
            volume, said = _read(path)
        except VolumeError as error:
            outcomes["refused"] += path.name in str(error)
            continue
        moved = np.abs((volume.affine.numpy() - AFFINE) @ corners).max() > 2.5 or volume.shape != SHAPE
        header = nib.Nifti1Header(damaged[:348], check=False)
        one_form = int(header["sform_code"]) <= 0 or int(header["qform_code"]) <= 0
        outcomes["warned" if said else "read"] += 1
        assert not moved or said or one_form, f"damage {number} moved the scan: {volume.affine}"
    assert min(outcomes.values()) > 30, outcomes
    assert sum(outcomes.values()) == 500
