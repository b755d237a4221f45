"""To tell the healthy tissues of a brain apart: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anystroke.learning.cases import CaseSource
from anystroke.learning.run_log import RunLog
from anystroke.learning.stream import Batch
from anystroke.learning.task import VALIDATION_SEED, PlainTask, Reduce, Validate
from anystroke.learning.trainer import Trainer
from anystroke.models.architectures.catalogue import DivisibleUNet, build_network
from anystroke.reports.training import picture_sheet
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.tissues.config import TissueConfig
from anystroke.tasks.tissues.losses import tissue_loss
from anystroke.tasks.tissues.predict import TissueModel
from anystroke.tasks.tissues.sources import LEARNT_TISSUES, open_sources
from anystroke.tasks.tissues.validate import CRITERION, Head, judge_tissues, simulated_heads

if TYPE_CHECKING:
    from anystroke.tasks.tissues.recipe import TissueSettings

_SHEET_CASES = 3


class TissueTask(PlainTask):
    """Tell the healthy tissues of a brain apart.

    Args:
        settings: The recipe.
    """

    def __init__(self, settings: "TissueSettings") -> None:
        self.settings = settings

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(LEARNT_TISSUES)

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
        return build_network(self.settings.architecture, self.outputs, seed=self.settings.seed)

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

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
        return tissue_loss(heads, target, settings=self.settings.loss, reduce=reduce)

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Return what judges a network on simulated heads, see `Task`."""
        settings = self.settings
        if not settings.validation.patients:
            return None
        heads = simulated_heads(
            held_out_pack(folder),
            settings.sources[0].synthesis,
            count=settings.validation.patients,
            spacing=settings.grid.spacing,
            seed=VALIDATION_SEED,
            divisor=divisor,
        )
        return partial(self._validate, list(heads))

    def _validate(self, heads: Sequence[Head], trainer: Trainer, record: RunLog) -> None:
        config = trainer.model_config()
        assert isinstance(config, TissueConfig)
        model = TissueModel(trainer.averaged(), config)
        trainer.judged(judge_tissues(model, heads, spacing=config.spacing), record)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw images, tissues and what the network makes of them, see `Task`."""
        image, target = batch.image[:_SHEET_CASES], batch.target[:_SHEET_CASES].cpu()
        trainer.module.eval()
        with torch.no_grad():
            found = trainer.module(image.to(trainer.fabric.device)).argmax(1).cpu()
        trainer.module.train()
        truth = target.argmax(1) if target.is_floating_point() else target.clamp(max=self.outputs)
        columns = {"image": image[:, 0].cpu(), "tissues": truth, "found": found}
        picture_sheet(columns, path, title=f"step {trainer.step}")

    @property
    def config_kind(self) -> type[TissueConfig]:
        """The class of what lies beside the weights."""
        return TissueConfig

    def config(self, common: Mapping[str, Any]) -> TissueConfig:
        """Return the configuration of the model."""
        return TissueConfig(classes=LEARNT_TISSUES, **common)
