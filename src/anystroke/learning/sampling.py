"""Endless, reproducible streams of training cases."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from anystroke.anatomy.anatomies import Anatomy, load_anatomies
from anystroke.anatomy.lesions import LesionMask, load_bank
from anystroke.inference.preprocessing import normalise_intensity
from anystroke.memory import keep_pages
from anystroke.rng import integer, stream
from anystroke.synthesis import Generator, Sample, SynthesisSettings


class SimulatedCases(IterableDataset[tuple[Tensor, Tensor]]):
    """Simulated cases number ``first``, ``first + 1``, ...

    Case n depends on the seed and n alone, not on the number of workers.

    Args:
        pack: Folder with ``anatomies.safetensors`` and ``lesions.safetensors``.
        settings: What scans look like.
        seed: Seed of the run.
        first: Number of the first case.

    Yields:
        ``(image, target)``: (1, X, Y, Z) float32, normalised, and (X, Y, Z) int64.
    """

    def __init__(self, pack: Path, settings: SynthesisSettings, *, seed: int, first: int = 0) -> None:
        self.pack, self.settings, self.seed, self.first = pack, settings, seed, first

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this worker's share of the cases."""
        worker = get_worker_info()
        offset, step = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
            keep_pages()
        anatomies = load_anatomies(self.pack / "anatomies.safetensors")
        generator = Generator(self.settings, load_bank(self.pack / "lesions.safetensors"))
        number = self.first + offset
        while True:
            sample = simulate_case(generator, anatomies, seed=self.seed, number=number)
            yield normalise_intensity(sample.image)[None], sample.target.long()
            number += step


def simulate_case(
    generator: Generator,
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
    """Return an endless loader of batches in the order of the case numbers."""
    return DataLoader(
        cases,
        batch_size=batch,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
    )
