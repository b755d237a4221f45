"""Networks that predict outcomes from pictures or volumes, with a table or without."""

from typing import Any

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions and a short cut, in 2 or 3 dimensions (He et al., CVPR 2016)."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        conv, norm = _layers(dimensions)
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(inplace=True),
            conv(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        self.short = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.short = nn.Sequential(conv(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, ...) to (B, outputs, ...)."""
        out: Tensor = torch.relu(self.body(x) + self.short(x))
        return out


class PictureEncoder(nn.Module):
    """ResNet-18 in 2 dimensions or ResNet-10 in 3, with batch statistics replaced by groups.

    Cohorts are small, so that channels are those of the originals divided by ``slimmer``.
    """

    def __init__(self, dimensions: int, blocks: int, slimmer: int = 2) -> None:
        super().__init__()
        conv, norm = _layers(dimensions)
        widths = [64 // slimmer * 2**k for k in range(4)]
        pool = nn.MaxPool2d if dimensions == 2 else nn.MaxPool3d
        self.start = nn.Sequential(
            conv(1, widths[0], 7, stride=2, padding=3, bias=False),
            norm(widths[0]),
            nn.ReLU(inplace=True),
            pool(3, stride=2, padding=1),
        )
        stages = []
        before = widths[0]
        for k, width in enumerate(widths):
            for block in range(blocks):
                stages.append(ResidualBlock(dimensions, before, width, 2 if k and not block else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        self.features = before

    def maps(self, x: Tensor) -> Tensor:
        """Return (B, features, ...) before pooling."""
        out: Tensor = self.stages(self.start(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, features)."""
        return self.maps(x).flatten(2).mean(dim=2)


class LightweightEncoder(nn.Module):
    """Six convolutions with pooling, 16 to 512 channels, and one full layer: the lightweight network."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in (16, 32, 64, 128, 256, 512):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            before = width
        self.body = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2048, 128), nn.ReLU()
        )
        self.features = 128

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, features)."""
        out: Tensor = self.body(x)
        return out


class PictureNetwork(nn.Module):
    """An encoder and a head; the table is not looked at."""

    def __init__(self, encoder: Any, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.features, heads)

    def forward(self, picture: Tensor, table: Tensor) -> Tensor:
        """Return (B, heads)."""
        del table
        out: Tensor = self.head(self.encoder(picture))
        return out


class EarlyFusion(nn.Module):
    """Features of the picture beside a layer of the table, then 256 units and the heads."""

    def __init__(self, encoder: Any, table: int, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.table = nn.Sequential(nn.Linear(max(table, 1), 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(encoder.features + 32, 256), nn.ReLU(), nn.Linear(256, heads))

    def forward(self, picture: Tensor, table: Tensor) -> Tensor:
        """Return (B, heads)."""
        out: Tensor = self.head(torch.cat([self.encoder(picture), self.table(table)], dim=1))
        return out


class Daft(nn.Module):
    """The table scales and shifts the last feature maps (Wolf et al., NeuroImage 260:119505, 2022)."""

    def __init__(self, encoder: PictureEncoder, table: int, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.features
        self.scales = nn.Sequential(
            nn.Linear(width + max(table, 1), width // 7, bias=False),
            nn.ReLU(),
            nn.Linear(width // 7, 2 * width, bias=False),
        )
        self.head = nn.Linear(width, heads)

    def forward(self, picture: Tensor, table: Tensor) -> Tensor:
        """Return (B, heads)."""
        maps = self.encoder.maps(picture)
        pooled = maps.flatten(2).mean(dim=2)
        scale, shift = self.scales(torch.cat([pooled, table], dim=1)).chunk(2, dim=1)
        shape = (*pooled.shape, *([1] * (maps.ndim - 2)))
        moved = torch.relu(maps * (1 + scale.view(shape)) + shift.view(shape))
        out: Tensor = self.head(moved.flatten(2).mean(dim=2))
        return out


def build_outcome_network(name: str, *, table: int, heads: int) -> nn.Module:
    """Make a network by its name.

    Args:
        name: One of `models.NETWORKS`; ``combined`` is a ResNet-18 whose features go to a linear model.
        table: Features of the table.
        heads: Outputs.

    Raises:
        ValueError: There is no such network.

    Example:
        >>> network = build_outcome_network("resnet18", table=2, heads=1)
        >>> network(torch.zeros(1, 1, 256, 256), torch.zeros(1, 2)).shape
        torch.Size([1, 1])
    """
    if name in ("resnet18", "combined"):
        return PictureNetwork(PictureEncoder(2, 2), heads)
    if name == "lightweight":
        return PictureNetwork(LightweightEncoder(), heads)
    if name == "resnet10":
        return PictureNetwork(PictureEncoder(3, 1), heads)
    if name == "early-fusion":
        return EarlyFusion(PictureEncoder(2, 2), table, heads)
    if name == "early-fusion-3d":
        return EarlyFusion(PictureEncoder(3, 1), table, heads)
    if name == "daft":
        return Daft(PictureEncoder(3, 1), table, heads)
    raise ValueError(f"no network {name!r}; see anystroke.tasks.outcome.models.NETWORKS")


def _layers(dimensions: int) -> tuple[Any, Any]:
    conv = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return conv, lambda channels: nn.GroupNorm(8, channels)
