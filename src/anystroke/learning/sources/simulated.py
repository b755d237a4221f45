"""Training cases of simulated patients, with physics or with random contrasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import local
from typing import Any, Literal

import torch

from anystroke.anatomy.lesions.bank import LesionMask, load_bank
from anystroke.anatomy.tissues.anatomies import Anatomy, load_anatomies
from anystroke.anatomy.tissues.mixing import LabelField
from anystroke.core.fields import GridShape
from anystroke.core.rng import integer, on_cpu, stream
from anystroke.learning.cases import Case, first_that_shows_something
from anystroke.learning.targets import TARGET_SCHEMES, Scheme, make_target, needs_shares
from anystroke.simulation import generator as synthesis
from anystroke.simulation import random_contrasts
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.patient import Patient
from anystroke.simulation.random_contrasts import RandomContrastGenerator, RandomContrastSettings
from anystroke.simulation.settings import SynthesisSettings

TargetKind = Literal["hard", "soft"]


@dataclass(frozen=True)
class Pack:
    """What patients are made of.

    Attributes:
        anatomies: One of them for each case.
        masks: Lesion masks in MNI space.
    """

    anatomies: Sequence[Anatomy]
    masks: Sequence[LesionMask]


def load_pack(folder: Path) -> Pack:
    """Read a folder with ``anatomies.safetensors`` and ``lesions.safetensors``, once per process.

    Raises:
        OSError: If a file is missing.
        ValueError: If the anatomies were packed for other tissues.
    """
    return _load_pack(folder.resolve())


@lru_cache(maxsize=4)
def _load_pack(folder: Path) -> Pack:
    return Pack(load_anatomies(folder / "anatomies.safetensors"), load_bank(folder / "lesions.safetensors"))


def held_out_pack(folder: Path) -> Pack:
    """Read the anatomies and masks that training never sees.

    Args:
        folder: Of packed data.
    """
    return Pack(
        load_anatomies(folder / "held_out_anatomies.safetensors"),
        load_bank(folder / "held_out_lesions.safetensors"),
    )


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
        target: TargetKind = "hard",
        weightings_follow_age: bool = True,
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
        self._pack = pack
        self._last = _Last()
        self._generators: dict[GridShape, Generator | RandomContrastGenerator] = {}

    @property
    def pack(self) -> Pack:
        """The anatomies and masks, read when they are first needed."""
        return self._pack if isinstance(self._pack, Pack) else load_pack(self._pack)

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Simulate one case; a draw in which the field of view misses the head is drawn anew.

        Args:
            shape: Voxels of the case.
            rng: Random stream.

        Raises:
            RuntimeError: If 100 draws in a row gave constant images.
        """
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
        again = synthesis.regenerate if physics else random_contrasts.regenerate_random
        return again(record, self.pack.anatomies, self.pack.masks)

    def _generator(self, shape: GridShape) -> Generator | RandomContrastGenerator:
        shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        if shape not in self._generators:
            settings, masks = self.settings, self.pack.masks
            if isinstance(settings, SynthesisSettings):
                settings = settings.model_copy(update={"shapes": (shape,), "shape_weights": (1.0,)})
                self._generators[shape] = Generator(settings, masks)
            else:
                settings = settings.model_copy(update={"shape": shape})
                self._generators[shape] = RandomContrastGenerator(settings, masks)
        return self._generators[shape]
