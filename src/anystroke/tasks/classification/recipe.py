"""Recipes of classifiers of patients: everything that decides such a training run, read from TOML."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from anystroke.core.config import StrictModel
from anystroke.learning.augmentation.apply import AugmentationSettings
from anystroke.learning.recipe import Augmentation, DownstreamSettings

if TYPE_CHECKING:
    from anystroke.tasks.classification.task import ClassificationTask


class ParticipantsPart(StrictModel):
    """Scans of the participants of a table.

    Attributes:
        share: Cases of this source in every round.
        scans: Files, or folders that are searched for them.
        table: TSV with ``participant_id``.
        column: What is to be told, such as ``"sex"``.
        test: Share of the participants, by a hash of the name, that training never sees.
        augmentation: Changes made to the cases; by default deformation, flips and a smooth field.
    """

    kind: Literal["participants"]
    share: int = Field(default=1, gt=0)
    scans: tuple[Path, ...] = Field(min_length=1)
    table: Path
    column: str
    test: float = Field(default=0.2, gt=0, lt=1)
    augmentation: Augmentation = AugmentationSettings(deformation=0.8, bias=0.8, flip=0.8)


class ClassificationSettings(DownstreamSettings):
    """A whole recipe of a classifier of patients.

    Attributes:
        task: ``"classification"``; tells it from a recipe that segments.
        sources: One source of scans and labels.
    """

    task: Literal["classification"]
    sources: tuple[ParticipantsPart, ...]

    def open_task(self) -> "ClassificationTask":
        """Return what the recipe trains a network to do."""
        from anystroke.tasks.classification.task import ClassificationTask

        return ClassificationTask(self)

    @field_validator("sources")
    @classmethod
    def _one(cls, sources: tuple[ParticipantsPart, ...]) -> tuple[ParticipantsPart, ...]:
        if len(sources) != 1:
            raise ValueError(f"expected one source of scans and labels, got {len(sources)}")
        return sources

    @model_validator(mode="after")
    def _plain(self) -> "ClassificationSettings":
        if self.buffer is not None:
            raise ValueError("classification takes no [buffer]; its scans are in memory already")
        return self
