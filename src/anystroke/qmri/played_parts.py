"""Parts of a patient whose signals are computed each for itself, and added up where they share a voxel."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anystroke.core.compiled import compiled


class Part(NamedTuple):
    """What is played for itself.

    Attributes:
        names: Of the maps.
        maps: (C, ...).
        b1_plus: (...); None for 1 everywhere.
    """

    names: Sequence[str]
    maps: Tensor
    b1_plus: Tensor | None


def play_all(
    play: Callable[[dict[str, Tensor], Tensor | None], Tensor], parts: Sequence[Part]
) -> list[Tensor]:
    """Return the signals of several parts; without compiled loops all voxels are played at once.

    Args:
        play: Makes the signal of maps by name, voxel by voxel.
        parts: All with the same names, and all or none with a transmit field.

    Example:
        >>> parts = [Part(["r1"], torch.ones(1, 2, 2), None), Part(["r1"], torch.zeros(1, 3), None)]
        >>> [tuple(signal.shape) for signal in play_all(lambda maps, b1_plus: maps["r1"] + 1, parts)]
        [(2, 2), (3,)]
    """
    if compiled(parts[0].maps.device):
        return [play(dict(zip(part.names, part.maps, strict=True)), part.b1_plus) for part in parts]
    flat = torch.cat([part.maps.flatten(1) for part in parts], dim=1)
    fields = [part.b1_plus.reshape(-1) for part in parts if part.b1_plus is not None]
    whole = play(dict(zip(parts[0].names, flat, strict=True)), torch.cat(fields) if fields else None)
    sizes = [part.maps[0].numel() for part in parts]
    return [
        signal.view(part.maps.shape[1:])
        for signal, part in zip(torch.split(whole, sizes), parts, strict=True)
    ]


def with_fluid(signals: Sequence[Tensor], border: Tensor, share: Tensor) -> Tensor:
    """Put the signal of fluid into the voxels that it shares with tissue, in place.

    Args:
        signals: That of the whole grid (X, Y, Z) first, then that of the fluid (N,) of some voxels.
        border: (N,), which voxels.
        share: (X, Y, Z), that of fluid.

    Returns:
        The first signal, changed.
    """
    image, of_fluid = signals[0], signals[1]
    if len(border):
        voxels = image.view(-1)
        voxels[border] = torch.lerp(voxels[border], of_fluid, share.reshape(-1)[border])
    return image
