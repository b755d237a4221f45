import json
import math

import pytest
import torch

from anystroke.acquisition.sequences.diffusion import AdcMap, DiffusionWeighted
from anystroke.corruption.diffusion_scan import DiffusionSettings
from anystroke.corruption.scanner import ScannerSettings, acquire_scan
from anystroke.qmri.tissue_priors import MAPS
from anystroke.simulation.generator import CLASSES, Generator
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SHAPE = (24, 28, 24)
PLAIN = DiffusionSettings(averaged=0, one_direction=0, masked=0, smoothed=0, limited=0)
STILL = ScannerSettings(
    blur=0, receive_strength=0, snr=(20.0, 20.0001), several_channels=0, thick_slices=0, few_lines=0,
    motion=0, ghosts=0, spikes=0, clipped=0, surface_coils=0, uneven_slices=0, diffusion=PLAIN,
)  # fmt: skip


def _settings(**changes: object) -> ScannerSettings:
    return STILL.model_copy(update={"diffusion": PLAIN.model_copy(update=changes)})


def _scan(
    settings: ScannerSettings, *levels: float, weighting: str = "ADC", key: int = 1, b_value: float = 1000.0
) -> tuple[torch.Tensor, dict[str, object]]:
    """Scan a block of tissue in air."""
    inside = torch.zeros(SHAPE)
    inside[4:20, 4:24, 4:20] = 1
    scan = acquire_scan(
        [level * inside for level in levels], inside > 0, spacing=2.0, weighting=weighting,
        settings=settings, key=key, b_value=b_value,
    )  # fmt: skip
    return scan.image, scan.facts


def test_an_adc_protocol_knows_its_two_images() -> None:
    protocol = AdcMap(repetition_time=4.0, echo_time=0.08, b_value=1000.0, field_strength=1.5, dimensions=2)
    low, high = protocol.measured
    assert isinstance(low, DiffusionWeighted)
    assert isinstance(high, DiffusionWeighted)
    assert (low.b_value, high.b_value) == (0.0, 1000.0)
    assert low.field_strength == high.field_strength == 1.5
    maps = {name: torch.full((4,), 10.0) for name in MAPS} | {"adc": torch.linspace(1e-4, 3e-3, 4)}
    ratio = low.signal(maps) / high.signal(maps)
    assert torch.allclose(ratio.log() / 1000 * 1e6, protocol.signal(maps), rtol=1e-4)
    assert high.measured == (high,)


def test_the_signal_to_noise_ratio_is_that_of_the_trace_image() -> None:
    for several in (0.0, 1.0):
        image, facts = _scan(_settings(averaged=several), 50.0, weighting="DWI")
        inside = image[4:20, 4:24, 4:20]
        assert ("averages" in facts) == bool(several)
        assert float(inside.std()) == pytest.approx(50.0 / 20, rel=0.04)
        assert float(inside.mean()) == pytest.approx(50.0, rel=0.01 + 0.02 * several)


def test_averages_raise_the_floor() -> None:
    air = [_scan(_settings(averaged=p), 50.0, weighting="DWI")[0][:4].mean() for p in (0.0, 1.0)]
    assert float(air[1]) > 1.2 * float(air[0])


def test_the_noise_of_a_map_is_that_of_its_two_images() -> None:
    image, facts = _scan(STILL.model_copy(update={"snr": (50.0, 50.0001)}), 100.0, 50.0)
    unit = float(str(facts["unit"]))
    inside = image[4:20, 4:24, 4:20] * unit
    assert float(inside.mean()) == pytest.approx(0.6931e-3, rel=0.005)
    # One direction's noise on the first image, a trace image's on the second.
    expected = 1e-3 / 50 * (1 + 3 / 4) ** 0.5
    assert float(inside.std()) == pytest.approx(expected, rel=0.04)


def test_a_mask_blackens_air_and_leaves_tissue() -> None:
    noisy, _ = _scan(_settings(), 100.0, 50.0)
    masked, facts = _scan(_settings(masked=1.0, threshold=(0.3, 0.3001), masked_by_both=0.0), 100.0, 50.0)
    assert facts["masked_below"] == pytest.approx(0.3, abs=1e-4)
    assert 0.3 < float((noisy[:4] > 0).float().mean()) < 0.7
    assert float((masked[:4] > 0).float().mean()) < 0.01
    assert torch.equal(masked[4:20, 4:24, 4:20], noisy[4:20, 4:24, 4:20])


def test_a_mask_by_both_leaves_holes_in_fluid() -> None:
    settings = _settings(masked=1.0, threshold=(0.05, 0.0501), masked_by_both=1.0)
    inside = torch.ones(SHAPE)
    high = 50 * inside
    high[:6] = 0.5
    scan = acquire_scan(
        [100 * inside, high], high > 1, spacing=2.0, weighting="ADC", settings=settings, key=1, b_value=1000.0
    )
    assert float((scan.image[:6] == 0).float().mean()) > 0.3
    assert float((scan.image[6:] == 0).float().mean()) < 1e-3


