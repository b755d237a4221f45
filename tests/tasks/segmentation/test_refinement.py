from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anystroke.core.files import sha256
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.measure import dice
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import save_model
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.refinement import (
    CERTAIN_TOGETHER,
    CERTAIN_TOGETHER_IF_COARSE,
    DOUBTFUL,
    LARGEST_ML,
    RefinementBox,
    Refiner,
    boxes_around,
    can_be_refined,
    contradicted_restored,
    is_fine,
    refined_difference,
)
from stand_in import CONFIG, Brightest, axial_affine, lesion_truth, phantom

SHAPE = (160, 190, 160)
FINE = CONFIG.model_copy(update={"spacing": 1.0})


class Standardised(nn.Module):
    """Calls lesion what is brighter than half of the brightest, whatever is in the box."""

    def forward(self, image: Tensor) -> Tensor:
        level = (image - image.amin()) / (image.amax() - image.amin())
        return torch.cat([torch.zeros_like(level), 8.0 * level, 60.0 * (level - 0.6)], dim=1)


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
    """A head whose lesion, smaller than the phantom's, has under 20 ml."""
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


def _map(*lesions: tuple[slice, slice, slice], value: float = 0.9) -> Volume:
    data = torch.zeros(1, 96, 96, 96)
    for place in lesions:
        data[0][place] = value
    return Volume(data, axial_affine(2.0, 2.0, 2.0, shape=(96, 96, 96)))


def test_the_refined_mask_is_nearer_to_the_truth() -> None:
    scan, truth = _scan()
    assert float(truth.sum()) / 1000 < LARGEST_ML
    coarse = predict(scan, Brightest(), CONFIG, device="cpu")
    fine = predict(scan, Brightest(), CONFIG, refiner=Refiner(Standardised(), FINE), device="cpu")
    before = dice(coarse.mask.data > 0, truth)
    after = dice(fine.mask.data > 0, truth)
    assert 0.6 < before < 0.95
    assert after > before + 0.03
    assert "refinement" in fine.seconds
    far = torch.ones(SHAPE, dtype=torch.bool)
    far[10:110, 60:160, 40:140] = False
    assert torch.equal(fine.probability.data[0][far], coarse.probability.data[0][far])


def test_coarse_scans_and_large_lesions_are_left_as_they_are() -> None:
    refiner = Refiner(Blind(), FINE)
    thick = axial_affine(5.5, 5.5, 5.0, shape=(30, 36, 32))
    scan = phantom(thick, (30, 36, 32))
    one = predict(scan, Brightest(), CONFIG, device="cpu")
    two = predict(scan, Brightest(), CONFIG, refiner=refiner, device="cpu")
    assert torch.equal(one.probability.data, two.probability.data)
    assert "refinement" not in two.seconds
    assert boxes_around(_map((slice(20, 50),) * 3), 0.25, spacing=1.0, divisor=16) == []


def test_a_second_network_that_sees_nothing_takes_only_doubtful_lesions_away() -> None:
    scan, _ = _scan()
    assert float(predict(scan, Doubtful(), CONFIG, device="cpu").mask.data.sum()) > 0
    gone = predict(scan, Doubtful(), CONFIG, refiner=Refiner(Blind(), FINE), device="cpu")
    assert float(gone.mask.data.sum()) == 0
    sure = predict(scan, Brightest(), CONFIG, refiner=Refiner(Blind(), FINE), device="cpu")
    assert float(sure.mask.data.sum()) > 0


def test_what_the_first_network_takes_to_be_possible_is_looked_at_again() -> None:
    scan, truth = _scan()
    config = CONFIG.model_copy(update={"certain": 0.62})
    first = predict(scan, Doubtful(), config, device="cpu")
    assert DOUBTFUL < float(first.probability.data.max()) < 0.62
    assert float(first.mask.data.sum()) == 0
    both = predict(scan, Doubtful(), config, refiner=Refiner(Standardised(), FINE), device="cpu")
    assert dice(both.mask.data > 0, truth) > 0.7
    for second in (Blind(), Shy()):
        neither = predict(scan, Doubtful(), config, refiner=Refiner(second, FINE), device="cpu")
        if isinstance(second, Shy):
            assert 0.62 < float(neither.probability.data.max()) < CERTAIN_TOGETHER
        assert float(neither.mask.data.sum()) == 0


