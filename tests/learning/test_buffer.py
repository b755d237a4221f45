from typing import Any

import pytest
import torch
from torch import Tensor

from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.learning.buffer import Buffer, BufferSettings, changed_grey_values
from anystroke.tasks.segmentation.recipe import parse_recipe

CPU = torch.device("cpu")
SHAPE = (6, 5, 4)
UNCHANGED: dict[str, Any] = {"mirror": False, "scale": 0.0, "shift": 0.0, "gamma": 0.0, "noise": 0.0}


def _buffer(seed: int = 1, **settings: Any) -> Buffer:
    return Buffer(BufferSettings.model_validate(settings), CPU, seed=seed)


def _case(number: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Tensor, ...]:
    """Return an image, classes, and a map of parts that agree voxel by voxel."""
    target = torch.randint(0, 6, shape, generator=stream(3, number)).to(torch.uint8)
    target[0, 0, 0], target[-1, -1, -1] = 254, 255
    return (target.float() / 8 - number)[None], target, target + 1


def test_each_case_is_seen_so_often_on_average_and_training_waits_for_new_ones() -> None:
    buffer = _buffer(reuse=4, cases=50, first=10)
    seen: dict[int, int] = {}
    for step in range(400):
        while buffer.made < buffer.needed(step * 8):
            buffer.put(buffer.made, _case(buffer.made))
        for number in buffer.draw(8, step)[1]:
            seen[number] = seen.get(number, 0) + 1
    made = buffer.made
    assert made == 10 + 399 * 8 // 4
    assert sum(seen.values()) / made == pytest.approx(4, rel=0.02)
    middle = [seen.get(number, 0) for number in range(100, made - 100)]
    assert sum(middle) / len(middle) == pytest.approx(4, rel=0.05)
    assert max(middle) < 16


def test_the_oldest_makes_room() -> None:
    buffer = _buffer(cases=5, first=1)
    for number in range(12):
        buffer.put(number, _case(number))
        assert len(buffer) == min(number + 1, 5)
    numbers = [number for step in range(50) for number in buffer.draw(3, step)[1]]
    assert set(numbers) == {7, 8, 9, 10, 11}


def test_no_case_stands_twice_in_a_batch_where_there_are_enough() -> None:
    buffer = _buffer()
    for number in range(8):
        buffer.put(number, _case(number))
    assert all(len(set(buffer.draw(8, step)[1])) == 8 for step in range(20))
    assert len(buffer.draw(9, 0)[1]) == 9


def test_everything_of_a_case_is_mirrored_together_and_half_of_them_are() -> None:
    buffer = _buffer(**UNCHANGED | {"mirror": True})
    for number in range(4):
        buffer.put(number, _case(number))
    turned = 0
    for step in range(100):
        (images, targets, parts), numbers = buffer.draw(2, step)
        assert (images.dtype, targets.dtype) == (torch.float32, torch.uint8)
        for image, target, part, number in zip(images, targets, parts, numbers, strict=True):
            true = _case(number)
            flipped = not torch.equal(target, true[1])
            turned += flipped
            axes = [0] if flipped else []
            assert torch.equal(target, true[1].flip(axes))
            assert torch.equal(part, true[2].flip(axes))
            assert torch.equal(image[0], true[0][0].flip(axes))
    assert 70 < turned < 130


def test_soft_targets_are_mirrored_along_the_same_axis() -> None:
    buffer = _buffer(**UNCHANGED | {"mirror": True})
    image = torch.arange(120.0).reshape(1, *SHAPE) / 64
    buffer.put(0, (image, torch.cat([image, image + 1])))
    for step in range(8):
        (images, targets), _ = buffer.draw(1, step)
        assert targets.dtype == torch.float32
        assert torch.equal(images[:, 0], targets[:, 0])
        assert torch.equal(targets[:, 1], targets[:, 0] + 1)


def test_grey_values_change_and_targets_do_not() -> None:
    buffer = _buffer(mirror=False)
    buffer.put(0, _case(0))
    drawn = [buffer.draw(1, step)[0] for step in range(5)]
    assert all(torch.equal(target[0], _case(0)[1]) for _, target, _ in drawn)
    assert len({float(image.sum()) for image, *_ in drawn}) == 5


