"""Network architectures; every number of a variant is in one place.

All networks map (B, inputs, X, Y, Z) to logits (B, classes, X, Y, Z) on the same grid; unless they say
otherwise, the image is their only input. Those with several heads do so for inference; in training
``DivisibleUNet.heads`` gives the logits of each.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from anystroke.models.architectures.residual_unet import MirroredUNet, ResidualEncoder, ResidualUNet
from anystroke.models.architectures.twins import PooledClassifier, TwinNetwork

_WIDE, _COMPACT = (40, 80, 160, 320, 320), (24, 48, 96, 192, 192)
_SMALL, _TINY = (16, 32, 64, 128, 128), (8, 16, 32, 32)
_PUBLISHED = (32, 64, 128, 256, 320, 320)


class DivisibleUNet(nn.Module):
    """A U-Net that refuses an image whose sides it cannot halve often enough.

    Args:
        network: The network.
        divisor: Sides of the image are multiples of this.
        channels_last: Whether training may lay images out so. PyTorch's instance norm gives wrong gradients
            where they come channels-last, as GELU passes them on.
        inputs: Channels of the image.
    """

    def __init__(
        self, network: nn.Module, divisor: int, *, channels_last: bool = True, inputs: int = 1
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.network = network
        self.divisor = divisor
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes, X, Y, Z) for x (B, inputs, X, Y, Z).

        Raises:
            ValueError: If a side of ``x`` is not a multiple of ``divisor``.
        """
        return self.heads(x)[0]

    def heads(self, x: Tensor) -> list[Tensor]:
        """Return the logits of each head, the finest first; one for inference or without deep supervision.

        Raises:
            ValueError: If a side of ``x`` is not a multiple of ``divisor``.
        """
        check_divisible(x, self.divisor)
        logits = self.network(x)
        if isinstance(logits, Tensor):
            # DynUNet puts its heads, enlarged to the image, along the second of six axes.
            return list(logits.unbind(1)) if logits.ndim == 6 else [logits]
        return list(logits)


def check_divisible(x: Tensor, divisor: int) -> None:
    """Raise ValueError unless the last three sides of ``x`` are multiples of ``divisor``."""
    sides = tuple(x.shape[2:])
    if any(n % divisor for n in sides):
        raise ValueError(f"expected sides that are multiples of {divisor}, but got {sides}; pad the image")


def _residual_unet(classes: int, channels: tuple[int, ...], dropout: float) -> DivisibleUNet:
    network = ResidualUNet(classes, channels=channels, dropout=dropout)
    return DivisibleUNet(network, 2 ** (len(channels) - 1))


def wide_unet(classes: int) -> DivisibleUNet:
    """Build the default network, made for CPUs: MONAI's residual U-Net with channels 40-80-160-320-320."""
    return _residual_unet(classes, _WIDE, dropout=0.0)


def compact_unet(classes: int) -> DivisibleUNet:
    """Build a network of half its time: as `wide_unet`, with channels 24-48-96-192-192."""
    return _residual_unet(classes, _COMPACT, dropout=0.0)


def mirrored_unet(classes: int) -> DivisibleUNet:
    """Build a `compact_unet` that compares the halves of the head: it sees the mirror image too."""
    return DivisibleUNet(MirroredUNet(classes, channels=_COMPACT), 2 ** (len(_COMPACT) - 1))


def small_unet(classes: int) -> DivisibleUNet:
    """Build a network for old computers and browsers: as `compact_unet`, with channels 16-32-64-128-128."""
    return _residual_unet(classes, _SMALL, dropout=0.0)


def small_second_look_unet(classes: int) -> DivisibleUNet:
    """Build a `small_unet` that sees, beside the image, the lesion log-odds of another network."""
    network = ResidualUNet(classes, channels=_SMALL, inputs=2)
    return DivisibleUNet(network, 2 ** (len(_SMALL) - 1), inputs=2)


def tiny_unet(classes: int) -> DivisibleUNet:
    """Build a network to try things with in minutes: as `compact_unet`, with channels 8-16-32-32."""
    return _residual_unet(classes, _TINY, dropout=0.0)


def residual_unet(classes: int) -> DivisibleUNet:
    """Build the residual U-Net of SynthStroke, qATLAS and qSynth.

    18,615,295 parameters for two classes and 18,623,079 for six: MONAI's U-Net with channels
    32-64-128-256-320-320, five strides of two, one residual unit per block, instance norm, PReLU and dropout
    0.2.
    """
    return _residual_unet(classes, _PUBLISHED, dropout=0.2)


