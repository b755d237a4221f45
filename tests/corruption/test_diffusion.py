import math

import pytest
import torch

from anystroke.acquisition.sequences.diffusion import apparent_diffusion_coefficient
from anystroke.core.rng import stream
from anystroke.corruption.diffusion import adc_map, fibre_contrast, trace_weighted
from anystroke.corruption.noise import non_central_chi, rician

EULER = 0.5772156649
SHAPE = (40, 40, 40)
PLACES = torch.stack(torch.meshgrid(*[torch.arange(-39.0, 40.0, 2.0)] * 3, indexing="ij"))


def test_the_geometric_mean_of_three_directions_is_the_image_of_their_mean_diffusivity() -> None:
    white = torch.ones(SHAPE)
    parts = fibre_contrast(white, PLACES, anisotropy=1e-3, rng=stream(1, "fibres"))
    images = [100 * torch.exp(-1000 * (0.8e-3 + part)) for part in parts]
    assert float((images[0] / images[1]).log().abs().max()) > 0.5
    expected = torch.full(SHAPE, 100 * math.exp(-0.8))
    assert torch.allclose(trace_weighted(images), expected, rtol=1e-5)


def test_fibres_differ_where_white_matter_is_and_within_their_anisotropy() -> None:
    white = torch.zeros(SHAPE, dtype=torch.bool)
    white[20:] = True
    parts = fibre_contrast(white, PLACES, anisotropy=0.9e-3, rng=stream(2, "fibres"))
    for part in parts:
        assert float(part[:20].abs().max()) == 0
        assert float(part.min()) >= -0.3e-3 - 1e-9
        assert float(part.max()) <= 0.6e-3 + 1e-9


def test_fibres_are_alike_on_both_sides_wherever_the_head_lies() -> None:
    tilted = PLACES.clone()
    tilted[0] = 0.9 * PLACES[0] + 0.3 * PLACES[1] + 7
    part, _, _ = fibre_contrast(torch.ones(SHAPE), tilted, anisotropy=1e-3, rng=stream(6, "fibres"))
    mirrored = tilted.clone()
    mirrored[0] *= -1
    other, _, _ = fibre_contrast(torch.ones(SHAPE), mirrored, anisotropy=1e-3, rng=stream(6, "fibres"))
    assert torch.equal(part, other)
    assert float((part - part.flip(0)).abs().mean()) > 1e-4
    near, far = ((part[step:] - part[:-step]).abs().mean() for step in (1, 12))
    assert float(near) < 0.4 * float(far)


def test_a_trace_image_is_unbiased_with_a_third_of_the_variance_where_the_signal_is_high() -> None:
    rng = stream(3, "noise")
    images = [rician(torch.full(SHAPE, 60.0), sd=math.sqrt(3), rng=rng) for _ in range(3)]
    trace = trace_weighted(images)
    assert float(trace.mean()) == pytest.approx(60.0, rel=1e-3)
    assert float(trace.std()) == pytest.approx(1.0, rel=0.02)


def test_pure_noise_has_the_mean_logarithm_of_rayleigh() -> None:
    """E ln R = ln(sd) + (ln 2 - gamma) / 2, which the geometric mean keeps with a third of the variance."""
    rng = stream(4, "noise")
    images = [rician(torch.zeros(SHAPE), sd=2.0, rng=rng) for _ in range(3)]
    logarithm = trace_weighted(images).log()
    assert float(logarithm.mean()) == pytest.approx(math.log(2.0) + (math.log(2) - EULER) / 2, abs=0.01)
    assert float(logarithm.std()) == pytest.approx(math.pi / math.sqrt(24) / math.sqrt(3), rel=0.02)


def test_the_noise_floor_lowers_a_high_adc() -> None:
    """Where the diffusion-weighted image is noise, the map is ln(S0) - E ln(Rayleigh), not the fluid's."""
    low, rng = torch.full(SHAPE, 100.0), stream(5, "noise")
    high = rician(torch.full(SHAPE, 100.0 * math.exp(-9.0)), sd=1.0, rng=rng)
    found = adc_map(low, high, b_value=3000.0, step=None)
    expected = 1e6 * (math.log(100.0) - (math.log(2) - EULER) / 2) / 3000
    assert float(found.mean()) == pytest.approx(expected, rel=2e-3)
    assert expected < 0.6 * 3000


