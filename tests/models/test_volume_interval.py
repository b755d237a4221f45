import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from anystroke.core.volume import Volume
from anystroke.models.volume_interval import (
    VolumeErrors,
    central_volume,
    expected_volume,
    fit_volume_errors,
    sureness,
    volume_interval,
)

ERRORS = VolumeErrors(rate=0.9, edges=(10.0,), low=(-2.0, -0.1), high=(1.0, 0.2), patients=100)


def test_the_expected_volume_leaves_out_the_background() -> None:
    data = torch.full((1, 50, 50, 50), 0.01)
    data[:, :10, :10, :10] = 0.8
    assert expected_volume(Volume(data, torch.diag(torch.tensor([2.0, 2, 2, 1])))) == pytest.approx(6.4)


def test_errors_are_measured_from_the_mask_or_from_what_is_suspected() -> None:
    probability = Volume(torch.full((1, 10, 10, 10), 0.5), torch.eye(4))
    assert central_volume(3.0, probability) == 3.0
    assert central_volume(0.0, probability) == pytest.approx(0.5)


def test_each_range_has_its_own_ends() -> None:
    below = volume_interval(9.0, 9.0, ERRORS)
    above = volume_interval(19.0, 19.0, ERRORS)
    assert (below.low, below.high) == pytest.approx((10 * math.exp(-2) - 1, 10 * math.e - 1))
    assert (above.low, above.high) == pytest.approx((20 * math.exp(-0.1) - 1, 20 * math.exp(0.2) - 1))
    assert below.rate == 0.9


def test_the_interval_is_never_negative_and_holds_the_mask() -> None:
    assert volume_interval(0.0, 0.0, ERRORS).low == 0.0
    assert volume_interval(19.0, 40.0, ERRORS).high == 40.0
    assert volume_interval(19.0, 5.0, ERRORS).low == 5.0


@pytest.mark.parametrize("rate", [0.8, 0.9])
def test_new_patients_are_covered_at_the_stated_rate(rate: float) -> None:
    draw = np.random.default_rng(5)
    true = np.exp(draw.normal(2.0, 1.2, 12_000))
    # A network that is too cautious, and more so with small lesions, one tenth of which it misses.
    expected = true**0.9 * np.exp(draw.normal(-0.2, 0.1 + 1 / (1 + true))) * (draw.random(12_000) > 0.1)
    hits = []
    for start in range(0, 12_000, 400):
        fit, new = slice(start, start + 200), slice(start + 200, start + 400)
        errors = fit_volume_errors(expected[fit].tolist(), true[fit].tolist(), rate=rate)
        found = [volume_interval(e, e, errors) for e in expected[new]]
        hits += [each.low <= t <= each.high for each, t in zip(found, true[new], strict=True)]
    assert rate - 0.01 < np.mean(hits) < rate + 0.05


def test_sure_masks_have_intervals_of_their_own_at_the_stated_rate() -> None:
    draw = np.random.default_rng(6)
    true = np.exp(draw.normal(2.0, 1.2, 12_000))
    sure = draw.random(12_000)
    central = true * np.exp(draw.normal(0.0, 1.2 - sure))
    hits: list[tuple[bool, bool, float]] = []
    for start in range(0, 12_000, 400):
        fit, new = slice(start, start + 200), slice(start + 200, start + 400)
        errors = fit_volume_errors(central[fit].tolist(), true[fit].tolist(), sure[fit].tolist())
        for c, t, s in np.stack([central[new], true[new], sure[new]], axis=1).tolist():
            found = volume_interval(c, c, errors, s)
            hits.append((found.low <= t <= found.high, s > 0.5, math.log((found.high + 1) / (found.low + 1))))
    rates = [np.mean([hit for hit, is_sure, _ in hits if is_sure is side]) for side in (False, True)]
    widths = [np.median([width for _, is_sure, width in hits if is_sure is side]) for side in (False, True)]
    assert min(rates) > 0.87
    assert widths[1] < 0.6 * widths[0]


def test_masks_that_are_all_as_sure_have_one_interval() -> None:
    errors = fit_volume_errors([9.0] * 40, [9.0] * 20 + [19.0] * 20, [0.5] * 40)
    assert volume_interval(9.0, 9.0, errors, 0.1) == volume_interval(9.0, 9.0, errors, 0.9)


def test_the_sureness_of_a_mask() -> None:
    probability = Volume(torch.linspace(0, 1, 8).reshape(1, 2, 2, 2), torch.eye(4))
    assert sureness(Volume(probability.data >= 0.5, torch.eye(4)), probability) == pytest.approx(5.5 / 7)
    assert sureness(Volume(torch.zeros(1, 2, 2, 2), torch.eye(4)), probability) == 0.0


def test_few_patients_make_few_ranges() -> None:
    volumes = [float(i) for i in range(90)]
    assert len(fit_volume_errors(volumes, volumes).edges) == 1
    many = [float(i) for i in range(300)]
    assert len(fit_volume_errors(many, many).edges) == 3
    assert len(fit_volume_errors(many, many, [i % 7 / 7 for i in range(300)]).edges) == 1
    with pytest.raises(ValueError, match="at least 40 patients, got 39"):
        fit_volume_errors(volumes[:39], volumes[:39])


def test_a_record_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected ascending edges and 2 quantiles"):
        VolumeErrors(rate=0.9, edges=(1.0,), low=(0.0,), high=(0.0,), patients=50)
    with pytest.raises(ValidationError, match="expected 1 numbers for sure masks, or none"):
        VolumeErrors(rate=0.9, edges=(), low=(0.0,), high=(0.0,), patients=50, sure=(0.5,))


def test_equal_volumes_do_not_make_empty_ranges() -> None:
    errors = fit_volume_errors([0.0] * 150 + [5.0] * 50, [1.0] * 200, ranges=4)
    assert errors.edges == (5.0,)
    assert len(errors.low) == 2
