import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from anystroke.anatomy.regions.grid import REGION_SHAPE, affine, index_of, positions, tissue
from anystroke.anatomy.regions.regions import load_regions, region_labels, region_names
from anystroke.anatomy.registration.mni import ScanRegistration
from anystroke.core.volume import Volume
from anystroke.tasks.outcome.features import loads_of, measure_lesions
from anystroke.tasks.outcome.masks import Lesion, check_sides, find_files, load_lesion, on_grid
from anystroke.tasks.outcome.table import OutcomeError

Array = np.ndarray[Any, np.dtype[Any]]


def _ball(spacing: float, *, flipped: bool = False) -> Volume:
    """A ball of 15 mm about (-30, -20, 25) on a grid of MNI space."""
    shape = tuple(round(n * 2 / spacing) for n in (90, 108, 90))
    matrix = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor([-90.0, -126.0, -72.0])
    if flipped:
        matrix[0, 0], matrix[0, 3] = -spacing, -90.0 + spacing * (shape[0] - 1)
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"), dim=-1).double()
    place = index @ matrix[:3, :3].T + matrix[:3, 3]
    inside = (place - torch.tensor([-30.0, -20.0, 25.0])).norm(dim=-1) <= 15
    return Volume(inside[None].to(torch.uint8), matrix, 4)


def test_grids_of_any_spacing_agree(tmp_path: Path) -> None:
    wanted = 4 / 3 * np.pi * 15**3 / 1000
    loads: list[Array] = []
    for spacing, flipped in ((1.0, False), (1.0, True), (2.0, False), (3.0, False), (1.5, True)):
        path = tmp_path / f"sub-{len(loads)}.nii.gz"
        ball = _ball(spacing, flipped=flipped)
        ball.save(path)
        lesion = load_lesion(path)
        assert lesion.volume_ml == pytest.approx(float(ball.data.sum()) * ball.voxel_volume, rel=1e-4)
        loads.append(loads_of(lesion))
    for each in loads[1:]:
        assert np.abs(each - loads[0]).max() < 0.12 * wanted
    assert loads[0][:, 1].sum() == 0  # nothing on the right


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_masks_of_other_formats(suffix: str, tmp_path: Path) -> None:
    ball, path = _ball(2.0), tmp_path / f"sub-1_lesion{suffix}"
    # The first two axes of these formats point to the left and to the back.
    image = sitk.GetImageFromArray(ball.data[0].permute(2, 1, 0).numpy())
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    image.SetOrigin((90.0, 126.0, -72.0))
    sitk.WriteImage(image, str(path))
    ball.save(tmp_path / "sub-1.nii.gz")
    other, lesion = load_lesion(path), load_lesion(tmp_path / "sub-1.nii.gz")
    assert np.array_equal(other.voxels, lesion.voxels)
    assert np.allclose(other.shares, lesion.shares, atol=1e-5)


def test_mirrored_lesions_change_sides() -> None:
    lesion = on_grid(Volume(_ball(2.0).data.float(), _ball(2.0).affine))
    assert np.allclose(loads_of(lesion), loads_of(lesion.mirrored())[:, ::-1], rtol=1e-4, atol=1e-6)
    assert np.array_equal(lesion.dense()[::-1], lesion.mirrored().dense())


def test_names_that_people_have(tmp_path: Path) -> None:
    files = (
        "sub-1_lesion.nii.gz",
        "sub-10_lesion.nii.gz",
        "2.nii",
        "sub-3/anat/sub-3_space-orig_label-L_mask.nii.gz",
        "sub-3/anat/sub-3_space-MNI152NLin2009aSym_label-L_mask.nii.gz",
        "sub-3/anat/sub-3_label-L_probseg.nii.gz",
    )  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    found = find_files(tmp_path, ["sub-1", "sub-2", "sub-3", "sub-4"], masks=True)
    assert {each: path.name for each, path in found.files.items()} == {
        "sub-1": "sub-1_lesion.nii.gz",
        "sub-2": "2.nii",
        "sub-3": "sub-3_space-MNI152NLin2009aSym_label-L_mask.nii.gz",
    }
    (tmp_path / "sub-1_lesion2.nii.gz").write_bytes(b"1")
    with pytest.raises(OutcomeError, match="expected one mask of sub-1"):
        find_files(tmp_path, ["sub-1"], masks=True)


def test_files_that_cannot_be_used_have_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "masks"
    (outside / "sub-3" / "anat").mkdir(parents=True)
    (outside / "sub-3" / "anat" / "mask.nii.gz").write_bytes(b"1")
    (folder / "closed").mkdir(parents=True)
    (folder / "sub-1_lesion.nii.gz").symlink_to("../annex/SHA256E-s9.nii.gz")
    (folder / "sub-2_lesion.nii.gz").touch()
    (folder / "sub-3").symlink_to(outside / "sub-3")
    (folder / "sub-3" / "anat" / "above").symlink_to(folder)
    (folder / "._sub-4_lesion.nii.gz").write_bytes(b"1")
    odd = os.fsencode(folder) + b"/sub-M\xfcller_lesion.nii.gz"
    Path(os.fsdecode(odd)).write_bytes(b"1")
    listed = os.scandir

    def scandir(place: Path) -> Any:
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr("os.scandir", scandir)
    found = find_files(folder, ["sub-1", "sub-2", "sub-3", "sub-4", "sub-Müller"], masks=True)
    assert sorted(found.files) == ["sub-3", "sub-Müller"]
    assert sorted(found.reasons) == ["sub-1", "sub-2"]
    assert "is a link whose target is missing (../annex/SHA256E-s9.nii.gz)" in found.reasons["sub-1"]
    assert found.reasons["sub-2"] == "sub-2_lesion.nii.gz is empty"
    [note] = found.notes
    assert "closed cannot be read (Permission denied)" in note


