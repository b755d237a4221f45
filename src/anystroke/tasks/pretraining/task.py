"""To find a patient again, whatever the sequence: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anystroke.learning.cases import CaseSource
from anystroke.learning.recipe import SimulatedPart
from anystroke.learning.stream import Batch
from anystroke.learning.task import VALIDATION_SEED, LossContext, Task, Verdict
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


class PretrainingTask(Task[EncoderConfig, TwoScans]):
    """Find a patient again, whatever the sequence."""

    settings: "PretrainingSettings"
    criterion = CRITERION
    config_kind = EncoderConfig

    @property
    def outputs(self) -> int:
        """Views."""
        return len(VIEWS)

    def network(self) -> DivisibleUNet:
        """Build the encoder, and what learns beside it."""
        settings = self.settings
        return build_twins(
            settings.architecture, reconstructs=settings.loss.reconstruction > 0, seed=settings.seed
        )

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch, see `Task`."""
        remade = heads[1] if len(heads) > 1 else None
        return pretraining_loss(heads[0], remade, target, settings=self.settings.loss, reduce=context.reduce)

    def held_out(self, folder: Path, divisor: int) -> Sequence[TwoScans]:
        """Simulate patients who are scanned twice, see `Task`."""
        settings = self.settings
        if settings.validation.patients < 2:
            return []
        simulated = [part.synthesis for part in settings.sources if isinstance(part, SimulatedPart)]
        patients = scanned_twice(
            held_out_pack(folder),
            simulated[0] if simulated else SynthesisSettings(),
            settings.validation,
            spacing=settings.grid.spacing,
            shape=settings.grid.shapes[0],
            seed=VALIDATION_SEED,
        )
        return list(patients)

    def judge(self, network: nn.Module, config: EncoderConfig, held_out: Sequence[TwoScans]) -> Verdict:
        """Return how well patients are found again, see `Task`."""
        return judge_encoder(FeatureModel(network.get_submodule("network.encoder"), config), held_out)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw views of a few patients, and what the network makes of them, see `Task`."""
        views = batch.image
        heads = trainer.heads_of(views)
        remade = heads[1] if len(heads) > 1 else None
        clean = batch.target.cpu() if remade is not None else None
        view_sheet(views.cpu(), clean, remade, path, title=f"step {trainer.step}")

    def config(self, common: Mapping[str, Any]) -> EncoderConfig:
        """Return the configuration of the model."""
        settings = self.settings
        return EncoderConfig(
            reconstructs=settings.loss.reconstruction > 0, equalised=settings.views.equalised, **common
        )
