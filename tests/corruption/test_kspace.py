import math

import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.corruption.kspace import Pose, Spike, ghosting, gibbs_ringing, rigid_motion, spikes


def _random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=stream(1, "kspace")) + 0.1


def _blob(shape: tuple[int, int, int], centre: tuple[float, float, float], sd: float = 2.5) -> Tensor:
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    square = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    assert isinstance(square, Tensor)
    return torch.exp(-square / (2 * sd**2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gibbs_overshoot_is_nine_percent_of_an_edge(axis: int) -> None:
    shape = [3, 3, 3]
    shape[axis] = 512
    image = torch.ones(shape)
    image.narrow(axis, 128, 256).fill_(2.0)
    kept = [1.0, 1.0, 1.0]
    kept[axis] = 0.125
    ringing = gibbs_ringing(image, kept=(kept[0], kept[1], kept[2]))
    assert float(ringing.max() - 2) == pytest.approx(0.0895, abs=0.006)
    assert float(1 - ringing.min()) == pytest.approx(0.0895, abs=0.006)
    windowed = gibbs_ringing(image, kept=(kept[0], kept[1], kept[2]), window="hann")
    assert float(windowed.max() - 2) < 0.01
    assert float(windowed.mean()) == pytest.approx(float(image.mean()), rel=1e-5)


@pytest.mark.parametrize("shape", [(16, 15, 12), (9, 22, 17)])
def test_gibbs_removes_the_outer_lines_and_no_other(shape: tuple[int, int, int]) -> None:
    image = _random(*shape) + 5
    result = gibbs_ringing(image, kept=(0.5, 1.0, 0.6))
    difference = torch.fft.fftn(result.double() - image.double()).abs()
    x, y, z = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n).abs() for n in shape), indexing="ij")
    outer = (x >= round(0.25 * shape[0])) | (z >= round(0.3 * shape[2]))
    assert float(difference[~outer].max()) < 1e-3
    assert float(torch.fft.fftn(result.double())[outer].abs().max()) < 1e-3
    assert bool(y[outer].any())


