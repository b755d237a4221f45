import math

import pytest
import torch

from anystroke.anatomy.tissues.deformation import (
    DeformationSettings,
    grid_affine,
    random_affine,
    rotation_matrix,
    sample_at,
    sampling_grid,
)
from anystroke.core.rng import stream

STILL = DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0)


def test_without_deformation_the_grid_is_centred_and_isotropic() -> None:
    centre = torch.tensor([5.0, -7.0, 11.0], dtype=torch.float64)
    grid = sampling_grid((5, 7, 9), 2.0, centre=centre, settings=STILL, rng=stream(1, "grid"))
    assert torch.allclose(grid.points()[:, 2, 3, 4], centre.float())
    assert torch.allclose(grid.points()[:, 3, 3, 4] - grid.points()[:, 2, 3, 4], torch.tensor([2.0, 0, 0]))
    assert torch.allclose(grid.points()[:, 2, 3, 5] - grid.points()[:, 2, 3, 4], torch.tensor([0, 0, 2.0]))
    assert torch.equal(grid.affine, grid_affine((5, 7, 9), 2.0))


def test_rotation_is_orthogonal_and_turns_by_the_angle() -> None:
    turn = rotation_matrix((0.0, 0.0, 30.0))
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert float(turn[0, 0]) == pytest.approx(math.cos(math.radians(30)))
    assert float(torch.linalg.det(rotation_matrix((10.0, 20.0, 30.0)))) == pytest.approx(1)


def test_mirror_and_scaling_stay_in_their_ranges() -> None:
    settings = DeformationSettings(rotation=0, scaling=0.1, shear=0, translation=3, elastic=0, mirror=0.5)
    mirrored = 0
    for k in range(200):
        affine = random_affine(settings, stream(k, "affine"))
        diagonal = affine.diagonal()[:3].abs()
        assert bool(((diagonal > 0.9 * 0.96) & (diagonal < 1.1 * 1.04)).all())
        assert float(affine[:3, 3].abs().max()) <= 3
        mirrored += int(affine[0, 0] < 0)
    assert 70 < mirrored < 130


def test_elastic_displacement_is_smooth_and_does_not_fold() -> None:
    settings = STILL.model_copy(update={"elastic": 4.0})
    centre = torch.zeros(3, dtype=torch.float64)
    for k in range(10):
        grid = sampling_grid((48, 56, 48), 4.0, centre=centre, settings=settings, rng=stream(k, "bend"))
        assert float(grid.points()[0].diff(dim=0).min()) > 0


def test_sample_at_reads_values_where_they_are() -> None:
    image = torch.rand((2, 6, 7, 8), generator=stream(1, "image"))
    affine = torch.tensor(
        [[0.0, -2.0, 0.0, 10.0], [3.0, 0.0, 0.0, -4.0], [0.0, 0.0, 1.5, 2.0], [0, 0, 0, 1]],
        dtype=torch.float64,
    )
    voxel = torch.tensor([3.0, 2.0, 5.0, 1.0], dtype=torch.float64)
    point = (affine @ voxel)[:3].float().reshape(3, 1, 1, 1)
    assert torch.allclose(sample_at(image, affine, point).flatten(), image[:, 3, 2, 5], atol=1e-4)
    between = (
        (affine @ torch.tensor([3.5, 2.0, 5.0, 1.0], dtype=torch.float64))[:3].float().reshape(3, 1, 1, 1)
    )
    assert torch.allclose(sample_at(image, affine, between).flatten(), image[:, 3:5, 2, 5].mean(1), atol=1e-4)
    outside = torch.full((3, 1, 1, 1), 1000.0)
    assert float(sample_at(image, affine, outside).abs().sum()) == 0


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_coarse_grid_of_no_voxels_has_none(factor: int) -> None:
    grid = sampling_grid((6, 6, 6), 1.0, centre=torch.zeros(3), settings=STILL, rng=stream(1, "grid"))
    empty = grid.crop((slice(0, 0),) * 3).coarse(factor)
    assert empty.shape == (0, 0, 0)
    assert empty.points().shape == (3, 0, 0, 0)
