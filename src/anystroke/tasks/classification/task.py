"""To tell patients apart by the pooled features of a scan: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anystroke.io.participants import Participant
from anystroke.learning.cases import CaseSource
from anystroke.learning.stream import Batch
from anystroke.learning.task import LossContext, Task, Verdict
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


class ClassificationTask(Task[ClassConfig, Participant]):
    """Tell patients apart by the pooled features of a scan."""

    settings: "ClassificationSettings"
    criterion = CRITERION
    config_kind = ClassConfig

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
    def judged_on_simulated(self) -> bool:
        """False: participants that training never sees are what it is judged on."""
        return False

    def network(self) -> DivisibleUNet:
        """Build the network."""
        return build_classifier(self.settings.architecture, self.outputs, seed=self.settings.seed)

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the source of the recipe, see `Task`."""
        return list(open_sources(self.settings, self.network().divisor))

    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch, see `Task`."""
        return class_loss(heads, target)

    def held_out(self, folder: Path, divisor: int) -> Sequence[Participant]:
        """Return participants that training never sees, see `Task`."""
        return self.split.test[: self.settings.validation.patients]

    def judge(self, network: nn.Module, config: ClassConfig, held_out: Sequence[Participant]) -> Verdict:
        """Return how many participants' class is found, see `Task`."""
        return judge_classes(ClassModel(network, config), held_out)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw scans with the classes that they are of, see `Task`."""
        image, target = batch.image[:, 0].cpu(), batch.target.argmax(1)
        named = ", ".join(self.split.classes[int(number)] for number in target)
        picture_sheet({"scan": image}, path, title=f"step {trainer.step}: {named}")

    def config(self, common: Mapping[str, Any]) -> ClassConfig:
        """Return the configuration of the model."""
        return ClassConfig(classes=self.split.classes, **common)
