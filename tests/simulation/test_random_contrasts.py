import json
import math

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.simulation.generator import CLASSES
from anystroke.simulation.random_contrasts import (
    SHIFTED,
    RandomContrast,
    RandomContrastGenerator,
    RandomContrastSettings,
    regenerate_random,
)
from phantoms import ellipsoid_anatomy, sphere_lesion

PLAIN = RandomContrastSettings(
    spacing=4.0,
    shape=(40, 48, 40),
    bias=0.0,
    gamma=0.0,
    largest_blur=0.0,
    largest_voxel=1.0,
    largest_noise=0.0,
    largest_g_factor=1.0,
    percentiles=(0.0, 100.0),
    skull_strip=0.0,
    flips=0.0,
)


def _generator(settings: RandomContrastSettings) -> RandomContrastGenerator:
    return RandomContrastGenerator(settings, [sphere_lesion()])


def test_the_same_key_gives_the_same_scan_and_another_another() -> None:
    generator, anatomy = (
        _generator(SHIFTED.model_copy(update={"spacing": 4.0, "shape": (40, 48, 40)})),
        (ellipsoid_anatomy()),
    )
    first = generator(anatomy, rng=stream(1, "case"))
    again = generator.generate(anatomy, key=first.record["key"])
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.image, generator(anatomy, rng=stream(2, "case")).image)


def test_scans_are_finite_within_0_and_1_and_have_a_lesion() -> None:
    for settings in (RandomContrastSettings(), SHIFTED):
        generator = _generator(settings.model_copy(update={"spacing": 4.0, "shape": (40, 48, 40)}))
        for k in range(12):
            sample = generator(ellipsoid_anatomy(), generator.masks, rng=stream(k, "case"))
            assert bool(torch.isfinite(sample.image).all())
            assert 0 <= float(sample.image.min()) <= float(sample.image.max()) <= 1
            assert bool((sample.target == CLASSES.index("lesion")).any())


def test_without_augmentation_classes_have_the_grey_values_drawn() -> None:
    generator = _generator(PLAIN.model_copy(update={"largest_sd": 0.0}))
    sample = generator(ellipsoid_anatomy(), generator.masks, rng=stream(4, "case"))
    contrast = sample.protocol
    assert isinstance(contrast, RandomContrast)
    scaled = torch.tensor(contrast.means) / max(contrast.means[k] for k in (0, 2, 3, 4, 7, 9))
    for name, index in (("white_matter", 2), ("lesion", 9)):
        inside = sample.image[sample.target == CLASSES.index(name)]
        assert float(inside.median()) == pytest.approx(float(scaled[index]), abs=0.02)


def test_every_order_of_grey_values_occurs() -> None:
    generator = _generator(PLAIN)
    orders = set()
    for k in range(60):
        contrast = generator(ellipsoid_anatomy(), [], rng=stream(k, "order")).protocol
        assert isinstance(contrast, RandomContrast)
        grey, white, fluid = (contrast.means[index] for index in (0, 2, 3))
        orders.add((grey > white, white > fluid, grey > fluid))
    assert len(orders) == 6


def test_smoothed_texture_loses_the_spread_that_the_published_code_loses() -> None:
    generator = _generator(PLAIN)
    lost = [generator._texture_scale(fwhm) for fwhm in (1, 2, 3, 4, 5, 9)]
    assert lost == pytest.approx([0.71, 0.19, 0.10, 0.068, 0.048, 0.020], rel=0.07)
    assert _generator(PLAIN.model_copy(update={"rescale_texture": True}))._texture_scale(3) == 1


def test_skull_stripping_leaves_background_outside() -> None:
    generator = _generator(PLAIN.model_copy(update={"skull_strip": 1.0}))
    sample = generator(ellipsoid_anatomy(), [], rng=stream(1, "strip"))
    assert float((sample.image == 0).float().mean()) > 0.3
    assert not bool((sample.target[sample.image == 0] > 0).float().mean() > 0.05)


def test_a_contrast_of_unequal_lists_is_refused() -> None:
    with pytest.raises(ValueError, match="as many SDs as means, got 1 and 2"):
        RandomContrast(means=(1.0, 2.0), sds=(math.pi,))


def test_shares_change_nothing_and_follow_flips_and_skull_stripping() -> None:
    settings = RandomContrastSettings(spacing=4.0, shape=(40, 48, 40), skull_strip=0.5)
    for key in range(6):
        hard = _generator(settings).generate(ellipsoid_anatomy(), key=key)
        soft = _generator(settings.model_copy(update={"soft_target": True})).generate(
            ellipsoid_anatomy(), key=key
        )
        assert soft.shares is not None
        assert torch.equal(hard.image, soft.image)
        assert torch.equal(hard.target, soft.target)
        assert torch.allclose(soft.shares.sum(0), torch.ones(40, 48, 40), atol=1e-5)
        certain = soft.shares.max(0).values > 0.5
        assert torch.equal(soft.shares.argmax(0)[certain], soft.target.long()[certain])


def test_a_record_regenerates_its_sample_after_a_round_trip_through_json() -> None:
    sample = _generator(PLAIN)(ellipsoid_anatomy(), rng=stream(2, "case"))
    record = json.loads(json.dumps(sample.record))
    again = regenerate_random(record, [ellipsoid_anatomy()], [sphere_lesion()])
    assert torch.equal(again.image, sample.image)
    assert torch.equal(again.target, sample.target)
    with pytest.raises(ValueError, match="one anatomy called 'ellipsoids', got 0"):
        regenerate_random(record, [], [sphere_lesion()])
    with pytest.raises(ValueError, match="give the same bank"):
        regenerate_random(record, [ellipsoid_anatomy()], [])
