"""To tell patients apart by the pooled features of a scan: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from anystroke.io.participants import Participant
from anystroke.learning.cases import CaseSource
from anystroke.learning.run_log import RunLog
from anystroke.learning.stream import Batch
from anystroke.learning.task import PlainTask, Reduce, Validate
from anystroke.learning.trainer import Trainer
from anystroke.models.architectures.catalogue import DivisibleUNet, build_classifier
from anystroke.reports.training import picture_sheet
from anystroke.tasks.classification.config import ClassConfig
from anystroke.tasks.classification.losses import class_loss
from anystroke.tasks.classification.predict import ClassModel
from anystroke.tasks.classification.sources import Split, open_sources, split_participants
from anystroke.tasks.classification.validate import CRITERION, judge_classes

if TYPE_CHECKING:
    from anystroke.tasks.classification.recipe import ClassificationSettings

_SHEET_CASES = 3


class ClassificationTask(PlainTask):
    """Tell patients apart by the pooled features of a scan.

    Args:
        settings: The recipe.
    """

    def __init__(self, settings: "ClassificationSettings") -> None:
        self.settings = settings

    @cached_property
    def split(self) -> Split:
        """Who is learnt from, and who is tested on.

        Raises:
            ConfigError: As `split_participants`.
        """
        return split_participants(self.settings)

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return len(self.split.classes)

    @property
    def criterion(self) -> str:
        """Column of validations that the best model has most of."""
        return CRITERION

    @property
    def freezes_encoder(self) -> bool:
        """Whether the encoder stays as `start_from` has it."""
        return self.settings.freeze_encoder

    def network(self) -> DivisibleUNet:
        """Build the network."""
        return build_classifier(self.settings.architecture, self.outputs, seed=self.settings.seed)

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the source of the recipe, see `Task`."""
        return list(open_sources(self.settings, self.network().divisor))

    def loss(
        self,
        heads: Sequence[Tensor],
        target: Tensor,
        *,
        cells: Tensor | None = None,
        step: int,
        reduce: Reduce,
    ) -> Tensor:
        """Return the loss of one batch, see `Task`."""
        return class_loss(heads, target)

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Return what judges a classifier on participants that it has not seen, see `Task`."""
        wanted = self.settings.validation.patients
        return partial(self._validate, self.split.test[:wanted]) if wanted else None

    def _validate(self, people: Sequence[Participant], trainer: Trainer, record: RunLog) -> None:
        config = trainer.model_config()
        assert isinstance(config, ClassConfig)
        trainer.judged(judge_classes(ClassModel(trainer.averaged(), config), people), record)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw scans with the classes that they are of, see `Task`."""
        image, target = batch.image[:_SHEET_CASES, 0].cpu(), batch.target[:_SHEET_CASES].argmax(1)
        named = ", ".join(self.split.classes[int(number)] for number in target)
        picture_sheet({"scan": image}, path, title=f"step {trainer.step}: {named}")

    @property
    def config_kind(self) -> type[ClassConfig]:
        """The class of what lies beside the weights."""
        return ClassConfig

    def config(self, common: Mapping[str, Any]) -> ClassConfig:
        """Return the configuration of the model."""
        return ClassConfig(classes=self.split.classes, **common)
