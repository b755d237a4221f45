import math

import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.learning.cases import HEALTHY, IGNORED
from anystroke.learning.cells import CellSettings, lesion_cells
from anystroke.tasks.segmentation.lesion_loss import lesion_probability, parts_loss
from anystroke.tasks.segmentation.losses import LossSettings

SPACING = 2.0
CELLS = CellSettings(lesion=2, spacing=SPACING, smallest=0.02, reach=6.0)
BOTH = LossSettings(lesion_wise=1.0, false_parts=1.0)
LESIONS = LossSettings(lesion_wise=1.0)
FALSE = LossSettings(false_parts=1.0)


def _two_lesions() -> Tensor:
    """A cube of 512 voxels (4 ml) and a bar of 4 (0.03 ml)."""
    target = torch.zeros(1, 32, 32, 32, dtype=torch.int64)
    target[0, 4:12, 4:12, 4:12] = 2
    target[0, 24, 24, 22:26] = 2
    return target


def _cells(target: Tensor) -> Tensor:
    return torch.stack([lesion_cells(each, CELLS) for each in target])


def _sure(mask: Tensor) -> Tensor:
    """Logits of three classes that are certain of a mask."""
    odds = torch.where(mask, 50.0, -50.0)
    return torch.stack([torch.zeros_like(odds), torch.full_like(odds, -50.0), odds], dim=1)


def _cost(
    logits: Tensor, target: Tensor, settings: LossSettings = BOTH, cells: Tensor | None = None
) -> float:
    cells = _cells(target) if cells is None else cells
    return float(_loss(logits, target, cells, settings))


def _loss(logits: Tensor, target: Tensor, cells: Tensor, settings: LossSettings = BOTH) -> Tensor:
    return parts_loss(logits, target, cells, settings=settings, spacing=SPACING, reduce=lambda sums: sums)


def test_the_right_mask_costs_nothing() -> None:
    target = _two_lesions()
    assert _cost(_sure(target == 2), target) == pytest.approx(0, abs=1e-6)


def test_lesions_of_very_different_size_count_alike() -> None:
    target = _two_lesions()
    large, small = target == 2, target == 2
    large[:, 20:], small[:, :20] = False, False
    assert _cost(_sure(large), target) == pytest.approx(0.5, abs=1e-5)
    assert _cost(_sure(small), target) == pytest.approx(0.5, abs=1e-5)
    nothing = torch.zeros_like(target, dtype=torch.bool)
    assert _cost(_sure(nothing), target) == pytest.approx(1, abs=1e-4)


def test_a_flat_prediction_has_its_closed_form() -> None:
    target = _two_lesions()
    cells = _cells(target)
    sizes = [(int(((cells == k) & (target == 2)).sum()), int((cells == k).sum())) for k in (1, 2)]
    assert [true for true, _ in sizes] == [512, 4]
    expected = sum(1 - 2 * true / 3 / (all_ / 3 + true) for true, all_ in sizes) / 2
    assert _cost(torch.zeros(1, 3, 32, 32, 32), target, LESIONS) == pytest.approx(expected, rel=1e-5)


def test_false_voxels_beside_a_lesion_cost_within_its_cell_alone() -> None:
    target = _two_lesions()
    found = target == 2
    found[0, 24, 25, 22:26] = True
    assert _cost(_sure(found), target) == pytest.approx((1 - 2 * 4 / (8 + 4)) / 2, abs=1e-6)


@pytest.mark.parametrize("with_lesion", [True, False])
def test_each_false_part_costs_by_its_closed_form(with_lesion: bool) -> None:
    target = _two_lesions() if with_lesion else torch.zeros(1, 32, 32, 32, dtype=torch.int64)
    found = target == 2
    found[0, 2:6, 26, 26] = True
    one = 4 * 0.008 / (4 * 0.008 + 0.5)
    assert _cost(_sure(found), target) == pytest.approx(one / (1 + one), rel=1e-5)
    found[0, 26:30, 2, 2] = True
    assert _cost(_sure(found), target) == pytest.approx(2 * one / (1 + 2 * one), rel=1e-5)
    found = torch.ones_like(found)
    assert 0.8 < _cost(_sure(found), target, FALSE) < 1


def test_a_faint_haze_does_not_hide_a_false_part() -> None:
    target = torch.zeros(1, 48, 48, 48, dtype=torch.int64)
    odds = torch.full((1, 48, 48, 48), math.log(0.001 / 0.999))
    haze = torch.stack([torch.zeros_like(odds), torch.full_like(odds, -50.0), odds], dim=1)
    clear = haze.clone()
    clear[0, 2, 8, 8, 8:20] = 10
    assert _cost(haze, target) < 0.01
    assert _cost(clear, target) > 0.1


def test_no_lesion_and_nothing_found_is_finite_and_free() -> None:
    target = torch.zeros(2, 8, 8, 8, dtype=torch.int64)
    logits = _sure(target == 2).requires_grad_()
    loss = _loss(logits, target, _cells(target))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def _random(classes: int = 3) -> Tensor:
    return torch.randn((2, classes, 32, 32, 32), generator=stream(1, "logits"), dtype=torch.float64)


