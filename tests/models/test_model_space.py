import math

import pytest
import torch
from torch import Tensor

from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError
from anystroke.models.model_space import check_scan, normalise_intensity, to_model_space
from stand_in import axial_affine, phantom, rotation

SHAPE = (62, 72, 58)
AFFINE = axial_affine(3.2, 3.2, 3.2, shape=SHAPE)


def test_normalised_foreground_is_standard_whatever_the_unit() -> None:
    image = phantom(AFFINE, SHAPE).data
    normal = normalise_intensity(image)
    foreground = normal[image > image.min()]
    assert float(foreground.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(foreground.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    image = torch.rand(1, 20, 20, 20, generator=stream(3, "unit"))
    assert torch.allclose(normalise_intensity(image * 64.0 - 32.0), normalise_intensity(image), atol=1e-4)


def test_normalisation_clips_the_tails() -> None:
    image = torch.rand(1, 20, 20, 20, generator=stream(3, "noise"))
    spiked = image.clone()
    spiked[0, 3, 3, 3] = 1e6
    difference = (normalise_intensity(spiked) - normalise_intensity(image)).abs()
    assert float(difference.flatten().kthvalue(7999).values) < 0.01  # all but the spike itself
    assert float(normalise_intensity(spiked).max()) < 3.0


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
def test_normalisation_refuses_what_has_no_spread(values: list[float]) -> None:
    with pytest.raises(ValueError, match="three different"):
        normalise_intensity(torch.tensor(values))


def _with(change: str) -> Volume:
    data = phantom(AFFINE, SHAPE).data
    if change == "nan":
        data[0, 1, 2, 3] = math.nan
    elif change == "infinite":
        data[0, 1, 2, 3] = math.inf
    elif change == "zeros":
        data.zero_()
    elif change == "constant":
        data.fill_(3.0)
    elif change == "two values":
        data = (data > 50).float()
    elif change == "too small":
        data = data[:, :, :, :19]
    elif change == "volumes":
        data = torch.cat([data, data])
    affine = AFFINE.clone()
    if change == "metres":
        affine[:3] *= 1000
    return Volume(data, affine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nan", "1 voxels that are NaN or infinite"),
        ("infinite", "1 voxels that are NaN or infinite"),
        ("zeros", "all zeros"),
        ("constant", r"constant \(3\)"),
        ("two values", "two values only"),
        ("too small", "at least 32 voxels a side at 2 mm, got 30"),
        ("volumes", "2 volumes"),
        ("metres", "millimetres"),
    ],
)
def test_what_is_no_scan_is_refused(change: str, words: str) -> None:
    with pytest.raises(VolumeError, match=words) as caught:
        check_scan(_with(change), "x.nii")
    assert str(caught.value).startswith("x.nii")


def test_the_smallest_scan_is_accepted() -> None:
    shape = (32, 32, 32)
    check_scan(phantom(axial_affine(2.0, 2.0, 2.0, shape=shape), shape))


@pytest.mark.parametrize("turn", [rotation(0, 0), rotation(14.0, 25.0)])
def test_model_space_is_ras_isotropic_divisible_and_holds_the_head(turn: Tensor) -> None:
    space = to_model_space(phantom(turn @ AFFINE, SHAPE), spacing=2.0, divisor=16)
    assert all(n % 16 == 0 for n in space.image.shape[1:])
    assert torch.equal(space.affine[:3, :3], 2.0 * torch.eye(3, dtype=torch.float64))
    assert torch.equal(space.affine[:3, 3] % 2.0, torch.zeros(3, dtype=torch.float64))
    first = space.affine[:3, 3]
    last = first + 2.0 * (torch.tensor(space.image.shape[1:]) - 1)
    assert bool((first < torch.tensor([-70, -85, -70])).all())
    assert bool((last > torch.tensor([70, 85, 70])).all())
    # A brain in a large field of view costs no more than the brain.
    assert math.prod(space.image.shape[1:]) <= 96 * 112 * 96


def test_way_back_returns_the_scan() -> None:
    scan = phantom(rotation(5.0, -8.0) @ AFFINE, SHAPE)
    space = to_model_space(scan)
    back = space.to_native(space.image, fill=float(space.image.min()))
    assert torch.equal(back.affine, scan.affine)
    assert back.shape == scan.shape
    together = torch.stack([back.data.flatten(), scan.data.flatten()])
    assert float(torch.corrcoef(together)[0, 1]) > 0.995


def test_zero_background_of_a_standardised_scan_becomes_its_minimum() -> None:
    scan = phantom(AFFINE, SHAPE)
    head = scan.data > 1.0
    standardised = torch.where(head, (scan.data - 110.0) / 40.0, 0.0)
    raw = torch.where(head, scan.data - float(scan.data[head].min()), 0.0) / 40.0
    ours, golden = (to_model_space(Volume(data, AFFINE)).image for data in (standardised, raw))
    assert torch.allclose(ours, golden, atol=2e-3)


def test_constant_background_that_is_not_zero_changes_nothing() -> None:
    scan = phantom(AFFINE, SHAPE)
    shifted = Volume(scan.data + 0.1, AFFINE)
    assert torch.allclose(to_model_space(shifted).image, to_model_space(scan).image, atol=2e-3)


def test_residue_of_interpolation_is_background() -> None:
    scan = phantom(AFFINE, SHAPE)
    dirty = Volume(scan.data + 0.01 * torch.rand(scan.data.shape, generator=stream(4, "dirt")), AFFINE)
    assert torch.allclose(to_model_space(dirty).image, to_model_space(scan).image, atol=0.1)


def test_long_neck_is_left_out() -> None:
    shape = (90, 104, 200)
    affine = axial_affine(2.0, 2.0, 2.0, shape=shape)
    scan = phantom(affine, shape)
    neck = torch.zeros_like(scan.data)
    neck[:, 30:60, 35:70, :90] = 100.0
    space = to_model_space(Volume(torch.maximum(scan.data, neck), affine))
    assert space.image.shape[3] <= 128
    assert float(space.affine[2, 3] + 2.0 * (space.image.shape[3] - 1)) > 70.0


@pytest.mark.parametrize("pad", [8, 20])
def test_air_around_the_head_changes_nothing(pad: int) -> None:
    scan = phantom(AFFINE, SHAPE)
    affine = scan.affine.clone()
    affine[:3, 3] -= scan.affine[:3, :3] @ torch.full((3,), float(pad), dtype=torch.float64)
    wide = Volume(torch.nn.functional.pad(scan.data, (pad,) * 6, value=float(scan.data.min())), affine)
    ours, golden = to_model_space(wide), to_model_space(scan)
    assert torch.equal(ours.affine, golden.affine)
    assert torch.allclose(ours.image, golden.image, atol=1e-3)


def test_the_brightest_half_percent_keeps_its_order_with_a_log_tail() -> None:
    rng = torch.Generator().manual_seed(1)
    image = 100 + 10 * torch.randn(40, 40, 40, generator=rng)
    image[0] = 0
    spots = torch.tensor([130.0, 160.0, 250.0])
    image[20, 20, 20:23] = spots
    hard, tail = normalise_intensity(image, "foreground"), normalise_intensity(image, "log_tail")
    top = float(hard.max())
    assert bool((hard[20, 20, 20:23] == top).all())
    below = hard < top
    assert torch.equal(hard[below], tail[below])
    sd = float((image[20, 10, 10] - image[20, 30, 30]) / (hard[20, 10, 10] - hard[20, 30, 30]))
    excess = (spots - image[hard == top].min()) / sd
    assert torch.allclose(tail[20, 20, 20:23], top + torch.log1p(excess), atol=0.02)
    with pytest.raises(ValueError, match="constant"):
        normalise_intensity(torch.ones(3, 3, 3), "log_tail")
