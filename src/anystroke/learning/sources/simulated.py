"""Cases of simulated patients, with physics or with random contrasts: a source, and a data set of PyTorch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import local
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.mixing import LabelField
from anystroke.core.fields import GridShape
from anystroke.core.rng import integer, on_cpu, stream
from anystroke.learning.cases import Case, first_that_shows_something
from anystroke.learning.stream import CaseStream, StreamSettings
from anystroke.learning.targets import TARGET_SCHEMES, Scheme, make_target, needs_shares
from anystroke.qmri.tissue_priors import TissuePriors
from anystroke.simulation import random_contrasts
from anystroke.simulation.cohorts import Pack, load_pack
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.patient import Patient
from anystroke.simulation.random_contrasts import RandomContrastGenerator, RandomContrastSettings
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings

TargetForm = Literal["hard", "soft"]


def read_ahead(folder: Path) -> None:
    """Read the packed anatomies of a folder, if it has them, before other processes are forked from this one.

    Args:
        folder: As for `load_pack`.
    """
    if (folder / "anatomies.safetensors").exists() and (folder / "lesions.safetensors").exists():
        for anatomy in load_pack(folder).anatomies:
            if isinstance(anatomy.tissues, LabelField):
                _ = anatomy.tissues.marked


class _Last(local):
    """The patient that was made last, of each of the jobs that run at once."""

    generator: Generator | None = None
    patient: Patient | None = None


class SimulatedSource:
    """Cases of simulated patients; a `CaseSource`.

    Nothing is read before the first case. Sources of the same folder, such as one with physics and one with
    random contrasts, share what they read.

    Args:
        pack: Folder with ``anatomies.safetensors`` and ``lesions.safetensors``, or what they hold.
        settings: What scans look like; their type says with or without physics. The grid is that of the case.
        scheme: Classes of the target.
        target: ``"hard"``, the number of a class; or ``"soft"``, the share of each.
        weightings_follow_age: Whether further scans of a patient are of weightings that show lesions as old
            as the patient's; otherwise each scan is drawn as if it were the only one.
        priors: Tissue properties; the table of the settings if None.

    Raises:
        ValueError: If there is no anatomy, or no such scheme or kind of target.

    Example:
        >>> from anystroke.anatomy.tissues.mni import mni_anatomy
        >>> from anystroke.core.rng import stream
        >>> source = SimulatedSource(Pack([mni_anatomy()], []), SynthesisSettings(), target="soft")
        >>> case = source.case((32, 32, 32), rng=stream(1, "case"))
        >>> case.image.shape, case.target.shape
        (torch.Size([32, 32, 32]), torch.Size([5, 32, 32, 32]))
    """

    def __init__(
        self,
        pack: Path | Pack,
        settings: SynthesisSettings | RandomContrastSettings,
        *,
        scheme: Scheme = "tissues",
        target: TargetForm = "hard",
        weightings_follow_age: bool = True,
        priors: TissuePriors | None = None,
    ) -> None:
        if scheme not in TARGET_SCHEMES:
            raise ValueError(f"expected a scheme among {', '.join(TARGET_SCHEMES)}, got {scheme!r}")
        if target not in ("hard", "soft"):
            raise ValueError(f"expected the target hard or soft, got {target!r}")
        if isinstance(pack, Pack) and not pack.anatomies:
            raise ValueError("expected at least one anatomy to simulate cases of, got none")
        self.scheme: Scheme = scheme
        self.soft = target == "soft"
        self._follow_age = weightings_follow_age
        shares = settings.soft_target or needs_shares(scheme, soft=self.soft)
        self.settings = settings.model_copy(update={"soft_target": shares})
        self._pack, self._priors = pack, priors
        self._last = _Last()
        self._generators: dict[GridShape, Generator | RandomContrastGenerator] = {}

    @property
    def pack(self) -> Pack:
        """The anatomies and masks, read when they are first needed."""
        return self._pack if isinstance(self._pack, Pack) else load_pack(self._pack)

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Simulate one case that shows something, see `CaseSource`."""
        generator, draws = self._generator(shape), on_cpu(rng)
        sample = first_that_shows_something(
            lambda: self._sample(generator, draws, rng.device),
            shape,
            f"make the grid larger than that of {self.settings.spacing:g} mm, or move it less",
        )
        return self._case(sample)

    def scan(self, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
        """Simulate one of several scans of a patient; the patient is kept until another one's turn.

        Scan 0 is what `case` gives. Without physics there are no patients with several scans, so each scan is
        a case of its own.

        Args:
            shape: Voxels of the case.
            number: Of the scan.
            rng: Random stream of the patient, the same for all of the scans.

        Raises:
            RuntimeError: If 100 draws in a row gave constant images.
        """
        generator = self._generator(shape)
        if not isinstance(generator, Generator):
            of_scan = stream(rng.initial_seed(), "scan", number, device=rng.device)
            return self.case(shape, rng=of_scan if number else rng)
        draws = on_cpu(rng)
        sample = first_that_shows_something(
            lambda: self._scan(generator, number, draws, rng.device),
            shape,
            f"make the grid larger than that of {self.settings.spacing:g} mm, or move it less",
        )
        return self._case(sample)

    def _drawn(self, draws: torch.Generator) -> tuple[Anatomy, int]:
        """Draw a patient and the key of all that is random about it."""
        anatomies = self.pack.anatomies
        return anatomies[integer(draws, 0, len(anatomies) - 1)], integer(draws, 0, 2**62)

    def _sample(
        self, generator: Generator | RandomContrastGenerator, draws: torch.Generator, device: torch.device
    ) -> Sample:
        anatomy, key = self._drawn(draws)
        return generator.generate(anatomy, key=key, device=device)

    def _scan(
        self, generator: Generator, number: int, draws: torch.Generator, device: torch.device
    ) -> Sample:
        anatomy, key = self._drawn(draws)
        patient = self._last.patient
        if patient is None or self._last.generator is not generator or patient.key != key:
            shown_on = generator.weighting_of(key)
            patient = generator.patient(anatomy, key=key, shown_on=shown_on, device=device)
            self._last.generator, self._last.patient = generator, patient
        drawn = number > 0 and self._follow_age
        weighting = generator.further_weighting(patient, number) if drawn else None
        return generator.scan(patient, scan=number, weighting=weighting)

    def _case(self, sample: Sample) -> Case:
        target = make_target(sample.target, sample.shares, self.scheme, soft=self.soft, unseen=sample.unseen)
        return Case(sample.image, target, sample.record)

    def regenerate(self, record: Mapping[str, Any]) -> Sample:
        """Simulate again what a case was made of, to the bit on the same kind of device.

        Args:
            record: Of a case of this source, or of one with the same pack.

        Raises:
            ValueError: If the anatomy is not there, or the masks are others.
        """
        physics = isinstance(self.settings, SynthesisSettings)
        again = regenerate if physics else random_contrasts.regenerate_random
        return again(record, self.pack.anatomies, self.pack.masks)

    def _generator(self, shape: GridShape) -> Generator | RandomContrastGenerator:
        shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        if shape not in self._generators:
            settings, masks = self.settings, self.pack.masks
            if isinstance(settings, SynthesisSettings):
                settings = settings.model_copy(update={"shapes": (shape,), "shape_weights": (1.0,)})
                self._generators[shape] = Generator(settings, masks, priors=self._priors)
            else:
                settings = settings.model_copy(update={"shape": shape})
                self._generators[shape] = RandomContrastGenerator(settings, masks)
        return self._generators[shape]


def _opened(
    pack: Path | Pack,
    settings: SynthesisSettings | RandomContrastSettings,
    priors: TissuePriors | None = None,
) -> list[SimulatedSource]:
    return [SimulatedSource(pack, settings, priors=priors)]


class SimulatedCases(IterableDataset[tuple[Tensor, Tensor]]):
    """Simulated cases number ``first``, ``first + 1``, ... as a data set of PyTorch, without end.

    Case n depends on the seed and n alone, so that the cases of `loader` (or of a loader whose batches have
    the size that `in_batches` was told) come in the same order whatever the number of workers. The cases of a
    batch are of one size. They are those that a training on this source alone sees.

    Args:
        pack: Folder with ``anatomies.safetensors`` and ``lesions.safetensors``; `of` takes objects instead.
        settings: What scans look like, with or without physics.
        seed: Seed of the run.
        first: Number of the first case.

    Yields:
        ``(image, target)``: (1, X, Y, Z) float32, normalised, and (X, Y, Z) int64, ``IGNORED`` where a
        lesion cannot be seen.

    Raises:
        RuntimeError: While iterating, if 100 draws in a row gave constant images.
    """

    def __init__(
        self,
        pack: Path | Pack,
        settings: SynthesisSettings | RandomContrastSettings,
        *,
        seed: int,
        first: int = 0,
    ) -> None:
        self._show(partial(_opened, pack, settings), settings, seed, first)

    @classmethod
    def of(
        cls,
        anatomies: Sequence[Anatomy],
        generator: Generator | RandomContrastGenerator,
        *,
        seed: int,
        first: int = 0,
    ) -> Self:
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
        priors = generator.priors if isinstance(generator, Generator) else None
        opened = partial(_opened, Pack(list(anatomies), generator.masks), generator.settings, priors)
        cases = cls.__new__(cls)
        cases._show(opened, generator.settings, seed, first)
        return cases

    def _show(
        self,
        open_sources: Callable[[], list[SimulatedSource]],
        settings: SynthesisSettings | RandomContrastSettings,
        seed: int,
        first: int,
    ) -> None:
        open_sources()  # so that what is wrong is told here and not in a worker
        self._open, self.first = open_sources, first
        shapes: tuple[GridShape, ...]
        weights: tuple[float, ...] = (1.0,)
        if isinstance(settings, SynthesisSettings):
            shapes, weights = settings.shapes, settings.shape_weights
        else:
            shapes = (settings.shape,)
        self._settings = StreamSettings(shares=(1,), shapes=shapes, shape_weights=weights, seed=seed)

    @property
    def batch(self) -> int:
        """Cases of a batch."""
        return self._settings.batch

    def in_batches(self, size: int) -> Self:
        """Return the same cases for a loader with batches of this size: a worker makes whole batches.

        Args:
            size: Cases of a batch.

        Raises:
            ValueError: The size is below 1, or the first case is not the first of a batch.
        """
        if size < 1:
            raise ValueError(f"expected batches of at least 1 case, got {size}")
        if self.first % size:
            raise ValueError(
                f"expected a first case that begins a batch of {size}, got {self.first}; give a multiple"
            )
        cases = copy(self)
        cases._settings = replace(self._settings, batch=size)
        return cases

    def loader(self, *, batch: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return an endless loader of batches in the order of the cases, whatever the number of workers.

        Args:
            batch: Cases of a batch.
            workers: Processes that simulate; 0 simulates in this one.

        Raises:
            ValueError: As `in_batches`.
        """
        return DataLoader(
            self.in_batches(batch),
            batch_size=batch,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,
        )

    def record(self, number: int) -> dict[str, Any]:
        """Return what case ``number`` was made of, see ``Sample.record``."""
        batch, place = divmod(number, self.batch)
        return self._stream().records(batch)[place]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this worker's share of the cases."""
        for batch in self._stream():
            yield from zip(batch.image, batch.target.long(), strict=True)

    def _stream(self) -> CaseStream:
        return CaseStream(self._open, self._settings, first=self.first // self.batch)
