import math

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.evaluation.cue_conflict import shape_bias, swap_looks
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy


def test_who_goes_by_grey_values_has_no_bias_to_shape_on_a_simulated_head() -> None:
    looks = SynthesisSettings(
        spacing=6.0, shapes=((32, 40, 32),), preset="typical", weighting="T1w", corrupted=False, texture=0.1
    )
    sample = Generator(looks)(ellipsoid_anatomy(head=False), [], rng=stream(3, "head"))
    classes = sample.target
    swapped = swap_looks(sample.image, classes, 1, 2)
    means = [float(sample.image[classes == number].mean()) for number in (1, 2)]
    middle = sum(means) / 2
    assert means[1] > means[0]
    for number, other in ((1, 1), (2, 0)):
        inside = swapped[classes == number]
        assert float(inside.mean()) == pytest.approx(means[other], rel=1e-4)
    assert torch.equal(swapped[classes == 0], sample.image[classes == 0])

    def by_texture(image: torch.Tensor) -> torch.Tensor:
        return torch.where(image > middle, 2, 1)

    assert shape_bias(by_texture(sample.image), classes, 1, 2) > 0.8
    assert shape_bias(by_texture(swapped), classes, 1, 2) < 0.2
    assert shape_bias(classes, classes, 1, 2) == 1


def test_both_tissues_count_alike_and_other_classes_do_not() -> None:
    classes = torch.tensor([1] * 8 + [2] * 2)
    found = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2, 2, 0])
    assert shape_bias(found, classes, 1, 2) == pytest.approx((0.5 + 1) / 2)
    assert math.isnan(shape_bias(torch.zeros(10), classes, 1, 2))


def test_tissues_without_a_spread_are_refused() -> None:
    with pytest.raises(ValueError, match="two tissues that vary"):
        swap_looks(torch.ones(4, 1, 1), torch.tensor([1, 1, 2, 2]).reshape(4, 1, 1), 1, 2)
