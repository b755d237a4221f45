"""Scans made at once are those made one at a time."""

import math

import pytest
import torch

from anystroke.anatomy.lesions.made_up import blob_bank
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.compiled import as_on_a_card
from anystroke.simulation.batches import Order, generate_batch
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings

MASKS = blob_bank(3, seed=1)
SETTINGS = SynthesisSettings(
    shapes=((36, 40, 32), (32, 40, 36)), shape_weights=(0.7, 0.3), spacing=5.0, soft_target=True
)


def _orders(count: int) -> list[Order]:
    anatomy = mni_anatomy()
    weightings = ("T1w", "FLAIR", "DWI", "ADC", "T2starw", "T2w")
    return [Order(anatomy, 100 + key, weighting=weightings[key % 6]) for key in range(count)]


def _alike(one: Sample, other: Sample) -> None:
    """Check that samples are the same but for rounding, which moves parts of few voxels to other labels."""
    assert {**one.record, "visibility": 0} == {**other.record, "visibility": 0}
    scale = float(other.image.abs().max())
    assert float(((one.image - other.image).abs() > 1e-3 * scale).float().mean()) < 0.01
    assert float((one.target != other.target).float().mean()) < 0.002
    assert one.shares is not None
    assert other.shares is not None
    assert float(((one.shares - other.shares).abs() > 1e-3).float().mean()) < 0.002
    for name in ("proton_density", "r1"):
        close = torch.isclose(one.maps[name], other.maps[name], rtol=1e-3, atol=1e-3)
        assert float(close.float().mean()) > 0.99
    for ours, theirs in zip(one.record["visibility"], other.record["visibility"], strict=False):
        assert math.isclose(ours["contrast_to_noise"], theirs["contrast_to_noise"], rel_tol=0.1, abs_tol=0.1)


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    orders, generator = _orders(6), Generator(SETTINGS, MASKS)
    with as_on_a_card():
        batch = generate_batch(generator, orders)
        others = [*generate_batch(generator, orders[3:]), *generate_batch(generator, orders[:3])]
        for sample, other, order in zip(batch, [*others[3:], *others[:3]], orders, strict=True):
            _alike(sample, other)
            alone = generator.generate(order.anatomy, key=order.key, weighting=order.weighting)
            _alike(sample, alone)


def test_records_of_a_batch_replay_one_at_a_time() -> None:
    orders, generator = _orders(4), Generator(SETTINGS, MASKS)
    with as_on_a_card():
        for sample in generate_batch(generator, orders):
            _alike(sample, regenerate(sample.record, [mni_anatomy()], MASKS))


def test_on_the_cpu_batches_change_nothing() -> None:
    orders, generator = _orders(3), Generator(SETTINGS, MASKS)
    for sample, order in zip(generate_batch(generator, orders), orders, strict=True):
        alone = generator.generate(order.anatomy, key=order.key, weighting=order.weighting)
        assert torch.equal(sample.image, alone.image)
        assert sample.record == alone.record


def test_without_compiled_loops_draws_are_the_same() -> None:
    """The record tells all draws but those of noise and texture, which each kind of device has its own of."""
    orders, generator = _orders(6), Generator(SETTINGS, MASKS)
    compiled = generate_batch(generator, orders)
    with as_on_a_card():
        plain = generate_batch(generator, orders)
    for one, other in zip(compiled, plain, strict=True):
        assert {**one.record, "visibility": 0} == {**other.record, "visibility": 0}
        assert float((one.target != other.target).float().mean()) < 0.01


def test_a_scan_that_cannot_be_made_is_reported() -> None:
    generator = Generator(SETTINGS, MASKS)
    wrong = Order(mni_anatomy(), 1, weighting="T9w")
    with pytest.raises(ValueError, match="T9w"):
        generate_batch(generator, [*_orders(2), wrong])


@pytest.mark.slow
def test_moments_of_batches_are_those_of_single_scans() -> None:
    """Two streams of 240 cases: mean, SD and share of each class by contrast."""
    generator, anatomy = Generator(SETTINGS, MASKS), mni_anatomy()
    weightings = ("T1w", "FLAIR", "DWI", "T2w")

    def orders(first: int) -> list[Order]:
        return [Order(anatomy, first + key, weighting=weightings[key % 4]) for key in range(240)]

    single = [generate_batch(generator, [order])[0] for order in orders(10_000)]
    with as_on_a_card():
        batches = [
            sample
            for first in range(0, 240, 8)
            for sample in generate_batch(generator, orders(20_000)[first : first + 8])
        ]
    scores = []
    for offset in range(4):
        ours, theirs = (
            torch.stack([_moments(each) for each in part[offset::4]]) for part in (single, batches)
        )
        error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
        scores.append((ours.mean(0) - theirs.mean(0)) / error.clamp(min=1e-9))
    found = torch.cat(scores)
    assert float(found.square().mean().sqrt()) < 1.6
    assert float(found.abs().max()) < 4.5


def _moments(sample: Sample) -> torch.Tensor:
    """Return mean and SD of the standardised image, and the share, of grey and white matter and fluid."""
    image = sample.image / sample.image[sample.image > 0].mean()
    rows = []
    for label in (1, 2, 3):
        inside = sample.target == label
        values = image[inside]
        rows.append(torch.stack([values.mean(), values.std(), inside.float().mean()]))
    return torch.cat(rows)
