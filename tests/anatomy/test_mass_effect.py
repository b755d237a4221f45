import pytest
import torch

from anystroke.anatomy.deformation import DeformationSettings, SamplingGrid, grid_affine, sampling_grid
from anystroke.anatomy.mass_effect import displaced
from anystroke.rng import stream

SHAPE = (60, 64, 56)
BOX = (slice(20, 40), slice(22, 42), slice(18, 38))


def _grid(seed: int = 1) -> SamplingGrid:
    return sampling_grid(
        SHAPE, 2.0, centre=torch.zeros(3), settings=DeformationSettings(), rng=stream(seed, "grid")
    )


def _ball() -> torch.Tensor:
    axis = torch.arange(20) - 9.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x**2 + y**2 + z**2 < 81).float()


def _move(amount: float, seed: int = 1) -> tuple[torch.Tensor, SamplingGrid]:
    grid = _grid(seed)
    changed = displaced(grid, _ball(), BOX, spacing=2.0, largest_mm=amount, reach_mm=10.0)
    return changed.points() - grid.points(), changed


@pytest.mark.parametrize("amount", [-2.0, 4.0])
def test_the_push_has_its_size_and_fades_far_away(amount: float) -> None:
    change, _ = _move(amount)
    size = change.norm(dim=0)
    assert 0.5 * abs(amount) < float(size.max()) < 1.6 * abs(amount)
    assert float(size[:4].max()) < 0.5


def test_swelling_reads_tissue_from_nearer_to_the_lesion() -> None:
    grid = _grid()
    change, _ = _move(4.0)
    points = grid.points()
    centre = points[:, 30, 32, 28]
    for voxel in ((44, 32, 28), (16, 32, 28), (30, 46, 28), (30, 32, 14)):
        outwards = points[(slice(None), *voxel)] - centre
        assert float((change[(slice(None), *voxel)] * outwards).sum()) < 0
    shrunk, _ = _move(-2.0)
    assert float((shrunk[:, 44, 32, 28] * (points[:, 44, 32, 28] - centre)).sum()) > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_map_stays_one_to_one(seed: int) -> None:
    calm = sampling_grid(
        SHAPE,
        2.0,
        centre=torch.zeros(3),
        settings=DeformationSettings(elastic=0.0, mirror=0.0),
        rng=stream(seed, "calm"),
    )
    points = displaced(calm, _ball(), BOX, spacing=2.0, largest_mm=4.0, reach_mm=8.0).points()
    rows = [points.diff(dim=axis + 1)[:, :55, :55, :55] for axis in range(3)]
    jacobian = torch.linalg.det(torch.stack(rows, dim=-1).permute(1, 2, 3, 0, 4))
    assert float(jacobian.min()) > 0


def test_a_reach_too_short_is_refused_and_no_lesion_changes_nothing() -> None:
    with pytest.raises(ValueError, match=r"at least 1\.7 times the displacement of 4\.0 mm, got 3\.0"):
        displaced(_grid(), _ball(), BOX, spacing=2.0, largest_mm=4.0, reach_mm=3.0)
    grid = _grid()
    assert displaced(grid, 0 * _ball(), BOX, spacing=2.0, largest_mm=4.0, reach_mm=9.0) is grid


def test_a_coarse_membership_of_the_same_lesion_gives_about_the_same_push() -> None:
    grid = sampling_grid(
        SHAPE, 1.0, centre=torch.zeros(3), settings=DeformationSettings(elastic=0.0), rng=stream(2, "grid")
    )
    assert grid.affine.equal(grid_affine(SHAPE, 1.0))
    coarse = torch.nn.functional.avg_pool3d(_ball()[None], 2)[0]
    fine = displaced(grid, _ball(), BOX, spacing=1.0, largest_mm=3.0, reach_mm=8.0).points()
    same = displaced(grid, coarse, BOX, spacing=2.0, largest_mm=3.0, reach_mm=8.0).points()
    assert float((fine - same).abs().max()) < 0.4
