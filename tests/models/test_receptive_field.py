import pytest
from torch import nn

from anystroke.core.rng import stream
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.architectures.mdunet import LargeKernelAttention, MDUNet
from anystroke.models.receptive_field import centre_gradient, field_width


def _width(layer: nn.Module, side: int = 41, share: float = 1.0) -> int:
    return field_width(centre_gradient(layer, (side, side, side), images=1, rng=stream(1, "field")), share)


def _even(layer: nn.Module) -> nn.Module:
    """With weights that are all alike: the heaviest place of others can lie beside the middle."""
    for weight in layer.parameters():
        nn.init.constant_(weight, 0.1)
    return layer


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_a_convolution_sees_its_kernel(kernel: int) -> None:
    assert _width(_even(nn.Conv3d(1, 3, kernel, padding=kernel // 2)), side=15) == kernel


def test_convolutions_add_up_and_attention_sees_eleven_voxels_far() -> None:
    four = nn.Sequential(*(nn.Conv3d(1, 1, 3, padding=1) for _ in range(4)))
    assert _width(_even(four), side=21) == 9
    assert _width(_even(LargeKernelAttention(1))) == 23


def test_the_share_of_a_box_blur_is_that_of_its_volume() -> None:
    blur = nn.Conv3d(1, 1, 5, padding=2, bias=False)
    nn.init.constant_(blur.weight, 1 / 125)
    assert [_width(blur, 15, share) for share in (1 / 125, 27 / 125, 28 / 125, 1.0)] == [1, 3, 5, 5]


def test_large_kernels_look_farther_than_convolutions_at_the_second_level() -> None:
    """Without norms over the whole image, through which every voxel sees every other a little."""
    large = _local(MDUNet(1, 2, filters=(4, 8, 8), depths=(1, 1, 1)))
    plain = _local(build_network("plain_unet", 2, seed=1).network)
    second_of_large = nn.Sequential(large.get_submodule("stem"), large.get_submodule("down.0"))
    second_of_plain = nn.Sequential(plain.get_submodule("input_block"), plain.get_submodule("downsamples.0"))
    assert _width(second_of_large, 64) > 2 * _width(second_of_plain, 64)


def _local(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.InstanceNorm3d):
                setattr(parent, name, nn.Identity())
    return network.eval()


def test_features_that_see_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="depend on the image"):
        centre_gradient(lambda x: 0 * x, (5, 5, 5), images=1, rng=stream(1, "field"))