def test_one_direction_differs_within_white_matter() -> None:
    quiet = _settings(one_direction=1.0).model_copy(update={"snr": (1e4, 1.0001e4)})
    image, facts = _scan(quiet, 50.0, weighting="DWI")
    assert facts["directions"] == 1
    inside = image[8:16, 8:20, 8:16]
    assert float(inside.std()) > 3
    assert torch.allclose(inside, inside.flip(0), atol=0.1)


def test_slices_are_computed_before_they_are_interpolated() -> None:
    thick = STILL.model_copy(update={"thick_slices": 1.0, "few_lines": 1.0, "snr": (1e4, 1.0001e4)})
    for key in range(4):
        image, facts = _scan(thick, 100.0, 50.0, key=key)
        assert image.shape == SHAPE
        assert facts["slice_axis"] in (0, 1, 2)
        middle = image[10:14, 12:16, 10:14] * float(str(facts["unit"]))
        assert float(middle.mean()) == pytest.approx(0.6931e-3, rel=0.02)


def test_slices_of_a_trace_image_differ_where_their_gains_do() -> None:
    changes = {"thick_slices": 1.0, "uneven_slices": 1.0, "slice_strength": 0.3, "snr": (1e4, 1.0001e4)}
    spreads = []
    for key in range(4):
        image, facts = _scan(STILL.model_copy(update=changes), 50.0, weighting="DWI", key=key)
        assert "slice_gain_sd" in facts
        spreads.append(float(image[8:16, 8:20, 8:16].std()))
    assert max(spreads) > 1


def test_what_a_lesion_changes_in_a_map_is_that_of_the_closed_form_with_few_lines_too() -> None:
    inside, lesion = torch.zeros(SHAPE), torch.zeros(SHAPE)
    inside[4:20, 4:24, 4:20] = 1
    lesion[8:16, 9:19, 8:16] = 1
    healthy, damaged = (100 * math.exp(-1000 * adc) for adc in (0.8e-3, 0.4e-3))
    scan = acquire_scan(
        [100 * inside, healthy * inside + (damaged - healthy) * lesion], inside > 0, spacing=2.0,
        weighting="ADC", settings=STILL.model_copy(update={"few_lines": 1.0}), key=1, b_value=1000.0,
        change=[0 * lesion, (damaged - healthy) * lesion],
    )  # fmt: skip
    assert scan.change is not None
    change = scan.change * float(scan.facts["unit"]) / 1e-6
    assert float(change[lesion > 0].median()) == pytest.approx(-400.0, rel=0.05)
    assert float(change.abs().max()) < 700


def test_an_uncorrupted_pair_is_the_map() -> None:
    image, facts = _scan(ScannerSettings(corrupted=False), 100.0, 50.0)
    assert facts == {}
    assert float(image[10, 10, 10]) == pytest.approx(693.147, abs=1e-2)


@pytest.mark.parametrize("weighting", ["ADC", "DWI"])
def test_records_replay_to_the_bit_and_lesions_keep_their_contrast(weighting: str) -> None:
    settings = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), cut=0.0, weighting=weighting)
    anatomy, masks = ellipsoid_anatomy(), [sphere_lesion()]
    generator = Generator(settings, masks)
    contrasts = []
    for key in range(6):
        sample = generator.generate(anatomy, masks, key=key, stage="acute")
        assert bool(torch.isfinite(sample.image).all())
        assert float(sample.image.min()) >= 0
        again = regenerate(json.loads(json.dumps(sample.record)), [anatomy], masks)
        assert torch.equal(sample.image, again.image)
        assert sample.record == again.record
        lesion, white = (sample.target == CLASSES.index(name) for name in ("lesion", "white_matter"))
        contrasts.append(float(sample.image[lesion].median() / sample.image[white].median()))
    typical = sorted(contrasts)[2:4]
    assert (max(typical) < 0.9) if weighting == "ADC" else (min(typical) > 1.15)


def test_without_computation_noise_is_added_as_to_any_image() -> None:
    base = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), weighting="ADC")
    plain = base.model_copy(update={"diffusion": DiffusionSettings(computed=False)})
    anatomy = ellipsoid_anatomy()
    first, second = (Generator(each).generate(anatomy, [], key=3) for each in (base, plain))
    assert "unit" in first.record["scanner"]
    assert "unit" not in second.record["scanner"]
    assert torch.equal(first.target, second.target)


@pytest.mark.parametrize("weighting", ["DWI", "ADC"])
def test_slices_are_axial(weighting: str) -> None:
    settings = _settings().model_copy(update={"thick_slices": 1.0})
    levels = (50.0, 20.0) if weighting == "ADC" else (50.0,)
    facts = [_scan(settings, *levels, weighting=weighting, key=key)[1] for key in range(8)]
    assert {one["slice_axis"] for one in facts} == {2}
