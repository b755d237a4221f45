import math

import pytest
import torch

from anystroke.learning.losses import deep_supervision, dice_cross_entropy
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


def test_deep_supervision_is_a_mean_in_which_deeper_heads_count_half() -> None:
    target = _target()
    heads = [torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 3, 2, 2, 2)]
    seen: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, fitting: torch.Tensor) -> torch.Tensor:
        assert logits.shape[2:] == fitting.shape[1:]
        seen.append(fitting)
        return torch.tensor(float(len(seen)))

    assert float(deep_supervision(heads, target, loss)) == pytest.approx((1.0 + 0.5 * 2.0) / 1.5)
    assert torch.equal(seen[0], target)
    assert torch.equal(seen[1], target[:, ::2, ::2, ::2])


def test_one_head_has_the_loss_itself() -> None:
    logits = torch.randn((1, 3, 4, 4, 4), generator=stream(1, "logits"))
    expected = dice_cross_entropy(logits, _target(), dice_weights=WEIGHTS)
    found = deep_supervision([logits], _target(), lambda a, b: dice_cross_entropy(a, b, dice_weights=WEIGHTS))
    assert float(found) == pytest.approx(float(expected))
