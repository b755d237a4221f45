import math

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.corruption.kspace import gibbs_ringing
from anystroke.corruption.noise import rician
from anystroke.corruption.resolution import (
    Profile,
    acquire,
    at_acquired_resolution,
    encoded_grid,
    restore,
    slice_grid,
    voxel_grids,
)

PROFILES: list[Profile] = ["box", "trapezoid", "gaussian"]


@pytest.mark.parametrize("profile", PROFILES)
def test_slice_profile_has_its_thickness_at_half_maximum(profile: Profile) -> None:
    grid = slice_grid(800, spacing=0.05, thickness=5.0, distance=6.0, offset=0.5, profile=profile)
    row = grid.acquire[3]
    above = (row > row.max() / 2).sum() * 0.05
    assert float(above) == pytest.approx(5.0, abs=0.11)
    centre = (row * (torch.arange(800) + 0.5) * 0.05).sum()
    assert float(centre) == pytest.approx(21.0, abs=1e-3)
    assert float(row.sum()) == pytest.approx(1.0, abs=1e-5)


def test_profiles_differ_at_their_edges_alone() -> None:
    rows = {
        profile: slice_grid(
            200, spacing=0.1, thickness=4.0, distance=20.0, offset=0.5, profile=profile, ramp=0.25
        ).acquire[0]
        for profile in PROFILES
    }
    position = ((torch.arange(200) + 0.5) * 0.1 - 10).abs()
    inside, outside = position < 1.5, position > 2.5
    for profile in ("box", "trapezoid"):
        assert float(rows[profile][inside].std()) < 1e-7
        assert float(rows[profile][outside].max()) < 1e-9
    ramp = rows["trapezoid"][100:][position[100:] > 1.5][:10]
    assert torch.allclose(ramp.diff(), ramp.diff().mean().expand(9), atol=1e-6)
    at_edge = rows["gaussian"][119:121].mean() / rows["gaussian"][99:101].mean()
    assert float(at_edge) == pytest.approx(0.5, abs=0.01)
    assert float(rows["gaussian"][outside].sum()) > 0.05


@pytest.mark.parametrize("profile", PROFILES)
def test_slices_keep_constants(profile: Profile) -> None:
    grid = slice_grid(37, spacing=1.0, thickness=4.0, distance=4.6, offset=0.3, profile=profile)
    image = torch.full((3, 4, 37), 7.0)
    kept = at_acquired_resolution(image, (None, None, grid))
    torch.testing.assert_close(kept, image, rtol=1e-5, atol=0)


def test_slices_that_tile_the_grid_keep_the_mean() -> None:
    image = torch.rand((5, 6, 40), generator=stream(1, "image"))
    grid = slice_grid(40, spacing=1.5, thickness=7.5, distance=7.5, offset=0.5)
    low = acquire(image, (None, None, grid))
    assert low.shape == (5, 6, 8)
    torch.testing.assert_close(low.mean(-1), image.mean(-1))
    torch.testing.assert_close(low[..., 2], image[..., 10:15].mean(-1))


def test_larger_voxels_keep_ramps_and_the_axes_they_leave() -> None:
    grids = voxel_grids((40, 8, 30), spacing=1.0, voxel=(4.0, 1.0, 2.5))
    assert grids[1] is None
    x, _, z = torch.meshgrid(*(torch.arange(float(n)) for n in (40, 8, 30)), indexing="ij")
    image = 3 * x + 2 * z + 10
    low = acquire(image, grids)
    assert low.shape == (10, 8, 12)
    inside = (slice(6, -6), slice(None), slice(6, -6))
    torch.testing.assert_close(restore(low, grids)[inside], image[inside], atol=0.05, rtol=0)


def test_point_spread_of_a_voxel_has_its_size() -> None:
    grids = voxel_grids((1, 1, 201), spacing=1.0, voxel=(1.0, 1.0, 8.0))
    assert grids[2] is not None
    row = grids[2].acquire[12]
    offset = torch.arange(201) + 0.5 - 100
    sd = float((row * offset**2).sum().sqrt())
    assert sd == pytest.approx(8.0 / math.sqrt(8 * math.log(2)), rel=0.02)


@pytest.mark.parametrize(("n", "lines"), [(24, 15), (25, 11), (21, 21), (16, 16), (16, 10)])
def test_encoding_keeps_low_frequencies_and_loses_the_others(n: int, lines: int) -> None:
    grid = encoded_grid(n, lines=lines)
    position = torch.arange(n) / n
    for cycles in range(n // 2 + 1):
        wave = torch.cos(2 * math.pi * cycles * position + 0.4)
        back = grid.restore @ (grid.acquire @ wave)
        if cycles < lines / 2:
            torch.testing.assert_close(back, wave, atol=2e-5, rtol=0)
        elif cycles > lines / 2:
            assert float(back.abs().max()) < 2e-5


def test_acquired_samples_are_those_of_the_image() -> None:
    grid = encoded_grid(60, lines=20)
    wave = torch.cos(2 * math.pi * 4 * torch.arange(60) / 60 + 1)
    torch.testing.assert_close(grid.acquire @ wave, wave[::3], atol=1e-5, rtol=0)
    linear = encoded_grid(60, lines=20, interpolation="linear")
    torch.testing.assert_close((linear.restore @ wave[::3])[::3], wave[::3], atol=1e-5, rtol=0)
    middle = (wave[0] + wave[3]) / 2
    assert float((linear.restore @ wave[::3])[1:3].mean()) == pytest.approx(float(middle), abs=1e-5)


def test_zero_filling_is_truncation_of_k_space() -> None:
    image = torch.rand((25, 4, 3), generator=stream(1, "image")) + 1
    filled = at_acquired_resolution(image, (encoded_grid(25, lines=13), None, None))
    cut = gibbs_ringing(image, kept=(14 / 25, 1.0, 1.0))
    torch.testing.assert_close(filled, cut, atol=1e-5, rtol=1e-5)


def test_a_window_weakens_ringing() -> None:
    edge = torch.zeros(1, 1, 120)
    edge[..., 30:90] = 1
    overshoot = [
        float(at_acquired_resolution(edge, (None, None, encoded_grid(120, lines=40, window=window))).max())
        for window in (None, "tukey", "hamming", "hann")
    ]
    assert overshoot[0] == pytest.approx(1.09, abs=0.02)
    assert overshoot[0] > overshoot[1] > max(overshoot[2:])
    assert max(overshoot[2:]) < 1.01


def test_noise_is_added_at_acquired_resolution() -> None:
    signal = torch.full((30, 30, 50), 100.0)
    grid = slice_grid(50, spacing=1.0, thickness=5.0, distance=5.0, offset=0.5)
    seen = []

    def noise(low: torch.Tensor) -> torch.Tensor:
        seen.append(low.shape)
        return rician(low, sd=4.0, rng=stream(1, "noise"))

    noisy = at_acquired_resolution(signal, (None, None, grid), noise=noise)
    assert seen == [(30, 30, 10)]
    # A voxel at a slice centre has the acquired noise; between slices, neighbours agree.
    assert float(noisy[..., 2::5].std()) == pytest.approx(4.0, rel=0.05)
    neighbours = torch.corrcoef(torch.stack([noisy[..., 22].flatten(), noisy[..., 23].flatten()]))
    assert float(neighbours[0, 1]) > 0.9
    without = at_acquired_resolution(signal, (None, None, None), noise=noise)
    assert seen[1] == signal.shape
    assert float(without.std()) == pytest.approx(4.0, rel=0.05)
