import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.models.midline import Midline, asymmetry, find_midline, reflect

SHAPE = (80, 96, 80)


def _about(axis: int, angle: float) -> Tensor:
    """A right-handed turn about an axis."""
    first, second = (k for k in range(3) if k != axis)
    turn = torch.eye(3)
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[first, second] = math.sin(angle) * (1 if axis == 1 else -1)
    turn[second, first] = -turn[first, second]
    return turn


def _head(*, offset: float = 0.0, yaw: float = 0.0, roll: float = 0.0, lesion: float = 0.0) -> Tensor:
    """A head that is its own mirror image about a plane, but for a lesion; standardised."""
    axes = [torch.arange(n) - (n - 1) / 2 for n in SHAPE]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    turn = _about(2, yaw) @ _about(1, roll)
    side, front, up = torch.einsum("ab,axyz->bxyz", turn, points)
    side = side - offset
    radius = ((side / 30) ** 2 + (front / 40) ** 2 + (up / 32) ** 2).sqrt()
    head = (radius < 1).float() + 0.5 * torch.sin(side.abs() / 3) * torch.cos(front / 5 + up / 7) * (
        radius < 0.9
    )
    head += 1.5 * ((side.abs() < 4) & (front.abs() < 15) & (up.abs() < 8))
    head += lesion * (((side - 14) ** 2 + (front + 6) ** 2 + (up - 4) ** 2) < 8**2)
    head = torch.from_numpy(ndimage.gaussian_filter(head.numpy(), 0.8))
    return (head - head.mean()) / head.std()


@pytest.mark.parametrize("plane", [(0.0, 0.0, 0.0), (5.0, 0.2, -0.15), (-7.5, -0.25, 0.1), (2.0, 0.05, 0.27)])
@pytest.mark.parametrize("lesion", [0.0, 3.0, -2.0])
def test_the_plane_is_found_whatever_lies_on_one_side(
    plane: tuple[float, float, float], lesion: float
) -> None:
    offset, yaw, roll = plane
    found = find_midline(_head(offset=offset, yaw=yaw, roll=roll, lesion=lesion))
    assert found.offset == pytest.approx(offset, abs=0.6)
    assert math.degrees(abs(found.yaw - yaw)) < 1.0
    assert math.degrees(abs(found.roll - roll)) < 1.0


def test_mirroring_twice_gives_the_image_back() -> None:
    head = _head(offset=3.0, yaw=0.2, roll=-0.1)[None]
    plane = Midline(3.0, 0.2, -0.1)
    twice = reflect(reflect(head, plane), plane)
    inner = (slice(None), *[slice(20, -20)] * 3)
    assert float((twice - head)[inner].abs().mean()) < 0.1 * float(head[inner].std())


def test_without_a_turn_it_is_a_flip() -> None:
    image = torch.randn((2, 10, 12, 8), generator=stream(1, "flip"))
    torch.testing.assert_close(reflect(image, Midline(0.0, 0.0, 0.0)), image.flip(1))
    shifted = reflect(image, Midline(1.5, 0.0, 0.0))
    torch.testing.assert_close(shifted[:, 3:], image.flip(1)[:, :-3])


def test_the_mirror_image_is_that_of_scipy() -> None:
    image = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(24, 28, 20)), 2.0))
    plane = Midline(1.2, 0.15, -0.1)
    normal = np.array([math.cos(0.15) * math.cos(-0.1), math.sin(0.15) * math.cos(-0.1), -math.sin(-0.1)])
    turn = np.eye(3) - 2 * np.outer(normal, normal)
    centre = (np.array(image.shape) - 1) / 2
    expected = ndimage.affine_transform(
        image.numpy(), turn, centre - turn @ centre + 2 * 1.2 * normal, order=1, mode="nearest"
    )
    np.testing.assert_allclose(reflect(image[None], plane)[0].numpy(), expected, atol=1e-5)


def test_only_what_one_side_has_exceeds_the_other() -> None:
    lesion = 3.0
    head = _head(offset=4.0, yaw=0.15, lesion=lesion)
    without = _head(offset=4.0, yaw=0.15)
    image, mirrored, excess = asymmetry(head[None, None])[0]
    assert torch.equal(image, head)
    changed = (head - without).abs() > 1.0
    assert float(excess[changed].mean()) > 1.0
    assert float(mirrored[changed].mean()) < float(image[changed].mean())
    opposite = reflect(changed[None].float(), find_midline(head))[0] > 0.5
    assert float(excess[opposite].mean()) < -0.5
    elsewhere = ~ndimage.binary_dilation((changed | opposite).numpy(), iterations=4)
    assert float(excess.abs()[torch.from_numpy(elsewhere)].mean()) < 0.05


def test_every_image_of_a_batch_has_its_own_plane() -> None:
    heads = torch.stack([_head(offset=4.0), _head(offset=-3.0, yaw=0.2)])[:, None]
    together = asymmetry(heads)
    torch.testing.assert_close(together, torch.cat([asymmetry(head[None]) for head in heads]))


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 40, 47)])
def test_noise_and_constant_images_have_a_plane_too(shape: tuple[int, int, int]) -> None:
    for image in (torch.zeros(shape), torch.randn(shape, generator=stream(2, "noise"))):
        found = find_midline(image)
        assert all(math.isfinite(value) for value in (found.offset, found.yaw, found.roll))
        assert bool(torch.isfinite(asymmetry(image[None, None])).all())
