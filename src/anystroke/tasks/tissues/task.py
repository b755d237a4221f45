"""To tell the healthy tissues of a brain apart: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anystroke.learning.cases import CaseSource
from anystroke.learning.stream import Batch
from anystroke.learning.task import VALIDATION_SEED, LossContext, Task, Verdict
from anystroke.learning.trainer import Trainer
from anystroke.reports.training import picture_sheet
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.tissues.config import TissueConfig
from anystroke.tasks.tissues.losses import tissue_loss
from anystroke.tasks.tissues.predict import TissueModel
from anystroke.tasks.tissues.sources import LEARNT_TISSUES, open_sources
from anystroke.tasks.tissues.validate import CRITERION, Head, judge_tissues, simulated_heads

if TYPE_CHECKING:
    from anystroke.tasks.tissues.recipe import TissueSettings


class TissueTask(Task[TissueConfig, Head]):
    """Tell the healthy tissues of a brain apart."""

    settings: "TissueSettings"
    criterion = CRITERION
    config_kind = TissueConfig

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(LEARNT_TISSUES)

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch, see `Task`."""
        return tissue_loss(heads, target, settings=self.settings.loss, reduce=context.reduce)

    def held_out(self, folder: Path, divisor: int) -> Sequence[Head]:
        """Simulate heads without a lesion, see `Task`."""
        settings = self.settings
        if not self.judged_on_simulated:
            return []
        heads = simulated_heads(
            held_out_pack(folder),
            settings.sources[0].synthesis,
            count=settings.validation.patients,
            spacing=settings.grid.spacing,
            seed=VALIDATION_SEED,
            divisor=divisor,
        )
        return list(heads)

    def judge(self, network: nn.Module, config: TissueConfig, held_out: Sequence[Head]) -> Verdict:
        """Return how well tissues are found, see `Task`."""
        return judge_tissues(TissueModel(network, config), held_out, spacing=config.spacing)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw images, tissues and what the network makes of them, see `Task`."""
        image, target = batch.image, batch.target.cpu()
        found = trainer.heads_of(image)[0].argmax(1)
        truth = target.argmax(1) if target.is_floating_point() else target.clamp(max=self.outputs)
        columns = {"image": image[:, 0].cpu(), "tissues": truth, "found": found}
        picture_sheet(columns, path, title=f"step {trainer.step}")

    def config(self, common: Mapping[str, Any]) -> TissueConfig:
        """Return the configuration of the model."""
        return TissueConfig(classes=LEARNT_TISSUES, **common)
