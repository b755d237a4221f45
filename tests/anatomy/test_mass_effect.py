import pytest
import torch

from anystroke.anatomy.lesions.mass_effect import displaced, plausible_displacement
from anystroke.anatomy.tissues.deformation import (
    DeformationSettings,
    SamplingGrid,
    grid_affine,
    sampling_grid,
)
from anystroke.core.rng import stream

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
    assert float(size.max()) == pytest.approx(abs(amount), rel=0.08)
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


def _smallest_jacobian(grid: SamplingGrid) -> float:
    points = grid.points()
    rows = [points.diff(dim=axis + 1)[:, :55, :55, :55] for axis in range(3)]
    jacobian = torch.linalg.det(torch.stack(rows, dim=-1).permute(1, 2, 3, 0, 4))
    return float(jacobian.min()) / float(torch.linalg.det(grid.linear[:3, :3]))


def _calm(seed: int) -> SamplingGrid:
    return sampling_grid(
        SHAPE,
        2.0,
        centre=torch.zeros(3),
        settings=DeformationSettings(elastic=0.0, mirror=0.0),
        rng=stream(seed, "calm"),
    )


def _some_lesion(seed: int) -> torch.Tensor:
    lesion = torch.zeros(20, 20, 20)
    if seed % 4 == 0:
        return _ball()
    if seed % 4 == 1:
        lesion[10, 10, 10] = 1
    elif seed % 4 == 2:
        lesion[2, 2, 2], lesion[8, 8, 8], lesion[14, 5, 16] = 1, 1, 1
    else:
        lesion[8:10, :, :] = 1
    return lesion


@pytest.mark.parametrize("amount", [4.0, -4.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_map_stays_one_to_one_at_the_shortest_reach(seed: int, amount: float) -> None:
    brain = _brain() if seed > 3 else None
    changed = displaced(
        _calm(seed), _some_lesion(seed), BOX, spacing=2.0, largest_mm=amount, reach_mm=6.8, brain=brain
    )
    assert _smallest_jacobian(changed) > 0


def _brain() -> torch.Tensor:
    axes = [torch.arange(n).float() - m for n, m in zip(SHAPE, (30, 32, 28), strict=True)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x**2 + y**2 + z**2 < 17**2).float()


def test_with_the_brain_given_the_skull_hardly_moves_and_the_brain_does() -> None:
    surface = torch.zeros(20, 20, 20)
    surface[15:20, 7:13, 7:13] = 1
    brain, grid = _brain(), _calm(1)
    skull = (torch.nn.functional.max_pool3d(brain[None], 5, 1, padding=2)[0] - brain) > 0
    free, kept = (
        displaced(
            grid,
            surface,
            (slice(26, 46), slice(22, 42), slice(18, 38)),
            spacing=2.0,
            largest_mm=4.0,
            reach_mm=8.0,
            brain=given,
        ).points()
        - grid.points()
        for given in (None, brain)
    )
    assert float(free.norm(dim=0)[skull].max()) > 2.5
    assert float(kept.norm(dim=0)[skull].max()) < 1.3
    assert float(kept.norm(dim=0)[brain > 0].max()) > 2.0


def test_small_lesions_push_little() -> None:
    amounts = [
        plausible_displacement(torch.full((10, 10, 10), fill), spacing=2.0) for fill in (0.0, 0.05, 1.0)
    ]
    assert amounts == pytest.approx([0, 0.914, 2.481], abs=0.01)
    assert plausible_displacement(torch.ones(60, 60, 60), spacing=2.0) == 4


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


def test_the_displacement_that_was_there_stays() -> None:
    for seed in range(6):
        grid = _grid(seed)
        same = displaced(grid, _ball(), BOX, spacing=2.0, largest_mm=0.0, reach_mm=8.0)
        assert float((same.points() - grid.points()).norm(dim=0).max()) < 0.1