def plain_unet(classes: int) -> DivisibleUNet:
    """Build nnU-Net's plain U-Net (MONAI's DynUNet): 31,190,312 parameters for two classes.

    Channels 32-64-128-256-320-320, two convolutions of 3 voxels per level, instance norm, leaky ReLU; four
    heads in training.
    """
    from monai.networks.nets import DynUNet

    network = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        kernel_size=[3] * 6,
        strides=[1] + [2] * 5,
        upsample_kernel_size=[2] * 5,
        filters=[32, 64, 128, 256, 320, 320],
        deep_supervision=True,
        deep_supr_num=3,
    )
    return DivisibleUNet(network, 32)


def residual_encoder_unet(classes: int) -> DivisibleUNet:
    """Build a U-Net with a residual encoder (MONAI's SegResNetDS): 87,164,200 parameters for two classes.

    Channels 32-64-128-256-512, 1-2-2-4-4 residual blocks in the encoder and one per level in the decoder,
    instance norm, leaky ReLU; four heads in training.
    """
    from monai.networks.nets import SegResNetDS

    network = SegResNetDS(
        spatial_dims=3,
        init_filters=32,
        in_channels=1,
        out_channels=classes,
        act=("leakyrelu", {"negative_slope": 0.01}),
        norm="instance",
        blocks_down=(1, 2, 2, 4, 4),
        dsdepth=4,
    )
    return DivisibleUNet(network, 16)


def mde(classes: int) -> DivisibleUNet:
    """Build MDUNet with attention in the encoder; 28,503,010 parameters for two classes."""
    from anystroke.models.architectures.mdunet import MDUNet

    return DivisibleUNet(MDUNet(1, classes), 32, channels_last=False)


def mded(classes: int) -> DivisibleUNet:
    """Build MDUNet with attention in encoder and decoder; 24,285,634 parameters for two classes."""
    from anystroke.models.architectures.mdunet import MDUNet

    return DivisibleUNet(MDUNet(1, classes, attentive_decoder=True), 32, channels_last=False)


def estimator_unet(outputs: int) -> DivisibleUNet:
    """Build the estimator of qATLAS: 9.40 million parameters for four maps.

    Channels 24-48-96-192-384, four strides of two, two residual units per level on the way down, instance
    norm, GELU, dropout 0.1, linear upsampling.
    """
    from anystroke.models.architectures.interpolating_unet import InterpolatingUNet

    return DivisibleUNet(
        InterpolatingUNet(outputs, channels=(24, 48, 96, 192, 384), dropout=0.1), 16, channels_last=False
    )


def small_estimator_unet(outputs: int) -> DivisibleUNet:
    """Build an estimator that a CPU can train: channels 16-32-64-128, and a part on the image's own grid.

    Voxels of 2 mm have no detail to spare, so that the last two convolutions see the image again.
    """
    from anystroke.models.architectures.interpolating_unet import InterpolatingUNet

    return DivisibleUNet(
        InterpolatingUNet(outputs, channels=(16, 32, 64, 128), detail=8), 8, channels_last=False
    )


def compact_estimator_unet(outputs: int) -> DivisibleUNet:
    """Build an estimator that can start from a model with a `compact_unet`: the same, and a part as above."""
    from anystroke.models.architectures.interpolating_unet import DetailedUNet

    return DivisibleUNet(
        DetailedUNet(outputs, channels=(24, 48, 96, 192, 192), features=8), 16, channels_last=False
    )


def five_level_unet(outputs: int) -> DivisibleUNet:
    """Build the convolutional network of sequence-invariant pre-training: 70,689,602 parameters for two."""
    from anystroke.models.architectures.five_level_unet import FiveLevelUNet

    return DivisibleUNet(FiveLevelUNet(outputs), 16, channels_last=False)


def transformer_unet(outputs: int) -> DivisibleUNet:
    """Build its network with a vision transformer (UNETR): 92.8 million parameters."""
    from anystroke.models.architectures.vision_transformer import TransformerUNet

    return DivisibleUNet(TransformerUNet(outputs), 16, channels_last=False)


