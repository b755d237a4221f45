from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anystroke.core.files import sha256
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.measure import dice
from anystroke.models.architectures.catalogue import DivisibleUNet, build_network
from anystroke.models.checkpoints import save_model
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.second_look import (
    POSSIBLE,
    WINDOW,
    SecondNetwork,
    is_fine_enough,
    second_look,
    whole_brain,
)
from stand_in import CONFIG, Brightest, axial_affine, lesion_truth, phantom

SHAPE = (160, 190, 160)
FINE = CONFIG.model_copy(update={"spacing": 1.0})


class Brighter(nn.Module):
    """Calls lesion what is bright and possible for the first network."""

    def forward(self, both: Tensor) -> Tensor:
        image = both[:, :1]
        level = (image - image.amin()) / (image.amax() - image.amin())
        lesion = torch.where(both[:, 1:] > -0.5, 60.0 * (level - 0.6), -6.0)
        return torch.cat([torch.zeros_like(level), 8.0 * level, lesion], dim=1)


def _brighter() -> SecondNetwork:
    return SecondNetwork(DivisibleUNet(Brighter(), 16, inputs=2), FINE)


class Blind(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(image), torch.zeros_like(image), -20 + 0 * image], dim=1)


class Doubtful(Brightest):
    """Calls the lesion no more than possible."""

    def forward(self, image: Tensor) -> Tensor:
        lesion = torch.where(super().forward(image)[:, -1:] > 0, 1.1, -2.0)
        return torch.cat([0 * lesion, 0 * lesion, lesion], dim=1)


class Shy(nn.Module):
    """Takes lesion to be likely everywhere, and no more."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(image), torch.zeros_like(image), 1.71 + 0 * image], dim=1)


def _scan(scale: float = 0.6) -> tuple[Volume, Tensor]:
    """A head with a small lesion."""
    affine = axial_affine(1.0, 1.0, 1.0, shape=SHAPE)
    plain = phantom(affine, SHAPE)
    truth = lesion_truth(affine, SHAPE)
    about = torch.tensor([-25.0, 25.0, 10.0], dtype=torch.float64)
    shrunk = affine.clone()
    shrunk[:3, :3] /= scale
    shrunk[:3, 3] = about + (affine[:3, 3] - about) / scale
    small = lesion_truth(shrunk, SHAPE)
    data = torch.where(truth, 100.0, plain.data)
    return replace(plain, data=torch.where(small, 300.0, data)), small


def test_the_mask_after_a_second_look_is_nearer_to_the_truth() -> None:
    scan, truth = _scan()
    coarse = predict(scan, Brightest(), CONFIG, device="cpu")
    fine = predict(
        scan,
        Brightest(),
        CONFIG,
        second_network=_brighter(),
        device="cpu",
    )
    before = dice(coarse.mask.data > 0, truth)
    after = dice(fine.mask.data > 0, truth)
    assert 0.6 < before < 0.95
    assert after > before + 0.03
    assert "second_look" in fine.seconds


def test_coarse_scans_are_left_as_they_are() -> None:
    thick = axial_affine(5.5, 5.5, 5.0, shape=(30, 36, 32))
    scan = phantom(thick, (30, 36, 32))
    one = predict(scan, Brightest(), CONFIG, device="cpu")
    two = predict(scan, Brightest(), CONFIG, second_network=SecondNetwork(Blind(), FINE), device="cpu")
    assert torch.equal(one.probability.data, two.probability.data)
    assert "second_look" not in two.seconds


def test_what_the_first_network_takes_to_be_possible_must_be_certain_for_both() -> None:
    scan, truth = _scan()
    config = CONFIG.model_copy(update={"certain": 0.62})
    first = predict(scan, Doubtful(), config, device="cpu")
    assert 0.2 < float(first.probability.data.max()) < 0.62
    assert float(first.mask.data.sum()) == 0
    both = predict(scan, Doubtful(), config, second_network=_brighter(), device="cpu")
    assert dice(both.mask.data > 0, truth) > 0.7
    for second in (Blind(), Shy()):
        neither = predict(scan, Doubtful(), config, second_network=SecondNetwork(second, FINE), device="cpu")
        if isinstance(second, Shy):
            assert 0.62 < float(neither.probability.data.max()) < CONFIG.certain_together
        assert float(neither.mask.data.sum()) == 0


def test_a_part_must_have_been_suspected_by_the_first_network() -> None:
    scan, truth = _scan()
    peak = float(predict(scan, Doubtful(), CONFIG, device="cpu").probability.data.max())
    for least, found in ((peak - 0.05, True), (peak + 0.05, False)):
        config = CONFIG.model_copy(update={"certain": 0.62, "certain_alone": least})
        both = predict(scan, Doubtful(), config, second_network=_brighter(), device="cpu")
        assert float(both.probability.data.max()) > 0.8
        assert (dice(both.mask.data > 0, truth) > 0.7) is found
        alone = predict(scan, Doubtful(), config.model_copy(update={"certain": 0.0}), device="cpu")
        assert bool(alone.mask.data.any())


class Remembering(nn.Module):
    """Says what it is told beside the image, and keeps the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[Tensor] = []
        self.inputs = 2

    def forward(self, both: Tensor) -> Tensor:
        self.windows += list(both)
        told = 3 * both[:, 1:]
        low = torch.full_like(told, -20.0)
        return torch.cat([torch.zeros_like(told), low, told], dim=1)


