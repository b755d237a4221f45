import pytest
import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import DeformationSettings, SamplingGrid, sampling_grid, still_grid
from anystroke.anatomy.tissues.mixing import LabelField, ShareField, mix
from anystroke.anatomy.tissues.texture import Texture, texture_tile
from anystroke.core.compiled import as_on_a_card
from anystroke.core.rng import stream

SHAPE = (30, 26, 22)
IDENTITY = torch.eye(4, dtype=torch.float64)


def _labels() -> Tensor:
    coarse = torch.randint(0, 5, (6, 6, 5), generator=stream(1, "labels"), dtype=torch.uint8)
    return coarse.repeat_interleave(5, 0).repeat_interleave(5, 1).repeat_interleave(5, 2)


def _grid(spacing: float) -> SamplingGrid:
    centre = torch.tensor([15.0, 15.0, 12.0])
    return sampling_grid(
        SHAPE, spacing, centre=centre, settings=DeformationSettings(translation=2.0), rng=stream(3, "grid")
    )


def _tables() -> tuple[Tensor, Texture, Tensor]:
    rng = stream(2, "table")
    table, sd = torch.rand((5, 6), generator=rng), torch.rand((5, 6), generator=rng)
    return table, Texture(sd, texture_tile(6, 16, 0.8, rng=rng), (3, 15, 7)), torch.tensor([0, 1, 2, 3, 2])


@pytest.mark.parametrize("spacing", [0.5, 1.0, 2.0, 4.0])
def test_the_compiled_loop_does_the_arithmetic_of_torch(spacing: float) -> None:
    field, grid = LabelField(_labels(), IDENTITY), _grid(spacing)
    table, texture, classes = _tables()
    classes = classes.to(torch.uint8)
    for noise in (texture, None):
        values, winners = mix(field, grid, table, texture=noise, floor=0.0, classes=classes)
        with as_on_a_card():
            expected, votes = mix(field, grid, table, texture=noise, floor=0.0, classes=classes)
        # A part whose centre lies on a border may go to either side.
        assert float(((values - expected).abs() > 1e-5).float().mean()) < 1e-3
        assert float((winners != votes).float().mean()) < 1e-3


def test_voxels_of_twice_the_size_are_means_over_eight_labels() -> None:
    labels = _labels()
    grow = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    grow[:3, 3] = 0.5
    table = torch.arange(5.0)[:, None]
    values, _ = mix(LabelField(labels, IDENTITY), still_grid((15, 15, 12), grow), table)
    expected = torch.nn.functional.avg_pool3d(labels[None, None].float(), 2)[0]
    assert torch.allclose(values[:, :, :, :12], expected[..., :12], atol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    field, grid = LabelField(_labels(), IDENTITY), _grid(1.0)
    table, texture, _ = _tables()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = mix(field, grid, table, texture=texture)
        torch.set_num_threads(3)
        three, _ = mix(field, grid, table, texture=texture)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


def test_outside_the_labels_is_label_zero() -> None:
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = 100
    table = torch.tensor([[7.0], [1.0], [1.0], [1.0], [1.0]])
    values, _ = mix(LabelField(_labels(), IDENTITY), still_grid((4, 4, 4), shift), table)
    assert torch.equal(values, torch.full((1, 4, 4, 4), 7.0))


def test_soft_labels_that_are_hard_give_what_hard_labels_give() -> None:
    labels = _labels()
    shares = torch.nn.functional.one_hot(labels.long(), 5).permute(3, 0, 1, 2)[1:].float()
    table, texture, classes = _tables()
    grid = still_grid((20, 20, 16), torch.eye(4, dtype=torch.float64))
    hard = mix(LabelField(labels, IDENTITY), grid, table, texture=texture, classes=classes.to(torch.uint8))
    soft = mix(ShareField(shares, IDENTITY), grid, table, texture=texture, classes=classes.to(torch.uint8))
    assert torch.allclose(hard[0], soft[0], atol=1e-4)
    assert torch.equal(hard[1], soft[1])


@pytest.mark.parametrize("smoothness", [0.0, 0.7, 1.5, 3.0])
def test_texture_keeps_its_variance_and_fits_its_own_end(smoothness: float) -> None:
    tile = texture_tile(2, 48, smoothness, rng=stream(4, "tile"))
    assert abs(float(tile.std()) - 1) < 0.05
    across = float((tile[:, 0] - tile[:, -1]).square().mean())
    within = float((tile[:, 1:] - tile[:, :-1]).square().mean())
    assert across == pytest.approx(within, rel=0.5)


def test_a_crop_reads_what_the_whole_reads() -> None:
    field, grid = LabelField(_labels(), IDENTITY), _grid(1.0)
    box = (slice(3, 17), slice(5, 20), slice(2, 21))
    table, _, _ = _tables()
    whole, _ = mix(field, grid, table)
    part, _ = mix(field, grid.crop(box), table)
    assert torch.allclose(part, whole[(slice(None), *box)], atol=1e-5)
    inside = grid.points()[(slice(None), *box)]
    assert torch.allclose(grid.crop(box).points(), inside, atol=1e-4)


def test_a_box_around_points_holds_the_voxels_that_are_read_there() -> None:
    grid = _grid(1.0)
    points = torch.tensor([[14.0, 15.0], [13.0, 16.0], [9.0, 10.0]])
    box = grid.around(points, 1.0)
    assert box is not None
    position = grid.points()
    low, high = points.amin(1).view(3, 1, 1, 1), points.amax(1).view(3, 1, 1, 1)
    near = ((position > low) & (position < high)).all(0)
    assert bool(near.any())
    near[box] = False
    assert not bool(near.any())
    assert grid.around(points + 500, 1.0) is None


@pytest.mark.parametrize(("table", "classes"), [(3, 5), (5, 3)])
def test_tables_without_a_row_for_every_label_are_refused(table: int, classes: int) -> None:
    field = LabelField(_labels(), IDENTITY)
    with pytest.raises(ValueError, match="expected labels from 0 to 2"):
        mix(field, _grid(1.0), torch.zeros((table, 1)), classes=torch.zeros(classes, dtype=torch.uint8))


def test_labels_above_127_and_classes_above_7_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 127"):
        LabelField(torch.full((3, 3, 3), 200, dtype=torch.uint8), IDENTITY)
    with pytest.raises(ValueError, match="classes from 0 to 7"):
        mix(
            LabelField(_labels(), IDENTITY),
            _grid(1.0),
            torch.zeros((5, 1)),
            classes=torch.full((5,), 9, dtype=torch.uint8),
        )