ARCHITECTURES: dict[str, Callable[[int], DivisibleUNet]] = {
    "wide_unet": wide_unet,
    "compact_unet": compact_unet,
    "mirrored_unet": mirrored_unet,
    "small_unet": small_unet,
    "small_second_look_unet": small_second_look_unet,
    "tiny_unet": tiny_unet,
    "residual_unet": residual_unet,
    "plain_unet": plain_unet,
    "residual_encoder_unet": residual_encoder_unet,
    "mde": mde,
    "mded": mded,
    "estimator_unet": estimator_unet,
    "small_estimator_unet": small_estimator_unet,
    "compact_estimator_unet": compact_estimator_unet,
    "five_level_unet": five_level_unet,
    "transformer_unet": transformer_unet,
}


SECOND_LOOKS = frozenset({"small_second_look_unet"})
"""Those that see the lesion log-odds of another network beside the image."""


def _five_level_encoder() -> nn.Module:
    from anystroke.models.architectures.five_level_unet import FiveLevelEncoder

    return FiveLevelEncoder()


def _transformer_encoder() -> nn.Module:
    from anystroke.models.architectures.vision_transformer import TransformerEncoder

    return TransformerEncoder()


ENCODERS: dict[str, tuple[Callable[[], nn.Module], int, bool]] = {
    "wide_unet": (lambda: ResidualEncoder(channels=_WIDE), 4, True),
    "compact_unet": (lambda: ResidualEncoder(channels=_COMPACT), 4, True),
    "small_unet": (lambda: ResidualEncoder(channels=_SMALL), 4, True),
    "tiny_unet": (lambda: ResidualEncoder(channels=_TINY), 3, True),
    "residual_unet": (lambda: ResidualEncoder(channels=_PUBLISHED, dropout=0.2), 5, True),
    "five_level_unet": (_five_level_encoder, 4, False),
    "transformer_unet": (_transformer_encoder, 4, False),
}
"""Architecture -> what builds its encoder, how often it halves the grid, and whether channels may come last.

The names of an encoder's parameters are those in the architecture.
"""


def inputs_of(network: nn.Module) -> int:
    """Return the channels of the image that a network sees.

    Example:
        >>> inputs_of(build_network("tiny_unet", 2)), inputs_of(build_network("small_second_look_unet", 2))
        (1, 2)
    """
    return network.inputs if isinstance(network, DivisibleUNet) else 1


def build_network(architecture: str, classes: int, *, seed: int | None = None) -> DivisibleUNet:
    """Build a network by name.

    Args:
        architecture: One of ``ARCHITECTURES``.
        classes: Number of output classes.
        seed: Makes the initial weights reproducible, without a trace on the global random state.

    Raises:
        ValueError: If the name is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    if seed is None:
        return ARCHITECTURES[architecture](classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](classes)


def build_encoder(architecture: str) -> nn.Module:
    """Build the encoder of an architecture.

    Args:
        architecture: One of ``ENCODERS``.

    Raises:
        ValueError: If the architecture is unknown or has no encoder of its own.
    """
    return _encoder_of(architecture)[0]()


def build_twins(architecture: str, *, reconstructs: bool, seed: int) -> DivisibleUNet:
    """Build a network for views of a patient around the encoder of an architecture.

    Args:
        architecture: One of ``ENCODERS``.
        reconstructs: Whether views are made again from the features.
        seed: Makes the initial weights reproducible.

    Raises:
        ValueError: If the architecture is unknown or has no encoder of its own.
    """
    halvings = _encoder_of(architecture)[1]
    around = partial(TwinNetwork, halvings=halvings, reconstructs=reconstructs)
    return _around_encoder(architecture, around, seed)


def build_classifier(architecture: str, classes: int, *, seed: int) -> DivisibleUNet:
    """Build a linear classifier of the pooled features of an architecture's encoder.

    Args:
        architecture: One of ``ENCODERS``.
        classes: Number of them.
        seed: Makes the initial weights reproducible.

    Raises:
        ValueError: If the architecture is unknown or has no encoder of its own.
    """
    return _around_encoder(architecture, partial(PooledClassifier, classes=classes), seed)


def _around_encoder(architecture: str, around: Callable[[nn.Module], nn.Module], seed: int) -> DivisibleUNet:
    build, halvings, channels_last = _encoder_of(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = around(build())
    return DivisibleUNet(network, 2**halvings, channels_last=channels_last)


def _encoder_of(architecture: str) -> tuple[Callable[[], nn.Module], int, bool]:
    if architecture not in ENCODERS:
        raise ValueError(
            f"expected an architecture with an encoder, {', '.join(ENCODERS)}, got {architecture!r}"
        )
    return ENCODERS[architecture]
