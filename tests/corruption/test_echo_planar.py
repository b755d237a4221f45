import pytest
import torch

from anystroke.core.compiled import as_on_a_card
from anystroke.core.rng import stream
from anystroke.corruption.echo_planar import (
    EchoPlanar,
    dephasing,
    gradient_across,
    shift_per_hertz,
)

SHAPE = (10, 24, 14)


def _image(name: str = "image") -> torch.Tensor:
    image = torch.rand(SHAPE, generator=stream(1, name))
    image[:, :6] = image[:, -6:] = 0
    return image


def _wavy(factor: int = 1, size: float = 2.0, axis: int = 1) -> EchoPlanar:
    coarse = [-(-n // factor) for n in SHAPE]
    field = size * torch.randn(coarse, generator=stream(2, "field")).clamp(-1.5, 1.5)
    return EchoPlanar(field, factor, axis)


def _edges(distortion: EchoPlanar) -> torch.Tensor:
    """Edges of moved voxels in closed form, for a factor of one."""
    d = distortion.displacement
    ends = torch.cat([d[:, :1], d[:, :1], d, d[:, -1:], d[:, -1:]], 1)
    middle = (-ends[:, :-3] + 9 * ends[:, 1:-2] + 9 * ends[:, 2:-1] - ends[:, 3:]) / 16
    middle[:, 0], middle[:, -1] = d[:, 0], d[:, -1]
    return torch.arange(d.shape[1] + 1.0)[:, None] + middle


def _pushed_slowly(image: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(image)
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            for z in range(image.shape[2]):
                low, high = sorted((float(edges[x, y, z]), float(edges[x, y + 1, z])))
                for place in range(image.shape[1]):
                    covered = min(high, place + 1) - max(low, place)
                    if covered > 0:
                        out[x, place, z] += image[x, y, z] * covered / (high - low)
    return out


def test_no_displacement_changes_nothing() -> None:
    still = EchoPlanar(torch.zeros(5, 12, 7), 2)
    labels = torch.randint(0, 5, SHAPE, dtype=torch.uint8, generator=stream(1, "labels"))
    assert torch.equal(still.image(_image()), _image())
    assert torch.equal(still.labels(labels), labels)
    torch.testing.assert_close(still.moved(_image()[None]), _image()[None])


def test_whole_voxels_are_a_roll_and_half_ones_an_average() -> None:
    image = _image()
    assert torch.equal(EchoPlanar(torch.full(SHAPE, 3.0)).image(image), image.roll(3, 1))
    half = EchoPlanar(torch.full(SHAPE, -0.5)).image(image)
    torch.testing.assert_close(half, (image + image.roll(-1, 1)) / 2)


def test_pushing_is_that_of_a_loop_over_voxels() -> None:
    distortion = _wavy()
    expected = _pushed_slowly(_image(), _edges(distortion))
    torch.testing.assert_close(distortion.image(_image()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_signal_along_a_line_is_conserved(axis: int, factor: int) -> None:
    image = torch.rand(SHAPE, generator=stream(1, "whole"))
    margin = 4
    line = [slice(None)] * 3
    line[axis] = slice(margin, -margin)
    inner = torch.zeros(SHAPE)
    inner[tuple(line)] = image[tuple(line)]
    pushed = _wavy(factor, 1.5, axis).image(inner)
    torch.testing.assert_close(pushed.sum(axis), inner.sum(axis), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pushed, inner, atol=0.05)


def test_squeezed_signal_is_brighter_by_how_much_it_is_squeezed() -> None:
    y = torch.arange(64.0)[:, None]
    distortion = EchoPlanar((-0.5 * (y - 31.5)).expand(4, 64, 4).clone())
    pushed = distortion.image(torch.ones(4, 64, 4))
    torch.testing.assert_close(pushed[:, 20:44], torch.full((4, 24, 4), 2.0), atol=1e-4, rtol=1e-4)
    assert float(pushed[:, :14].max()) == 0
    flat = distortion.moved(torch.ones(1, 4, 64, 4))[0]
    torch.testing.assert_close(flat[:, 20:44], torch.ones(4, 24, 4))


def test_the_operator_is_linear_and_takes_negative_signal() -> None:
    distortion = EchoPlanar(_wavy(2).displacement, 2, 1, kept=torch.rand(5, 12, 7), ghost=0.1)
    one, other = _image(), -_image("other")
    torch.testing.assert_close(
        distortion.image(2 * one + other), 2 * distortion.image(one) + distortion.image(other)
    )


def test_labels_go_where_their_signal_goes() -> None:
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[3:7, 8:16, 4:10] = 3
    distortion = _wavy(4, 2.0)
    moved = distortion.labels(labels)
    signal = distortion.image((labels == 3).float()), distortion.image((labels != 3).float())
    clear = (signal[0] - signal[1]).abs() > 0.5 * (signal[0] + signal[1])
    single = (signal[0] + signal[1]) < 1.3
    agree = (moved == 3) == (signal[0] > signal[1])
    assert float(agree[clear & single].float().mean()) > 0.98
    assert set(moved.flatten().tolist()) == {0, 3}
    assert torch.equal(EchoPlanar(torch.full(SHAPE, 2.0)).labels(labels), labels.roll(2, 1))


def test_maps_move_without_piling_up() -> None:
    flat = torch.full(SHAPE, 0.8)
    adc = EchoPlanar(_wavy(4).displacement, 4, computed=True, ghost=0.3).image(flat)
    held = adc > 0
    torch.testing.assert_close(adc[held], torch.full_like(adc[held], 0.8))


def test_air_over_the_head_hides_nothing() -> None:
    # The first half moves onto the second.
    displacement = torch.zeros(SHAPE)
    displacement[:, :12] = 12.0
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[:, 14:20] = 2
    distortion = EchoPlanar(displacement)
    assert torch.equal(distortion.labels(labels)[:, 15:19], labels[:, 15:19])
    head = (labels > 0).float()
    seen = distortion.moved(head[None], 0.1 + 0.9 * head)[0]
    assert float(seen[:, 15:19].min()) > 0.85
    assert float(distortion.moved(head[None])[0][:, 15:19].max()) < 0.55


def test_a_ghost_lies_half_a_field_of_view_away() -> None:
    image = torch.zeros(SHAPE)
    image[5, 8, 5] = 1.0
    ghosted = EchoPlanar(torch.zeros(SHAPE), ghost=0.05).image(image)
    assert float(ghosted[5, 20, 5]) == pytest.approx(0.05)
    assert float(ghosted.sum()) == pytest.approx(1.05)


def test_fat_lies_its_chemical_shift_away_from_where_water_would() -> None:
    displacement = _wavy().displacement
    water, fat = _image("water"), torch.zeros(SHAPE)
    fat[3, 12, 4] = 2.0
    both = EchoPlanar(displacement, fat_shift=-5.0)
    torch.testing.assert_close(both.image(water), EchoPlanar(displacement).image(water))
    apart = both.image(water + fat, fat) - both.image(water)
    torch.testing.assert_close(apart, EchoPlanar(displacement - 5.0).image(fat), atol=1e-5, rtol=1e-5)
    assert float(apart.sum()) == pytest.approx(2.0, rel=1e-4)
    assert both.coarse(1).fat_shift == -5.0


def test_the_compiled_loop_does_what_tensors_do() -> None:
    distortion = _wavy(4, 3.0)
    labels = torch.randint(0, 5, SHAPE, dtype=torch.uint8, generator=stream(1, "labels"))
    lines = _image()
    with as_on_a_card():
        out, carried = distortion.image(lines), distortion.labels(labels)
    torch.testing.assert_close(distortion.image(lines), out, atol=1e-4, rtol=1e-4)
    assert float((distortion.labels(labels) == carried).float().mean()) > 0.999


def test_coarser_images_are_distorted_by_the_same_distance() -> None:
    distortion = EchoPlanar(torch.full((4, 8, 4), 4.0), 4)
    coarse = distortion.coarse(2)
    assert (coarse.factor, float(coarse.displacement[0, 0, 0])) == (2, 2.0)
    with pytest.raises(ValueError, match="divisor of 4"):
        distortion.coarse(3)


def test_displacements_are_those_that_images_see() -> None:
    distortion = EchoPlanar(torch.full((3, 6, 4), 1.0), 4)
    torch.testing.assert_close(distortion.displacements((12, 24, 16)), torch.ones(12, 24, 16))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected an image"):
        EchoPlanar(torch.zeros(4, 4, 4)).image(torch.zeros(5, 4, 4))
    with pytest.raises(ValueError, match="axis"):
        EchoPlanar(torch.zeros(4, 4, 4), axis=3)


def test_dephasing_vanishes_at_an_echo_time_of_zero_and_is_complete_at_one_turn() -> None:
    gradient = torch.linspace(-20, 20, 41)
    assert torch.equal(dephasing(gradient, echo_time=0.0, thickness=5.0), torch.ones(41))
    kept = dephasing(gradient, echo_time=0.02, thickness=5.0)
    assert float(kept[20]) == 1
    assert float(kept[30]) == pytest.approx(0, abs=1e-5)
    # Half a turn across the slice leaves 2 / pi.
    assert float(kept[25]) == pytest.approx(0.63662, abs=1e-4)


def test_the_slope_of_a_ramp_is_the_ramp() -> None:
    ramp = torch.arange(8.0).expand(3, 4, 8) * 6
    torch.testing.assert_close(gradient_across(ramp, spacing=2.0, axis=2), torch.full((3, 4, 8), 3.0))


def test_published_shift_of_a_hundred_hertz() -> None:
    # Voxel shift = f x echo spacing x lines; 100 Hz, 0.5 ms and 110 lines of 2 mm make 5.5 voxels.
    assert shift_per_hertz(echo_spacing=0.0005, field_of_view=220.0) * 100 == pytest.approx(5.5 * 2)
    with pytest.raises(ValueError, match="finite"):
        shift_per_hertz(echo_spacing=float("nan"), field_of_view=220.0)
