"""Perceptual distance of volumes: that of the features which a frozen network finds in them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anystroke.core.files import sha256
from anystroke.models.architectures.catalogue import DivisibleUNet
from anystroke.models.architectures.interpolating_unet import InterpolatingUNet
from anystroke.models.architectures.residual_unet import ResidualUNet
from anystroke.models.checkpoints import CheckpointError, NetworkConfig, open_network, read_tensors

_RESNETS = {"10": (1, 1, 1, 1), "18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3)}
_SMALLEST = 1e-6


class PerceptualDistance(nn.Module):
    """Squared difference of unit features, summed over channels and averaged over voxels and levels.

    Volumes are standardised each by itself. The network is frozen, but passes gradients on.

    Args:
        encoder: Maps (B, 1, X, Y, Z) to features (B, C, x, y, z) of one or several levels.
        facts: What it is, for the record of the training.

    Source: R. Zhang et al., CVPR 2018 (deep features as a perceptual metric).

    Example:
        >>> distance = PerceptualDistance(lambda x: [x, -x], {})
        >>> volume = torch.rand(1, 1, 4, 4, 4)
        >>> float(distance(volume, 3 * volume + 1)) < 1e-9
        True
    """

    def __init__(
        self, encoder: Callable[[Tensor], Sequence[Tensor]] | nn.Module, facts: dict[str, Any]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.facts = facts
        self.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance of two batches (B, 1, X, Y, Z), a scalar; gradients flow to the first."""
        with torch.no_grad():
            wanted = [_unit(level) for level in self.encoder(_standardised(second))]
        found = [_unit(level) for level in self.encoder(_standardised(first))]
        parts = [(a - b).square().sum(1).mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stay as it is: dropout and statistics are those of inference."""
        del mode
        return super().train(False)


def _standardised(volume: Tensor) -> Tensor:
    dims = (1, 2, 3, 4)
    sd = volume.std(dims, correction=0, keepdim=True).clamp(min=_SMALLEST)
    return (volume - volume.mean(dims, keepdim=True)) / sd


def _unit(features: Tensor) -> Tensor:
    values = features.float()
    return values / (values.square().sum(1, keepdim=True) + _SMALLEST**2).sqrt()


def open_perceptual(source: str, kind: type[NetworkConfig]) -> PerceptualDistance:
    """Open a perceptual network.

    Args:
        source: A model of the package or a model folder, whose encoder is taken; or a .safetensors file with
            the weights of a 3-D ResNet (10, 18, 34 or 50 layers) of MedicalNet, whose last layer is taken.
        kind: What lies beside the weights of such a model.

    Returns:
        The distance; its ``facts`` name source, hash of the weights and levels.

    Raises:
        CheckpointError: There is no such model or file, or it is of another kind.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".safetensors":
        raise CheckpointError(
            f"expected perceptual weights as .safetensors, got {path}: other files are never opened, because "
            "they can hold programs; convert it with safetensors.torch.save_file"
        )
    if path.suffix == ".safetensors":
        resnet = _ResNet(path)
        encoder: nn.Module = resnet
        facts = {"source": path.name, "network": resnet.kind, "sha256": sha256(path), "levels": 1}
        return PerceptualDistance(encoder, facts)
    model = open_network(source, kind)
    encoder = _Encoder(model.network, model.config.architecture)
    facts = {
        "source": model.config.name,
        "network": f"encoder of {model.config.architecture}",
        "sha256": model.sha256,
        "levels": len(encoder.levels),
    }
    return PerceptualDistance(encoder, facts)


class _Encoder(nn.Module):
    """The way down of a U-Net."""

    def __init__(self, network: nn.Module, architecture: str) -> None:
        super().__init__()
        inner = network.network if isinstance(network, DivisibleUNet) else network
        if not isinstance(inner, InterpolatingUNet | ResidualUNet):
            raise CheckpointError(
                f"the encoder of the architecture {architecture!r} cannot be taken out for a perceptual "
                "loss; name a model of another one, such as 'default'"
            )
        self.levels = nn.ModuleList(inner.encoder())

    def forward(self, volume: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            volume = level(volume)
            features.append(volume)
        return features


class _ResNet(nn.Module):
    """A 3-D ResNet of MedicalNet, up to its last features."""

    def __init__(self, path: Path) -> None:
        from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck

        super().__init__()
        tensors, _ = read_tensors(path)
        tensors = {key.removeprefix("module."): value.float() for key, value in tensors.items()}
        bottleneck = any(".conv3." in key for key in tensors)
        given = {
            key: value.shape
            for key, value in tensors.items()
            if value.ndim and not key.startswith(("fc.", "conv_seg."))
        }
        for name, layers in _RESNETS.items():
            if bottleneck != (name == "50"):
                continue
            for shortcut in ("A", "B"):
                network = ResNet(
                    ResNetBottleneck if bottleneck else ResNetBlock,
                    list(layers),
                    [64, 128, 256, 512],
                    n_input_channels=1,
                    feed_forward=False,
                    shortcut_type=shortcut,
                    bias_downsample=any(key.endswith("downsample.0.bias") for key in tensors),
                )
                own = network.state_dict()
                shapes = {key: value.shape for key, value in own.items() if value.ndim}
                # Those of a shallower network, or of simpler shortcuts, are among those of a deeper one.
                if given == shapes:
                    network.load_state_dict({key: tensors.get(key, value) for key, value in own.items()})
                    self.network, self.kind = network, f"resnet {name}, shortcuts {shortcut}"
                    return
        raise CheckpointError(
            f"{path} holds no 3-D ResNet of 10, 18, 34 or 50 layers with one input channel, as MedicalNet "
            "names its tensors; convert its state_dict as it is"
        )

    def forward(self, volume: Tensor) -> list[Tensor]:
        net = self.network
        x = net.maxpool(net.act(net.bn1(net.conv1(volume))))
        return [net.layer4(net.layer3(net.layer2(net.layer1(x))))]
