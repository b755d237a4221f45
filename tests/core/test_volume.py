import gzip
import logging
import pathlib
import warnings
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, ornt_transform

from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from stand_in import rotation

SHAPE = (5, 6, 7)
AFFINE = rotation(10.0, -20.0) @ torch.tensor(
    [[-1.1, 0, 0, 80.3], [0, 0.9, 0, -110.7], [0, 0, 3.3, -60.1], [0, 0, 0, 1]], dtype=torch.float64
)


def _volume(channels: int = 1) -> Volume:
    return Volume(torch.rand(channels, *SHAPE, generator=stream(2, "volume")), AFFINE, 1)


def _nifti(
    path: pathlib.Path, array: np.ndarray[Any, Any], *, sform: int = 1, qform: int = 0
) -> pathlib.Path:
    image = nib.Nifti1Image(array, AFFINE.numpy())
    image.set_sform(AFFINE.numpy() if sform else None, sform)
    image.set_qform(AFFINE.numpy() if qform else None, qform)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "A.NII.GZ"])
def test_round_trip(tmp_path: pathlib.Path, name: str) -> None:
    volume = _volume()
    volume.save(tmp_path / name)
    loaded = Volume.load(tmp_path / name)
    assert torch.equal(loaded.data, volume.data)
    assert torch.allclose(loaded.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (2, 2), (0, 1), (4, 0)])
def test_output_has_the_very_affine_of_the_input(tmp_path: pathlib.Path, sform: int, qform: int) -> None:
    source = _nifti(tmp_path / "in.nii.gz", np.ones(SHAPE, np.float32), sform=sform, qform=qform)
    volume = Volume.load(source)
    volume.save(tmp_path / "out.nii.gz")
    written, original = nib.load(tmp_path / "out.nii.gz"), nib.load(source)
    np.testing.assert_array_equal(written.get_sform(), original.affine.astype(np.float32))
    np.testing.assert_allclose(written.get_qform(), original.affine, atol=1e-4)
    code = sform or qform
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (code, code)
    assert torch.equal(Volume.load(tmp_path / "out.nii.gz").affine, volume.affine)


def test_sheared_affine_is_kept_without_a_qform(tmp_path: pathlib.Path) -> None:
    sheared = AFFINE.clone()
    sheared[:3, 1] += 0.2 * sheared[:3, 0]
    Volume(torch.ones(1, *SHAPE), sheared).save(tmp_path / "a.nii")
    header = nib.load(tmp_path / "a.nii").header
    assert int(header["qform_code"]) == 0
    np.testing.assert_allclose(header.get_sform(), sheared.numpy(), atol=1e-4)


def test_intensity_scaling_is_applied(tmp_path: pathlib.Path) -> None:
    image = nib.Nifti1Image(np.full(SHAPE, 300, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10.0)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz").get_fdata()
    assert torch.equal(Volume.load(tmp_path / "a.nii.gz").data[0], torch.from_numpy(stored).float())


def test_label_maps_keep_large_integers(tmp_path: pathlib.Path) -> None:
    labels = np.full(SHAPE, 2**24 + 1, np.int32)
    _nifti(tmp_path / "a.nii", labels)
    assert int(Volume.load(tmp_path / "a.nii", dtype=torch.int32).data.max()) == 2**24 + 1
    with pytest.raises(VolumeError, match="16777217"):
        Volume.load(tmp_path / "a.nii", dtype=torch.int16)
    _nifti(tmp_path / "b.nii", np.full(SHAPE, 0.5, np.float32))
    with pytest.raises(VolumeError, match="whole numbers"):
        Volume.load(tmp_path / "b.nii", dtype=torch.uint8)


def test_four_dimensions_with_one_volume_are_accepted(tmp_path: pathlib.Path) -> None:
    _nifti(tmp_path / "a.nii", np.ones((*SHAPE, 1), np.float32))
    assert Volume.load(tmp_path / "a.nii").data.shape == (1, *SHAPE)
    _nifti(tmp_path / "b.nii", np.ones((*SHAPE, 3), np.float32))
    assert Volume.load(tmp_path / "b.nii", channels=None).data.shape == (3, *SHAPE)
    with pytest.raises(VolumeError, match="3 volumes"):
        Volume.load(tmp_path / "b.nii")


def test_channels_survive_the_disk(tmp_path: pathlib.Path) -> None:
    volume = _volume(4)
    volume.save(tmp_path / "a.nii.gz")
    assert torch.equal(Volume.load(tmp_path / "a.nii.gz", channels=4).data, volume.data)


def test_one_sided_geometry_errors(tmp_path: pathlib.Path) -> None:
    _nifti(tmp_path / "absent.nii", np.ones(SHAPE, np.float32), sform=0, qform=0)
    with pytest.raises(VolumeError, match="codes are both 0"):
        Volume.load(tmp_path / "absent.nii")
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE.numpy())
    flat = AFFINE.numpy().copy()
    flat[:3, 2] = flat[:3, 1]
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = flat[:3]
    image._affine = None
    nib.save(image, tmp_path / "flat.nii")
    with pytest.raises(VolumeError, match="singular"):
        Volume.load(tmp_path / "flat.nii")


