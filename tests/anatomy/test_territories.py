from pathlib import Path

import pytest
import torch
from scipy.ndimage import label

from anystroke.anatomy.lesions.territories import load_territories, territory_bank, territory_lesion
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.io.datasets import DatasetError


def _territory() -> Volume:
    axis = torch.arange(40).float()
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    probability = (1 - ((x - 12) ** 2 + (y - 20) ** 2 + (z - 20) ** 2).sqrt() / 14).clamp(min=0)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = -40
    return Volume(probability[None], affine)


@pytest.mark.parametrize("volume_ml", [1.0, 5.0, 20.0])
def test_lesions_are_connected_stay_inside_and_have_about_their_volume(volume_ml: float) -> None:
    territory = _territory()
    volumes, corners = [], set()
    for seed in range(6):
        lesion = territory_lesion(territory, volume_ml=volume_ml, rng=stream(seed, "lesion"))
        assert label(lesion.mask.numpy())[1] == 1
        places = torch.nonzero(lesion.mask).double()
        mm = places @ lesion.affine[:3, :3].T + lesion.affine[:3, 3]
        voxels = ((mm + 40) / 2).round().long()
        assert bool((territory.data[0][voxels[:, 0], voxels[:, 1], voxels[:, 2]] > 0).all())
        volumes.append(lesion.volume_ml)
        corners.add(tuple(lesion.affine[:3, 3].tolist()))
    assert all(volume == pytest.approx(volume_ml, rel=0.05) for volume in volumes)
    assert len(corners) > 3


def test_a_territory_that_is_too_small_is_filled_and_nonsense_refused() -> None:
    territory = _territory()
    whole = float((territory.data > 0).sum()) * 8 / 1000
    lesion = territory_lesion(territory, volume_ml=1000, rng=stream(1, "lesion"))
    assert lesion.volume_ml == pytest.approx(whole, rel=0.05)
    with pytest.raises(ValueError, match="got 0 ml"):
        territory_lesion(territory, volume_ml=0, rng=stream(1))


def test_lesions_grow_over_several_territories_of_one_grid_only() -> None:
    first = _territory()
    second = Volume(first.data.flip(1), first.affine)
    lesion = territory_lesion([first, second], volume_ml=115.0, rng=stream(2, "two"))
    assert float((first.data > 0).sum()) * 0.008 < 110
    assert lesion.volume_ml == pytest.approx(115, rel=0.05)
    places = torch.nonzero(lesion.mask).double() @ lesion.affine[:3, :3].T + lesion.affine[:3, 3]
    voxels = ((places + 40) / 2).round().long()
    only = [(mine.data[0] > 0) & (other.data[0] == 0) for mine, other in ((first, second), (second, first))]
    assert all(bool(area[voxels[:, 0], voxels[:, 1], voxels[:, 2]].any()) for area in only)
    with pytest.raises(ValueError, match="expected territories on one grid"):
        territory_lesion([first, Volume(first.data[..., 1:], first.affine)], volume_ml=1.0, rng=stream(1))
    with pytest.raises(ValueError, match="at least one territory, got none"):
        territory_lesion([], volume_ml=1.0, rng=stream(1))


def test_borders_are_irregular_and_draws_differ() -> None:
    # Almost certainly it grows from the middle, so that the grid's end cuts nothing.
    likely = torch.full((1, 40, 40, 40), 1e-7)
    likely[0, 20, 20, 20] = 1
    territory = Volume(likely, torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)))
    lesions = [territory_lesion(territory, volume_ml=12, rng=stream(k, "draw")) for k in (1, 1, 2, 3, 4)]
    assert torch.equal(lesions[0].mask, lesions[1].mask)
    assert len({tuple(lesion.mask.shape) for lesion in lesions}) > 2
    for lesion in lesions:
        places = torch.nonzero(lesion.mask).double()
        distance = (places - places.mean(0)).norm(dim=1)
        in_ball = float((distance < (0.75 / torch.pi * len(places)) ** (1 / 3)).double().mean())
        assert 0.4 < in_ball < 0.93


def test_folders_of_maps_are_read_scaled_and_checked(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        load_territories(tmp_path)
    territory = _territory()
    Volume(territory.data * 40, territory.affine).save(tmp_path / "MCA.nii.gz")
    found = load_territories(tmp_path)
    assert list(found) == ["MCA"]
    assert float(found["MCA"].data.max()) == pytest.approx(1)
    bank = territory_bank(found, 3, volumes_ml=(1.0, 4.0), rng=stream(1, "bank"))
    assert [mask.name for mask in bank] == ["MCA_0000", "MCA_0001", "MCA_0002"]
    territory.save(tmp_path / "PCA.nii.gz")
    both = territory_bank(
        load_territories(tmp_path), 4, volumes_ml=(1.0, 4.0), several=1.0, rng=stream(1, "bank")
    )
    assert [mask.name for mask in both] == ["MCA_PCA_0000", "PCA_MCA_0001", "MCA_PCA_0002", "PCA_MCA_0003"]
    Volume(-territory.data, territory.affine).save(tmp_path / "bad.nii.gz")
    with pytest.raises(ValueError, match="expected a map of probabilities"):
        load_territories(tmp_path)


@pytest.mark.real_data
def test_the_atlas_gives_lesions_in_the_hemisphere_of_its_maps(data_dir: Path) -> None:
    found = load_territories(data_dir / "lesions" / "territories")
    assert len(found) >= 20
    for mask in territory_bank(found, len(found), volumes_ml=(2.0, 30.0), rng=stream(1, "bank")):
        assert 1.5 < mask.volume_ml < 32
        left_to_right = (mask.affine[0, 0] * torch.nonzero(mask.mask)[:, 0] + mask.affine[0, 3]).mean()
        assert float(left_to_right) > 0
