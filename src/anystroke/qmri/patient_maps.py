"""Quantitative maps of one patient with lesions, and the signal they give, for the output grid alone.

A voxel that holds fluid and tissue, or lesion and tissue, has the mean of their signals, not the signal of
their mean maps: relaxation rates of fluid and tissue differ so much that the latter would be wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import Box, SamplingGrid, boxes_of
from anystroke.anatomy.tissues.labels import TISSUES, tissue_groups
from anystroke.anatomy.tissues.mixing import TissueField, mix
from anystroke.anatomy.tissues.texture import Texture, texture_tile
from anystroke.core.rng import integer, stream, uniform
from anystroke.qmri.played_parts import Part, play_all, with_fluid
from anystroke.qmri.tissue_priors import MAPS, TissueDraw

_LARGEST_TILE = 64
_NODES = 33
_FLUIDS = ("ventricular_csf", "sulcal_csf")
_LARGEST_SMOOTHING = 1.4
_FILLED = 0.95


class SignalModel(Protocol):
    """What turns maps into an image: a protocol of ``anystroke.acquisition``."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that it takes."""

    @property
    def additive(self) -> bool:
        """Whether signed signals of the parts of a voxel add up to that of the voxel."""

    def signal(
        self, maps: Mapping[str, Tensor], *, b1_plus: Tensor | None = None, signed: bool = False
    ) -> Tensor:
        """Make the image."""


@dataclass(frozen=True)
class Inclusion:
    """Tissue that takes the place of what an anatomy has somewhere, such as a lesion.

    Attributes:
        box: Where on the output grid.
        shares: For tissues of the draw, their shares (X, Y, Z) of the voxels of the box; together at most 1.
        watched: Whether to tell what it changes in the signal.
    """

    box: Box
    shares: Mapping[str, Tensor]
    watched: bool = False


class Played(NamedTuple):
    """What a protocol makes of a patient.

    Attributes:
        image: (X, Y, Z) float32, noise-free.
        winners: (X, Y, Z) uint8, the class that has most of each voxel; inclusions are not seen.
        change: (X, Y, Z), the image less what it would be without the watched inclusions; None if there are
            none.
    """

    image: Tensor
    winners: Tensor
    change: Tensor | None