def test_a_mask_in_another_space(tmp_path: Path) -> None:
    ball = _ball(2.0)
    moved = ball.affine.clone()
    moved[:3, 3] += torch.tensor([0.0, 0.0, 70.0])
    Volume(ball.data, moved).save(tmp_path / "a.nii.gz")
    with pytest.raises(OutcomeError, match="not in MNI space"):
        load_lesion(tmp_path / "a.nii.gz")
    shifted = ball.affine.clone()
    shifted[:3, 3] += torch.tensor([0.0, 20.0, 17.0])
    corner = torch.zeros(1, 20, 20, 20)
    corner[..., 10:] = 1
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([-88.0, 60.0, 60.0])
    Volume(corner, matrix).save(tmp_path / "b.nii.gz")
    with pytest.raises(OutcomeError, match="another space: 0 %"):
        load_lesion(tmp_path / "b.nii.gz")


def test_a_mask_of_what_is_no_brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registration = ScanRegistration(torch.eye(4, dtype=torch.float64), 1.0)
    monkeypatch.setattr("anystroke.tasks.outcome.masks.scan_in_mni", lambda _: registration)
    matrix = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor([-120.0, -160.0, -90.0])
    scan, mask, path = torch.rand(1, 60, 70, 60), torch.zeros(1, 60, 70, 60), tmp_path / "sub-1_lesion.nii.gz"
    Volume(scan, matrix).save(tmp_path / "sub-1_T1w.nii.gz")
    # Before the chin of a head whose brain is where MNI152 has it.
    mask[0, 28:32, 55:60, 8:12] = 1
    Volume(mask, matrix).save(path)
    with pytest.raises(
        OutcomeError, match=r"marks what is no brain in sub-1_T1w.nii.gz: 0 % .*look at the mask"
    ):
        load_lesion(path, tmp_path / "sub-1_T1w.nii.gz")


def test_an_empty_mask_is_no_lesion(tmp_path: Path) -> None:
    ball = _ball(2.0)
    Volume(torch.zeros_like(ball.data), ball.affine).save(tmp_path / "a.nii.gz")
    lesion = load_lesion(tmp_path / "a.nii.gz")
    assert lesion.volume_ml == 0
    measured = measure_lesions([lesion])
    assert all(np.isfinite(values).all() for values in measured.values.values())


def test_shares_of_a_resampled_mask(tmp_path: Path) -> None:
    ball = _ball(2.0)
    for most, name in ((1.0, "a.nii.gz"), (0.4, "b.nii.gz"), (255.0, "c.nii.gz")):
        Volume(ball.data.float() * most, ball.affine).save(tmp_path / name)
    volumes = [load_lesion(tmp_path / name).volume_ml for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz")]
    assert volumes == pytest.approx([volumes[0]] * 3, rel=1e-5)
    assert volumes[0] > 10


def test_the_side_that_a_table_says() -> None:
    lesion = on_grid(Volume(_ball(2.0).data.float(), _ball(2.0).affine))
    lesions = {"a": lesion, "b": lesion.mirrored(), "c": lesion}
    assert check_sides(lesions, {"a": "L", "b": "left", "c": "unknown"}) == ["b"]


def test_regions_cover_the_brain_symmetrically() -> None:
    labels = region_labels()
    assert ((labels > 0) == (tissue().template > 0)).all()
    assert (labels == labels[::-1]).all()
    assert set(np.unique(labels)) == set(range(len(region_names()) + 1))
    regions = load_regions()
    whole = regions.loads(np.arange(labels.size), np.ones(labels.size))
    territories = [k for k, name in enumerate(regions.names) if name.startswith("territory")]
    assert whole[territories].sum() == (labels > 0).sum()


@pytest.mark.parametrize(
    ("region", "point"),
    [
        ("precentral", (-40, -8, 50)),
        ("thalamus", (-11, -18, 8)),
        ("pons", (-6, -26, -32)),
        ("calcarine", (-8, -80, 6)),
    ],
)
def test_known_places(region: str, point: tuple[float, float, float]) -> None:
    for sign in (1, -1):
        number, inside = index_of(np.array([[sign * point[0], point[1], point[2]]], dtype=np.float64))
        assert inside.all()
        assert region_labels().reshape(-1)[number[0]] == region_names().index(region) + 1


def test_voxels_and_positions_are_inverse() -> None:
    number, inside = index_of(positions().astype(np.float64))
    assert inside.all()
    assert np.array_equal(number, np.arange(np.prod(REGION_SHAPE)))
    assert affine()[:3, 3].tolist() == [-90.0, -126.0, -72.0]


def test_measured_volume_doubles_by_a_step_of_one_size() -> None:
    one = Lesion(np.arange(400_000, 401_000, dtype=np.int32), np.ones(1000, dtype=np.float32))
    two = Lesion(np.arange(400_000, 402_000, dtype=np.int32), np.ones(2000, dtype=np.float32))
    size = measure_lesions([one, two]).values["size"][:, 0]
    assert size[1] - size[0] == pytest.approx(np.log((16 + 0.1) / (8 + 0.1)), rel=1e-5)