def _brain(inside: tuple[slice, slice, slice], around: float = 0.1) -> tuple[Volume, Volume, Volume]:
    """A head of noise at 1 mm, and on a grid of 2 mm a lesion and the brain."""
    head = Volume(torch.rand(1, 160, 160, 160, generator=torch.Generator().manual_seed(3)) + 1, torch.eye(4))
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    affine[:3, 3] = 0.5
    first, brain = torch.full((1, 80, 80, 80), around), torch.zeros(1, 80, 80, 80, dtype=torch.uint8)
    first[0, 20:24, 30:34, 30:34] = 0.4
    brain[0][inside] = 1
    return head, Volume(first, affine), Volume(brain, affine)


def test_a_second_network_that_agrees_changes_nothing() -> None:
    """Each window is told what the first network says at its own place."""
    network = Remembering()
    monkey = DivisibleUNet(network, 16, inputs=2)
    head, first, brain = _brain((slice(10, 70), slice(12, 60), slice(10, 66)))
    change = second_look(head, first, brain, SecondNetwork(monkey, FINE))
    assert change is not None
    assert len(network.windows) > 8
    assert float(change.data.abs().max()) < 0.02
    assert change.shape == (120, 96, 112)
    assert torch.equal(change.affine[:3, 3], torch.tensor([20.0, 24.0, 20.0], dtype=torch.float64))
    assert all(window.shape == (2, WINDOW, WINDOW, WINDOW) for window in network.windows)
    assert all(abs(float(window[0].mean())) < 0.2 for window in network.windows)


def test_nothing_changes_outside_of_the_brain() -> None:
    head, first, brain = _brain((slice(10, 70), slice(12, 60), slice(10, 66)))
    brain.data[0, 40:, 36:, 40:] = 0
    change = second_look(head, first, brain, SecondNetwork(Shy(), FINE))
    assert change is not None
    inside = whole_brain(brain, first)
    assert float(inside.data.float().mean()) < 0.36
    there = Volume(inside.data.float(), brain.affine).resample_to(change.affine, change.shape).data
    assert float(change.data[there == 0].abs().max()) == 0
    assert float(change.data[there == 1].min()) > 0.01
    nothing = replace(brain, data=torch.zeros_like(brain.data))
    assert second_look(head, first, nothing, SecondNetwork(Shy(), FINE)) is None


