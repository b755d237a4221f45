"""Outside of the head: what stands for nothing becomes an empty background, and the head stays as it is."""

import warnings
from collections.abc import Callable

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError, VolumeWarning
from anystroke.io.background import clean_background
from stand_in import axial_affine, phantom

SHAPE = (56, 60, 52)
AFFINE = axial_affine(4.0, 4.0, 4.0, shape=SHAPE)


def _scan() -> torch.Tensor:
    noise = torch.randn(1, *SHAPE, generator=stream(4, "noise"))
    return (phantom(AFFINE, SHAPE).data + 3 * noise).abs().round()


def _head() -> torch.Tensor:
    return phantom(AFFINE, SHAPE).data > 50


def _cleaned(data: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = clean_background(Volume(data, AFFINE), "a.nii").data
    assert len(caught) == 1
    assert caught[0].category is VolumeWarning
    assert str(caught[0].message).startswith("a.nii: ")
    return result


@pytest.mark.parametrize("fill", [-32768.0, -1024.0, -1.0, -2000.5, 32767.0, 65535.0, -3e38, 1e9])
@pytest.mark.parametrize("sides", ["all", "one"])
def test_padding_becomes_background(fill: float, sides: str) -> None:
    data, padding = _scan(), torch.zeros(1, *SHAPE, dtype=torch.bool)
    padding[:, :, :, :4] = True
    if sides == "all":
        padding[:, :4], padding[:, -4:], padding[:, :, :4], padding[:, :, -4:] = True, True, True, True
    cleaned = _cleaned(torch.where(padding, fill, data))
    assert torch.equal(cleaned[~padding], data[~padding])
    assert bool((cleaned[padding] == data[~padding].min()).all())


def test_padding_that_was_resampled_leaves_no_rim() -> None:
    data = _scan()
    data[:, :8] = -1000.0
    mixed = data.clone()
    mixed[:, 1:-1] = (data[:, :-2] + data[:, 1:-1] + data[:, 2:]) / 3
    assert float(_cleaned(mixed).min()) >= 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_outside_becomes_background(value: float) -> None:
    data, head = _scan(), _head()
    cleaned = _cleaned(torch.where(head, data, value))
    assert torch.equal(cleaned[head], data[head])
    assert bool((cleaned[~head] == 0).all())


def test_what_is_no_number_inside_stays() -> None:
    data = _scan()
    data[:, 28, 30, 26] = float("nan")
    same = clean_background(Volume(data, AFFINE)).data
    assert bool(torch.isnan(same[:, 28, 30, 26]).all())


@pytest.mark.parametrize(
    "change",
    [
        lambda data, head: data,
        lambda data, head: torch.where(head, data, 0.0),
        lambda data, head: torch.where(head, data + 300, 0.0),
        lambda data, head: (data - data.mean()) / data.std(),
        lambda data, head: torch.where(head, (data - data[head].mean()) / data[head].std(), 0.0),
        lambda data, head: data * 0.001,
    ],
)
def test_usual_scans_stay_as_they_are(
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    scan = Volume(change(_scan(), _head()), AFFINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clean_background(scan) is scan


def test_noise_of_ratio_images_is_blanked() -> None:
    data, head = 300 + 8 * _scan(), _head()
    noise = torch.rand(1, *SHAPE, generator=stream(5, "air")) * 4095
    cleaned = _cleaned(torch.where(head, data, noise))
    lowest = cleaned.min()
    inside = cleaned > lowest
    assert float((inside & head).sum() / head.sum()) > 0.9
    assert float((inside & ~head).sum() / (~head).sum()) < 0.1


def test_noise_of_computed_maps_stays() -> None:
    """In the air of ADC maps noise is cut off at zero: most of it lies far below the middle of the range."""
    noise = 0.5 * torch.randn(1, *SHAPE, generator=stream(7, "air")).clamp(min=0)
    data = torch.where(_head(), 1 + _scan() / _scan().max(), noise)
    scan = Volume(data, AFFINE)
    assert clean_background(scan) is scan


def test_noise_without_a_head_is_refused() -> None:
    noise = torch.rand(1, *SHAPE, generator=stream(6, "air")) * 4095
    with pytest.raises(VolumeError, match=r"noise over the whole range.*INV2"):
        clean_background(Volume(noise, AFFINE))