def test_the_map_of_noise_in_air_is_half_zeros_and_half_of_a_normal_distribution() -> None:
    rng = stream(6, "noise")
    low, high = (rician(torch.zeros(SHAPE), sd=1.0, rng=rng) for _ in range(2))
    found = adc_map(low, high, b_value=1000.0)
    assert float((found == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert 0 < float(found[found > 0].median()) < 1500


def test_averages_are_receive_channels() -> None:
    """The root mean square of n magnitudes with sqrt(n) of the noise is that of one with n channels."""
    count, rng = 3, stream(7, "noise")
    for level in (0.0, 2.0):
        signal = torch.full(SHAPE, level)
        squares = [rician(signal, sd=math.sqrt(count), rng=rng).square() for _ in range(count)]
        mean = torch.stack(squares).mean(0).sqrt()
        short = non_central_chi(signal, sd=1.0, channels=count, rng=rng)
        assert float(mean.mean()) == pytest.approx(float(short.mean()), rel=5e-3)
        assert float(mean.std()) == pytest.approx(float(short.std()), rel=2e-2)


def test_a_map_without_noise_is_the_adc_in_its_unit() -> None:
    adc = torch.linspace(0, 3e-3, 64)
    low, high = torch.full((64,), 50.0), 50 * torch.exp(-1000 * adc)
    for unit in (1e-6, 1e-3):
        found = adc_map(low, high, b_value=1000.0, step=None, unit=unit)
        assert torch.allclose(found * unit, adc, atol=1e-9)
    second = apparent_diffusion_coefficient(low=low, high=high, b_values=(0.0, 1000.0))
    assert torch.allclose(adc_map(low, high, b_value=1000.0, step=None), 1e6 * second, atol=1e-2)


def test_a_map_is_rounded_limited_and_masked() -> None:
    low = torch.tensor([100.0, 100.0, 100.0, 100.0, 9.0, 0.0])
    high = torch.tensor([45.0, 120.0, 1.0, 5.0, 4.0, 0.0])
    assert adc_map(low, high, b_value=1000.0).tolist() == [799.0, 0.0, 4605.0, 2996.0, 811.0, 0.0]
    assert adc_map(low, high, b_value=1000.0, largest=3e-3).tolist()[2] == 3000.0
    assert adc_map(low, high, b_value=1000.0, thresholds=(9.0, 0.0)).tolist()[4] == 0.0
    assert adc_map(low, high, b_value=1000.0, thresholds=(0.0, 2.0)).tolist()[2] == 0.0
    assert adc_map(low, high, b_value=1000.0, floor=50.0).tolist()[2] == 693.0
    coarse = adc_map(low, high, b_value=1000.0, step=1e-5, unit=1e-3)
    assert coarse.tolist() == pytest.approx([0.80, 0.0, 4.61, 3.00, 0.81, 0.0])


def test_what_no_scanner_could_compute_is_refused() -> None:
    image = torch.ones(2)
    with pytest.raises(ValueError, match="a b-value above 0"):
        adc_map(image, image, b_value=0.0)
    with pytest.raises(ValueError, match=r"higher b-value of shape \(2,\), got \(3,\)"):
        adc_map(image, torch.ones(3), b_value=1000.0)
    with pytest.raises(ValueError, match="at least one image of a direction"):
        trace_weighted([])
    with pytest.raises(ValueError, match="all directions"):
        trace_weighted([image, torch.ones(3)])
    with pytest.raises(ValueError, match="an anisotropy"):
        fibre_contrast(torch.ones(4, 4, 4), PLACES[:, :4, :4, :4], anisotropy=-1.0, rng=stream(1))
    with pytest.raises(ValueError, match=r"positions of shape \(3, 4, 4, 4\), got \(3, 40, 40, 40\)"):
        fibre_contrast(torch.ones(4, 4, 4), PLACES, anisotropy=1e-3, rng=stream(1))
