import math

import pytest
import torch
from scipy import stats

from anystroke.core.rng import stream
from anystroke.corruption.noise import g_factor_map, noise_sd, non_central_chi, rician


@pytest.mark.parametrize("signal", [0.0, 1.0, 2.5, 10.0])
def test_rician_noise_follows_its_distribution(signal: float) -> None:
    sd = 1.7
    drawn = rician(torch.full((400_000,), signal * sd), sd=sd, rng=stream(1, "rice")).double()
    expected = stats.rice(signal, scale=sd)
    standard_error = expected.std() / math.sqrt(len(drawn))
    assert float(drawn.mean()) == pytest.approx(expected.mean(), abs=4 * standard_error)
    assert float(drawn.var()) == pytest.approx(expected.var(), rel=0.015)
    assert stats.kstest(drawn[:40_000].numpy(), expected.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("signal", "channels"), [(0.0, 2), (3.0, 4), (1.0, 8), (20.0, 32)])
def test_root_sum_of_squares_follows_a_non_central_chi_square(signal: float, channels: int) -> None:
    sd = 0.4
    drawn = non_central_chi(torch.full((300_000,), signal * sd), sd=sd, channels=channels, rng=stream(2))
    square = (drawn.double() / sd).square()
    expected = stats.ncx2(2 * channels, signal**2) if signal else stats.chi2(2 * channels)
    standard_error = expected.std() / math.sqrt(len(square))
    assert float(square.mean()) == pytest.approx(expected.mean(), abs=4 * standard_error)
    assert float(square.var()) == pytest.approx(expected.var(), rel=0.02)
    assert stats.kstest(square[:5000].numpy(), expected.cdf).pvalue > 1e-3


def test_noise_is_white_also_across_streams() -> None:
    noise = rician(torch.full((1_500_000,), 50.0), sd=1.0, rng=stream(3, "white")).double() - 50
    noise -= noise.mean()
    limit = 5 / math.sqrt(len(noise))
    for lag in (1, 2, 192, 32704, 16 * 32704):
        assert abs(float((noise[:-lag] * noise[lag:]).mean())) < limit * 1.5
    assert float(noise.abs().max()) > 4.5


def test_number_of_threads_changes_nothing() -> None:
    signal = torch.rand(1_200_000, generator=stream(4, "signal"))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results.append(non_central_chi(signal, sd=0.3, channels=3, rng=stream(5, "threads")))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])


def test_noise_advances_its_stream() -> None:
    rng = stream(6, "advance")
    first, second = (rician(torch.zeros(50, 50), sd=1.0, rng=rng) for _ in range(2))
    assert not torch.equal(first, second)
    correlation = float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
    assert abs(correlation) < 0.1


def test_g_factor_scales_the_noise_in_place() -> None:
    g_factor = torch.ones(2, 100_000)
    g_factor[1] = 3.0
    noisy = rician(torch.full((2, 100_000), 1000.0), sd=2.0, g_factor=g_factor, rng=stream(7))
    assert float(noisy[0].std()) == pytest.approx(2.0, rel=0.02)
    assert float(noisy[1].std()) == pytest.approx(6.0, rel=0.02)
    chi = non_central_chi(torch.zeros(2, 100_000), sd=2.0, channels=4, g_factor=g_factor, rng=stream(7))
    assert float(chi[1].mean() / chi[0].mean()) == pytest.approx(3.0, rel=0.02)


def test_g_factor_map_spans_one_to_its_peak() -> None:
    g_factor = g_factor_map((20, 24, 18), peak=2.5, rng=stream(8, "g"))
    assert float(g_factor.min()) == pytest.approx(1.0, abs=1e-5)
    assert float(g_factor.max()) == pytest.approx(2.5, abs=1e-5)
    assert torch.equal(g_factor_map((4, 4, 4), peak=1.0, rng=stream(8)), torch.ones(4, 4, 4))


def test_stated_snr_is_that_of_the_reference_region() -> None:
    signal = torch.full((40, 40, 40), 10.0)
    signal[20:] = 400.0
    white = signal > 100
    sd = noise_sd(signal, white, snr=25.0)
    assert sd == pytest.approx(16.0)
    noisy = rician(signal, sd=sd, rng=stream(9))[white]
    assert float(noisy.mean() / noisy.std()) == pytest.approx(25.0, rel=0.02)
    assert noise_sd(signal, white * 0.25, snr=25.0) == pytest.approx(16.0)


def test_half_precision_is_kept() -> None:
    noisy = rician(torch.ones(50, 50, dtype=torch.bfloat16), sd=0.1, rng=stream(10))
    assert noisy.dtype == torch.bfloat16
    assert float(noisy.float().std()) == pytest.approx(0.1, rel=0.1)
