"""To find the noise in a scan: what the engine asks of it."""

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
from anystroke.tasks.denoising.config import NoiseConfig
from anystroke.tasks.denoising.losses import noise_loss
from anystroke.tasks.denoising.predict import NoiseModel
from anystroke.tasks.denoising.sources import open_sources
from anystroke.tasks.denoising.validate import CRITERION, judge_denoising, noisy_scans

if TYPE_CHECKING:
    from anystroke.tasks.denoising.recipe import DenoisingSettings

_SHEET_CASES = 3


class DenoisingTask(PlainTask):
    """Find the noise in a scan.

    Args:
        settings: The recipe.
    """

    def __init__(self, settings: "DenoisingSettings") -> None:
        self.settings = settings

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return 1

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
        return build_network(self.settings.architecture, 1, seed=self.settings.seed)

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
        return noise_loss(heads, target)

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Return what judges a network on simulated scans, see `Task`."""
        settings = self.settings
        if not settings.validation.patients:
            return None
        scans = noisy_scans(
            held_out_pack(folder),
            settings.sources[0].synthesis,
            count=settings.validation.patients,
            shape=settings.grid.shapes[0],
            spacing=settings.grid.spacing,
            noise_sd=settings.noise_sd,
            seed=VALIDATION_SEED,
        )
        return partial(self._validate, scans)

    def _validate(
        self, scans: Sequence[tuple[Tensor, Tensor, str]], trainer: Trainer, record: RunLog
    ) -> None:
        config = trainer.model_config()
        assert isinstance(config, NoiseConfig)
        trainer.judged(judge_denoising(NoiseModel(trainer.averaged(), config), scans), record)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw noisy scans, and what is left of them without the noise that was found, see `Task`."""
        image, noise = batch.image[:_SHEET_CASES], batch.target[:_SHEET_CASES, 0].cpu()
        trainer.module.eval()
        with torch.no_grad():
            found = trainer.module(image.to(trainer.fabric.device))[:, 0].float().cpu()
        trainer.module.train()
        noisy = image[:, 0].cpu()
        columns = {
            "noisy": noisy,
            "without the noise": noisy - noise,
            "without what was found": noisy - found,
        }
        picture_sheet(columns, path, title=f"step {trainer.step}")

    @property
    def config_kind(self) -> type[NoiseConfig]:
        """The class of what lies beside the weights."""
        return NoiseConfig

    def config(self, common: Mapping[str, Any]) -> NoiseConfig:
        """Return the configuration of the model."""
        return NoiseConfig(**common)
