import warnings

import numpy as np
import pytest
import torch
from monai.transforms.utils import equalize_hist
from torch import Tensor, nn

from anystroke.models import passes as network_pass
from anystroke.models.model_space import equalise_histogram, to_model_space
from anystroke.models.passes import ALL_FLIPS, PRESETS, PredictionWarning, Processing, class_probabilities
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.predict import segment
from stand_in import CONFIG, Brightest, axial_affine, dice, lesion_truth, phantom, stand_in_model

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)
CPU = torch.device("cpu")


class Ramp(nn.Module):
    """Sees lesion to the left of the array's middle, which mirroring turns round."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(4, -4, image.shape[2]).view(1, 1, -1, 1, 1).expand_as(image)
        return torch.cat([torch.zeros_like(image), torch.full_like(image, -20.0), ramp], dim=1)


def test_mean_and_spread_over_flips() -> None:
    image = torch.rand(1, 16, 16, 16)
    once, none = class_probabilities(image, Ramp(), [2], Processing(), CPU, divisor=8, temperature=1.0)
    mean, spread = class_probabilities(
        image, Ramp(), [2], Processing(flips=((), (0,))), CPU, divisor=8, temperature=1.0
    )
    assert float(none.abs().max()) == 0
    both = torch.stack([once, once.flip(1)])
    assert torch.allclose(mean, both.mean(0), atol=1e-6)
    assert torch.allclose(spread, both.std(0, correction=0), atol=1e-3)


def test_spread_reaches_the_result_on_request_only() -> None:
    scan = phantom(AFFINE, SHAPE)
    assert segment(scan, stand_in_model(), device="cpu").spread is None
    found = predict(scan, Ramp(), CONFIG, spread=True, device="cpu").spread
    assert found is not None
    assert found.shape == SHAPE
    assert float(found.data.max()) > 0.2


def test_preset_of_the_paper() -> None:
    preset = PRESETS["paper"]
    assert len(set(ALL_FLIPS)) == len(preset.flips) == 8
    assert (preset.spacing, preset.window, preset.crop) == (1.0, 192, False)
    assert PRESETS["paper-one-pass"].flips == ((),)
    assert PRESETS["paper-one-pass"].window == 192
    scan = phantom(AFFINE, SHAPE)
    space = to_model_space(scan, spacing=4.0, divisor=8, normalise="equalised", crop=False)
    assert all(n >= 48 for n in space.image.shape[1:2])
    assert float(space.image.mean()) == pytest.approx(0, abs=1e-5)
    assert float(space.image.std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="'fast'"):
        segment(scan, stand_in_model(), preset="fast")


def test_equalised_as_monai_does() -> None:
    image = torch.rand(12, 13, 14, generator=torch.Generator().manual_seed(5)) ** 3
    expected = equalize_hist(image.numpy(), num_bins=256, min=0, max=255)
    np.testing.assert_allclose(equalise_histogram(image).numpy(), expected, atol=1e-3)


def test_less_memory_is_tried_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, int, bool]] = []
    real = network_pass._passes

    def scarce(
        image: Tensor,
        network: nn.Module,
        read: network_pass.ReadLogits,
        divisor: int,
        processing: Processing,
        device: torch.device,
        half: bool,
    ) -> tuple[Tensor, Tensor]:
        tried.append((device.type, processing.one_pass_voxels, half))
        if device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(image, network, read, divisor, processing, device, half)

    monkeypatch.setattr(network_pass, "_passes", scarce)
    scan = phantom(AFFINE, SHAPE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PredictionWarning)
        result = predict(scan, Brightest(), CONFIG, device="cuda")
    assert [device for device, *_ in tried] == ["cuda", "cuda", "cuda", "cpu"]
    assert [half for *_, half in tried] == [False, False, True, False]
    texts = [str(warning.message) for warning in caught]
    assert [word in text for word, text in zip(("windows", "half", "CPU"), texts, strict=True)] == [True] * 3
    assert dice(result.mask.data, lesion_truth(AFFINE, SHAPE)) > 0.9


def test_other_errors_are_not_hidden() -> None:
    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("weights are odd")

    with pytest.raises(RuntimeError, match="odd"):
        predict(phantom(AFFINE, SHAPE), Broken(), CONFIG, device="cpu")
