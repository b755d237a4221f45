import pytest
import torch
from torch import nn

from anystroke.models.architectures.mdunet import LargeKernelAttention, MDBlock, MDUNet
from anystroke.models.checkpoints import parameter_count


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [(32, 30_336), (64, 83_200), (128, 256_512), (256, 873_472), (320, 1_317_120)],
)
def test_a_block_has_its_published_size(channels: int, parameters: int) -> None:
    assert parameter_count(MDBlock(channels)) == parameters


@pytest.mark.parametrize(
    ("attentive_decoder", "depths", "millions"),
    [
        (False, (1, 1, 1, 1, 2, 1), 28.50),
        (True, (1, 1, 1, 1, 2, 1), 24.29),
        (False, (2, 2, 2, 2, 4, 2), 33.67),
        (True, (2, 2, 2, 2, 4, 2), 32.89),
    ],
)
def test_the_networks_have_their_published_sizes(
    attentive_decoder: bool, depths: tuple[int, ...], millions: float
) -> None:
    network = MDUNet(2, 2, attentive_decoder=attentive_decoder, depths=depths)
    assert round(parameter_count(network) / 1e6, 2) == millions


def test_attention_sees_eleven_voxels_far_and_no_farther() -> None:
    attention = LargeKernelAttention(1)
    for convolution in (attention.near, attention.far, attention.mix):
        nn.init.ones_(convolution.weight)
    x = torch.ones(1, 1, 33, 33, 33, requires_grad=True)
    attention(x)[0, 0, 16, 16, 16].backward()
    assert x.grad is not None
    reached = x.grad[0, 0, :, 16, 16].nonzero()[:, 0].tolist()
    assert (reached[0], reached[-1]) == (16 - 11, 16 + 11)


@pytest.mark.parametrize("attentive_decoder", [False, True])
def test_every_parameter_learns(attentive_decoder: bool) -> None:
    network = MDUNet(1, 2, attentive_decoder=attentive_decoder, filters=(4, 6, 8), depths=(1, 1, 1))
    network(torch.randn(2, 1, 16, 16, 16)).square().mean().backward()
    still = [name for name, one in network.named_parameters() if one.grad is None or not bool(one.grad.any())]
    assert not still
