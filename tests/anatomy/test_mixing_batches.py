"""Labels of several patients at once are those of one at a time."""

from functools import partial

import pytest
import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import DeformationSettings, SamplingGrid, sampling_grid
from anystroke.anatomy.tissues.grid_batches import of_like_size, stacked_points
from anystroke.anatomy.tissues.mixing import LabelField, mix, read_once
from anystroke.anatomy.tissues.texture import Texture, texture_tile
from anystroke.core.compiled import as_on_a_card
from anystroke.core.fields import GridShape
from anystroke.core.gathering import together
from anystroke.core.rng import stream

SHAPES: list[GridShape] = [(20, 18, 16), (19, 18, 15), (6, 5, 7), (20, 18, 16)]


def _field(number: int) -> LabelField:
    rng = stream(number, "labels")
    coarse = torch.randint(0, 6, (5, 6, 5 + number), generator=rng)
    labels = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return LabelField(labels.to(torch.uint8), torch.eye(4, dtype=torch.float64))


def _grid(number: int) -> SamplingGrid:
    return sampling_grid(
        SHAPES[number],
        2.0,
        centre=torch.tensor([20.0, 24.0, 22.0]),
        settings=DeformationSettings(translation=2.0),
        rng=stream(number, "grid"),
    )


def _mixed(number: int, *, read: bool = False) -> tuple[Tensor, Tensor]:
    rng = stream(number, "table")
    table, sd = torch.rand((6, 3), generator=rng), torch.rand((6, 3), generator=rng)
    texture = Texture(sd, texture_tile(3, 16, 0.5 + number, rng=rng), (number, 15, 7))
    field, grid = _field(number), _grid(number)
    return mix(
        read_once(field, grid) if read else field,
        grid,
        table,
        texture=texture if number != 2 else None,
        floor=0.0,
        classes=torch.tensor([0, 1, 2, 3, 1, 2], dtype=torch.uint8),
    )


def test_positions_of_several_grids_are_those_of_each() -> None:
    grids = [_grid(number) for number in range(4)]
    stacked = stacked_points(
        [g.control for g in grids], [g.splines for g in grids], [g.linear for g in grids]
    )
    for grid, points in zip(grids, stacked, strict=True):
        x, y, z = grid.shape
        torch.testing.assert_close(points[:, :x, :y, :z], grid.points(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("read", [False, True])
def test_mixing_at_once_gives_what_compiled_loops_give(read: bool) -> None:
    expected = [_mixed(number) for number in range(4)]
    with as_on_a_card():
        found = together([partial(_mixed, number, read=read) for number in range(4)])
    for (values, winners), (right, won) in zip(found, expected, strict=True):
        assert values.shape == right.shape
        assert winners.dtype == torch.uint8
        # A part whose centre lies on a border may go to either side.
        assert float(((values - right).abs() > 1e-4).float().mean()) < 2e-3
        assert float((winners != won).float().mean()) < 2e-3


def test_of_equal_classes_the_smaller_number_wins() -> None:
    labels = torch.zeros((8, 8, 8), dtype=torch.uint8)
    labels[::2] = 1
    field = LabelField(labels, torch.eye(4, dtype=torch.float64))
    grid = sampling_grid(
        (3, 3, 3),
        2.0,
        centre=torch.tensor([3.5, 3.5, 3.5]),
        settings=DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0),
        rng=stream(1, "still"),
    )
    with as_on_a_card():
        _, winners = mix(field, grid, torch.zeros(2, 1), classes=torch.tensor([5, 3], dtype=torch.uint8))
    assert int(winners[1, 1, 1]) == 3


def test_grids_much_smaller_than_others_are_not_filled_up_to_them() -> None:
    assert of_like_size([(40, 40, 40), (4, 4, 4), (38, 40, 40)], 10**6) == [[0, 2], [1]]
    assert of_like_size([(10, 10, 10)] * 3, 2000) == [[0, 1], [2]]
