"""Packed maps hold what the files hold, on one grid; packing goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.learning.sources.map_packs import INDEX, PackedSubject, open_maps, pack_maps
from anystroke.qmri.map_files import MapDataError, find_map_subjects
from map_phantoms import SPACING, write_map_subject


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    write_map_subject(folder, "sub-01")
    write_map_subject(folder, "sub-02", key=2, brain=False, lesion=False, r2=True)
    return folder


def _everything(subject: PackedSubject) -> tuple[torch.Tensor, torch.Tensor]:
    x, y, z = subject.shape
    return subject.read((slice(0, x), slice(0, y), slice(0, z)))


def test_a_pack_holds_the_values_of_the_files(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    report = pack_maps(find_map_subjects(data), tmp_path / "p", spacing=SPACING, on_subject=said.append)
    assert report.names == ("sub-01", "sub-02")
    assert said == ["sub-01 was packed", "sub-02 was packed"]
    assert report.notes["sub-01"] == ("r2 was not measured and is estimated from r2star and r1",)
    first, second = open_maps(tmp_path / "p")
    assert first.names == ("proton_density", "r1", "r2star", "mt_saturation")
    assert second.names == ("proton_density", "r1", "r2", "r2star", "mt_saturation")
    assert (first.has_brain, second.has_brain) == (True, False)
    maps, masks = _everything(first)
    stored = Volume.load(data / "sub-01_R1map.nii.gz")
    corner = torch.linalg.inv(stored.affine) @ first.affine[:, 3]
    x, y, z = (round(v) for v in corner[:3].tolist())
    box = (slice(x, x + first.shape[0]), slice(y, y + first.shape[1]), slice(z, z + first.shape[2]))
    head = masks[0] > 0
    # No tissue has less, as where a voxel is mostly air, or more.
    assert torch.allclose(maps[1][head], stored.data[0][box][head].clamp(0.1, 5), rtol=2e-3)
    lesion = Volume.load(data / "sub-01_label-L_mask.nii.gz").data[0]
    assert torch.equal(masks[2], lesion[box])
    assert float(masks[2].sum()) == float(lesion.sum())
    assert bool((masks[2][tuple(first.lesion_voxels.T)] == 1).all())
    assert len(second.lesion_voxels) == 0
    part = (slice(3, 20), slice(5, 9), slice(10, 30))
    assert torch.equal(first.read(part)[0], maps[(slice(None), *part)])
    assert first.mixture.means.shape == (8, 4)


def test_other_orientations_and_voxel_sizes_come_to_the_same(data: Path, tmp_path: Path) -> None:
    for path in data.glob("sub-01_*.nii.gz"):
        Volume.load(path).reorient("PIL").save(tmp_path / path.name)
    for folder, spacing in ((data, SPACING), (tmp_path, SPACING), (data, 5.0)):
        [subject] = [each for each in find_map_subjects(folder) if each.name == "sub-01"]
        pack_maps([subject], tmp_path / f"p{spacing}-{folder.name}", spacing=spacing)
    [plain], [turned], [coarse] = (
        open_maps(tmp_path / name)
        for name in (f"p4.0-{data.name}", f"p4.0-{tmp_path.name}", f"p5.0-{data.name}")
    )
    assert torch.equal(_everything(plain)[0], _everything(turned)[0])
    assert torch.allclose(plain.affine, turned.affine)
    (maps, masks), (low, low_masks) = _everything(plain), _everything(coarse)
    assert torch.allclose(coarse.affine[:3, :3], 5 * torch.eye(3, dtype=torch.float64))
    assert float(low_masks[2].sum()) * 125 == pytest.approx(float(masks[2].sum()) * 64, rel=0.1)
    for fine, large in zip(maps, low, strict=True):
        expected = float(fine[masks[1] > 0].mean())
        assert float(large[low_masks[1] > 0].mean()) == pytest.approx(expected, rel=0.1)
    # Rates are not diluted with air at the border of the head.
    assert float(low[1][low_masks[0] > 0].min()) > 0.8 * float(maps[1][masks[0] > 0].min())


def test_packing_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    subjects = find_map_subjects(data)
    pack_maps(subjects[:1], tmp_path, spacing=SPACING)
    before = (tmp_path / "sub-01.safetensors").stat().st_mtime_ns
    said: list[str] = []
    pack_maps(subjects, tmp_path, spacing=SPACING, on_subject=said.append)
    assert said == ["sub-01 was kept", "sub-02 was packed"]
    assert (tmp_path / "sub-01.safetensors").stat().st_mtime_ns == before
    (tmp_path / "sub-01.safetensors").write_bytes(b"damaged")
    pack_maps(subjects, tmp_path, spacing=SPACING, on_subject=said.append)
    assert said[2:] == ["sub-01 was packed", "sub-02 was kept"]
    pack_maps(subjects[:1], tmp_path, spacing=5.0, on_subject=said.append)
    assert said[4:] == ["sub-01 was packed"]
    (tmp_path / INDEX).unlink()
    with pytest.raises(MapDataError, match="pack them first"):
        open_maps(tmp_path)


def test_one_bad_subject_does_not_hide_the_others(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "data"
    write_map_subject(source, "sub-03")
    write_map_subject(source, "sub-04")
    write_map_subject(source, "sub-05")
    write_map_subject(source, "sub-06")
    (source / "sub-03_R1map.nii.gz").write_bytes(b"no image")
    r1 = Volume.load(source / "sub-04_R1map.nii.gz")
    Volume(1e7 * r1.data, r1.affine).save(source / "sub-04_R1map.nii.gz", overwrite=True)
    lesion = Volume.load(source / "sub-05_label-L_mask.nii.gz")
    far = lesion.affine.clone()
    far[:3, 3] += 1000
    Volume(lesion.data, far).save(source / "sub-05_label-L_mask.nii.gz", overwrite=True)
    report = pack_maps(find_map_subjects(source), tmp_path / "p", spacing=SPACING)
    assert report.names == ("sub-06",)
    assert "R1map" in report.skipped["sub-03"]
    assert "the median in the brain" in report.skipped["sub-04"]
    assert "does not lie on the maps of sub-05; check its geometry" in report.skipped["sub-05"]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [INDEX, "sub-06.safetensors"]
    assert json.loads((tmp_path / "p" / INDEX).read_text())["subjects"] == ["sub-06"]


def test_what_cannot_be_packed_is_refused(data: Path, tmp_path: Path) -> None:
    subjects = find_map_subjects(data)
    with pytest.raises(MapDataError, match="spacing above 0 mm, got 0"):
        pack_maps(subjects, tmp_path, spacing=0)
    with pytest.raises(MapDataError, match="got sub-01 twice"):
        pack_maps([*subjects, subjects[0]], tmp_path, spacing=SPACING)
    with pytest.raises(MapDataError, match="but there is none"):
        pack_maps([], tmp_path, spacing=SPACING)
    pack_maps(subjects, tmp_path, spacing=SPACING)
    (tmp_path / "sub-02.safetensors").unlink()
    with pytest.raises(MapDataError, match="names sub-02, but its file is not there"):
        open_maps(tmp_path)
