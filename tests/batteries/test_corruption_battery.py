"""One battery that every corruption of an image passes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.corruption.bias_field import (
    control_point_field,
    polynomial_field,
    receive_field,
    transmit_field,
)
from anystroke.corruption.head import (
    apply_mask,
    blur_face,
    brain_of_fractions,
    cut_field_of_view,
    deface,
    face_region,
)
from anystroke.corruption.intensity import (
    equalise_values,
    gamma,
    percentiles,
    scale_to_percentiles,
    shift_histogram,
)
from anystroke.corruption.kspace import Pose, Spike, ghosting, gibbs_ringing, rigid_motion, spikes
from anystroke.corruption.noise import g_factor_map, noise_sd, non_central_chi, rician
from anystroke.corruption.resolution import (
    at_acquired_resolution,
    encoded_grid,
    slice_grid,
    voxel_grids,
)

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]

SHAPES = [(17, 21, 13), (16, 18, 20), (9, 1, 12)]


def _image(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    image = torch.rand(shape, generator=stream(3, "image"), dtype=dtype) + 0.5
    image.flatten()[:3] = 0
    return image


def _brain(image: Tensor) -> Tensor:
    """Half of the grid, its back."""
    brain = torch.zeros(image.shape)
    brain[:, : max(image.shape[1] // 2, 1)] = 1
    return brain


def _moved(image: Tensor, size: float, rng: torch.Generator) -> Tensor:
    poses = [Pose((2.0 * size, 0.0, -1.3 * size), (4.0 * size, -3.0 * size, 5.0 * size))]
    return rigid_motion(image, poses, starts=[0.6], axis=2, spacing=1.5)


def _uneven_strip(image: Tensor, size: float, rng: torch.Generator) -> Tensor:
    mask = brain_of_fractions(
        _brain(image), spacing=1.0, smoothing=1.5, margin=1.0, unevenness=2 * size, rng=rng
    )
    return apply_mask(image, mask)


def _thick(image: Tensor, size: float, rng: torch.Generator) -> Tensor:
    return at_acquired_resolution(
        image,
        (None, None, slice_grid(image.shape[-1], spacing=1.0, thickness=4.0, distance=5.0, offset=0.4)),
        noise=lambda low: rician(low, sd=0.1 * size * float(image.mean()), rng=rng),
    )


def _encoded(image: Tensor, size: float, rng: torch.Generator) -> Tensor:
    n = image.shape[-1]
    return at_acquired_resolution(image, (None, None, encoded_grid(n, lines=round(n * (1 - size / 2)))))


# Each takes a strength from 0, where those of WITHOUT_STRENGTH change the image nevertheless, to 1.
CORRUPTIONS: dict[str, Corruption] = {
    "rician": lambda image, size, rng: rician(image, sd=size * float(image.mean()), rng=rng),
    "non_central_chi": lambda image, size, rng: non_central_chi(
        image,
        sd=size * float(image.mean()),
        channels=5,
        g_factor=torch.linspace(1, 2, image.numel()).view(image.shape),
        rng=rng,
    ),
    "gibbs_ringing": lambda image, size, rng: gibbs_ringing(
        image, kept=(1 - size / 2, 1.0, 1 - size / 2), window="tukey"
    ),
    "ghosting": lambda image, size, rng: ghosting(image, axis=2, period=3, strength=size),
    "nyquist_ghost": lambda image, size, rng: ghosting(image, axis=0, period=2, phase=30 * size),
    "spikes": lambda image, size, rng: spikes(
        image, [Spike((3, 0, -4), 0.3 * size, 40), Spike((0, 0, 2), size)]
    ),
    "rigid_motion": _moved,
    "thick_slices": _thick,
    "encoded": _encoded,
    "low_resolution": lambda image, size, rng: at_acquired_resolution(
        image, voxel_grids(_shape(image), spacing=1.0, voxel=(1 + size, 1.0, 1 + 2 * size))
    ),
    "receive_field": lambda image, size, rng: image * receive_field(_shape(image), strength=size, rng=rng),
    "transmit_field": lambda image, size, rng: (
        image * transmit_field(_shape(image), field_strength=7.0, rng=rng)
    ),
    "control_point_field": lambda image, size, rng: (
        image * control_point_field(_shape(image), amplitude=size / 2, control_points=(2, 5, 7), rng=rng)
    ),
    "gamma": lambda image, size, rng: gamma(image, exponent=1 + size),
    "equalise": lambda image, size, rng: equalise_values(image, bins=64),
    "shift_histogram": lambda image, size, rng: shift_histogram(image, (0.0, 0.5 + size / 4, 1.0)),
    "scale_to_percentiles": lambda image, size, rng: scale_to_percentiles(
        image, lower=10 * size, upper=100 - 10 * size
    ),
    "uneven_strip": _uneven_strip,
    "deface": lambda image, size, rng: deface(image, face_region(_brain(image), spacing=2.0)),
    "blur_face": lambda image, size, rng: blur_face(
        image, face_region(_brain(image), spacing=2.0), spacing=2.0, smoothing=4 * size
    ),
    "cut_field_of_view": lambda image, size, rng: cut_field_of_view(
        image, left=round(2 * size), front=0, top=round(3 * size)
    )[0],
}
WITHOUT_STRENGTH = {
    "transmit_field",
    "equalise",
    "scale_to_percentiles",
    "uneven_strip",
    "deface",
    "thick_slices",
}
WITHOUT_SCALE = {"scale_to_percentiles", "equalise"}
RANDOM = {
    "rician",
    "non_central_chi",
    "thick_slices",
    "receive_field",
    "transmit_field",
    "control_point_field",
    "uneven_strip",
}


def _shape(image: Tensor) -> tuple[int, int, int]:
    return image.shape[-3], image.shape[-2], image.shape[-1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_result_is_a_new_finite_magnitude_image(name: str, shape: tuple[int, int, int]) -> None:
    image = _image(shape)
    before = image.clone()
    result = CORRUPTIONS[name](image, 0.7, stream(1, name))
    assert torch.equal(image, before)
    assert result.data_ptr() != image.data_ptr()
    assert result.shape == image.shape
    assert result.dtype == image.dtype
    assert bool(result.isfinite().all())
    assert float(result.min()) >= 0
    if shape[1] > 1:
        assert not torch.equal(result, image)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_stream_gives_the_same_image(name: str) -> None:
    image = _image(SHAPES[0])
    results = [CORRUPTIONS[name](image, 0.7, stream(seed, name)) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (name not in RANDOM)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - WITHOUT_STRENGTH))
def test_zero_strength_changes_nothing(name: str, shape: tuple[int, int, int]) -> None:
    image = _image(shape)
    result = CORRUPTIONS[name](image, 0.0, stream(1, name))
    assert result.data_ptr() != image.data_ptr()
    torch.testing.assert_close(result, image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - WITHOUT_SCALE))
def test_an_image_in_other_units_is_corrupted_alike(name: str) -> None:
    image = _image(SHAPES[0])
    small = CORRUPTIONS[name](image, 0.6, stream(1, name))
    large = CORRUPTIONS[name](image * 250, 0.6, stream(1, name))
    torch.testing.assert_close(large / 250, small, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_double_precision_is_kept(name: str) -> None:
    image = _image(SHAPES[1], torch.float64)
    result = CORRUPTIONS[name](image, 0.6, stream(1, name))
    single = CORRUPTIONS[name](image.float(), 0.6, stream(1, name))
    assert result.dtype == torch.float64
    torch.testing.assert_close(single.double(), result, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["gibbs_ringing", "ghosting", "nyquist_ghost", "spikes", "encoded", "low_resolution"]
)
def test_a_batch_is_its_elements(name: str) -> None:
    batch = _image((3, 11, 15, 9))
    whole = CORRUPTIONS[name](batch, 0.7, stream(1, name))
    parts = torch.stack([CORRUPTIONS[name](image, 0.7, stream(1, name)) for image in batch])
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_permuted_image_works_like_its_copy(name: str) -> None:
    image = _image((13, 17, 21)).permute(1, 2, 0)
    one = CORRUPTIONS[name](image, 0.7, stream(1, name))
    other = CORRUPTIONS[name](image.contiguous(), 0.7, stream(1, name))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


_ONES = torch.ones(8, 8, 8)
_RAMP = torch.arange(512.0).view(8, 8, 8)
_RNG = stream(0, "refused")
_NOT_FINITE = torch.full((8, 8, 8), float("nan"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rician(_ONES, sd=-1, rng=_RNG), "zero or more.*-1"),
        (lambda: rician(_ONES, sd=float("nan"), rng=_RNG), "nan"),
        (lambda: non_central_chi(_ONES, sd=1, channels=0, rng=_RNG), "at least 1.*0"),
        (lambda: rician(_ONES, sd=1, g_factor=_ONES[0], rng=_RNG), r"\(8, 8, 8\), got \(8, 8\)"),
        (lambda: noise_sd(_ONES, _ONES, snr=0), "above 0, got 0"),
        (lambda: noise_sd(_ONES, 0 * _ONES, snr=9), "sum to 0"),
        (lambda: noise_sd(0 * _ONES, _ONES, snr=9), "positive mean signal, but it is 0"),
        (lambda: g_factor_map((8, 8, 8), peak=0.5, rng=_RNG), "between 1 and.*0.5"),
        (lambda: gibbs_ringing(_ONES, kept=(0.0, 1, 1)), "up to 1, got 0.0"),
        (lambda: gibbs_ringing(_ONES, kept=(0.5, 1, 1), window="box"), "hann.*'box'"),  # type: ignore[arg-type]
        (lambda: ghosting(_ONES, axis=3, period=2), "0, 1 or 2.*got 3"),
        (lambda: ghosting(_ONES, axis=0, period=1), "between 2 and 8.*got 1"),
        (lambda: ghosting(_ONES, axis=0, period=2, strength=1.5), "between 0 and 1, got 1.5"),
        (lambda: ghosting(_ONES, axis=0, period=2, phase=float("inf")), "finite phase.*inf"),
        (lambda: spikes(_ONES, [Spike((5, 0, 0), 1.0)]), "between -4 and 4.*got 5"),
        (lambda: spikes(_ONES, [Spike((1, 0, 0), -1.0)]), "got -1"),
        (lambda: rigid_motion(_ONES, [Pose()], starts=[], axis=0, spacing=1), "0 starts for 1"),
        (lambda: rigid_motion(_ONES, [Pose()], starts=[1.2], axis=0, spacing=1), "between 0 and 1.*1.2"),
        (
            lambda: rigid_motion(_ONES, [Pose()] * 2, starts=[0.5, 0.4], axis=0, spacing=1),
            r"increase, got \(0.5, 0.4\)",
        ),
        (
            lambda: rigid_motion(_ONES, [Pose((9.0, 0, 0))], starts=[0.5], axis=0, spacing=1),
            "between -4 and 4 voxels, got 9",
        ),
        (
            lambda: rigid_motion(_ONES, [Pose(rotation=(0, 100, 0))], starts=[0.5], axis=0, spacing=1),
            "between -90 and 90 degrees, got 100",
        ),
        (
            lambda: rigid_motion(_ONES[0], [], starts=[], axis=0, spacing=1),
            r"\(X, Y, Z\), got shape \(8, 8\)",
        ),
        (lambda: slice_grid(8, spacing=1, thickness=0, distance=2), "thickness above 0 mm, got 0"),
        (lambda: slice_grid(8, spacing=2, thickness=2, distance=1), "1 mm apart.*finer model grid than 2"),
        (lambda: slice_grid(8, spacing=1, thickness=9, distance=12, offset=0.9), "within 8 mm.*10.8 mm"),
        (lambda: slice_grid(8, spacing=1, thickness=2, distance=2, offset=2), "between 0 and 1, got 2"),
        (
            lambda: slice_grid(8, spacing=1, thickness=2, distance=2, profile="trapezoid", ramp=0),
            "up to 1.*got 0",
        ),
        (
            lambda: slice_grid(8, spacing=1, thickness=2, distance=2, profile="sinc"),  # type: ignore[arg-type]
            "box, trapezoid or gaussian, got 'sinc'",
        ),
        (lambda: voxel_grids((8, 8, 8), spacing=1, voxel=(0.5, 1, 1)), "acquired voxel.*got 0.5 mm"),
        (lambda: encoded_grid(8, lines=9), "between 1 and 8, got 9"),
        (lambda: percentiles(_RAMP, lower=-1, upper=50), "between 0 and 100, got -1"),
        (lambda: percentiles(_RAMP, lower=50, upper=50), "increase, got 50 and 50"),
        (lambda: percentiles(_ONES, lower=1, upper=99), "every voxel is 1"),
        (lambda: percentiles(_NOT_FINITE, lower=1, upper=99), "finite grey values.*nan"),
        (lambda: scale_to_percentiles(_RAMP > 500, lower=1, upper=50), "both are 0"),
        (lambda: gamma(_RAMP, exponent=0), "exponent above 0, got 0"),
        (lambda: gamma(_ONES, exponent=2), "every voxel is 1"),
        (
            lambda: polynomial_field((8, 8, 8), degree=1, coefficients=(1.0,)),
            "expected 4 coefficients for degree 1, got 1",
        ),
        (
            lambda: control_point_field((8, 8, 8), amplitude=1, control_points=(3, 3, 3), rng=_RNG),
            "below 1, got 1",
        ),
        (
            lambda: control_point_field((8, 8, 8), amplitude=0.5, control_points=(3, 1, 3), rng=_RNG),
            "at least 2.*got 1",
        ),
        (
            lambda: brain_of_fractions(_ONES, spacing=1, smoothing=1, margin=4, rng=_RNG),
            "between -3 and 3 mm, got 4",
        ),
        (
            lambda: brain_of_fractions(_ONES, spacing=1, smoothing=1, margin=-2, unevenness=2, rng=_RNG),
            "between -1 and 1 mm, got -2",
        ),
        (lambda: apply_mask(_ONES, _ONES[0] > 0), r"\(8, 8, 8\), got \(8, 8\)"),
        (lambda: face_region(0 * _ONES, spacing=1), "above 0.5 nowhere"),
        (lambda: face_region(_ONES, spacing=1, angle=120), "between 0 and 90 degrees, got 120"),
        (lambda: deface(_ONES, _ONES[0] > 0), r"got \(8, 8\)"),
        (lambda: blur_face(_ONES, _ONES > 0, spacing=1, smoothing=-1), "got -1 mm"),
        (lambda: cut_field_of_view(_ONES, left=4, right=4), "fewer than 8 in all, got 4 and 4"),
        (lambda: cut_field_of_view(_ONES, top=-1), "got 0 and -1"),
    ],
)
def test_bad_arguments_are_refused_with_value_and_limit(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