def _partly_known() -> Tensor:
    target = _two_lesions().repeat(2, 1, 1, 1)
    target[1][target[1] == 0] = HEALTHY
    target[:, 16:20, 16:20, 16:20] = IGNORED
    target[:, 10:14, 4:12, 4:12] = IGNORED
    return target


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_ignored_changes_nothing(soft: bool) -> None:
    hard = _partly_known()
    cells = _cells(hard)
    target = hard
    if soft:
        known = torch.where(hard == HEALTHY, 0, hard)
        target = torch.nn.functional.one_hot(known, IGNORED + 1)[..., :3].movedim(-1, 1).double()
    logits = _random().requires_grad_()
    loss = _loss(logits, target, cells)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    unseen = (hard == IGNORED)[:, None].expand_as(logits)
    assert not bool(logits.grad[unseen].any())
    assert bool(logits.grad[~unseen].any())
    other = torch.where(unseen, 7.0 * _random().flip(1), logits.detach())
    assert float(_loss(other, target, cells)) == float(loss.detach())


def test_soft_targets_of_zero_and_one_cost_what_hard_ones_cost() -> None:
    target = _two_lesions()
    shares = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    logits = _random()[:1].float()
    assert torch.equal(_cells(shares), _cells(target))
    assert _cost(logits, shares) == pytest.approx(_cost(logits, target), rel=1e-6)


def test_a_batch_costs_the_mean_of_its_cases() -> None:
    target = _two_lesions().repeat(2, 1, 1, 1)
    target[1, :20] = 0
    logits = _random()
    alone = [_cost(logits[k : k + 1], target[k : k + 1]) for k in (0, 1)]
    assert _cost(logits, target) == pytest.approx(sum(alone) / 2, rel=1e-9)


def test_sums_of_two_halves_give_the_loss_of_the_whole() -> None:
    target, logits = _partly_known(), _random()
    cells = _cells(target)
    kept: list[Tensor] = []

    def half(part: slice, reduce: object) -> Tensor:
        assert callable(reduce)
        each = logits[part], target[part], cells[part]
        return parts_loss(*each, settings=BOTH, spacing=SPACING, reduce=reduce)

    def keep(sums: Tensor) -> Tensor:
        kept.append(sums)
        return sums

    half(slice(0, 1), keep), half(slice(1, 2), keep)
    together = half(slice(0, 1), lambda _: kept[0] + kept[1])
    assert float(together) == pytest.approx(float(_loss(logits, target, cells)), rel=1e-9)


def test_the_gradient_is_that_of_finite_differences() -> None:
    target = torch.zeros(2, 5, 5, 5, dtype=torch.int64)
    target[0, 1, 1, 1:4] = target[0, 4, 4, 3:] = 2
    target[1, 0, 0] = IGNORED
    near = CellSettings(lesion=2, spacing=SPACING, smallest=0.0, reach=2.0)
    cells = torch.stack([lesion_cells(each, near) for each in target])
    assert cells.unique().tolist() == [0, 1, 2]  # type: ignore[no-untyped-call]
    logits = torch.randn((2, 3, 5, 5, 5), generator=stream(1, "logits"), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _loss(x, target, cells), logits.requires_grad_())


@pytest.mark.parametrize("axes", [(1,), (1, 3), (1, 2, 3)])
def test_cells_that_are_flipped_with_the_target_still_fit(axes: tuple[int, ...]) -> None:
    target, logits = _two_lesions(), _random()[:1]
    flipped = logits.flip([axis + 1 for axis in axes])
    found = _cost(flipped, target.flip(axes), cells=_cells(target).flip(axes), settings=LESIONS)
    assert found == pytest.approx(_cost(logits, target, LESIONS), rel=1e-9)


def test_the_probability_follows_how_partial_labels_are_learnt() -> None:
    logits, target = _random()[:, :, :4, :4, :4], torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    target[1] = HEALTHY
    merged = lesion_probability(logits, target, "merged")
    ends = lesion_probability(logits, target, "first_and_last")
    assert torch.allclose(merged, logits.softmax(1)[:, 2])
    assert torch.allclose(ends[0], merged[0])
    assert torch.allclose(ends[1], logits[1, [0, 2]].softmax(0)[1])


def test_crumbs_belong_to_a_lesion_nearby_or_to_nothing() -> None:
    target = _two_lesions()[0]
    target[14, 8, 8] = target[28, 4, 4] = 2
    cells = lesion_cells(target, CELLS)
    assert [int(cells[place]) for place in ((4, 4, 4), (24, 24, 22), (14, 8, 8), (28, 4, 4))] == [1, 2, 1, 0]
    without = _two_lesions()
    assert _cost(_sure(without == 2), target[None], cells=cells[None]) == pytest.approx(
        (1 - 2 * 512 / (512 + 513)) / 2, rel=1e-4
    )


def test_a_cell_ends_at_its_reach_and_where_another_lesion_is_closer() -> None:
    target = _two_lesions()[0]
    cells = lesion_cells(target, CELLS)
    assert cells[:, 8, 8].tolist() == [0, *[1] * 14, *[0] * 17]
    close = torch.zeros(1, 1, 12, dtype=torch.uint8)
    close[0, 0, [0, 1, 2, 9, 10, 11]] = 2
    assert lesion_cells(close, CELLS).flatten().tolist() == [1] * 6 + [2] * 6


def test_the_largest_lesions_have_cells() -> None:
    target = torch.zeros(64, 64, 2, dtype=torch.uint8)
    target[::4, ::4] = 2
    target[60, 60, 1] = 0
    cells = lesion_cells(target, CellSettings(lesion=2, spacing=1.0, smallest=0.0, reach=1.0))
    assert int(cells.max()) == 255
    assert int(cells[60, 60, 0]) == 0
