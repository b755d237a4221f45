import pytest
import torch

from anystroke.anatomy.lesions.visibility import visible_truth
from anystroke.core.rng import stream


def _noise(*shape: int) -> torch.Tensor:
    rng = stream(1, "noise")
    return torch.randn(shape, generator=rng)


def _two(contrast: float) -> tuple[torch.Tensor, torch.Tensor]:
    lesion = torch.zeros(30, 30, 30, dtype=torch.bool)
    lesion[4:10, 4:10, 4:10] = True
    lesion[20:23, 20:23, 20:23] = True
    change = torch.zeros(30, 30, 30)
    change[4:10, 4:10, 4:10] = -contrast
    change[20:23, 20:23, 20:23] = 0.2
    return lesion, change


def test_contrast_to_noise_is_that_of_the_closed_form() -> None:
    lesion, change = _two(3.0)
    image = 100 + 2 * _noise(30, 30, 30) + change
    truth = visible_truth(lesion, change, image, ~lesion, spacing=2.0, visible_from=1.0)
    large, small = truth.lesions
    assert large["contrast_to_noise"] == pytest.approx(1.5, rel=0.05)
    assert small["contrast_to_noise"] == pytest.approx(0.1, rel=0.05)
    assert (large["seen"], small["seen"]) == (True, False)
    assert (large["ml"], small["ml"]) == (pytest.approx(216 * 0.008), pytest.approx(27 * 0.008))
    assert torch.equal(truth.unseen, lesion & (change > 0))


def test_the_unit_of_the_scan_does_not_matter() -> None:
    lesion, change = _two(3.0)
    image = 100 + 2 * _noise(30, 30, 30) + change
    one = visible_truth(lesion, change, image, ~lesion, spacing=2.0, visible_from=1.0)
    same = visible_truth(lesion, 7 * change, 7 * image, ~lesion, spacing=2.0, visible_from=1.0)
    assert [each["contrast_to_noise"] for each in same.lesions] == pytest.approx(
        [each["contrast_to_noise"] for each in one.lesions], rel=1e-3
    )


def test_noise_is_that_of_the_surroundings() -> None:
    lesion, change = _two(3.0)
    loud = torch.where(torch.arange(30)[:, None, None] < 17, 4.0, 0.1)
    truth = visible_truth(
        lesion, change, 100 + loud * _noise(30, 30, 30), ~lesion, spacing=2.0, visible_from=1.0
    )
    large, small = truth.lesions
    assert (large["seen"], small["seen"]) == (False, True)


def test_without_noise_all_that_changes_is_seen() -> None:
    lesion, change = _two(0.0)
    truth = visible_truth(lesion, change, torch.ones(30, 30, 30), ~lesion, spacing=2.0, visible_from=0.5)
    assert [each["seen"] for each in truth.lesions] == [False, True]
    nothing = torch.zeros_like(lesion)
    truth = visible_truth(nothing, change, torch.ones(30, 30, 30), ~lesion, spacing=2.0, visible_from=0.5)
    assert truth.lesions == []
    assert not bool(truth.unseen.any())
