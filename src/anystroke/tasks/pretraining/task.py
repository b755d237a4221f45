"""To find a patient again, whatever the sequence: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anystroke.learning.cases import CaseSource
from anystroke.learning.recipe import SimulatedPart
from anystroke.learning.run_log import RunLog
from anystroke.learning.stream import Batch
from anystroke.learning.task import VALIDATION_SEED, PlainTask, Reduce, Validate
from anystroke.learning.trainer import Trainer
from anystroke.models.architectures.catalogue import DivisibleUNet, build_twins
from anystroke.reports.training import view_sheet
from anystroke.simulation.cohorts import held_out_pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.pretraining.config import VIEWS, EncoderConfig
from anystroke.tasks.pretraining.losses import pretraining_loss
from anystroke.tasks.pretraining.predict import FeatureModel
from anystroke.tasks.pretraining.sources import open_sources
from anystroke.tasks.pretraining.validate import CRITERION, TwoScans, judge_encoder, scanned_twice

if TYPE_CHECKING:
    from anystroke.tasks.pretraining.recipe import PretrainingSettings

_SHEET_CASES = 3


class PretrainingTask(PlainTask):
    """Find a patient again, whatever the sequence.

    Args:
        settings: The recipe.
    """

    def __init__(self, settings: "PretrainingSettings") -> None:
        self.settings = settings

    @property
    def outputs(self) -> int:
        """Views."""
        return len(VIEWS)

    @property
    def criterion(self) -> str:
        """Column of validations that the best model has most of."""
        return CRITERION

    def network(self) -> DivisibleUNet:
        """Build the encoder, and what learns beside it."""
        settings = self.settings
        return build_twins(
            settings.architecture, reconstructs=settings.loss.reconstruction > 0, seed=settings.seed
        )

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
        remade = heads[1] if len(heads) > 1 else None
        return pretraining_loss(heads[0], remade, target, settings=self.settings.loss, reduce=reduce)

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Return what judges an encoder on simulated patients, see `Task`."""
        settings = self.settings
        if settings.validation.patients < 2:
            return None
        simulated = [part.synthesis for part in settings.sources if isinstance(part, SimulatedPart)]
        patients = scanned_twice(
            held_out_pack(folder),
            simulated[0] if simulated else SynthesisSettings(),
            settings.validation,
            spacing=settings.grid.spacing,
            shape=settings.grid.shapes[0],
            seed=VALIDATION_SEED,
        )
        return partial(self._validate, list(patients))

    def _validate(self, patients: Sequence[TwoScans], trainer: Trainer, record: RunLog) -> None:
        config = trainer.model_config()
        assert isinstance(config, EncoderConfig)
        twins = trainer.averaged().network
        encoder = twins.encoder
        assert isinstance(encoder, nn.Module)
        trainer.judged(judge_encoder(FeatureModel(encoder, config), patients), record)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw views of a few patients, and what the network makes of them, see `Task`."""
        views = batch.image[:_SHEET_CASES]
        trainer.module.eval()
        with torch.no_grad():
            heads = trainer.module.heads(views.to(trainer.fabric.device))
        trainer.module.train()
        remade = heads[1].float().cpu() if len(heads) > 1 else None
        clean = batch.target[:_SHEET_CASES].cpu() if remade is not None else None
        view_sheet(views.cpu(), clean, remade, path, title=f"step {trainer.step}")

    @property
    def config_kind(self) -> type[EncoderConfig]:
        """The class of what lies beside the weights."""
        return EncoderConfig

    def config(self, common: Mapping[str, Any]) -> EncoderConfig:
        """Return the configuration of the model."""
        settings = self.settings
        return EncoderConfig(
            reconstructs=settings.loss.reconstruction > 0, equalised=settings.views.equalised, **common
        )