@dataclass(frozen=True)
class Exchange:
    """Part of some tissues that gives another signal than the protocol's own, such as fluid that flowed in.

    Attributes:
        tissues: Healthy tissues; inclusions are not changed.
        amount: (X, Y, Z) on the output grid, the part of these tissues that does, in [0, 1].
        protocol: Gives that signal; None for no signal at all.
        density: Proton density of that part over that of the tissue.
    """

    tissues: tuple[str, ...]
    amount: Tensor
    protocol: SignalModel | None
    density: float = 1.0


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
        tiles: Textures that maps of the same grid, key and smoothing made, by name; further ones are added.

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
        tiles: dict[str, Tensor] | None = None,
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
        self._tiles = {} if tiles is None else tiles
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

    def with_tissues(self, draw: TissueDraw) -> "PatientMaps":
        """Return the maps of the same patient with other tissue properties, such as those at another field.

        Args:
            draw: Mean and standard deviation of the same tissues.

        Raises:
            ValueError: If the draw lacks a tissue.
        """
        return self._copy(draw, self._inclusions)

    def _copy(self, draw: TissueDraw, inclusions: Sequence[Inclusion]) -> "PatientMaps":
        return PatientMaps(
            self._tissues,
            self._grid,
            draw,
            inclusions=inclusions,
            key=self._key,
            smoothing=self._smoothing,
            texture=self._texture,
            tiles=self._tiles,
        )

    def make(self, names: Sequence[str]) -> None:
        """Make several maps at once, which costs little more than one.

        Args:
            names: Maps. R2 is made along with R2*, which is never below it.
        """
        wanted = [name for name in names if name not in self._made]
        if "r2star" in wanted and "r2" not in {*wanted, *self._made}:
            wanted.append("r2")
        values, texture, _ = self._mix(wanted)
        mean, sd = self._properties(wanted)
        for inclusion in self._inclusions:
            self._include(inclusion, values, texture, mean, sd)
        self._made.update(zip(wanted, values, strict=True))
        if "r2star" in wanted:
            torch.maximum(self._made["r2star"], self._made["r2"], out=self._made["r2star"])

    def signal(
        self,
        protocol: SignalModel,
        *,
        b1_plus: Tensor | None = None,
        classes: Tensor | None = None,
        exchanges: Sequence[Exchange] = (),
    ) -> Played:
        """Make the noise-free magnitude image.

        Args:
            protocol: What is played.
            b1_plus: (X, Y, Z) actual over nominal flip angle.
            classes: (T,) uint8, a class for each of ``TISSUES``.
            exchanges: Parts of tissues that give another signal.

        Raises:
            ValueError: If there are exchanges, but signed signals of the protocol do not add up.
        """
        return self.signals([protocol], b1_plus=b1_plus, classes=classes, exchanges=exchanges)[0]

    def signals(
        self,
        protocols: Sequence[SignalModel],
        *,
        b1_plus: Tensor | None = None,
        classes: Tensor | None = None,
        exchanges: Sequence[Exchange] = (),
    ) -> list[Played]:
        """Make the noise-free images of several protocols at once, which costs little more than one.

        Args:
            protocols: What is played; all need the same maps.
            b1_plus: As in `signal`.
            classes: As in `signal`.
            exchanges: As in `signal`.

        Returns:
            For each protocol what `signal` gives.

        Raises:
            ValueError: If protocols need different maps.
        """
        names = protocols[0].needs
        if other := [protocol.needs for protocol in protocols if protocol.needs != names]:
            raise ValueError(f"expected protocols that need the same maps, got {names} and {other[0]}")
        values, texture, winners = self._mix(names, fluid=True, classes=classes)
        share = values[-1]
        border, parts = self._healthy_parts(names, values[:-1], share, b1_plus)
        parts += self._included_parts(names, texture, b1_plus)
        played = [play_all(partial(self._play, protocol), parts) for protocol in protocols]
        images = [with_fluid(found, border, share) for found in played]
        for protocol, image in zip(protocols, images, strict=True):
            for exchange in exchanges:
                fluid = share if set(exchange.tissues) == set(_FLUIDS) else None
                self._exchange(image, exchange, protocol, fluid, b1_plus)
        watched = any(each.watched for each in self._inclusions)
        changes = [torch.zeros_like(image) for image in images] if watched else []
        included = [iter(found[2:]) for found in played]
        for inclusion in self._inclusions:
            insides = [image[inclusion.box] for image in images]
            if inclusion.watched:
                for change, inside in zip(changes, insides, strict=True):
                    change[inclusion.box] -= inside.abs()
            total = torch.stack(list(inclusion.shares.values())).sum(0)
            for inside in insides:
                inside *= 1 - total
            for amount in inclusion.shares.values():
                for inside, signals in zip(insides, included, strict=True):
                    inside += amount * next(signals)
            if inclusion.watched:
                for change, inside in zip(changes, insides, strict=True):
                    change[inclusion.box] += inside.abs()
        followed: Sequence[Tensor | None] = changes or [None] * len(images)
        return [Played(image.abs_(), winners, change) for image, change in zip(images, followed, strict=True)]

    def parts_of(
        self,
        tissues: Sequence[str],
        images: Sequence[Tensor],
        protocols: Sequence[SignalModel],
        *,
        b1_plus: Tensor | None = None,
        exchanges: Sequence[Exchange] = (),
    ) -> list[Tensor]:
        """Return the part of each of several noise-free magnitude images that some healthy tissues give.

        Args:
            tissues: Their mean signal counts; where they fill a voxel, all of its signal does.
            images: (X, Y, Z) each, what `signals` gave for the protocols.
            protocols: What was played; their signed signals add up.
            b1_plus: As in `signal`.
            exchanges: As in `signal`; those of the same tissues count.

        Returns:
            (X, Y, Z) for each, nowhere more than the image.
        """
        share = self._share_of(tissues, self._grid)
        own = [each for each in exchanges if set(each.tissues) == set(tissues)]
        parts = []
        for image, protocol in zip(images, protocols, strict=True):

            def of_means(nodes: Tensor, protocol: SignalModel = protocol) -> Tensor:
                return self._of_means(protocol, tissues, nodes)

            part = torch.zeros_like(image)
            self._add(part, share, b1_plus, of_means)
            for exchange in own:
                self._exchange(part, exchange, protocol, share, b1_plus)
            parts.append(torch.where(share > _FILLED, image, torch.minimum(part.abs_(), image)))
        return parts

    def signal_of_means(
        self, protocol: SignalModel, *, b1_plus: Tensor | None = None, classes: Tensor | None = None
    ) -> Played:
        """Make the noise-free image of the mean maps of each voxel, as published systems do.

        Args:
            protocol: What is played.
            b1_plus: (X, Y, Z) actual over nominal flip angle.
            classes: (T,) uint8, a class for each of ``TISSUES``.

        Returns:
            As `signal`, but the image has the sign that the protocol's own has.
        """
        self.make(protocol.needs)
        image = protocol.signal({name: self._made[name] for name in protocol.needs}, b1_plus=b1_plus)
        tissues = self._tissues.to(self._grid.control.device)
        _, winners = mix(tissues, self._grid, torch.zeros((len(TISSUES), 1)), classes=classes)
        change = None
        if any(each.watched for each in self._inclusions):
            others = [each for each in self._inclusions if not each.watched]
            without = self._copy(self._draw, others)
            without.make(protocol.needs)
            healthy = {name: without[name] for name in protocol.needs}
            change = image.abs() - protocol.signal(healthy, b1_plus=b1_plus).abs()
        return Played(image, winners, change)

    def _healthy_parts(
        self, names: Sequence[str], maps: Tensor, share: Tensor, b1_plus: Tensor | None
    ) -> tuple[Tensor, list[Part]]:
        """Return the voxels that have fluid and other tissue, and both parts; ``maps`` are changed.

        The first part is the whole grid without the fluid of these voxels, the second that fluid.
        """
        flat, amount = maps.reshape(len(names), -1), share.reshape(-1)
        border = torch.nonzero((amount > 1e-4) & (amount < 1 - 1e-4))[:, 0]
        rows = [self._draw.names.index(tissue) for tissue in _FLUIDS]
        fluid = self._properties(names)[0][rows].mean(0).to(flat)
        amount = amount[border]
        rest = flat[:, border].addcmul_(fluid[:, None], amount, value=-1).div_(1 - amount).clamp_(min=0)
        flat[:, border] = rest
        of_fluid = fluid[:, None].expand(-1, len(border)).contiguous()
        part = None if b1_plus is None else b1_plus.reshape(-1)[border]
        return border, [Part(names, maps, b1_plus), Part(names, of_fluid, part)]

    def _included_parts(self, names: Sequence[str], texture: Texture, b1_plus: Tensor | None) -> list[Part]:
        """Return the tissues of all inclusions, in their order."""
        mean, sd = self._properties(names)
        found = []
        for inclusion in self._inclusions:
            part = None if b1_plus is None else b1_plus[inclusion.box]
            noise = texture.read(inclusion.box)[: len(names)]
            for tissue in inclusion.shares:
                row = self._draw.names.index(tissue)
                own_mean, own_sd = (each[row].to(noise)[:, None, None, None] for each in (mean, sd))
                found.append(Part(names, (own_mean + own_sd * noise).clamp_(min=0), part))
        return found

    def _exchange(
        self,
        image: Tensor,
        exchange: Exchange,
        protocol: SignalModel,
        share: Tensor | None,
        b1_plus: Tensor | None,
    ) -> None:
        """Add what the exchanged part of each voxel gives more or less than the protocol's own signal."""
        if not protocol.additive:
            raise ValueError("expected a protocol whose signals add up; leave the exchanges out for this one")
        some = exchange.amount > 1e-3
        if not bool(some.any()):
            return
        _, box = boxes_of(some, 1, self._grid.shape)
        part = self._share_of(exchange.tissues, self._grid.crop(box)) if share is None else share[box]

        def change(nodes: Tensor) -> Tensor:
            less = -self._of_means(protocol, exchange.tissues, nodes)
            if exchange.protocol is None:
                return less
            return less + exchange.density * self._of_means(exchange.protocol, exchange.tissues, nodes)

        self._add(image[box], part * exchange.amount[box], None if b1_plus is None else b1_plus[box], change)

    def _share_of(self, tissues: Sequence[str], grid: SamplingGrid) -> Tensor:
        """Return the share (X, Y, Z) that healthy tissues have of the voxels of a grid."""
        return mix(self._tissues.to(grid.control.device), grid, tissue_groups(tuple(tissues)))[0][0]

    @staticmethod
    def _add(image: Tensor, part: Tensor, b1_plus: Tensor | None, signal: Callable[[Tensor], Tensor]) -> None:
        """Add to an image a part of each voxel, of a signal that depends on the flip angle."""
        places = torch.nonzero(part > 1e-3, as_tuple=True)
        if not len(places[0]):
            return
        nodes, here = _nodes(None if b1_plus is None else b1_plus[places], image.device)
        values = signal(nodes)
        first = here.long().clamp_(max=max(len(values) - 2, 0))
        steps = torch.diff(values, append=values[-1:])
        image[places] += (values[first] + steps[first] * (here - first)) * part[places]

    def _of_means(self, protocol: SignalModel, tissues: Sequence[str], b1_plus: Tensor) -> Tensor:
        """Return the signed signal of the mean of some tissues, (N,) for as many flip angles."""
        rows = [self._draw.names.index(tissue) for tissue in tissues]
        values = self._properties(protocol.needs)[0][rows].mean(0).to(b1_plus)
        maps = {
            name: value.expand(len(b1_plus)).contiguous()
            for name, value in zip(protocol.needs, values, strict=True)
        }
        return self._play(protocol, maps, b1_plus)

    def _play(self, protocol: SignalModel, maps: dict[str, Tensor], b1_plus: Tensor | None) -> Tensor:
        # Parts of a voxel add up with their sign, before the magnitude is taken.
        return protocol.signal(maps, b1_plus=b1_plus, signed=protocol.additive)

    def _properties(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return mean and texture SD of each row of the draw, (rows, C) each, on the CPU."""
        columns = [MAPS.index(name) for name in names]
        return self._draw.mean.cpu()[:, columns], self._texture * self._draw.sd.cpu()[:, columns]

    def _mix(
        self, names: Sequence[str], *, fluid: bool = False, classes: Tensor | None = None
    ) -> tuple[Tensor, Texture, Tensor]:
        """Mix maps of the healthy tissues, and the share of fluid as the last one if wanted."""
        healthy = len(TISSUES) - 1
        tables = []
        for properties in self._properties(names):
            table = torch.zeros((len(TISSUES), len(names) + fluid))
            table[1:, : len(names)] = properties[:healthy]
            tables.append(table)
        if fluid:
            tables[0][[TISSUES.index(tissue) for tissue in _FLUIDS], -1] = 1
        texture = self._noise(names, tables[1])
        values, winners = mix(
            self._tissues.to(self._grid.control.device),
            self._grid,
            tables[0],
            texture=texture,
            floor=0.0,
            classes=classes,
        )
        return values, texture, winners

    def _noise(self, names: Sequence[str], sd: Tensor) -> Texture:
        device = self._grid.control.device
        side = min(max(self._grid.shape), _LARGEST_TILE)
        tiles = []
        for name in names:
            if name not in self._tiles:
                rng = stream(self._key, "texture", name)
                drawn = uniform(rng, 0.0, _LARGEST_SMOOTHING)
                smoothing = drawn if self._smoothing is None else self._smoothing
                self._tiles[name] = texture_tile(1, side, smoothing, rng=rng, device=device)
            tiles.append(self._tiles[name])
        # A column without spread needs some tile too.
        tiles += [tiles[0]] * (sd.shape[1] - len(names))
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
        for column, noise in zip(range(len(values)), texture.read(inclusion.box), strict=False):
            inside = values[column, x, y, z]
            added = torch.tensordot(mean[rows, column].to(shares), shares, dims=1)
            spread = torch.tensordot(sd[rows, column].to(shares), shares, dims=1)
            inside.mul_(rest).add_(added).addcmul_(spread, noise).clamp_(min=0)


def _nodes(b1_plus: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a few flip angles, and where between them each voxel's lies: so smooth are signals in it."""
    if b1_plus is None:
        return torch.ones(1, device=device), torch.zeros(1, device=device)
    low, high = b1_plus.aminmax()
    nodes = torch.linspace(float(low), float(high), _NODES, device=b1_plus.device)
    return nodes, (b1_plus - low) / (high - low).clamp(min=1e-6) * (_NODES - 1)
