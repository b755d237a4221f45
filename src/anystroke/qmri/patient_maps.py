"""Quantitative maps of one patient with lesions, made for the output grid alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.anatomy.deformation import Box, SamplingGrid
from anystroke.anatomy.labels import TISSUES
from anystroke.anatomy.mixing import Texture, TissueField, mix, texture_tile
from anystroke.qmri.tissue_priors import MAPS, TissueDraw
from anystroke.rng import integer, stream, uniform

_LARGEST_TILE = 64
_LARGEST_SMOOTHING = 1.4


@dataclass(frozen=True)
class Inclusion:
    """Tissue that takes the place of what an anatomy has somewhere, such as a lesion.

    Attributes:
        box: Where on the output grid.
        shares: For tissues of the draw, their shares (X, Y, Z) of the voxels of the box; together at most 1.
    """

    box: Box
    shares: Mapping[str, Tensor]


class PatientMaps(Mapping[str, Tensor]):
    """PD, R1, R2, R2*, MT and ADC maps of a patient, each made when it is asked for.

    A voxel has the mean of the tissues it covers, plus a texture whose standard deviation is the tissues'
    own. Each map has its own random stream, so it is the same whichever others are made. The texture repeats
    every 64 voxels.

    Args:
        tissues: The healthy anatomy.
        grid: Output voxels.
        draw: Mean and standard deviation of each tissue and map; ``TISSUES[1:]`` first, then those of
            inclusions.
        inclusions: Pasted in this order.
        key: Seed of the textures.
        smoothing: Standard deviation in voxels of the texture's smoothing, which keeps its variance; None
            draws one from 0 to 1.4 for each map.
        texture: Scales the texture; below one for voxels larger than those the spreads were measured on.

    Raises:
        ValueError: If the draw lacks a tissue.

    Units are those of ``MAPS``: p.u., 1/s, 1/s, 1/s, p.u., mm^2/s.
    """

    def __init__(
        self,
        tissues: TissueField,
        grid: SamplingGrid,
        draw: TissueDraw,
        *,
        inclusions: Sequence[Inclusion] = (),
        key: int,
        smoothing: float | None = None,
        texture: float = 1.0,
    ) -> None:
        expected = TISSUES[1:]
        if draw.names[: len(expected)] != expected:
            raise ValueError(f"expected a draw that begins with {', '.join(expected)}, got {draw.names}")
        for inclusion in inclusions:
            if missing := sorted(set(inclusion.shares) - set(draw.names)):
                raise ValueError(f"expected properties of every included tissue, but {missing[0]} has none")
        self._tissues, self._grid, self._draw = tissues, grid, draw
        self._inclusions = inclusions
        self._key, self._smoothing, self._texture = key, smoothing, texture
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in MAPS:
            raise KeyError(name)
        if name not in self._made:
            self.make([name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MAPS)

    def __len__(self) -> int:
        return len(MAPS)

    def make(self, names: Sequence[str], classes: Tensor | None = None) -> Tensor:
        """Make several maps at once, which costs little more than one.

        Args:
            names: Maps; R2 is made along with R2*, which is never below it.
            classes: (T,) uint8, a class for each of ``TISSUES``.

        Returns:
            (X, Y, Z) uint8, the class that has most of each voxel; inclusions are not seen.
        """
        wanted = [name for name in names if name not in self._made]
        if "r2star" in wanted and "r2" not in {*wanted, *self._made}:
            wanted.append("r2")
        device = self._grid.control.device
        columns = [MAPS.index(name) for name in wanted]
        healthy = len(TISSUES) - 1
        empty = torch.zeros((1, len(columns)))
        mean, sd = self._draw.mean.cpu()[:, columns], self._texture * self._draw.sd.cpu()[:, columns]
        texture = self._noise(wanted, torch.cat([empty, sd[:healthy]]))
        values, winners = mix(
            self._tissues.to(device),
            self._grid,
            torch.cat([empty, mean[:healthy]]),
            texture=texture,
            floor=0.0,
            classes=classes,
        )
        for inclusion in self._inclusions:
            self._include(inclusion, values, texture, mean, sd)
        self._made.update(zip(wanted, values, strict=True))
        if "r2star" in wanted:
            torch.maximum(self._made["r2star"], self._made["r2"], out=self._made["r2star"])
        return winners

    def _noise(self, names: Sequence[str], sd: Tensor) -> Texture:
        device = self._grid.control.device
        side = min(max(self._grid.shape), _LARGEST_TILE)
        tiles = []
        for name in names:
            rng = stream(self._key, "texture", name, device=device)
            drawn = uniform(rng, 0.0, _LARGEST_SMOOTHING)
            tiles.append(
                texture_tile(1, side, drawn if self._smoothing is None else self._smoothing, rng=rng)
            )
        rng = stream(self._key, "texture")
        start = (integer(rng, 0, side - 1), integer(rng, 0, side - 1), integer(rng, 0, side - 1))
        return Texture(sd, torch.cat(tiles), start)

    def _include(
        self, inclusion: Inclusion, values: Tensor, texture: Texture, mean: Tensor, sd: Tensor
    ) -> None:
        x, y, z = inclusion.box
        rows = [self._draw.names.index(name) for name in inclusion.shares]
        shares = torch.stack(list(inclusion.shares.values()))
        rest = 1 - shares.sum(0)
        for column in range(len(values)):
            inside = values[column, x, y, z]
            noise = texture.read(column, inclusion.box)
            added = torch.tensordot(mean[rows, column].to(shares), shares, dims=1)
            spread = torch.tensordot(sd[rows, column].to(shares), shares, dims=1)
            inside.mul_(rest).add_(added).addcmul_(spread, noise).clamp_(min=0)
