import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.learning.cases import HEALTHY, IGNORED
from anystroke.tasks.segmentation.losses import deep_supervision, dice_cross_entropy, logit_regression

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


def _monai(logits: Tensor, target: Tensor) -> float:
    from monai.losses.dice import DiceCELoss

    loss = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    return float(loss(logits, target[:, None]))


def test_with_absent_classes_counted_it_is_the_published_loss() -> None:
    target = torch.randint(0, 3, (2, 5, 6, 7), generator=stream(1, "target"))
    for logits in torch.randn((3, 2, 4, 5, 6, 7), generator=stream(1, "logits")):
        found = dice_cross_entropy(
            logits, target, dice_weights=(0.0, 1.0, 1.0, 1.0), absent_classes="counted"
        )
        assert float(found) == pytest.approx(_monai(logits, target), abs=1e-6)


def test_shares_of_zero_and_one_cost_what_hard_classes_cost() -> None:
    logits = torch.randn((2, 3, 4, 4, 4), generator=stream(1, "logits"))
    target = _target().repeat(2, 1, 1, 1)
    shares = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    for weights in (None, (1.0, 2.0, 5.0)):
        hard, soft = (
            dice_cross_entropy(logits, each, dice_weights=WEIGHTS, cross_entropy_weights=weights)
            for each in (target, shares)
        )
        assert float(hard) == pytest.approx(float(soft), rel=1e-6)


def test_unknown_tissue_costs_nothing_as_long_as_it_is_no_lesion() -> None:
    target = torch.full((1, 4, 4, 4), HEALTHY)
    target[0, 3, 0] = 2
    sure = torch.where(target == 2, 2, torch.arange(64).reshape(1, 4, 4, 4) % 2)
    logits = 50.0 * torch.nn.functional.one_hot(sure, 3).movedim(-1, 1).float()
    assert float(dice_cross_entropy(logits, target, dice_weights=WEIGHTS)) == pytest.approx(0, abs=1e-5)
    wrong = logits.clone()
    wrong[0, :, 0, 0, 0] = torch.tensor([0.0, 0.0, 50.0])
    assert float(dice_cross_entropy(wrong, target, dice_weights=WEIGHTS)) > 0.5


