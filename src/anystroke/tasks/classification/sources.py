"""Scans of participants as training cases, split by participant and never by scan."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anystroke.core.config import ConfigError
from anystroke.core.fields import GridShape
from anystroke.core.rng import integer
from anystroke.evaluation.representations import check_disjoint
from anystroke.io.formats import read_scan
from anystroke.io.participants import Participant, labelled_participants
from anystroke.learning.augmentation.apply import apply_augmentation, draw_augmentation
from anystroke.learning.cases import Case
from anystroke.learning.sources.patient_packs import first_of
from anystroke.models.model_space import check_scan, to_model_space

if TYPE_CHECKING:
    from anystroke.tasks.classification.recipe import ClassificationSettings, ParticipantsPart


@dataclass(frozen=True)
class Split:
    """Participants of both sides.

    Attributes:
        classes: Labels, sorted.
        training: Those that are learnt from.
        test: Those that training never sees.
    """

    classes: tuple[str, ...]
    training: tuple[Participant, ...]
    test: tuple[Participant, ...]


def split_participants(settings: "ClassificationSettings") -> Split:
    """Say who is learnt from, and who is tested on.

    Args:
        settings: The recipe; its ``data.share`` is that of the participants that are learnt from.

    Raises:
        ConfigError: As `labelled_participants`, or there are too few participants to have every class on both
            sides.
    """
    part = settings.sources[0]
    people = labelled_participants(part.table, part.column, part.scans)

    def place(person: Participant) -> bytes:
        return hashlib.sha256(f"{settings.data.split}\ntest\n{person.name}".encode()).digest()

    count = max(round(part.test * len(people)), 1)
    test = sorted(people, key=place)[:count]
    names = {person.name for person in test}
    training = first_of([person for person in people if person.name not in names], settings.data)
    check_disjoint([p.name for p in training], [p.name for p in test])
    classes = tuple(sorted({person.label for person in people}))
    for side, chosen in (("learn from", training), ("test on", test)):
        if missing := [name for name in classes if name not in {person.label for person in chosen}]:
            raise ConfigError(
                f"expected participants of every class to {side}, but of {len(people)} with scans "
                f"{len(chosen)} are, none of them {part.column} {missing[0]!r}; give more participants, or "
                "change test, data.share or data.split"
            )
    return Split(classes, tuple(training), tuple(test))


@lru_cache(maxsize=512)
def read_head(path: Path, spacing: float, divisor: int) -> Tensor:
    """Return the head (X, Y, Z) of a scan on the network's grid, not normalised; kept once it was read.

    Raises:
        VolumeError: The file is no scan of a head.
    """
    scan = read_scan(path)
    check_scan(scan, str(path))
    return to_model_space(scan, spacing=spacing, divisor=divisor, normalise=None).image[0]


class ParticipantCases:
    """Scans of participants with the number of their class; a `CaseSource`.

    Each participant is drawn as often as the others, then one of the scans.

    Args:
        people: To draw from.
        classes: Labels in the order of their numbers.
        part: Says what changes.
        spacing: Voxel size in mm.
        divisor: Sides of heads are multiples of it.
    """

    def __init__(
        self,
        people: Sequence[Participant],
        classes: Sequence[str],
        part: "ParticipantsPart",
        *,
        spacing: float,
        divisor: int,
    ) -> None:
        self.people, self.classes, self.part = list(people), list(classes), part
        self.spacing, self.divisor = spacing, divisor

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case, whose target is 1 for its class and 0 for others, see `CaseSource`."""
        person = self.people[integer(rng, 0, len(self.people) - 1)]
        path = person.scans[integer(rng, 0, len(person.scans) - 1)]
        head = read_head(path, self.spacing, self.divisor)
        drawn = draw_augmentation(self.part.augmentation, rng=rng)
        nothing = torch.zeros(head.shape, dtype=torch.uint8)
        image, _ = apply_augmentation(head, nothing, drawn, spacing=self.spacing, shape=shape)
        target = torch.zeros(len(self.classes))
        target[self.classes.index(person.label)] = 1
        return Case(image, target, {"participant": person.name, "scan": path.name, "label": person.label})


def open_sources(settings: "ClassificationSettings", divisor: int) -> list[ParticipantCases]:
    """Open the source of a recipe.

    Args:
        settings: The recipe.
        divisor: Sides of heads are multiples of it.

    Raises:
        ConfigError: As `split_participants`.
    """
    split = split_participants(settings)
    spacing = settings.grid.spacing
    part = settings.sources[0]
    return [ParticipantCases(split.training, split.classes, part, spacing=spacing, divisor=divisor)]
