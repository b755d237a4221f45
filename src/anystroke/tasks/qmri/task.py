"""To make quantitative maps of a T1w scan: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anystroke.learning.cases import CaseSource
from anystroke.learning.recipe import SimulatedPart
from anystroke.learning.stream import Batch
from anystroke.learning.task import VALIDATION_SEED, LossContext, Task, Verdict
from anystroke.learning.trainer import Trainer
from anystroke.models.perceptual import PerceptualDistance, open_perceptual
from anystroke.qmri.estimated_maps import activate, describe_outputs, start_at_typical
from anystroke.reports.training import map_sheet
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.qmri.losses import estimation_loss
from anystroke.tasks.qmri.sources import open_sources
from anystroke.tasks.qmri.validate import CRITERION, Head, judge_estimator, simulated_heads
from anystroke.tasks.segmentation.config import SegmentationConfig

if TYPE_CHECKING:
    from anystroke.tasks.qmri.recipe import EstimatorSettings


class EstimationTask(Task[EstimatorConfig, Head]):
    """Make quantitative maps of a T1w scan."""

    settings: "EstimatorSettings"
    criterion = CRITERION
    config_kind = EstimatorConfig

    @cached_property
    def perceptual(self) -> PerceptualDistance | None:
        """Distance of features, None where the loss has none.

        Raises:
            CheckpointError: The perceptual network is missing or of another kind.
        """
        options, loss = self.settings.optimiser, self.settings.loss
        past_l2 = options.minutes > 0 or options.steps > loss.l2_steps
        return open_perceptual(loss.features, SegmentationConfig) if loss.perceptual and past_l2 else None

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.settings.maps)

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

    def held_out(self, folder: Path, divisor: int) -> Sequence[Head]:
        """Simulate heads with their maps, see `Task`."""
        settings = self.settings
        if not self.judged_on_simulated:
            return []
        looks = next(part.synthesis for part in settings.sources if isinstance(part, SimulatedPart))
        heads = simulated_heads(
            held_out_pack(folder),
            looks.model_copy(update={"spacing": settings.grid.spacing}),
            names=settings.maps,
            target=settings.target,
            count=settings.validation.patients,
            seed=VALIDATION_SEED,
            divisor=divisor,
        )
        return list(heads)

    def judge(self, network: nn.Module, config: EstimatorConfig, held_out: Sequence[Head]) -> Verdict:
        """Return how well maps are estimated, see `Task`."""
        return judge_estimator(network, config, held_out)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw the maps of one case, true and found, see `Task`."""
        image, target = batch.image[:1], batch.target[0].cpu()
        found = activate(trainer.heads_of(image)[0], self.settings.maps)[0]
        image = image.cpu()
        names = self.settings.maps
        map_sheet(image[0, 0], target[:-1], found, names, path, title=f"step {trainer.step}: true, found")

    def prepare(self, network: nn.Module) -> None:
        """Let a new network begin near the typical values of the maps.

        Raises:
            CheckpointError: The perceptual network is missing or of another kind.
        """
        _ = self.perceptual
        start_at_typical(network, self.settings.maps)

    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch, see `Task`; deeper heads do not count."""
        if self.perceptual is not None:
            self.perceptual.to(target.device)
        return estimation_loss(
            heads[0],
            target,
            names=self.settings.maps,
            settings=self.settings.loss,
            step=context.step,
            perceptual=self.perceptual,
            reduce=context.reduce,
        )

    def config(self, common: Mapping[str, Any]) -> EstimatorConfig:
        """Return the configuration of the model."""
        settings = self.settings
        return EstimatorConfig(
            maps=settings.maps,
            outputs=describe_outputs(settings.maps),
            field_strength=settings.target.field_strength,
            brain_only=settings.target.outside == 0,
            perceptual={} if self.perceptual is None else self.perceptual.facts,
            **common,
        )
