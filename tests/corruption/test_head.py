import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.corruption.bias_field import control_point_field
from anystroke.corruption.head import (
    apply_mask,
    blur_face,
    brain_of_fractions,
    cut_field_of_view,
    deface,
    face_region,
)

SHAPE = (48, 64, 56)
SPACING = 2.0
CENTRE = (24.0, 28.0, 32.0)


def _ball(radius_mm: float) -> Tensor:
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    square = torch.stack([(axis - c) ** 2 for axis, c in zip(axes, CENTRE, strict=True)]).sum(0)
    return (square.sqrt() * SPACING < radius_mm).float()


def _radius(mask: Tensor) -> float:
    volume = float(mask.sum()) * SPACING**3
    return float((volume * 3 / (4 * torch.pi)) ** (1 / 3))


@pytest.mark.parametrize("smoothing", [2.0, 5.0])
@pytest.mark.parametrize("margin", [-3.0, 0.0, 3.0])
def test_margin_is_the_distance_of_the_mask_from_the_brain(margin: float, smoothing: float) -> None:
    mask = brain_of_fractions(_ball(34.0), spacing=SPACING, smoothing=smoothing, margin=margin, rng=stream(1))
    assert mask.dtype == torch.bool
    # Smoothing moves the boundary of a ball inwards by the variance over the radius.
    assert _radius(mask) == pytest.approx(34.0 + margin - smoothing**2 / 34.0, abs=0.6)


def test_unevenness_bites_and_bulges_within_its_limits() -> None:
    brain = _ball(34.0)

    def draw(margin: float, unevenness: float) -> Tensor:
        return brain_of_fractions(
            brain, spacing=SPACING, smoothing=3.0, margin=margin, unevenness=unevenness, rng=stream(2)
        )

    uneven, tight, generous = draw(0.0, 5.0), draw(-5.0, 0.0), draw(5.0, 0.0)
    assert bool((uneven >= tight).all())
    assert bool((uneven <= generous).all())
    even = draw(0.0, 0.0)
    assert int((even & ~uneven).sum()) > 500
    assert int((uneven & ~even).sum()) > 500


def test_mask_of_an_odd_grid_is_where_the_brain_is() -> None:
    brain = torch.zeros(31, 35, 29)
    brain[8:23, 10:25, 7:22] = 1
    mask = brain_of_fractions(brain, spacing=1.0, smoothing=3.5, rng=stream(3))
    centre = mask.nonzero().double().mean(0)
    torch.testing.assert_close(centre, torch.tensor([15.0, 17.0, 14.0]).double(), atol=0.3, rtol=0)


def test_masks_and_faces_are_zero_in_the_image() -> None:
    image = torch.rand(SHAPE) + 1
    mask = _ball(30.0) > 0.5
    assert torch.equal(apply_mask(image, mask) > 0, mask)
    assert torch.equal(deface(image, mask) == 0, mask)
    assert torch.equal(apply_mask(image[None], mask)[0], apply_mask(image, mask))


@pytest.mark.parametrize("angle", [0.0, 40.0, 70.0, 90.0])
def test_face_is_in_front_and_below_and_never_brain(angle: float) -> None:
    brain = _ball(34.0)
    face = face_region(brain, spacing=SPACING, angle=angle, margin=4.0)
    assert face.shape == SHAPE
    assert not bool((face & (brain > 0.5)).any())
    assert bool(face[24, -1, 0])
    assert not bool(face[:, 0, -1].any())
    assert bool(face[24, -1, 32]) == (angle < 70)
    assert bool(face[24, 28, 0]) == (angle >= 40)
    # The plane stays its margin away from the ball.
    nearest = _ball(34.0 + 2.0) > 0.5
    assert not bool((face & nearest).any())
    assert bool((face & (_ball(34.0 + 8.0) > 0.5)).any())


def test_wedge_spares_the_neck_and_head_spares_the_air() -> None:
    brain, head = _ball(30.0), _ball(52.0)
    wedge = face_region(brain, spacing=SPACING, angle=60.0, depth=20.0)
    front = int((brain.amax((0, 2)) > 0.5).nonzero().max())
    assert not bool(wedge[:, : front - 9].any())
    assert bool(wedge[:, front - 9].any())
    inside = face_region(brain, spacing=SPACING, angle=60.0, depth=20.0, head=head)
    assert torch.equal(inside, wedge & (head > 0.5))


def test_blurred_face_keeps_the_rest_and_the_level() -> None:
    image = torch.rand(SHAPE, generator=stream(4, "image"))
    face = face_region(_ball(30.0), spacing=SPACING, head=_ball(52.0))
    blurred = blur_face(image, face, spacing=SPACING, smoothing=8.0)
    assert torch.equal(blurred[~face], image[~face])
    assert float(blurred[face].std()) < 0.2 * float(image[face].std())
    assert float(blurred[face].mean()) == pytest.approx(0.5, abs=0.02)


def test_field_of_view_keeps_its_box() -> None:
    image = torch.rand(SHAPE) + 1
    cut, box = cut_field_of_view(image, left=2, back=3, front=4, bottom=5, top=6)
    assert box == (slice(2, 48), slice(3, 60), slice(5, 50))
    assert torch.equal(cut[box], image[box])
    assert int((cut != 0).sum()) == 46 * 57 * 45
    untouched, box = cut_field_of_view(image)
    assert torch.equal(untouched, image)
    assert image[box].shape == image.shape


def test_control_point_field_stays_within_its_amplitude() -> None:
    for points in (2, 3, 7):
        field = control_point_field(
            (20, 21, 22), amplitude=0.5, control_points=(points,) * 3, rng=stream(points)
        )
        assert float(field.min()) >= 0.5 - 1e-5
        assert float(field.max()) <= 1.5 + 1e-5
        assert float(field.std()) > 0.02
        bend = field.diff(n=2, dim=0).abs().max()
        assert float(bend) < 0.02 * points**2
