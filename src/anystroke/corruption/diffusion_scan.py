"""Diffusion-weighted scans as scanners make them: noisy images of directions first, then what is computed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anystroke.core.config import StrictModel
from anystroke.core.fields import smooth
from anystroke.core.rng import chance, choice, integer, log_uniform, stream, uniform
from anystroke.corruption.diffusion import adc_change, adc_map, fibre_contrast, trace_weighted
from anystroke.corruption.noise import non_central_chi
from anystroke.corruption.resolution import AcquiredGrids, acquire, restore

_DIRECTIONS = 3
# Unit and step of stored maps in mm^2/s, with the probability of each.
_STORAGE = ((1e-6, 1e-6, 0.7), (1e-3, 1e-6, 0.15), (1e-3, 1e-5, 0.15))
_WHITE_MATTER_EDGE = 0.7


class DiffusionSettings(StrictModel):
    """How scanners compute trace images and ADC maps. All numbers are engineering estimates of practice.

    Attributes:
        computed: Whether they are computed of noisy images at all; False adds noise to the noise-free trace
            image or map as to any other image.
        averaged: Probability that each image is the root mean square of several, which leaves the noise where
            the signal is high and raises the floor where there is none.
        averages: Range of how many.
        one_direction: Probability that a DWI is the image of one direction, in which tracts differ.
        anisotropy: Range of what diffusivity along fibres has more than that across them, mm^2/s.
        masked: Probability that a map is 0 where the image without diffusion weighting is dark.
        threshold: Range of what is dark, over the mean of white matter in that image, drawn log-uniformly.
        masked_by_both: Share of masked maps that are 0 where the diffusion-weighted image is lost in noise
            too, which leaves holes in fluid.
        smoothed: Probability that images are smoothed within slices before the map is computed.
        smoothing: Range of the smoothing's SD in voxels.
        limited: Probability that a map ends at ``largest``.
        largest: Range of the largest value of the map, mm^2/s.
    """

    computed: bool = True
    averaged: float = Field(default=0.3, ge=0, le=1)
    averages: tuple[int, int] = (2, 4)
    one_direction: float = Field(default=0.05, ge=0, le=1)
    anisotropy: tuple[float, float] = (0.5e-3, 1.2e-3)
    masked: float = Field(default=0.65, ge=0, le=1)
    threshold: tuple[float, float] = (0.05, 0.4)
    masked_by_both: float = Field(default=0.2, ge=0, le=1)
    smoothed: float = Field(default=0.2, ge=0, le=1)
    smoothing: tuple[float, float] = (0.4, 0.9)
    limited: float = Field(default=0.5, ge=0, le=1)
    largest: tuple[float, float] = (2.5e-3, 4.1e-3)


@dataclass(frozen=True)
class WhiteMatter:
    """Where white matter is.

    Attributes:
        region: (X, Y, Z) bool.
        positions: Tells where voxels are in the head, (3, X, Y, Z) mm, the first 0 between both halves; asked
            only if fibres matter.
    """

    region: Tensor
    positions: Callable[[], Tensor]

    @staticmethod
    def in_the_middle(region: Tensor, spacing: float) -> "WhiteMatter":
        """Return that of a head whose middle is that of the image.

        Args:
            region: (X, Y, Z) bool.
            spacing: Voxel size in mm.
        """

        def positions() -> Tensor:
            axes = [(torch.arange(n, device=region.device) - (n - 1) / 2) * spacing for n in region.shape]
            return torch.stack(torch.meshgrid(*axes, indexing="ij"))

        return WhiteMatter(region, positions)


@dataclass(frozen=True, kw_only=True)
class DiffusionScan:
    """One acquisition of diffusion-weighted images, and what is computed of them.

    The noise ``sd`` is that of the image with diffusion weighting where its signal is high. The geometric
    mean of three directions has 1/sqrt(3) of the noise of each; the image without diffusion weighting, which
    is not repeated for directions, has as much as one of them.

    Attributes:
        settings: What may happen.
        b_value: Diffusion weighting, s/mm^2.
        grids: How each axis is acquired.
        slice_axis: Which of them is that of slices; None if slices are as thick as voxels.
        sd: Noise in units of the signal.
        channels: Receive channels whose root sum of squares is taken.
        key: Seed of all that is random.
        uneven: Scales the slices of the image with diffusion weighting where they differ; None if not.
    """

    settings: DiffusionSettings
    b_value: float
    grids: AcquiredGrids
    slice_axis: int | None
    sd: float
    channels: int
    key: int
    uneven: Callable[[Tensor], Tensor] | None = None

    def trace(self, signal: Tensor, white_matter: WhiteMatter, facts: dict[str, Any]) -> Tensor:
        """Acquire a trace-weighted image, at times one direction.

        Args:
            signal: (X, Y, Z), noise-free.
            white_matter: Where directions differ.
            facts: Gets what was drawn.

        Returns:
            Image (X, Y, Z).
        """
        draws, directions = self._rng("direction"), _DIRECTIONS
        if chance(draws, self.settings.one_direction):
            facts["directions"], facts["anisotropy"] = 1, uniform(draws, *self.settings.anisotropy)
            directions = 1
            along, _, _ = fibre_contrast(
                smooth(white_matter.region.to(signal), _WHITE_MATTER_EDGE),
                white_matter.positions(),
                anisotropy=facts["anisotropy"],
                rng=draws,
            )
            signal = along.mul_(-self.b_value).exp_().mul_(signal)
        image = self._noisy(signal, directions, self._averages(facts), self._rng("noise"))
        return _restored(image, self.grids)

    def adc(self, low: Tensor, high: Tensor, white_matter: Tensor, facts: dict[str, Any]) -> Tensor:
        """Acquire images without and with diffusion weighting, and compute the ADC map.

        The map is computed in the slices as they were acquired, once the matrix within them is filled up.

        Args:
            low: (X, Y, Z), noise-free, without diffusion weighting.
            high: The same with it, the trace image.
            white_matter: (X, Y, Z) bool, whose mean is the unit of thresholds.
            facts: Gets what was drawn.

        Returns:
            Map (X, Y, Z) in the unit drawn.
        """
        draws, settings, noise = self._rng("map"), self.settings, self._rng("noise")
        averages = self._averages(facts)
        first = non_central_chi(
            acquire(low, self.grids),
            sd=_DIRECTIONS**0.5 * self.sd,
            channels=self.channels * averages,
            rng=noise,
        )
        images = [first, self._noisy(high, _DIRECTIONS, averages, noise)]
        in_plane, across = self._split()
        images = [_restored(image, in_plane) for image in images]
        if chance(draws, settings.smoothed):
            facts["smoothed"] = uniform(draws, *settings.smoothing)
            x, y, z = (0.0 if axis == self.slice_axis else facts["smoothed"] for axis in range(3))
            images = [smooth(image, (x, y, z)) for image in images]
        limits = self._limits(_mean_within(low, white_matter), self._rng("mask"), facts)
        facts["unit"], facts["step"], _ = _STORAGE[choice(draws, [share for *_, share in _STORAGE])]
        if chance(draws, settings.limited):
            facts["largest"] = uniform(draws, *settings.largest)
        values = adc_map(
            *images,
            b_value=self.b_value,
            thresholds=(limits[0], limits[1]),
            largest=facts.get("largest", math.inf),
            step=facts["step"],
            unit=facts["unit"],
        )
        return _restored(values, across)

    def followed(
        self, images: Sequence[Tensor], changes: Sequence[Tensor], facts: dict[str, Any]
    ) -> Tensor | None:
        """Return what changes of the noise-free signals change in what was acquired of them.

        Args:
            images: (X, Y, Z), one, or two of which a map in ``facts["unit"]`` was computed.
            changes: A part of each of them; may be none.
            facts: Of the scan.
        """
        if not changes:
            return None
        if len(images) == 1:
            return restore(acquire(changes[0], self.grids), self.grids)
        in_plane, across = self._split()
        pair, parts = (
            [restore(acquire(one, self.grids), in_plane) for one in several] for several in (images, changes)
        )
        change = adc_change(pair, parts, b_value=self.b_value, floor=self.sd, unit=facts["unit"])
        return restore(change, across)

    def _rng(self, name: str) -> torch.Generator:
        return stream(self.key, "diffusion", name)

    def _averages(self, facts: dict[str, Any]) -> int:
        draws = self._rng("averages")
        if not chance(draws, self.settings.averaged):
            return 1
        facts["averages"] = integer(draws, *self.settings.averages)
        return int(facts["averages"])

    def _noisy(self, signal: Tensor, directions: int, averages: int, rng: torch.Generator) -> Tensor:
        """Make the geometric mean of noisy directions at the acquired resolution.

        The root mean square of n magnitude images of c channels, each with the noise sqrt(n) sd, is that of
        one image of n c channels with the noise sd.
        """
        low = acquire(signal, self.grids)
        if self.uneven is not None:
            low = self.uneven(low)
        sd, channels = directions**0.5 * self.sd, self.channels * averages
        return trace_weighted(
            [non_central_chi(low, sd=sd, channels=channels, rng=rng) for _ in range(directions)]
        )

    def _limits(self, level: float, rng: torch.Generator, facts: dict[str, Any]) -> tuple[float, float]:
        """Draw below what either image is dark; zeros without a mask."""
        if not chance(rng, self.settings.masked):
            return 0.0, 0.0
        facts["masked_below"] = log_uniform(rng, *self.settings.threshold)
        if not chance(rng, self.settings.masked_by_both):
            return facts["masked_below"] * level, 0.0
        facts["masked_below_noise"] = uniform(rng, 2.0, 4.0)
        return facts["masked_below"] * level, facts["masked_below_noise"] * self.sd

    def _split(self) -> tuple[AcquiredGrids, AcquiredGrids]:
        """Return the grids within slices, and that across them."""
        x, y, z = (None if axis == self.slice_axis else grid for axis, grid in enumerate(self.grids))
        a, b, c = (grid if axis == self.slice_axis else None for axis, grid in enumerate(self.grids))
        return (x, y, z), (a, b, c)


def _restored(image: Tensor, grids: AcquiredGrids) -> Tensor:
    return image if all(grid is None for grid in grids) else restore(image, grids).abs_()


def _mean_within(image: Tensor, region: Tensor) -> float:
    """Return the mean of an image in a region, or where it is above 0 if that is nowhere."""
    region = region if bool(region.any()) else image > 0
    return float((image * region).sum() / region.sum().clamp(min=1))
