import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from anystroke.core.config import ConfigError, validate
from anystroke.core.fields import GridShape, smooth, spline_matrix
from anystroke.core.rng import stream
from anystroke.learning.augmentation.apply import (
    AUGMENTATIONS,
    BASELINE_AUGMENTATION,
    NONE,
    TAIL,
    AugmentationSettings,
    apply_augmentation,
    augment,
    draw_augmentation,
    elastic_sd,
)
from anystroke.learning.cases import HEALTHY

LESION = 4
GEOMETRY = AugmentationSettings(deformation=1.0, flip=0.8)


def scan(shape: GridShape = (40, 44, 36), *, centre: float = 0.55) -> tuple[Tensor, Tensor]:
    """Make a head of 100 in air of 0, with an off-centre lesion of 300, and its target."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = sum(axis.square() for axis in axes) < 0.8
    offset = (axes[0] - 0.25).square() + (axes[1] + 0.2).square() + (axes[2] - 0.1).square()
    lesion = offset < (0.4 * centre) ** 2 * 2
    image = 100.0 * head + 200.0 * lesion
    return image, torch.where(lesion, LESION, HEALTHY).to(torch.uint8)


def dice(first: Tensor, second: Tensor) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


@pytest.mark.parametrize("spacing", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_target_goes_where_the_image_goes(spacing: float, seed: int) -> None:
    image, target = scan()
    moved, label = augment(image, target, GEOMETRY, spacing=spacing, rng=stream(seed, "geometry"))
    assert label.dtype == torch.uint8
    assert set(label.unique().tolist()) == {LESION, HEALTHY}  # type: ignore[no-untyped-call]
    # A lesion of 300 in a head of 100: half-way is 200.
    assert dice(label == LESION, moved > 200) > 0.95
    assert dice(label == LESION, target == LESION) < 0.98


def test_shares_and_classes_move_alike() -> None:
    image, target = scan()
    classes = torch.where(target == LESION, 2, (image > 50).long())
    shares = one_hot(classes, 3).movedim(-1, 0).float()
    drawn = draw_augmentation(GEOMETRY, rng=stream(3, "shares"))
    moved, soft = apply_augmentation(image, shares, drawn, spacing=4.0)
    again, hard = apply_augmentation(image, classes.to(torch.uint8), drawn, spacing=4.0)
    assert torch.equal(moved, again)
    torch.testing.assert_close(soft.sum(0), torch.ones(image.shape))
    assert float(soft.amin()) > -1e-5
    assert float((soft.argmax(0) == hard).float().mean()) > 0.999
    for number in range(3):
        assert dice(hard == number, soft[number] > 0.5) > 0.95


@pytest.mark.parametrize(
    "change",
    [
        {"equalisation": 64},
        {"histogram_shift": 1.0},
        {"bias": 1.0, "bias_coefficient": (0.1, 0.3)},
        {"gamma": 1.0, "gamma_exponent": (2.0, 3.0)},
        {"noise": 1.0, "noise_sd": (0.05, 0.1)},
        {"low_resolution": 1.0, "low_resolution_zoom": (0.3, 0.5)},
    ],
)
def test_changes_of_grey_values_leave_the_target(change: dict[str, object]) -> None:
    image, target = scan()
    before = image.clone(), target.clone()
    settings = validate(change, AugmentationSettings, source="the test")
    changed, label = augment(image, target, settings, spacing=1.0, rng=stream(1, "grey values"))
    assert torch.equal(label, target)
    assert not torch.equal(changed, image)
    assert bool(torch.isfinite(changed).all())
    assert torch.equal(image, before[0])
    assert torch.equal(target, before[1])


def test_nothing_changes_nothing() -> None:
    image, target = scan()
    same, label = augment(image, target, NONE, spacing=1.0, rng=stream(1, "none"))
    assert torch.equal(same, image)
    assert torch.equal(label, target)


@pytest.mark.parametrize("settings", [BASELINE_AUGMENTATION, TAIL])
def test_the_same_stream_gives_the_same_case(settings: AugmentationSettings) -> None:
    image, target = scan()
    first, second = (augment(image, target, settings, spacing=2.0, rng=stream(5, "same")) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    other = augment(image, target, settings, spacing=2.0, rng=stream(6, "same"))
    assert not torch.equal(first[0], other[0])


def test_parameters_reach_their_ranges() -> None:
    rng = stream(1, "ranges")
    draws = [draw_augmentation(BASELINE_AUGMENTATION, rng=rng) for _ in range(200)]
    deformations = [drawn.deformation for drawn in draws if drawn.deformation is not None]

    def fills(values: list[float], low: float, high: float) -> None:
        width = high - low
        assert low <= min(values) < low + 0.1 * width
        assert high - 0.1 * width < max(values) <= high

    for axis in range(3):
        fills([move.rotation[axis] for move in deformations], -15, 15)
        fills([move.scaling[axis] for move in deformations], 0.85, 1.15)
    for entry in range(6):
        fills([move.shear[entry] for move in deformations], -0.012, 0.012)
    fills([move.sigma for move in deformations], 5, 7)
    fills([drawn.gamma for drawn in draws if drawn.gamma != 1], 0.5, 4.5)
    fills([drawn.noise for drawn in draws if drawn.noise > 0], 0, 0.1)
    fills([value for drawn in draws for value in drawn.bias], 0, 0.1)
    happened = (
        [drawn.deformation is not None for drawn in draws],
        [len(drawn.bias) == 20 for drawn in draws],
        [len(drawn.histogram) == 10 for drawn in draws],
        [drawn.gamma != 1 for drawn in draws],
        [drawn.noise > 0 for drawn in draws],
    )
    for times in (sum(each) for each in happened):
        assert 140 <= times <= 180
    assert 420 <= sum(len(drawn.flips) for drawn in draws) <= 540
    assert {axis for drawn in draws for axis in drawn.flips} == {0, 1, 2}
    assert all(drawn.equalisation == 256 and drawn.zoom is None and not drawn.skull_strip for drawn in draws)
    for drawn in draws:
        assert list(drawn.histogram) == sorted(drawn.histogram)

    tail = [draw_augmentation(TAIL, rng=rng) for _ in range(200)]
    fills([drawn.zoom for drawn in tail if drawn.zoom is not None], 0.3, 0.9)
    assert 95 <= sum(drawn.zoom is not None for drawn in tail) <= 145
    assert 40 <= sum(drawn.skull_strip for drawn in tail) <= 80
    assert all(drawn.equalisation == 0 and not drawn.histogram and drawn.gamma == 1 for drawn in tail)


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_the_elastic_displacement_is_the_published_one_at_any_voxel_size(spacing: float) -> None:
    sigma, magnitude = 6.0, 100.0
    white = torch.rand(3, 110, 110, 110, generator=stream(1, "white")) * 2 - 1
    published = smooth(white, sigma)[:, 18:-18, 18:-18, 18:-18] * magnitude
    sd = elastic_sd(sigma, magnitude)
    assert sd == pytest.approx(float(published.square().mean().sqrt()), rel=0.1)
    drawn = draw_augmentation(
        AugmentationSettings(deformation=1.0, elastic_sigma=(sigma,) * 2, elastic_magnitude=(magnitude,) * 2),
        rng=stream(2, "elastic"),
    ).deformation
    assert drawn is not None
    n = round(180 / spacing)
    control = drawn.control((n, n, n), spacing)
    matrix = spline_matrix(n, control.shape[1])
    field = torch.einsum("cabd,xa,yb,zd->cxyz", control, matrix, matrix, matrix)
    assert float(field.std()) == pytest.approx(sd, rel=0.1)
    # A Gaussian of sigma makes the correlation fall to exp(-1/4) at a distance of sigma.
    steps = round(sigma / spacing)
    shifted = float((field[:, steps:] * field[:, :-steps]).mean() / field.square().mean())
    assert shifted == pytest.approx(math.exp(-0.25), abs=0.04)


def test_distances_are_mm() -> None:
    drawn = draw_augmentation(AugmentationSettings(low_resolution=1.0), rng=stream(1, "zoom"))
    assert drawn.zoom is not None
    image, target = scan((40, 40, 40))
    fine, _ = apply_augmentation(image, target, drawn, spacing=1.0)
    assert not torch.equal(fine, image)
    # Voxels of 1 / zoom mm are smaller than 1 / 0.3 mm.
    assert torch.equal(apply_augmentation(image, target, drawn, spacing=3.4)[0], image)


@pytest.mark.parametrize(
    "settings", [NONE, AugmentationSettings(deformation=1, rotation=0, scaling=0, shear=0)]
)
@pytest.mark.parametrize("shape", [(24, 50, 36), (41, 43, 64)])
def test_crops_and_pads_about_a_voxel(settings: AugmentationSettings, shape: GridShape) -> None:
    still = settings.model_copy(update={"elastic_magnitude": (0.0, 0.0)})
    image, target = scan()
    centre = (25, 18, 20)
    cut, label = augment(image, target, still, spacing=2.0, rng=stream(1, "crop"), shape=shape, centre=centre)
    assert cut.shape == label.shape == shape
    for place in ((25, 18, 20), (20, 20, 20), (35, 30, 30)):
        there = tuple(p - c + n // 2 for p, c, n in zip(place, centre, shape, strict=True))
        if all(0 <= t < n for t, n in zip(there, shape, strict=True)):
            assert float(cut[there]) == pytest.approx(float(image[place]), abs=1e-2)
            assert label[there] == target[place]
    assert int((label == LESION).sum()) <= int((target == LESION).sum())
    assert set(label.flatten().tolist()) <= {LESION, HEALTHY}


def test_outside_of_a_stripped_brain_is_nothing_and_healthy() -> None:
    image, target = scan()
    image = image - 40
    brain = torch.zeros_like(target)
    brain[:20] = 1
    settings = AugmentationSettings(skull_strip=1.0)
    stripped, label = augment(image, target, settings, spacing=1.0, rng=stream(1, "strip"), brain=brain)
    assert torch.equal(stripped[:20], image[:20])
    assert bool((stripped[20:] == -40).all())
    assert torch.equal(label[:20], target[:20])
    assert bool((label[20:] == HEALTHY).all())
    shares = one_hot((target == LESION).long(), 2).movedim(-1, 0).float()
    _, soft = augment(image, shares, settings, spacing=1.0, rng=stream(1, "strip"), brain=brain)
    assert bool((soft[0, 20:] == 1).all())
    torch.testing.assert_close(soft.sum(0), torch.ones(image.shape))
    kept, _ = augment(image, target, settings, spacing=1.0, rng=stream(1, "strip"))
    assert torch.equal(kept, image)


def test_noise_is_relative_to_the_spread_of_the_image() -> None:
    image, target = scan()
    settings = AugmentationSettings(noise=1.0, noise_sd=(0.1, 0.1))
    noise = augment(image, target, settings, spacing=1.0, rng=stream(1, "noise"))[0] - image
    assert float(noise.std()) == pytest.approx(0.1 * float(image.std()), rel=0.02)
    assert abs(float(noise.mean())) < 0.01 * float(image.std())


def _other_grid(image: Tensor, target: Tensor) -> object:
    return augment(image, target[1:], NONE, spacing=1.0, rng=stream(1, "bad"))


def _constant(image: Tensor, target: Tensor) -> object:
    return augment(image * 0, target, BASELINE_AUGMENTATION, spacing=1.0, rng=stream(1, "bad"))


def _not_finite(image: Tensor, target: Tensor) -> object:
    return augment(image / 0, target, BASELINE_AUGMENTATION, spacing=1.0, rng=stream(1, "bad"))


def _no_spacing(image: Tensor, target: Tensor) -> object:
    return augment(image, target, NONE, spacing=0.0, rng=stream(1, "bad"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_other_grid, r"expected a target of shape \(40, 44, 36\)"),
        (_constant, "expected an image with contrast"),
        (_not_finite, "expected finite grey values"),
        (_no_spacing, "expected a voxel size above 0 mm"),
    ],
)
def test_what_cannot_be_augmented(call: Callable[[Tensor, Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*scan())


def test_settings_are_checked() -> None:
    assert AUGMENTATIONS["none"] == AugmentationSettings()
    with pytest.raises(ConfigError, match="'gamma'"):
        validate({"gamma": 1.5}, AugmentationSettings, source="recipe.toml")
    with pytest.raises(ConfigError, match="did you mean 'flips'"):
        validate({"flipps": 2}, AugmentationSettings, source="recipe.toml")
