"""Cases kept on the training device and seen several times, for networks that learn fast."""

import math
from collections import deque
from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from anystroke.core.config import StrictModel
from anystroke.core.rng import stream

TensorKinds = tuple[tuple[torch.Size, torch.dtype], ...]
"""Shapes and types of the tensors of a case; a batch holds cases of one kind."""


class BufferSettings(StrictModel):
    """Cases that are kept and seen several times, each time changed in grey values.

    Grey values are those of standardised images, whose standard deviation is 1. Ranges are engineering
    estimates.

    Attributes:
        reuse: How often a case is seen on average; training waits for new cases rather than exceed it.
        cases: How many are kept; the oldest makes room for the newest.
        first: How many are made before training begins.
        mirror: Whether every other image is mirrored left to right.
        scale: Images are multiplied by 1 - scale to 1 + scale.
        shift: Then -shift to shift is added.
        gamma: The magnitude is raised to a power of exp(-gamma) to exp(gamma), in every other image.
        noise: Largest standard deviation of added noise.
        noisy: Share of images that get noise.
        channels: How many channels of an image are grey values, from the first; 0 for all.
    """

    reuse: float = Field(default=5.0, ge=1)
    cases: int = Field(default=4000, gt=0)
    first: int = Field(default=64, gt=0)
    mirror: bool = True
    scale: float = Field(default=0.15, ge=0, lt=1)
    shift: float = Field(default=0.1, ge=0)
    gamma: float = Field(default=0.25, ge=0)
    noise: float = Field(default=0.12, ge=0)
    noisy: float = Field(default=0.4, ge=0, le=1)
    channels: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "BufferSettings":
        if self.first > self.cases:
            raise ValueError(
                f"expected buffer.first to be at most buffer.cases, but training would begin with "
                f"{self.first} cases and {self.cases} are kept; lower first"
            )
        return self


class Buffer:
    """The newest cases, on a device: images and any number of maps in half precision or as integers.

    What is drawn from a buffer depends on the seed, the cases put into it and the names of the draw alone.

    Args:
        settings: How many, and what changes.
        device: Where they are kept.
        seed: Of the run.

    Example:
        >>> buffer = Buffer(BufferSettings(cases=2, first=1), torch.device("cpu"), seed=1)
        >>> for number in range(3):
        ...     buffer.put(number, (torch.randn(1, 8, 8, 8), torch.zeros(8, 8, 8, dtype=torch.uint8)))
        >>> (image, target), numbers = buffer.draw(4, 0)
        >>> tuple(image.shape), tuple(target.shape), set(numbers) <= {1, 2}
        ((4, 1, 8, 8, 8), (4, 8, 8, 8), True)
    """

    def __init__(self, settings: BufferSettings, device: torch.device, *, seed: int) -> None:
        self.settings = settings
        self.device = device
        self.seed = seed
        self.made = 0
        self._cases: dict[TensorKinds, deque[tuple[int, tuple[Tensor, ...]]]] = {}
        self._kinds: deque[TensorKinds] = deque()

    def __len__(self) -> int:
        """Return how many cases it holds."""
        return len(self._kinds)

    def needed(self, drawn: int) -> int:
        """Return how many cases must have been made when so many have been drawn.

        Example:
            >>> buffer = Buffer(BufferSettings(reuse=5, first=64), torch.device("cpu"), seed=1)
            >>> buffer.needed(0), buffer.needed(5000)
            (64, 1064)
        """
        return self.settings.first + math.floor(drawn / self.settings.reuse)

    def put(self, number: int, case: Sequence[Tensor]) -> None:
        """Keep a case.

        Args:
            number: Of the case, for reports.
            case: Image (C, X, Y, Z) and maps (X, Y, Z) or (K, X, Y, Z).

        Raises:
            ValueError: A value is too large for half precision, or the device is full.
        """
        try:
            kept = tuple(self._kept(part) for part in case)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the memory of {self.device} is full with {len(self)} cases in the buffer; "
                "lower buffer.cases"
            ) from None
        kind = tuple((part.shape, part.dtype) for part in kept)
        if len(self) == self.settings.cases:
            self._cases[self._kinds.popleft()].popleft()
        self._cases.setdefault(kind, deque()).append((number, kept))
        self._kinds.append(kind)
        self.made += 1

    def _kept(self, part: Tensor) -> Tensor:
        if not part.is_floating_point():
            return part.to(self.device, copy=True, non_blocking=True)
        if not float(part.abs().max()) <= torch.finfo(torch.float16).max:
            raise ValueError(
                f"expected values that half precision can hold, but one is {float(part.abs().max()):g}; "
                "train without [buffer]"
            )
        return part.to(self.device, torch.float16, non_blocking=True)

    def draw(self, count: int, *names: str | int) -> tuple[tuple[Tensor, ...], list[int]]:
        """Draw a batch of one kind; no case stands twice in it where there are enough.

        Args:
            count: Cases of the batch.
            names: Of the draw, such as step and process; the same give the same.

        Returns:
            Image (B, C, X, Y, Z) float32 and maps of the kept type, or float32 for half precision; and the
            numbers of the cases.

        Raises:
            ValueError: Nothing is in the buffer.
        """
        if not self._kinds:
            raise ValueError("expected cases in the buffer to draw from, but it is empty; put some first")
        rng = stream(self.seed, "buffer", *names)
        kind = self._kinds[int(torch.randint(len(self._kinds), (), generator=rng))]
        cases = self._cases[kind]
        chosen = torch.randperm(len(cases), generator=rng)[:count]
        if len(cases) < count:
            chosen = torch.randint(len(cases), (count,), generator=rng)
        drawn = [cases[int(k)] for k in chosen]
        batch = [torch.stack(parts) for parts in zip(*(case for _, case in drawn), strict=True)]
        batch = [part.float() if part.is_floating_point() else part for part in batch]
        if self.settings.mirror:
            batch = _mirrored(batch, rng)
        on_device = stream(self.seed, "noise of the buffer", *names, device=self.device)
        grey = batch[0][:, : self.settings.channels or None]
        changed = changed_grey_values(grey, self.settings, rng=rng, noise_rng=on_device)
        image = torch.cat([changed, batch[0][:, grey.shape[1] :]], dim=1)
        return (image, *batch[1:]), [number for number, _ in drawn]