def test_the_two_ways_with_unknown_tissue() -> None:
    logits = torch.randn((1, 3, 4, 4, 4), generator=stream(1, "logits"))
    target = torch.full((1, 4, 4, 4), HEALTHY)
    target[0, 3, 0] = 2
    two = (target == 2).long()
    ends = dice_cross_entropy(logits[:, [0, 2]], two, dice_weights=(0.0, 1.0))
    found = dice_cross_entropy(logits, target, dice_weights=WEIGHTS, partial_labels="first_and_last")
    assert float(found) == pytest.approx(float(ends), rel=1e-6)
    merged = torch.stack([logits[:, :2].logsumexp(1), logits[:, 2]], dim=1)
    expected = dice_cross_entropy(merged, two, dice_weights=(0.0, 1.0))
    found = dice_cross_entropy(logits, target, dice_weights=WEIGHTS)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_batch_may_hold_known_and_unknown_tissue() -> None:
    logits = torch.randn((2, 3, 4, 4, 4), generator=stream(1, "logits"))
    target = _target().repeat(2, 1, 1, 1)
    target[1][target[1] != 2] = HEALTHY
    loss = dice_cross_entropy(logits, target, dice_weights=WEIGHTS)
    known = torch.softmax(logits[0], 0)
    merged = torch.stack([logits[1, :2].logsumexp(0), logits[1, 2]]).log_softmax(0)
    entropy = torch.nn.functional.nll_loss(known.log()[None], target[:1], reduction="sum")
    entropy = entropy + torch.nn.functional.nll_loss(merged[None], (target[1:] == 2).long(), reduction="sum")
    lesion = (target == 2).float()
    predicted = torch.stack([known[2], merged[1].exp()])
    dice = [
        2 * float((known[1] * (target[0] == 1)).sum()) / float(known[1].sum() + (target[0] == 1).sum()),
        2 * float((predicted * lesion).sum()) / float(predicted.sum() + lesion.sum()),
    ]
    expected = float(entropy) / 128 + ((1 - dice[0]) + 3 * (1 - dice[1])) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_warm_up_fits_plus_and_minus_five() -> None:
    target = _target()
    wanted = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert float(logit_regression(10 * wanted - 5, target)) == pytest.approx(0, abs=1e-10)
    logits = torch.randn((1, 3, 4, 4, 4), generator=stream(1, "logits"))
    weight = (target > 0).float()[:, None] + 1e-8
    expected = (weight * (logits - 10 * wanted + 5) ** 2).sum() / (weight.sum() * 3)
    assert float(logit_regression(logits, target)) == pytest.approx(float(expected), rel=1e-5)
    assert float(logit_regression(logits, wanted)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", [logit_regression, partial(dice_cross_entropy, dice_weights=WEIGHTS)])
def test_sums_of_two_halves_give_the_loss_of_the_whole(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn((2, 3, 4, 4, 4), generator=stream(1, "logits"))
    target = torch.randint(0, 3, (2, 4, 4, 4), generator=stream(1, "target"))
    kept: list[Tensor] = []

    def keep(sums: Tensor) -> Tensor:
        kept.append(sums)
        return sums

    for half in (slice(0, 1), slice(1, 2)):
        loss(logits[half], target[half], reduce=keep)
    together = loss(logits[:1], target[:1], reduce=lambda _: kept[0] + kept[1])
    assert float(together) == pytest.approx(float(loss(logits, target)), rel=1e-6)


def test_shares_shrink_by_averaging_for_deeper_heads() -> None:
    shares = torch.rand((1, 3, 4, 4, 4), generator=stream(1, "shares")).softmax(1)
    seen: list[Tensor] = []

    def loss(_: Tensor, fitting: Tensor) -> Tensor:
        seen.append(fitting)
        return torch.zeros(())

    deep_supervision([torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 3, 2, 2, 2)], shares, loss)
    assert torch.allclose(seen[1][0, :, 0, 0, 0], shares[0, :, :2, :2, :2].mean((1, 2, 3)))


def _with_ignored(kind: str) -> tuple[Tensor, Tensor]:
    """Return a target of a kind, and where it is ignored."""
    hard = torch.randint(0, 3, (2, 4, 4, 4), generator=stream(1, "target"))
    unseen = torch.rand((2, 4, 4, 4), generator=stream(1, "unseen")) < 0.3
    if kind == "soft":
        shares = torch.rand((2, 3, 4, 4, 4), generator=stream(1, "shares")).softmax(1)
        return shares * ~unseen[:, None], unseen
    if kind == "healthy":
        hard[1][hard[1] != 2] = HEALTHY
    return hard.masked_fill(unseen, IGNORED), unseen


LOSSES = (
    logit_regression,
    partial(dice_cross_entropy, dice_weights=WEIGHTS),
    partial(dice_cross_entropy, dice_weights=WEIGHTS, cross_entropy_weights=(1.0, 2.0, 5.0)),
    partial(dice_cross_entropy, dice_weights=WEIGHTS, partial_labels="first_and_last"),
)


@pytest.mark.parametrize("kind", ["hard", "healthy", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_ignored_changes_nothing(loss: Callable[..., Tensor], kind: str) -> None:
    target, unseen = _with_ignored(kind)
    logits = torch.randn((2, 3, 4, 4, 4), generator=stream(1, "logits")).requires_grad_()
    value = loss(logits, target)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    everywhere = unseen[:, None].expand_as(logits)
    assert not bool(logits.grad[everywhere].any())
    assert bool(logits.grad[~everywhere].any())
    other = torch.where(everywhere, 9 * logits.detach().flip(1), logits.detach())
    assert float(loss(other, target)) == float(value.detach())


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
def test_ignoring_is_the_same_as_leaving_voxels_out(loss: Callable[..., Tensor], kind: str) -> None:
    target, unseen = _with_ignored(kind)
    logits = torch.randn((2, 3, 4, 4, 4), generator=stream(1, "logits"))
    kept = logits.movedim(1, -1)[~unseen].T[None, :, :, None, None]
    if kind == "soft":
        left = target.movedim(1, -1)[~unseen].T[None, :, :, None, None]
    else:
        left = target[~unseen][None, :, None, None]
    assert float(loss(logits, target)) == pytest.approx(float(loss(kept, left)), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_with_everything_ignored_the_loss_is_zero(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn((1, 3, 4, 4, 4), generator=stream(1, "logits")).requires_grad_()
    for target in (torch.full((1, 4, 4, 4), IGNORED), torch.zeros(1, 3, 4, 4, 4)):
        value = loss(logits, target)
        value.backward()  # type: ignore[no-untyped-call]
        assert float(value.detach()) == 0
        assert logits.grad is not None
        assert not bool(logits.grad.any())


def test_deeper_heads_ignore_what_the_finest_ignores() -> None:
    hard = _target().repeat(1, 1, 1, 1)
    hard[0, :, 2:] = IGNORED
    shares = torch.rand((1, 3, 4, 4, 4), generator=stream(1, "shares")).softmax(1)
    shares[:, :, :, 2:] = 0
    shares[:, :, 0, 0, 0] = 0
    seen: list[Tensor] = []

    def loss(_: Tensor, fitting: Tensor) -> Tensor:
        seen.append(fitting)
        return torch.zeros(())

    for target in (hard, shares):
        deep_supervision([torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 3, 2, 2, 2)], target, loss)
    assert bool((seen[1][0, :, 1] == IGNORED).all())
    assert not bool((seen[1][0, :, 0] == IGNORED).any())
    assert not bool(seen[3][0, :, :, 1].any())
    assert torch.allclose(seen[3][0, :, :, 0].sum(0), torch.ones(2, 2))
