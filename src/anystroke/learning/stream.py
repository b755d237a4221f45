"""Training cases in an order that nothing but the seed decides.

Case n depends on the seed and n alone: not on the number of worker processes, of devices, or on where a run
was broken off.
"""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from anystroke.core.fields import GridShape
from anystroke.core.gathering import together
from anystroke.core.memory import keep_pages
from anystroke.core.rng import choice, stream
from anystroke.learning.cases import Case, CaseSource, scan_of
from anystroke.learning.cells import CellSettings, lesion_cells
from anystroke.models.model_space import Normalisation, normalise_intensity


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        image: (B, 1, X, Y, Z) float32, normalised; or (B, V, X, Y, Z), V views of each patient.
        target: (B, X, Y, Z) uint8 or (B, K, X, Y, Z) float32.
        cells: (B, X, Y, Z) uint8, see `anystroke.learning.cells.lesion_cells`; None where the loss
            needs none. Whatever flips, turns or crops the target must do the same with it.
    """

    image: Tensor
    target: Tensor
    cells: Tensor | None = None

    def first(self, count: int) -> "Batch":
        """Return the first cases of it."""
        cells = None if self.cells is None else self.cells[:count]
        return Batch(self.image[:count], self.target[:count], cells)


def rotation(shares: Sequence[int]) -> list[int]:
    """Return the order in which sources take turns, each spread as evenly as its share allows.

    Args:
        shares: Cases of each source in one round, 1 or more.

    Returns:
        Index of a source for each case of the round.

    Example:
        >>> rotation([1, 1]), rotation([3, 1])
        ([0, 1], [0, 0, 1, 0])
    """
    credit = [0] * len(shares)
    order = []
    for _ in range(sum(shares)):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        turn = credit.index(max(credit))
        credit[turn] -= sum(shares)
        order.append(turn)
    return order


@dataclass(frozen=True)
class StreamSettings:
    """What decides the cases of a stream.

    Attributes:
        shares: Cases of each source in one round.
        shapes: Sizes of cases; each batch draws one.
        shape_weights: Probability of each.
        seed: Seed of the run.
        batch: Cases of a batch.
        normalisation: How intensities are standardised.
        cells: How lesions get cells; None for none.
        contrasts: Scans of each patient, each in a batch of its own; between two of them is a batch of other
            patients.
        at_once: Patients that are made together, which pays on a GPU; the cases are the same.
    """

    shares: tuple[int, ...]
    shapes: tuple[GridShape, ...]
    shape_weights: tuple[float, ...]
    seed: int
    batch: int = 1
    normalisation: Normalisation = "foreground"
    cells: CellSettings | None = None
    contrasts: int = 1
    at_once: int = 1


_TURNS = 2


class CaseStream(IterableDataset[Batch]):
    """The batches that one process of a run trains on, number ``first``, ``first + 1``, ...

    Batch m of process r of R holds the cases from ``(m R + r) B`` on, so that R processes with batches of B
    see in each step what one process with batches of R B sees.

    With C contrasts, these are the numbers of patients: 2 C batches in a row are the scans of the patients of
    two, batches 0 and 1 the first scan of each, batches 2 and 3 the second and so on. One worker makes all of
    them, so that a patient is made once.

    Args:
        open_sources: Makes the sources; called once in each worker process.
        settings: What decides the cases.
        first: Number of the first batch.
        rank: Of this process.
        ranks: Number of processes.
        device: Where cases are made; batches are on the CPU. Each kind of device has its own random numbers
            for noise and texture; the rest of case n is the same on each.
    """

    def __init__(
        self,
        open_sources: Callable[[], Sequence[CaseSource]],
        settings: StreamSettings,
        *,
        first: int = 0,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.settings = settings
        self.first, self.rank, self.ranks = first, rank, ranks
        self._open = open_sources
        self._sources: Sequence[CaseSource] | None = None
        self._order = rotation(settings.shares)

    def __iter__(self) -> Iterator[Batch]:
        """Yield this worker's share of the batches."""
        for group in self.groups():
            yield from group

    def groups(self) -> Iterator[list[Batch]]:
        """Yield this worker's share of the groups of batches."""
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            _end_by_parent_alone()
            # Processes that were not forked would take down threads of libraries at their end, and abort.
            atexit.register(os._exit, 0)
            torch.set_num_threads(1)
            keep_pages()
        for number in count(self.first // self.together + offset, step):
            yield self.group(number)

    @property
    def together(self) -> int:
        """Batches of one group; a group's patients are in no other."""
        patients = self.settings.batch * (_TURNS if self.settings.contrasts > 1 else 1)
        return self._block * -(-self.settings.at_once // patients)

    @property
    def _block(self) -> int:
        """Batches of the same few patients."""
        return self.settings.contrasts * _TURNS if self.settings.contrasts > 1 else 1

    def group(self, number: int) -> list[Batch]:
        """Make the batches of one group from `first` on, in their order, all scans of a patient in one go.

        Args:
            number: Of the group.
        """
        everything = range(number * self.together, (number + 1) * self.together)
        wanted = [batch for batch in everything if batch >= self.first]
        jobs: dict[tuple[int, int], list[int]] = {}
        for place in range(self.settings.batch):
            for batch in sorted(wanted, key=self._turn):
                jobs.setdefault((place, self._turn(batch)[0]), []).append(batch)
        works = [partial(self._scans_of_patient, place, batches) for (place, _), batches in jobs.items()]
        cases: dict[tuple[int, int], Case] = {}
        self._ready()
        for first in range(0, len(works), self.settings.at_once):
            for made in together(works[first : first + self.settings.at_once]):
                cases |= made
        places = range(self.settings.batch)
        return [self._batch([cases[batch, place] for place in places]) for batch in wanted]

    def _scans_of_patient(self, place: int, batches: Sequence[int]) -> dict[tuple[int, int], Case]:
        return {(batch, place): self._case(batch, place) for batch in batches}

    def _batch(self, cases: Sequence[Case]) -> Batch:
        images = torch.stack([self._standardised(case) for case in cases]).cpu()
        cases = [replace(case, target=case.target.cpu()) for case in cases]
        return Batch(images, stack_targets([case.target for case in cases]), self._cells(cases))

    def _standardised(self, case: Case) -> Tensor:
        """Return (V, X, Y, Z), each view by itself."""
        views = case.image if case.image.ndim == 4 else case.image[None]
        if case.standardised:
            return views
        return torch.stack([normalise_intensity(view, self.settings.normalisation) for view in views])

    def _turn(self, batch: int) -> tuple[int, int]:
        """Return the number of a batch's patients, as streams of one scan each count, and of the scan."""
        if self.settings.contrasts == 1:
            return batch, 0
        group, within = divmod(batch, self._block)
        scan, turn = divmod(within, _TURNS)
        return group * _TURNS + turn, scan

    def _cells(self, cases: Sequence[Case]) -> Tensor | None:
        how = self.settings.cells
        return None if how is None else torch.stack([lesion_cells(case.target, how) for case in cases])

    def cases(self, number: int) -> list[Case]:
        """Make the cases of one batch.

        Args:
            number: Of the batch.

        Raises:
            ValueError: A source's image is constant; the message names the case.
        """
        return [self._case(number, place) for place in range(self.settings.batch)]

    def records(self, number: int) -> list[dict[str, Any]]:
        """Return what the cases of one batch were made of."""
        return [case.record for case in self.cases(number)]

    def _ready(self) -> Sequence[CaseSource]:
        if self._sources is None:
            self._sources = self._open()
        return self._sources

    def _case(self, batch: int, place: int) -> Case:
        sources, settings = self._ready(), self.settings
        turn, scan = self._turn(batch)
        shape = settings.shapes[choice(stream(settings.seed, "shape", turn), list(settings.shape_weights))]
        number = (turn * self.ranks + self.rank) * settings.batch + place
        source = sources[self._order[number % len(self._order)]]
        rng = stream(settings.seed, "case", number, device=self.device)
        several = settings.contrasts > 1
        case = scan_of(source, shape, scan, rng=rng) if several else source.case(shape, rng=rng)
        if not float(case.image.max()) > float(case.image.min()):
            raise ValueError(f"case {number} is constant, expected an image; it was made of {case.record}")
        return case


def _end_by_parent_alone() -> None:
    """Let SIGTERM end this process only where its parent sends it.

    A queue sends it to all processes of a job. A worker that died of it would end training before its
    checkpoint is written.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, name="anystroke-sigterm", daemon=True).start()


class _Groups(IterableDataset[list[Batch]]):
    """The groups of a stream, each made by one worker."""

    def __init__(self, cases: CaseStream) -> None:
        self.cases = cases

    def __iter__(self) -> Iterator[list[Batch]]:
        return self.cases.groups()


@dataclass(frozen=True)
class StreamLoader:
    """Batches of a stream in the order of their numbers, without end.

    Attributes:
        groups: Loads the groups of batches.
    """

    groups: DataLoader[list[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        for group in self.groups:
            yield from group


def stack_targets(targets: Sequence[Tensor]) -> Tensor:
    """Make one tensor of the targets of a batch.

    Args:
        targets: All hard, (X, Y, Z), or all soft, (K, X, Y, Z).

    Raises:
        ValueError: Some are hard and some are soft.
    """
    kinds: set[Literal["hard", "soft"]] = {"soft" if t.is_floating_point() else "hard" for t in targets}
    if len(kinds) > 1:
        raise ValueError(
            "expected the cases of a batch to have targets of one kind, but some are hard and some soft; "
            "use batches of 1 (and optimiser.accumulate) or one kind of target"
        )
    return torch.stack(list(targets))


def stream_loader(
    cases: CaseStream, *, workers: int, pin_memory: bool = False, forked: bool = True
) -> StreamLoader:
    """Return an endless loader of batches in the order of their numbers.

    Args:
        cases: What to load.
        workers: Processes that make cases while the network learns; 0 makes them in this one.
        pin_memory: For a GPU.
        forked: Whether processes share what this one has read. Where cases are made on a GPU they cannot, and
            read the data themselves.
    """
    context = None if forked or not workers else "spawn"
    loader = DataLoader(
        _Groups(cases),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        prefetch_factor=max(4 // cases.together, 1) if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
    return StreamLoader(loader)