def _mirrored(batch: Sequence[Tensor], rng: torch.Generator) -> list[Tensor]:
    """Mirror every other case: all its tensors, along their third last axis."""
    turned = (torch.rand(len(batch[0]), generator=rng) < 0.5).to(batch[0].device)
    return [torch.where(turned.view(-1, *[1] * (part.ndim - 1)), part.flip(-3), part) for part in batch]


def changed_grey_values(
    image: Tensor, settings: BufferSettings, *, rng: torch.Generator, noise_rng: torch.Generator
) -> Tensor:
    """Change the grey values of each image by itself.

    Args:
        image: (B, 1, X, Y, Z) float32, standardised.
        settings: By how much at most.
        rng: Random stream on the CPU, for all but the noise.
        noise_rng: Random stream on the images' device.

    Returns:
        Likewise.

    Example:
        >>> plain = BufferSettings(scale=0, shift=0, gamma=0, noise=0)
        >>> image, rng = torch.randn(2, 1, 4, 4, 4), stream(1)
        >>> torch.allclose(changed_grey_values(image, plain, rng=rng, noise_rng=rng), image)
        True
    """
    each = (len(image), *[1] * (image.ndim - 1))
    draws = torch.rand((6, *each), generator=rng)
    scale, shift, gamma = 2 * draws[:3] - 1
    power = torch.where(draws[3] < 0.5, torch.exp(settings.gamma * gamma), 1.0).to(image.device)
    sd = (settings.noise * draws[4] * (draws[5] < settings.noisy)).to(image.device)
    image = image * (1 + settings.scale * scale).to(image.device) + (settings.shift * shift).to(image.device)
    if settings.gamma:
        image = image.sign() * image.abs().pow(power)
    if settings.noise and settings.noisy:
        image = image + sd * torch.randn(image.shape, generator=noise_rng, device=image.device)
    return image