def test_boxes_hold_the_lesion_with_its_margin() -> None:
    volume = _map((slice(20, 24), slice(30, 33), slice(40, 60)))
    [box] = boxes_around(volume, 0.25, spacing=1.0, divisor=16)
    assert box.shape == (64, 64, 80)
    low = box.affine[:3, 3]
    high = low + torch.tensor(box.shape) - 1
    lesion = torch.tensor([[20, 30, 40], [23, 32, 59]], dtype=torch.float64) * 2 + volume.affine[:3, 3]
    assert bool((low <= lesion[0] - 16).all())
    assert bool((high >= lesion[1] + 16).all())
    assert torch.equal(low, low.round())


def test_neighbours_share_a_box_and_the_most_probable_come_first() -> None:
    near = _map((slice(20, 24),) * 3, (slice(26, 28),) * 3)
    assert len(boxes_around(near, 0.25, spacing=1.0, divisor=16)) == 1
    apart = _map((slice(10, 14),) * 3, value=0.6)
    apart.data[0, 70:74, 70:74, 70:74] = 0.8
    first, second = boxes_around(apart, 0.25, spacing=1.0, divisor=16)
    assert first.affine[0, 3] > second.affine[0, 3]
    [sure] = boxes_around(apart, 0.25, certain=0.7, spacing=1.0, divisor=16)
    assert torch.equal(sure.affine, first.affine)
    many = torch.zeros(1, 96, 96, 96)
    many[:, 4::30, 4::30, 4::30] = 0.9
    assert len(boxes_around(replace(apart, data=many), 0.25, spacing=1.0, divisor=16)) == 8


def test_nothing_changes_at_the_border_of_a_box() -> None:
    generator = torch.Generator().manual_seed(2)
    affine = axial_affine(1.0, 1.0, 1.0, shape=(96, 96, 96))
    head = Volume(torch.rand(1, 96, 96, 96, generator=generator), affine)
    coarse = Volume(torch.full((1, 96, 96, 96), 0.1), affine)
    coarse.data[:, 38:58, 38:58, 38:58] = 0.5
    grid = axial_affine(1.0, 1.0, 1.0, shape=(64, 64, 64))
    box = RefinementBox(grid, (64, 64, 64))
    change = refined_difference(head, coarse, box, Refiner(Standardised(), FINE), 0.4)
    assert change is not None
    data = change.data[0]
    assert float(data[32, 32, 32].abs()) > 0.01
    for axis in range(3):
        for end in (0, -1):
            assert float(data.select(axis, end).abs().max()) < 1e-6
    flat = replace(head, data=torch.zeros_like(head.data))
    assert refined_difference(flat, coarse, box, Refiner(Blind(), FINE), 0.4) is None


