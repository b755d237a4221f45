"""The loss of the estimator, by hand; its activations; its perceptual networks."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anystroke.core.rng import stream
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import CheckpointError, parameter_count, save_model
from anystroke.models.perceptual import open_perceptual
from anystroke.qmri.estimated_maps import DEFAULT_MAPS, MAP_OUTPUTS, activate, check_maps
from anystroke.tasks.qmri.losses import EstimationLossSettings, estimation_loss
from anystroke.tasks.segmentation.config import SegmentationConfig

PLAIN = EstimationLossSettings(l2_steps=10, perceptual=0.0)


def _inverse(maps: torch.Tensor, name: str) -> torch.Tensor:
    kind = MAP_OUTPUTS[name].activation
    if kind == "percent_sigmoid":
        return torch.logit(maps.double() / 100)
    return torch.log(maps.double() * (1 if kind == "exp" else 10))


def _corner(value: float) -> torch.Tensor:
    """Four everywhere in 2 x 2 x 2 voxels, but in the first."""
    maps = torch.full((1, 1, 2, 2, 2), 4.0, dtype=torch.float64)
    maps[0, 0, 0, 0, 0] = value
    return maps


@pytest.mark.parametrize("name", MAP_OUTPUTS)
def test_activations_are_positive_and_undone_by_their_inverse(name: str) -> None:
    maps = 3 * torch.rand((1, 1, 4, 4, 4), generator=stream(1, "maps")) + 0.2
    assert torch.allclose(activate(_inverse(maps, name), [name]), maps.double(), rtol=1e-6)
    far = activate(torch.tensor([-1e4, 1e4]).view(1, 1, 2, 1, 1), [name])
    assert bool(torch.isfinite(far).all())
    assert bool((far >= 0).all())


def test_exponents_are_clamped_as_published() -> None:
    output = torch.tensor([-50.0, 50.0]).view(1, 1, 2, 1, 1)
    assert activate(output, ["proton_density"]).flatten().tolist() == pytest.approx(
        [math.exp(-10), math.exp(12)]
    )
    assert activate(output, ["r1"]).flatten().tolist() == pytest.approx(
        [math.exp(-10) / 10, math.exp(12) / 10]
    )


def test_maps_must_be_known_and_different() -> None:
    for names in ([], ["r1", "r1"], ["t1"]):
        with pytest.raises(ValueError, match="expected different maps"):
            check_maps(names)


def test_the_loss_of_eight_voxels_is_that_computed_by_hand() -> None:
    """Truth 4, found 4 but 2 in one corner; divided by 4 the only difference is -1/2.

    Values: (1/2 + 1/4) / 8. Each of three axes has one step, from the corner, of size 1/2: 3 (1/2 + 1/4) / 8.
    """
    target = torch.cat([_corner(4.0), torch.ones_like(_corner(4.0))], dim=1)
    output = _inverse(_corner(2.0), "r1")
    loss = partial(estimation_loss, output, target, names=["r1"], settings=PLAIN)
    assert float(loss(step=9)) == pytest.approx(0.25 / 8, rel=1e-4)
    assert float(loss(step=10)) == pytest.approx(4 * 0.75 / 8, rel=1e-4)


def test_voxels_without_weight_and_steps_into_them_do_not_count() -> None:
    weight = torch.ones(1, 1, 2, 2, 2, dtype=torch.float64)
    weight[0, 0, 0, 0, 0] = 0
    target = torch.cat([_corner(4.0), weight], dim=1)
    output = _inverse(_corner(2.0), "r1")
    assert float(estimation_loss(output, target, names=["r1"], settings=PLAIN, step=20)) == pytest.approx(
        0, abs=1e-4
    )


def test_the_typical_scale_is_that_of_the_table_and_the_largest_is_of_the_brain() -> None:
    weight = torch.ones(1, 1, 2, 2, 2, dtype=torch.float64)
    weight[0, 0, 1, 1, 1] = 0.1
    truth = _corner(4.0)
    truth[0, 0, 1, 1, 1] = 400.0
    found = truth.clone()
    found[0, 0, 0, 0, 0] = 2.0
    target = torch.cat([truth, weight], dim=1)
    output = _inverse(found, "r1")
    by_brain = estimation_loss(output, target, names=["r1"], settings=PLAIN, step=0)
    assert float(by_brain) == pytest.approx(0.25 / 7.1, rel=1e-4)
    heavy = target.clone()
    heavy[0, 0, 1, 0, 0], heavy[0, 1, 1, 0, 0] = 1.0, 3.0
    assert float(
        estimation_loss(
            _inverse(torch.where(heavy[:, :1] == 1.0, 1.0, found), "r1"),
            heavy,
            names=["r1"],
            settings=PLAIN,
            step=0,
        )
    ) == pytest.approx(0.25 / 9.1, rel=1e-4)
    typical = PLAIN.model_copy(update={"scale": "typical"})
    assert float(estimation_loss(output, target, names=["r1"], settings=typical, step=0)) == pytest.approx(
        (2 / MAP_OUTPUTS["r1"].typical) ** 2 / 7.1, rel=1e-4
    )


def test_the_perceptual_loss_is_that_of_each_map_and_comes_after_the_warm_up() -> None:
    calls = []

    def perceptual(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        calls.append((first, second))
        return first.new_tensor(3.0)

    truth = torch.rand((2, 4, 4, 4, 4), generator=stream(1, "truth")) + 0.5
    weight = torch.ones(2, 1, 4, 4, 4)
    weight[:, :, 0] = 0
    target = torch.cat([truth, weight], 1)
    output = torch.zeros(2, 4, 4, 4, 4)
    settings = EstimationLossSettings(l2_steps=5, perceptual=0.1)
    loss = partial(estimation_loss, output, target, names=DEFAULT_MAPS, settings=settings)
    without = float(loss(step=5))
    loss(step=4, perceptual=perceptual)
    assert not calls
    assert float(loss(step=5, perceptual=perceptual)) == pytest.approx(without + 4 * 0.1 * 3.0)
    assert len(calls) == 4
    assert all(float(each[:, :, 0].abs().max()) == 0 for pair in calls for each in pair)


def test_a_target_needs_its_weight() -> None:
    with pytest.raises(ValueError, match="4 maps and their weight"):
        estimation_loss(
            torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 4, 2, 2, 2), names=DEFAULT_MAPS, settings=PLAIN, step=0
        )


def test_the_published_network_has_its_published_size() -> None:
    assert parameter_count(build_network("estimator_unet", 4)) == 9_399_084
    assert parameter_count(build_network("small_estimator_unet", 4)) < 1_200_000


@pytest.mark.parametrize("architecture", ["compact_unet", "small_estimator_unet", "compact_estimator_unet"])
def test_the_encoder_of_a_model_is_a_perceptual_network(architecture: str, tmp_path: Path) -> None:
    config = SegmentationConfig(
        name="toy", architecture=architecture, classes=("background", "lesion"), spacing=2.0, divisor=16
    )
    save_model(tmp_path, build_network(architecture, 2, seed=1), config)
    distance = open_perceptual(str(tmp_path), SegmentationConfig).train()
    assert distance.facts["source"] == "toy"
    assert distance.facts["levels"] == (4 if architecture == "small_estimator_unet" else 5)
    first, second = torch.rand((2, 1, 1, 32, 32, 32), generator=stream(1, "volumes")).unbind()
    assert float(distance(first, first)) == pytest.approx(0, abs=1e-6)
    wanted = first.clone().requires_grad_()
    found = distance(wanted, second)
    assert float(found.detach()) > 0.01
    found.backward()
    assert wanted.grad is not None
    assert float(wanted.grad.abs().sum()) > 0
    assert all(not p.requires_grad for p in distance.parameters())


def test_the_default_model_has_an_encoder() -> None:
    assert open_perceptual("default", SegmentationConfig).facts["levels"] == 5


def test_weights_of_medicalnet_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    from monai.networks.nets.resnet import resnet10, resnet18

    volume = torch.rand((1, 1, 32, 32, 32), generator=stream(1, "volume"))
    for make, shortcut, kind in ((resnet10, "B", "10"), (resnet10, "A", "10"), (resnet18, "A", "18")):
        network = make(
            n_input_channels=1, feed_forward=False, shortcut_type=shortcut, bias_downsample=False
        ).eval()
        path = tmp_path / "resnet.safetensors"
        tensors = {f"module.{key}": value.contiguous() for key, value in network.state_dict().items()}
        save_file({**tensors, "module.conv_seg.weight": torch.zeros(2)}, path)
        distance = open_perceptual(str(path), SegmentationConfig)
        assert distance.facts["network"] == f"resnet {kind}, shortcuts {shortcut}"
        assert float(distance(volume, volume.flip(2))) > 0
        with torch.inference_mode():
            [found] = distance.encoder(volume)
            x = network.maxpool(network.act(network.bn1(network.conv1(volume))))
            wanted = network.layer4(network.layer3(network.layer2(network.layer1(x))))
        assert torch.equal(found, wanted)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no 3-D ResNet"):
        open_perceptual(str(tmp_path / "other.safetensors"), SegmentationConfig)
    pickled = tmp_path / "resnet_50.pth"
    pickled.write_bytes(b"cos\nsystem\n")
    with pytest.raises(CheckpointError, match="never opened"):
        open_perceptual(str(pickled), SegmentationConfig)
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        open_perceptual("nowhere", SegmentationConfig)