def test_only_windows_in_which_a_lesion_is_possible_are_looked_at() -> None:
    head, first, brain = _brain((slice(2, 78), slice(2, 78), slice(2, 78)), around=POSSIBLE - 0.01)
    network = Remembering()
    change = second_look(head, first, brain, SecondNetwork(DivisibleUNet(network, 16, inputs=2), FINE))
    assert change is not None
    assert 1 <= len(network.windows) <= 8
    shy = second_look(head, first, brain, SecondNetwork(Shy(), FINE))
    assert shy is not None
    far = shy.data[0, 120:, 120:, 120:]
    assert float(far.abs().max()) == 0
    x, y, z = (int(v) for v in (torch.tensor([44.0, 64.0, 64.0]) - shy.affine[:3, 3]).round())
    assert float(shy.data[0, x, y, z]) > 0.05
    line = shy.data[0, :, y, z]
    assert float((line[1:] - line[:-1]).abs().max()) < 0.2  # no edges where a window ends


class LeftEye(nn.Module):
    """Sees lesions in the left half of a window alone."""

    def forward(self, image: Tensor) -> Tensor:
        lesion = torch.full_like(image, -2.0)
        lesion[:, :, : image.shape[2] // 2] = 3.0
        return torch.cat([torch.zeros_like(image), torch.full_like(image, -20.0), lesion], dim=1)


def test_the_mirrored_windows_are_looked_at_too() -> None:
    head, first, brain = _brain((slice(20, 40), slice(20, 40), slice(20, 40)))
    network = SecondNetwork(LeftEye(), FINE)
    one, both = (second_look(head, first, brain, network, flip=flip) for flip in (False, True))
    assert one is not None
    assert both is not None
    left, right = ((side, slice(12, 30), slice(12, 30)) for side in (slice(24, 31), slice(33, 38)))
    assert float(one.data[0][left].mean()) > float(one.data[0][right].mean()) + 0.1
    middle = torch.sigmoid(0.3 * torch.logit(torch.tensor(0.1)) + 0.7 * (3.0 - 2.0) / 2) - 0.1
    assert torch.allclose(both.data[0][left], middle, atol=1e-3)
    assert torch.allclose(both.data[0][right], middle, atol=1e-3)


def test_a_small_brain_gets_a_whole_window_and_a_constant_one_no_change() -> None:
    head, first, brain = _brain((slice(20, 40), slice(20, 40), slice(20, 40)))
    change = second_look(head, first, brain, SecondNetwork(Shy(), FINE))
    assert change is not None
    assert change.shape == (WINDOW, WINDOW, WINDOW)
    flat = replace(head, data=torch.ones_like(head.data))
    same = second_look(flat, first, brain, SecondNetwork(Shy(), FINE))
    assert same is not None
    assert float(same.data.abs().max()) == 0


def test_a_lesion_is_part_of_the_whole_brain() -> None:
    _, first, brain = _brain((slice(10, 70), slice(12, 60), slice(10, 66)))
    brain.data[0, 18:26, 28:36, 28:36] = 0  # a hole
    brain.data[0, 74:78, 74:78, 74:78] = 1  # apart
    inside = whole_brain(brain, first).data[0]
    assert int(inside[10:70, 12:60, 10:66].min()) == 1
    assert int(inside.sum()) == 60 * 48 * 56


@pytest.mark.parametrize(
    ("spacing", "coarse"), [((2.0, 2.0, 2.0), False), ((0.5, 2.5, 6.0), False), ((2.6, 2.6, 1.0), True)]
)
def test_what_is_too_coarse(spacing: tuple[float, float, float], coarse: bool) -> None:
    assert is_fine_enough(spacing, 2.0) is not coarse


def test_a_model_folder_may_hold_a_second_network(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"architecture": "tiny_unet", "volume_errors": None})
    for folder, spacing in ((tmp_path, 2.0), (tmp_path / "second_network", 1.0)):
        network = build_network("tiny_unet", 3, seed=int(spacing))
        save_model(folder, network, config.model_copy(update={"spacing": spacing}))
    model = Model.open(tmp_path)
    assert model.second_network is not None
    assert (model.config.spacing, model.second_network.config.spacing) == (2.0, 1.0)
    assert model.sha256.split("+") == [
        sha256(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "second_network")
    ]
