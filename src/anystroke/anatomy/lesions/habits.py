"""What lesions a scan of a weighting shows: how old, how large, how many."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

ANY = "any"
"""The row of weightings that have none of their own."""


@dataclass(frozen=True)
class LesionHabit:
    """Lesions as scans of one weighting show them.

    Attributes:
        stages: Probability of each of ``STAGES``.
        size_power: A mask is chosen with probability proportional to its volume to this power.
        several: Probability of a second lesion mask on top of the first.
        emboli: Probability of a shower of small emboli instead of the masks.
        reason: Why.
    """

    stages: tuple[float, float, float]
    size_power: float
    several: float
    emboli: float
    reason: str


@cache
def lesion_habits() -> Mapping[str, LesionHabit]:
    """Return the habit of each weighting that has one, and of ``ANY``.

    Example:
        >>> lesion_habits()["DWI"].stages
        (0.1, 0.65, 0.25)
    """
    text = files("anystroke.anatomy.lesions").joinpath("habits.toml").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            name: LesionHabit(**{**row, "stages": tuple(row["stages"])})
            for name, row in tomllib.loads(text).items()
        }
    )


def habit_of(weighting: str | None) -> LesionHabit:
    """Return the habit of a weighting.

    Args:
        weighting: Such as ``"FLAIR"``; None for a patient with scans of several.

    Example:
        >>> habit_of("bSSFP") is habit_of(None)
        True
    """
    habits = lesion_habits()
    return habits.get(weighting or ANY, habits[ANY])
