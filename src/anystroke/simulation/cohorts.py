"""Numbered simulated patients, each of which can be made again without those before it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings, draw_masks, load_bank
from anystroke.anatomy.tissues.anatomies import Anatomy, load_anatomies
from anystroke.anatomy.tissues.classes import LESION
from anystroke.core.errors import AnystrokeError
from anystroke.core.rng import integer, stream
from anystroke.simulation.generator import Sample
from anystroke.simulation.patient_files import lesion_volume

_MOST_TRIES = 100

DrawLesions = Callable[[torch.Generator], Sequence[LesionMask]]
"""Draws the masks of one patient."""


class CohortError(AnystrokeError):
    """A patient that cannot be made; the message says why and what to do."""


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

    Raises:
        OSError: If a file is missing.
        ValueError: If the anatomies were packed for other tissues.
    """
    return Pack(
        load_anatomies(folder / "held_out_anatomies.safetensors"),
        load_bank(folder / "held_out_lesions.safetensors"),
    )


def visible_lesion(sample: Sample) -> Tensor:
    """Return (X, Y, Z) bool, the lesions of a sample that anybody could see."""
    lesion = sample.target == LESION
    return lesion if sample.unseen is None else lesion & ~sample.unseen


def lesion_ml(sample: Sample, *, visible: bool = False) -> float:
    """Return the volume of the lesions of a sample [ml].

    Args:
        sample: With or without lesion.
        visible: Count those alone that anybody could see.
    """
    target = sample.target
    if visible and sample.unseen is not None:
        target = target.masked_fill(sample.unseen, 0)
    return lesion_volume(target, sample.affine)


def contrast_to_noise(sample: Sample) -> float | None:
    """Return the contrast to noise of a sample's largest connected lesion; None without one."""
    found = sample.record["visibility"]
    return float(found[0]["contrast_to_noise"]) if found else None


class Simulates(Protocol):
    """Makes the scan of a key, as `Generator.generate` does."""

    def __call__(
        self, anatomy: Anatomy, lesions: Sequence[LesionMask] | None = None, /, *, key: int
    ) -> Sample:
        """Simulate one scan.

        Args:
            anatomy: The patient.
            lesions: Masks to put in; None draws them from the generator's own.
            key: Decides all that is random.
        """


@dataclass(frozen=True)
class Member:
    """How one patient of a cohort is made.

    Attributes:
        simulate: Makes the scan.
        names: Of the patient's random stream.
        lesions: Draws the masks; None leaves that to ``simulate``.
        anatomy: Which of the cohort's; None draws one.
        key: Decides all that ``simulate`` draws; None draws it.
        smallest_ml: A patient with less lesion is drawn again.
        visible: Whether only lesions count that anybody could see.
        continued: Another draw goes on in the stream of the one before; otherwise each has a stream of its
            own, whose last name is its number.
    """

    simulate: Simulates
    names: tuple[str | int, ...]
    lesions: DrawLesions | None = None
    anatomy: int | None = None
    key: int | None = None
    smallest_ml: float = 0.0
    visible: bool = False
    continued: bool = False

    @property
    def tries(self) -> int:
        """How often the patient may be drawn; one of a given key is what it is."""
        return _MOST_TRIES if self.key is None else 1

    def streams(self, seed: int) -> Iterator[torch.Generator]:
        """Yield the random streams of one draw after the other."""
        one = stream(seed, *self.names)
        for attempt in range(self.tries):
            yield one if self.continued else stream(seed, *self.names, attempt)

    def accepts(self, sample: Sample) -> bool:
        """Tell whether a sample shows something, and lesions enough."""
        if not float(sample.image.max()) > float(sample.image.min()):
            return False
        return not self.smallest_ml or lesion_ml(sample, visible=self.visible) >= self.smallest_ml


@dataclass(frozen=True)
class Cohort:
    """Numbered simulated patients; each depends on the seed and its own member alone.

    Attributes:
        anatomies: Each patient is one of them.
        members: How each patient is made.
        seed: Decides all that is random.

    Raises:
        CohortError: There is no anatomy.

    Example:
        >>> from anystroke.anatomy.tissues.mni import mni_anatomy
        >>> from anystroke.simulation.generator import Generator
        >>> from anystroke.simulation.settings import SynthesisSettings
        >>> generator = Generator(SynthesisSettings(shapes=((32, 32, 32),)))
        >>> members = [Member(generator.generate, ("example", number)) for number in range(2)]
        >>> cohort = Cohort([mni_anatomy()], members, seed=1)
        >>> len(cohort), bool((cohort.patient(1).image == list(cohort)[1].image).all())
        (2, True)
    """

    anatomies: Sequence[Anatomy]
    members: Sequence[Member]
    seed: int

    def __post_init__(self) -> None:
        if not self.anatomies:
            raise CohortError("expected at least one anatomy to simulate patients of, got none")

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Sample]:
        """Simulate one patient after the other."""
        return (self.patient(number) for number in range(len(self)))

    def patient(self, number: int) -> Sample:
        """Simulate one patient.

        Args:
            number: From 0.

        Raises:
            CohortError: 100 draws showed nothing, or too little lesion.
        """
        how = self.members[number]
        for rng in how.streams(self.seed):
            place = integer(rng, 0, len(self.anatomies) - 1) if how.anatomy is None else how.anatomy
            lesions = None if how.lesions is None else how.lesions(rng)
            key = integer(rng, 0, 2**62) if how.key is None else how.key
            sample = how.simulate(self.anatomies[place], lesions, key=key)
            if how.accepts(sample):
                return sample
        who = " ".join(map(str, how.names))
        if how.smallest_ml:
            seen = " that can be seen" if how.visible else ""
            raise CohortError(
                f"expected masks that give {how.smallest_ml:g} ml or more{seen}, but {how.tries} draws of "
                f"patient {who} gave none; give larger masks"
            )
        raise CohortError(
            f"expected a scan that shows something, got {how.tries} constant images of patient {who}; make "
            "the grid larger, or move it less"
        )


def no_masks(rng: torch.Generator) -> list[LesionMask]:
    """Draw no lesion, of the stream nothing."""
    return []


def drawn_masks(
    masks: Sequence[LesionMask], settings: LesionSettings, *, weighting: str | None = None
) -> DrawLesions:
    """Return what draws the masks of a patient, as `draw_masks`.

    Args:
        masks: To draw from.
        settings: Preferences.
        weighting: Of the scan, for what the settings leave open.
    """
    return lambda rng: draw_masks(masks, settings, rng, weighting=weighting)
