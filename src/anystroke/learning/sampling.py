"""Endless, reproducible streams of training cases."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from anystroke.anatomy.lesions.bank import LesionMask, load_bank
from anystroke.anatomy.tissues.anatomies import Anatomy, load_anatomies
from anystroke.core.memory import keep_pages
from anystroke.core.rng import integer, stream
from anystroke.learning.targets import make_target
from anystroke.models.model_space import normalise_intensity
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings


class MakesSamples(Protocol):
    """Whatever makes scans of patients, such as `Generator`."""

    def __call__(
        self, anatomy: Anatomy, lesions: Sequence[LesionMask] | None = None, *, rng: torch.Generator
    ) -> Sample:
        """Simulate one scan."""


@dataclass(frozen=True)
class _Packed:
    """A folder, read by each worker for itself."""

    folder: Path
    settings: SynthesisSettings

    def open(self) -> tuple[list[Anatomy], MakesSamples]:
        generator = Generator(self.settings, load_bank(self.folder / "lesions.safetensors"))
        return load_anatomies(self.folder / "anatomies.safetensors"), generator


@dataclass(frozen=True)
class _Given:
    """Objects, handed to each worker."""

    anatomies: list[Anatomy]
    generator: MakesSamples

    def open(self) -> tuple[list[Anatomy], MakesSamples]:
        return self.anatomies, self.generator


class SimulatedCases(IterableDataset[tuple[Tensor, Tensor]]):
    """Simulated cases number ``first``, ``first + 1``, ...

    Case n depends on the seed and n alone. With `case_loader` (or a loader whose batches have the size that
    `in_batches` was told) the cases come in the same order whatever the number of workers.

    Args:
        pack: Folder with ``anatomies.safetensors`` and ``lesions.safetensors``; `of` takes objects instead.
        settings: What scans look like.
        seed: Seed of the run.
        first: Number of the first case.

    Yields:
        ``(image, target)``: (1, X, Y, Z) float32, normalised, and (X, Y, Z) int64, ``IGNORED`` where a
        lesion cannot be seen.
    """

    def __init__(self, pack: Path, settings: SynthesisSettings, *, seed: int, first: int = 0) -> None:
        self.seed, self.first, self.batch = seed, first, 1
        self._source: _Packed | _Given = _Packed(pack, settings)

    @classmethod
    def of(cls, anatomies: Sequence[Anatomy], generator: MakesSamples, *, seed: int, first: int = 0) -> Self:
        """Make cases of anatomies and a generator.

        Args:
            anatomies: Each case is of one of them.
            generator: Makes the scans, of its own lesion masks.
            seed: Seed of the run.
            first: Number of the first case.

        Raises:
            ValueError: There is no anatomy.

        Example:
            >>> from anystroke.anatomy.tissues.mni import mni_anatomy
            >>> generator = Generator(SynthesisSettings(shapes=((32, 32, 32),)))
            >>> cases = SimulatedCases.of([mni_anatomy()], generator, seed=1)
            >>> image, target = next(iter(cases))
            >>> image.shape, target.shape
            (torch.Size([1, 32, 32, 32]), torch.Size([32, 32, 32]))
        """
        if not anatomies:
            raise ValueError("expected at least one anatomy to simulate cases of, got none")
        cases = cls.__new__(cls)
        cases.seed, cases.first, cases.batch = seed, first, 1
        cases._source = _Given(list(anatomies), generator)
        return cases

    def in_batches(self, size: int) -> Self:
        """Return the same cases for a loader with batches of this size: a worker makes whole batches.

        Args:
            size: Cases of a batch.

        Raises:
            ValueError: The size is below 1.
        """
        if size < 1:
            raise ValueError(f"expected batches of at least 1 case, got {size}")
        cases = copy.copy(self)
        cases.batch = size
        return cases

    def record(self, number: int) -> dict[str, Any]:
        """Return what case ``number`` was made of, see ``Sample.record``."""
        anatomies, generator = self._source.open()
        return simulate_case(generator, anatomies, seed=self.seed, number=number).record

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this worker's share of the cases."""
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
            keep_pages()
        anatomies, generator = self._source.open()
        for batch in count(offset, step):
            start = self.first + batch * self.batch
            for number in range(start, start + self.batch):
                sample = simulate_case(generator, anatomies, seed=self.seed, number=number)
                target = make_target(sample.target, None, "tissues", unseen=getattr(sample, "unseen", None))
                yield normalise_intensity(sample.image)[None], target.long()


def simulate_case(
    generator: MakesSamples,
    anatomies: list[Anatomy],
    *,
    seed: int,
    number: int,
    lesions: list[LesionMask] | None = None,
) -> Sample:
    """Simulate one numbered case of a run.

    Args:
        generator: Makes the scan.
        anatomies: One is drawn.
        seed: Seed of the run.
        number: Number of the case.
        lesions: Masks to use instead of drawn ones.
    """
    rng = stream(seed, "case", number)
    while True:
        anatomy = anatomies[integer(rng, 0, len(anatomies) - 1)]
        sample = generator(anatomy, lesions, rng=rng)
        if float(sample.image.max()) > float(sample.image.min()):
            return sample


def case_loader(cases: SimulatedCases, *, batch: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return an endless loader of batches in the order of the case numbers, whatever the number of workers.

    Args:
        cases: What to load.
        batch: Cases of a batch.
        workers: Processes that simulate; 0 simulates in this one.
    """
    return DataLoader(
        cases.in_batches(batch),
        batch_size=batch,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
    )