@pytest.mark.parametrize(("n", "period"), [(64, 2), (64, 4), (60, 5), (36, 3)])
def test_ghosts_land_at_multiples_of_n_over_period(n: int, period: int) -> None:
    image = torch.zeros(4, n, 3)
    image[1, 7, 2] = 1.0
    ghosted = ghosting(image, axis=1, period=period, strength=0.8)[1, :, 2]
    expected = torch.zeros(n)
    for shift in range(period):
        expected[(7 + shift * n // period) % n] = 0.8 / period
    expected[7] = 1 - 0.8 / period
    torch.testing.assert_close(ghosted, expected, atol=1e-5, rtol=0)


def test_nyquist_ghost_has_the_strength_of_its_phase() -> None:
    image = torch.zeros(3, 3, 40)
    image[1, 1, 12] = 1.0
    ghosted = ghosting(image, axis=2, period=2, phase=40.0)[1, 1]
    assert float(ghosted[32]) == pytest.approx(math.sin(math.radians(20)), abs=1e-5)
    assert float(ghosted[12]) == pytest.approx(math.cos(math.radians(20)), abs=1e-5)
    assert float(ghosted.square().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("n", [31, 30])
def test_ghosting_is_a_modulation_of_lines(n: int) -> None:
    image = _random(n, 5, 4)
    spectrum = torch.fft.fft(image.double(), dim=0)
    lines = torch.fft.fftfreq(n, 1 / n).round().long()
    factor = 0.7 * torch.polar(torch.tensor(1.0), torch.tensor(math.radians(25))).to(torch.complex128)
    spectrum[lines % 3 == 0] *= factor
    expected = torch.fft.ifft(spectrum, dim=0).abs()
    result = ghosting(image, axis=0, period=3, strength=0.3, phase=25.0)
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-4)


def test_spikes_are_points_of_k_space() -> None:
    image = _random(12, 15, 10)
    spectrum = torch.fft.fftn(image.double())
    centre = spectrum[0, 0, 0].real.clone()
    for place, strength, degrees in (((2, -3, 4), 0.4, 70.0), ((0, 5, -1), 1.1, -20.0)):
        spectrum[place] += torch.polar(strength * centre, torch.tensor(math.radians(degrees)).double())
    expected = torch.fft.ifftn(spectrum).abs()
    result = spikes(image, [Spike((2, -3, 4), 0.4, 70.0), Spike((0, 5, -1), 1.1, -20.0)])
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-4)


def test_a_weak_spike_is_a_plane_wave_of_its_frequency() -> None:
    result = spikes(torch.ones(32, 20, 24), [Spike((5, 0, -3), 0.01)]) - 1
    spectrum = torch.fft.rfftn(result.double()).abs()
    spectrum[0, 0, 0] = 0
    assert divmod(int(spectrum.argmax()), spectrum.shape[2]) == (27 * 20, 3)
    assert float(result.max()) == pytest.approx(0.01, rel=1e-2)


def test_rest_is_identity() -> None:
    image = _random(11, 12, 13)
    assert torch.equal(rigid_motion(image, [], starts=[], axis=0, spacing=1.0), image)
    assert torch.equal(rigid_motion(image, [Pose()], starts=[0.3], axis=0, spacing=1.0), image)
    late = rigid_motion(image, [Pose((3.0, 0, 0))], starts=[1.0], axis=0, spacing=1.0)
    torch.testing.assert_close(late, image)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_during_all_lines_is_a_shift(axis: int) -> None:
    image = _random(13, 12, 10)
    pose = Pose((2.0, -4.0, 6.0))
    moved = rigid_motion(image, [pose], starts=[0.0], axis=axis, spacing=2.0)
    torch.testing.assert_close(moved, image.roll((1, -2, 3), (0, 1, 2)), atol=1e-5, rtol=1e-4)
    smooth = _blob((24, 22, 26), (11.0, 10.0, 12.0))
    moved = rigid_motion(smooth, [Pose((0.6, 0.0, -0.9))], starts=[0.0], axis=axis, spacing=1.5)
    expected = _blob((24, 22, 26), (11.4, 10.0, 11.4))
    torch.testing.assert_close(moved, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("start", [0.2, 0.5, 0.7])
def test_lines_come_from_the_pose_of_their_moment(n: int, start: float) -> None:
    image = _random(6, n, 5)
    moved = image.roll((1, 3), (0, 1))
    order = torch.fft.fftshift(torch.arange(n))
    late = torch.zeros(n, dtype=torch.bool)
    late[order] = (torch.arange(n) + 0.5) / n >= start
    spectrum = torch.fft.fft(image.double(), dim=1)
    spectrum[:, late] = torch.fft.fft(moved.double(), dim=1)[:, late]
    expected = torch.fft.ifft(spectrum, dim=1).abs()
    result = rigid_motion(image, [Pose((1.0, 3.0, 0.0))], starts=[start], axis=1, spacing=1.0)
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=1e-3)


def test_rotations_are_right_handed_and_about_the_middle() -> None:
    image = _random(9, 9, 9)
    for axis, (first, second) in enumerate(((1, 2), (2, 0), (0, 1))):
        rotation = [0.0, 0.0, 0.0]
        rotation[axis] = 90.0
        pose = Pose(rotation=(rotation[0], rotation[1], rotation[2]))
        turned = rigid_motion(image, [pose], starts=[0.0], axis=2, spacing=1.0)
        # A quarter turn takes the positive first axis to the positive second.
        expected = image.rot90(1, (first, second))
        torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)


def test_a_small_rotation_moves_a_blob_where_it_should() -> None:
    shape = (41, 41, 21)
    radius, degrees = 12.0, 10.0
    image = _blob(shape, (20 + radius, 20.0, 10.0))
    turned = rigid_motion(image, [Pose(rotation=(0, 0, degrees))], starts=[0.0], axis=0, spacing=1.0)
    angle = math.radians(degrees)
    expected = _blob(shape, (20 + radius * math.cos(angle), 20 + radius * math.sin(angle), 10.0))
    torch.testing.assert_close(turned, expected, atol=5e-3, rtol=0)


def test_motion_before_the_centre_moves_the_head_and_after_it_does_not() -> None:
    image = _blob((16, 64, 16), (8.0, 30.0, 8.0), sd=4.0)
    pose = [Pose((0.0, 6.0, 0.0))]
    early = rigid_motion(image, pose, starts=[0.1], axis=1, spacing=1.0)
    late = rigid_motion(image, pose, starts=[0.9], axis=1, spacing=1.0)
    assert int(early.amax((0, 2)).argmax()) == 36
    assert int(late.amax((0, 2)).argmax()) == 30
