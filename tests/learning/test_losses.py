import math

import pytest
import torch

from anystroke.learning.losses import dice_cross_entropy
from anystroke.rng import stream

WEIGHTS = (0.0, 1.0, 3.0)


def _target() -> torch.Tensor:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    target[0, :2], target[0, 3, 0] = 1, 2
    return target


def test_a_perfect_prediction_costs_nothing() -> None:
    target = _target()
    logits = 50.0 * torch.nn.functional.one_hot(target, 3).permute(0, 4, 1, 2, 3).float()
    assert float(dice_cross_entropy(logits, target, dice_weights=WEIGHTS)) == pytest.approx(0, abs=1e-5)


def test_a_flat_prediction_has_its_closed_form() -> None:
    target = _target()
    loss = dice_cross_entropy(torch.zeros(1, 3, 4, 4, 4), target, dice_weights=WEIGHTS)
    dice = [2 * (count / 3) / (64 / 3 + count) for count in (32, 4)]
    expected = math.log(3) + ((1 - dice[0]) + 3 * (1 - dice[1])) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_an_absent_class_leaves_cross_entropy_alone() -> None:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    logits = torch.randn((1, 3, 4, 4, 4), generator=stream(1, "logits"))
    loss = dice_cross_entropy(logits, target, dice_weights=WEIGHTS)
    assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-5)


def test_gradients_are_finite_and_weights_are_checked() -> None:
    logits = (1e3 * torch.randn((1, 3, 4, 4, 4), generator=stream(1, "logits"))).requires_grad_()
    dice_cross_entropy(logits, _target(), dice_weights=WEIGHTS).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    with pytest.raises(ValueError, match="expected 3 weights"):
        dice_cross_entropy(logits, _target(), dice_weights=(1.0,))