def test_grey_values_stay_in_their_ranges() -> None:
    image = torch.tensor([-2.0, 0.0, 1.0, 3.0]).expand(500, 1, 1, 1, 4)
    line = BufferSettings(scale=0.2, shift=0.1, gamma=0, noise=0)
    changed = changed_grey_values(image, line, rng=stream(1), noise_rng=stream(2))[:, 0, 0, 0]
    shift, scale = changed[:, 1], changed[:, 2] - changed[:, 1]
    assert 0.09 < float(shift.max()) <= 0.1
    assert -0.1 <= float(shift.min()) < -0.09
    assert 0.8 <= float(scale.min()) < 0.81
    assert 1.19 < float(scale.max()) <= 1.2
    power = BufferSettings(scale=0, shift=0, gamma=0.25, noise=0)
    changed = changed_grey_values(image, power, rng=stream(1), noise_rng=stream(2))[:, 0, 0, 0]
    exponent = changed[:, 3].log() / torch.tensor(3.0).log()
    assert float(exponent.log().abs().max()) <= 0.25 + 1e-5
    assert 0.4 < float((exponent - 1).abs().lt(1e-6).float().mean()) < 0.6
    assert torch.allclose(changed[:, 0], -(2**exponent))


def test_a_share_of_images_gets_noise() -> None:
    settings = BufferSettings(scale=0, shift=0, gamma=0, noise=0.2, noisy=0.25)
    images = torch.zeros(400, 1, 8, 8, 8)
    sd = changed_grey_values(images, settings, rng=stream(1), noise_rng=stream(2)).flatten(1).std(1)
    assert 0.18 < float((sd > 0).float().mean()) < 0.32
    assert 0.18 < float(sd.max()) < 0.22


def test_a_draw_depends_on_seed_and_names_alone() -> None:
    first, second, other = _buffer(), _buffer(), _buffer(seed=2)
    for number in range(9):
        for buffer in (first, second, other):
            buffer.put(number, _case(number))
    first.draw(4, 0)
    a, b, c = first.draw(4, 7, 0), second.draw(4, 7, 0), other.draw(4, 7, 0)
    assert a[1] == b[1]
    assert all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))
    assert not torch.equal(a[0][0], c[0][0])
    assert not torch.equal(a[0][0], first.draw(4, 7, 1)[0][0])


def test_a_batch_has_one_shape_and_every_shape_its_share() -> None:
    buffer = _buffer()
    for number in range(40):
        buffer.put(number, _case(number, (8, 4, 4) if number % 4 else (4, 4, 4)))
    numbers = []
    for step in range(300):
        (image, *_), drawn = buffer.draw(2, step)
        assert len({number % 4 == 0 for number in drawn}) == 1
        assert image.shape[2] == (8 if drawn[0] % 4 else 4)
        numbers += drawn
    assert sum(number % 4 == 0 for number in numbers) / len(numbers) == pytest.approx(0.25, abs=0.08)


def test_values_that_half_precision_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one is 100000; train without \[buffer\]"):
        _buffer().put(0, (torch.zeros(1, *SHAPE), torch.full((2, *SHAPE), 1e5)))
    with pytest.raises(ValueError, match="one is nan"):
        _buffer().put(0, (torch.full((1, *SHAPE), float("nan")),))
    with pytest.raises(ValueError, match="it is empty"):
        _buffer().draw(1, 0)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("reuse = 0.5", "buffer.reuse.*greater than or equal to 1"),
        ("first = 0", "buffer.first.*greater than 0"),
        ("cases = 10\nfirst = 11", "would begin with 11 cases and 10 are kept; lower first"),
        ("noisy = 2", "buffer.noisy.*less than or equal to 1"),
        ("capacity = 3", "capacity"),
    ],
)
def test_mistakes_of_recipes_are_named(lines: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_recipe(f'name = "x"\n[[sources]]\nkind = "simulated"\n[buffer]\n{lines}\n')


def test_only_the_channels_that_are_grey_values_change() -> None:
    buffer = _buffer(channels=1, mirror=False, first=1)
    image = torch.rand(2, *SHAPE).half().float()
    buffer.put(0, (image, torch.zeros(SHAPE, dtype=torch.uint8)))
    (changed, _), _ = buffer.draw(1, 0)
    assert torch.equal(changed[0, 1], image[1])
    assert not torch.equal(changed[0, 0], image[0])