class Everywhere(nn.Module):
    """Logits of a network that sees lesion in all voxels."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(image), torch.zeros_like(image), 20 + 0 * image], dim=1)


def test_a_second_network_neither_grows_lesions_nor_touches_large_ones() -> None:
    affine = axial_affine(1.0, 1.0, 1.0, shape=(96, 96, 96))
    head = Volume(torch.rand(1, 96, 96, 96, generator=torch.Generator().manual_seed(3)), affine)
    box = RefinementBox(axial_affine(1.0, 1.0, 1.0, shape=(64, 64, 64)), (64, 64, 64))
    coarse = Volume(torch.full((1, 96, 96, 96), 0.05), affine)
    coarse.data[:, 44:52, 44:52, 44:52] = 0.6
    assert refined_difference(head, coarse, box, Refiner(Everywhere(), FINE), 0.4) is None
    coarse.data[:, 58:90, 30:66, 30:66] = 0.6  # 41 ml
    change = refined_difference(head, coarse, box, Refiner(Blind(), FINE), 0.4)
    assert change is not None
    assert float(change.data[0, 30:34, 30:34, 30:34].max()) < -0.1
    assert float(change.data[0, 42:, :, :].abs().max()) == 0


def test_what_the_second_network_takes_away_is_restored_if_the_first_was_certain_of_it() -> None:
    sure, unsure = (slice(10, 20),) * 3, (slice(40, 50),) * 3
    first = _map(sure)
    first.data[0][unsure] = 0.45
    refined = replace(first, data=0.1 * first.data)
    refined.data[0, 60:64, 60:64, 60:64] = 0.8
    restored = contradicted_restored(first, refined, 0.25, 0.5).data[0]
    assert bool((restored[sure] == 0.9).all())
    assert torch.equal(restored[20:], refined.data[0, 20:])
    refined.data[0, 10:16, 10:20, 10:20] = 0.3  # six tenths are left, but nothing is certain
    assert bool((contradicted_restored(first, refined, 0.25, 0.5).data[0][sure] == 0.9).all())
    refined.data[0, 10, 10, 10] = 0.55
    assert torch.equal(contradicted_restored(first, refined, 0.25, 0.5).data, refined.data)


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_only_fine_scans_lose_certain_lesions_that_the_second_network_does_not_see(size: float) -> None:
    x, y, z = (round(n / size) for n in SHAPE)
    shape = (x, y, z)
    affine = axial_affine(size, size, size, shape=shape)
    scan, _ = _scan()
    scan = scan.resample_to(affine, shape)
    config = CONFIG.model_copy(update={"certain": 0.5, "temperature": 3.0})
    one = predict(scan, Brightest(), config, device="cpu").mask.data
    two = predict(scan, Brightest(), config, refiner=Refiner(Blind(), FINE), device="cpu").mask.data
    assert int(one.sum()) * size**3 > 1000
    assert torch.equal(one, two) is (size == 4.0)


class FairlySure(nn.Module):
    """Takes what is bright to be a lesion, with a probability of 0.96."""

    def forward(self, image: Tensor) -> Tensor:
        level = (image - image.amin()) / (image.amax() - image.amin())
        lesion = torch.where(level > 0.6, 3.9, -6.0)
        return torch.cat([0 * level, 0 * level, lesion], dim=1)


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_both_networks_must_be_surer_together_in_coarse_scans(size: float) -> None:
    x, y, z = (round(n / size) for n in SHAPE)
    shape = (x, y, z)
    affine = axial_affine(size, size, size, shape=shape)
    scan = _scan()[0].resample_to(affine, shape, antialias=True)
    config = CONFIG.model_copy(update={"certain": 0.62})
    both = predict(scan, Doubtful(), config, refiner=Refiner(FairlySure(), FINE), device="cpu")
    assert CERTAIN_TOGETHER < float(both.probability.data.max()) < CERTAIN_TOGETHER_IF_COARSE
    assert bool(both.mask.data.any()) is (size == 1.0)


@pytest.mark.parametrize(
    ("spacing", "coarse"), [((2.0, 2.0, 2.0), False), ((0.5, 2.5, 6.0), False), ((2.6, 2.6, 1.0), True)]
)
def test_what_is_too_coarse(spacing: tuple[float, float, float], coarse: bool) -> None:
    assert can_be_refined(spacing, 2.0) is not coarse


@pytest.mark.parametrize(
    ("spacing", "fine"), [((1.0, 1.0, 1.0), True), ((0.5, 0.5, 6.0), True), ((1.6, 1.6, 1.0), False)]
)
def test_what_is_fine(spacing: tuple[float, float, float], fine: bool) -> None:
    assert is_fine(spacing, 2.0) is fine


def test_a_model_folder_may_hold_a_second_network(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"architecture": "tiny_unet", "volume_errors": None})
    for folder, spacing in ((tmp_path, 2.0), (tmp_path / "refinement", 1.0)):
        network = build_network("tiny_unet", 3, seed=int(spacing))
        save_model(folder, network, config.model_copy(update={"spacing": spacing}))
    model = Model.open(tmp_path)
    assert model.refiner is not None
    assert (model.config.spacing, model.refiner.config.spacing) == (2.0, 1.0)
    assert model.sha256.split("+") == [
        sha256(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "refinement")
    ]
