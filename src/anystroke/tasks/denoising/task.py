"""To find the noise in a scan: what the engine asks of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from anystroke.learning.cases import CaseSource
from anystroke.learning.stream import Batch
from anystroke.learning.task import VALIDATION_SEED, LossContext, Task, Verdict
from anystroke.learning.trainer import Trainer
from anystroke.reports.training import picture_sheet
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.denoising.config import NoiseConfig
from anystroke.tasks.denoising.losses import noise_loss
from anystroke.tasks.denoising.predict import NoiseModel
from anystroke.tasks.denoising.sources import open_sources
from anystroke.tasks.denoising.validate import CRITERION, judge_denoising, noisy_scans

if TYPE_CHECKING:
    from anystroke.tasks.denoising.recipe import DenoisingSettings


class DenoisingTask(Task[NoiseConfig, tuple[Tensor, Tensor, str]]):
    """Find the noise in a scan."""

    settings: "DenoisingSettings"
    criterion = CRITERION
    config_kind = NoiseConfig

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return 1

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch, see `Task`."""
        return noise_loss(heads, target)

    def held_out(self, folder: Path, divisor: int) -> Sequence[tuple[Tensor, Tensor, str]]:
        """Simulate noisy scans, see `Task`."""
        settings = self.settings
        if not self.judged_on_simulated:
            return []
        return noisy_scans(
            held_out_pack(folder),
            settings.sources[0].synthesis,
            count=settings.validation.patients,
            shape=settings.grid.shapes[0],
            spacing=settings.grid.spacing,
            noise_sd=settings.noise_sd,
            seed=VALIDATION_SEED,
        )

    def judge(
        self, network: nn.Module, config: NoiseConfig, held_out: Sequence[tuple[Tensor, Tensor, str]]
    ) -> Verdict:
        """Return how much noise is taken out, see `Task`."""
        return judge_denoising(NoiseModel(network, config), held_out)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw noisy scans, and what is left of them without the noise that was found, see `Task`."""
        image, noise = batch.image, batch.target[:, 0].cpu()
        found = trainer.heads_of(image)[0][:, 0]
        noisy = image[:, 0].cpu()
        columns = {
            "noisy": noisy,
            "without the noise": noisy - noise,
            "without what was found": noisy - found,
        }
        picture_sheet(columns, path, title=f"step {trainer.step}")
