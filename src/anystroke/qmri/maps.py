"""Quantitative maps of one patient, made when they are asked for."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from anystroke.core.fields import smooth
from anystroke.core.rng import stream, uniform
from anystroke.qmri.tissue_priors import MAPS, TissueDraw


class QuantitativeMaps(Mapping[str, Tensor]):
    """PD, R1, R2, R2*, MT and ADC maps drawn from tissue fractions and tissue properties.

    A map is the fraction-weighted mean of the tissues' values plus a texture whose standard deviation is the
    tissues' own. Each map has its own random stream, so it is the same whichever others are made.

    Args:
        fractions: (T, X, Y, Z), the share of each tissue in each voxel; what is missing to one is air.
        draw: Mean and standard deviation of each tissue and map, rows in the order of ``fractions``.
        key: Seed of the textures.
        smoothness: Standard deviation in voxels of the texture's smoothing; its variance is kept.
        texture: Scales the texture; below one for voxels larger than those the spreads were measured on.

    Units are those of ``MAPS``: p.u., 1/s, 1/s, 1/s, p.u., mm^2/s.
    """

    def __init__(
        self, fractions: Tensor, draw: TissueDraw, *, key: int, smoothness: float = 0.7, texture: float = 1.0
    ) -> None:
        if draw.mean.shape[0] != fractions.shape[0]:
            raise ValueError(
                f"expected properties of {fractions.shape[0]} tissues, but got {draw.mean.shape[0]} rows"
            )
        self._fractions = fractions.reshape(fractions.shape[0], -1)
        self._shape = fractions.shape[1:]
        self._draw = draw
        self._key = key
        self._smoothness = smoothness
        self._texture = texture
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in MAPS:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MAPS)

    def __len__(self) -> int:
        return len(MAPS)

    def _make(self, name: str) -> Tensor:
        column = MAPS.index(name)
        device = self._fractions.device
        weights = torch.stack([self._draw.mean[:, column], self._draw.sd[:, column]]).to(device)
        mean, sd = (weights @ self._fractions).reshape(2, *self._shape)
        rng = stream(self._key, "texture", name, device=device)
        texture = torch.randn(self._shape, generator=rng, device=device)
        if self._smoothness > 0:
            texture = smooth(texture, uniform(rng, 0.0, 2 * self._smoothness))
            texture /= texture.std()
        result = mean.addcmul_(sd, texture, value=self._texture).clamp_(min=0)
        return torch.maximum(result, self["r2"]) if name == "r2star" else result
