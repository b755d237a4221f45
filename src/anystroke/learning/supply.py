"""Where the batches of a run come from: straight from the stream of cases, or out of a buffer of them."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from anystroke.learning.buffer import Buffer
from anystroke.learning.clock import Clock
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.stream import Batch, CaseStream, StreamSettings, stream_loader
from anystroke.learning.task import Recipe
from anystroke.models.image_features import image_features

RANGE_CASES = 200
"""Cases whose images tell what those of a training are like."""

_FEATURES_SHARE = 0.02


def stream_settings(settings: Recipe) -> StreamSettings:
    """Return what decides the cases of a recipe."""
    task = settings.open_task()
    return StreamSettings(
        shares=tuple(part.share for part in settings.sources),
        shapes=settings.grid.shapes,
        shape_weights=settings.grid.shape_weights,
        seed=settings.seed,
        batch=1 if settings.buffer else settings.optimiser.batch,
        normalisation=settings.grid.normalisation,
        cells=task.cells(),
        contrasts=task.contrasts,
        at_once=settings.optimiser.made_at_once,
    )


class Supply:
    """The batches of one process of a run; its worker processes start at once.

    With a buffer, what is drawn in a step depends on the seed, the step, and the step and case that the run
    was resumed at: not on the number of worker processes and how fast they are.

    Args:
        settings: The recipe.
        data: Folder of packed data.
        fabric: Of the training; each process has a buffer of its own.
        step: Steps done before.
        made: Cases per process that were made before, for a buffer.
        clock: Time that the call has.
    """

    def __init__(
        self, settings: Recipe, data: Path, fabric: Fabric, *, step: int, made: int, clock: Clock | None
    ) -> None:
        options = settings.optimiser
        self.settings, self.fabric, self.clock = settings, fabric, clock
        self.buffer = None
        if settings.buffer:
            self.buffer = Buffer(settings.buffer, fabric.device, seed=settings.seed)
        self.first_step = step
        self.first_case = made
        self.cases = CaseStream(
            sources_of(settings, data),
            stream_settings(settings),
            first=made if self.buffer else step * options.accumulate,
            rank=fabric.global_rank,
            ranks=fabric.world_size,
            device=fabric.device if options.made_on == "device" else "cpu",
        )
        loader = stream_loader(
            self.cases,
            workers=options.workers,
            pin_memory=fabric.device.type == "cuda",
            forked=options.made_on == "cpu",
        )
        self.batches: Iterator[Batch] = iter(loader)
        self.features: list[dict[str, float]] = []
        self._measuring = 0.0
        self._watches = settings.open_task().watches_images
        self._numbers: list[int] = []

    @property
    def made(self) -> int:
        """Cases per process that were made for buffers, in the whole run."""
        return self.first_case + (self.buffer.made if self.buffer else 0)

    @property
    def measures(self) -> bool:
        """Whether the range of images is found on the way, not from further cases at the end."""
        return self.buffer is not None or self.clock is not None

    def take(self, step: int, over: Callable[[], bool]) -> list[Batch] | None:
        """Return the batches of a step, as many as gradients are accumulated over.

        Args:
            step: Number of the step, from 0.
            over: Whether to give up; asked before each case that a buffer waits for.

        Returns:
            The batches, or None if it was given up.
        """
        options = self.settings.optimiser
        if self.buffer is None:
            taken = list(itertools.islice(self.batches, options.accumulate))
            each = range(step * options.accumulate, (step + 1) * options.accumulate)
            self._numbers = list(each)
            for image in taken[-1][0] if self.measures else ():
                self._measure(image[0])
            return taken
        drawn = (step - self.first_step) * options.accumulate * options.batch
        while self.buffer.made < self.buffer.needed(drawn):
            if over():
                return None
            case = next(self.batches)
            self._measure(case[0][0, 0])
            self.buffer.put(self.made, [part[0] for part in case if part is not None])
        self._numbers = []
        batches = []
        for number in range(options.accumulate):
            batch, cases = self.buffer.draw(options.batch, step, number, self.fabric.global_rank)
            batches.append(Batch(*batch))
            self._numbers += cases
        return batches

    def records(self) -> list[dict[str, Any]]:
        """Return what the cases of the last step were made of."""
        return [record for number in self._numbers for record in self.cases.records(number)]

    def further(self, count: int) -> Iterator[Tensor]:
        """Yield so many images, in whole batches, that the network has not seen."""
        batch = self.settings.optimiser.batch
        for images, *_ in itertools.islice(self.batches, -(-count // batch)):
            yield from images[:, 0]

    def close(self) -> None:
        """Let the worker processes end, each after its case, while this process does something else."""
        held = [self.batches]
        self.batches = iter(())
        threading.Thread(target=held.clear, name="anystroke-closing").start()

    def _measure(self, image: Tensor) -> None:
        """Keep the features of an image, of the first few and for a small share of the time."""
        allowed = _FEATURES_SHARE * self.clock.elapsed if self.clock else float("inf")
        active = self.fabric.is_global_zero and self._watches
        if not active or len(self.features) == RANGE_CASES or self._measuring > allowed:
            return
        started = time.perf_counter()
        self.features.append(image_features(image, spacing=self.settings.grid.spacing))
        self._measuring += time.perf_counter() - started