def test_conflict_of_forms_takes_the_sform_and_warns(tmp_path: pathlib.Path) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE.numpy())
    mirrored = torch.diag(torch.tensor([-1.0, 1, 1, 1])).double() @ AFFINE
    image.set_sform(AFFINE.numpy(), 1)
    image.set_qform(mirrored.numpy(), 1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(VolumeWarning, match=r"sform .* used"):
        volume = Volume.load(tmp_path / "a.nii")
    assert torch.allclose(volume.affine, AFFINE, atol=1e-4)


def test_unreadable_files_name_themselves(tmp_path: pathlib.Path) -> None:
    whole = _nifti(
        tmp_path / "whole.nii", np.random.default_rng(0).random(SHAPE).astype(np.float32)
    ).read_bytes()
    (tmp_path / "short.nii").write_bytes(whole[:-40])
    (tmp_path / "stub.nii").write_bytes(whole[:100])
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(whole)[:-60])
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "empty.nii").touch()
    (tmp_path / "text.mgz").write_text("not an image")
    (tmp_path / "picture.png").write_text("?")
    (tmp_path / "folder.nii").mkdir()
    names = [p.name for p in sorted(tmp_path.iterdir()) if p.name != "whole.nii"] + ["missing.nii.gz"]
    for name in names:
        with pytest.raises(VolumeError, match=name) as caught:
            Volume.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert len(names) == 9


def test_colour_and_complex_are_refused(tmp_path: pathlib.Path) -> None:
    colour = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    _nifti(tmp_path / "colour.nii", colour)
    with pytest.raises(VolumeError, match="RGB"):
        Volume.load(tmp_path / "colour.nii")
    _nifti(tmp_path / "complex.nii", np.zeros(SHAPE, np.complex64))
    with pytest.raises(VolumeError, match="complex"):
        Volume.load(tmp_path / "complex.nii")


def test_save_refuses_to_overwrite_and_to_change_values(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.nii.gz"
    _volume().save(path)
    before = path.read_bytes()
    with pytest.raises(VolumeError, match="exists already"):
        _volume().save(path)
    with pytest.raises(VolumeError, match="do not fit"):
        _volume().save(path, overwrite=True, dtype=torch.uint8)
    assert path.read_bytes() == before
    with pytest.raises(VolumeError, match="not named like an image"):
        _volume().save(tmp_path / "a.jpg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_saved_bytes_do_not_depend_on_the_moment(tmp_path: pathlib.Path) -> None:
    _volume().save(tmp_path / "a.nii.gz")
    _volume().save(tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_bad_construction() -> None:
    with pytest.raises(VolumeError, match=r"\(5, 6, 7\)"):
        Volume(torch.zeros(SHAPE), AFFINE)
    with pytest.raises(VolumeError, match="invertible"):
        Volume(torch.zeros(1, *SHAPE), torch.zeros(4, 4))
    with pytest.raises(VolumeError, match="NaN"):
        Volume(torch.zeros(1, *SHAPE), AFFINE * float("nan"))
    with pytest.raises(VolumeError, match=r"\(3, 3\)"):
        Volume(torch.zeros(1, *SHAPE), AFFINE[:3, :3])


@settings(deadline=None, max_examples=48)
@given(
    first=st.permutations(["RL", "AP", "SI"]),
    sides=st.tuples(*[st.integers(0, 1)] * 3),
    angles=st.tuples(st.floats(-35, 35), st.floats(-35, 35)),
)
def test_reorient_agrees_with_nibabel_and_returns(
    first: list[str], sides: tuple[int, int, int], angles: tuple[float, float]
) -> None:
    code = "".join(pair[side] for pair, side in zip(first, sides, strict=True))
    volume = Volume(
        _volume().data, rotation(*angles) @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])).double()
    )
    turned = volume.reorient(code)
    image = nib.Nifti1Image(volume.data[0].numpy(), volume.affine.numpy())
    change = ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(tuple(code)))
    golden = image.as_reoriented(change)
    np.testing.assert_array_equal(turned.data[0].numpy(), np.asanyarray(golden.dataobj))
    np.testing.assert_allclose(turned.affine.numpy(), golden.affine, atol=1e-12)
    assert turned.orientation == code
    back = turned.reorient(volume.orientation)
    assert torch.equal(back.data, volume.data)
    assert torch.allclose(back.affine, volume.affine, atol=1e-9)


@pytest.mark.parametrize("code", ["RA", "RAA", "XYZ", "ras"])
def test_reorient_refuses_nonsense(code: str) -> None:
    with pytest.raises(VolumeError, match=code):
        _volume().reorient(code)


def test_resample_refuses_nonsense() -> None:
    volume = _volume()
    with pytest.raises(VolumeError, match="cubic"):
        volume.resample_to(AFFINE, SHAPE, "cubic")  # type: ignore[arg-type]
    with pytest.raises(VolumeError, match="nearest"):
        Volume(volume.data.to(torch.int32), AFFINE).resample_to(AFFINE, SHAPE)
    with pytest.raises(VolumeError, match="last row"):
        volume.resample_to(torch.zeros(4, 4), SHAPE)
    with pytest.raises(VolumeError, match="positive"):
        volume.resample_to(AFFINE, (0, 1, 1))


def test_nothing_else_warns_or_logs(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        _volume().save(tmp_path / "a.nii.gz")
        Volume.load(tmp_path / "a.nii.gz").reorient("LPI").resample_to(AFFINE, SHAPE)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_a_file_keeps_its_type_if_asked_to(tmp_path: pathlib.Path, dtype: type[np.generic]) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    kept, plain = Volume.load(tmp_path / "a.nii.gz", dtype=None), Volume.load(tmp_path / "a.nii.gz")
    assert kept.data.numpy().dtype == (np.float32 if dtype is np.uint16 else dtype)
    assert torch.equal(kept.data.float(), plain.data)
