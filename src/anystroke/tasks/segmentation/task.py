"""To tell classes apart, the lesion among them: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anystroke.io.labelled import find_labelled_scans
from anystroke.learning.cases import CaseSource
from anystroke.learning.cells import CellSettings
from anystroke.learning.run_log import RunLog
from anystroke.learning.stream import Batch
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.learning.task import VALIDATION_SEED, Reduce, Validate
from anystroke.learning.trainer import Trainer
from anystroke.models.architectures.catalogue import DivisibleUNet, build_network
from anystroke.models.checkpoints import load_config, task_of_model
from anystroke.reports.training import sample_sheet
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.lesion_loss import parts_loss
from anystroke.tasks.segmentation.losses import deep_supervision, dice_cross_entropy, logit_regression
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.sources import open_sources
from anystroke.tasks.segmentation.validate import (
    SCORE,
    JudgedPatient,
    judge,
    real_patients,
    simulated_patients,
    summarise_scores,
)

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.recipe import TrainingSettings

_SHEET_CASES = 4


class SegmentationTask:
    """Tell classes apart, the lesion among them.

    Args:
        settings: The recipe.
    """

    def __init__(self, settings: "TrainingSettings") -> None:
        self.settings = settings
        self.classes = TARGET_SCHEMES[settings.classes]

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.classes)

    @property
    def freezes_encoder(self) -> bool:
        """Whether the encoder stays as `start_from` has it."""
        return self.settings.freeze_encoder

    def network(self) -> DivisibleUNet:
        """Build the network."""
        return build_network(self.settings.architecture, self.outputs, seed=self.settings.seed)

    @property
    def criterion(self) -> str:
        """Column of validations that the best model has most of."""
        return SCORE

    @property
    def contrasts(self) -> int:
        """Scans of each simulated patient."""
        return self.settings.contrasts

    @property
    def watches_images(self) -> bool:
        """True: a scan unlike those of the training is not to be trusted."""
        return True

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Return what judges a network on simulated patients and labelled scans, see `Task`."""
        wanted = self.settings.validation
        if not wanted.patients + wanted.healthy:
            return None
        patients = simulated_patients(
            held_out_pack(folder),
            count=wanted.patients,
            healthy=wanted.healthy,
            seed=VALIDATION_SEED,
            weightings=wanted.weightings,
            preset=wanted.preset,
            spacing=self.settings.grid.spacing,
        )
        return partial(self._validate, list(patients))

    def _validate(self, patients: list[JudgedPatient], trainer: Trainer, record: RunLog) -> None:
        """Judge the averaged network; what it makes of simulated patients decides."""
        config = trainer.model_config()
        assert isinstance(config, SegmentationConfig)
        model = Model(trainer.averaged(), config, sha256="")
        rows = summarise_scores(judge(model, patients))
        if sources := self.settings.validation.scans:
            scans = [scan for source in sources for scan in find_labelled_scans(source)]
            rows += summarise_scores(judge(model, real_patients(scans)))
        trainer.judged(rows, record)

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw images, lesions and what the network makes of them, see `Task`."""
        image, target = batch.image[:_SHEET_CASES], batch.target[:_SHEET_CASES].cpu()
        probability = _lesion_probability(trainer.module, image.to(trainer.fabric.device))
        image = image.cpu()
        last = self.outputs - 1
        lesion = target[:, last] > 0.5 if target.is_floating_point() else target == last
        cases = [
            (
                image[k, 0],
                lesion[k],
                probability[k],
                f"step {trainer.step}: image, target, lesion probability",
            )
            for k in range(len(image))
        ]
        sample_sheet(cases, path)

    def prepare(self, network: nn.Module) -> None:
        """Leave a new network as it is."""

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
        settings = self.settings.loss
        if not target.is_floating_point():
            target = target.long()
        if step < settings.l2_steps:
            return deep_supervision(heads, target, partial(logit_regression, reduce=reduce))
        one = partial(
            dice_cross_entropy,
            dice_weights=settings.weights(len(self.classes)),
            cross_entropy_weights=settings.cross_entropy_weights,
            absent_classes=settings.absent_classes,
            partial_labels=settings.partial_labels,
            reduce=reduce,
        )
        total = deep_supervision(heads, target, one)
        if not settings.counts_parts:
            return total
        if cells is None:
            raise ValueError("loss.lesion_wise and loss.false_parts need batches with cells, got one without")
        spacing = self.settings.grid.spacing
        return total + parts_loss(heads[0], target, cells, settings=settings, spacing=spacing, reduce=reduce)

    def cells(self) -> CellSettings | None:
        """Return how lesions get the cells that the loss needs; None if it needs none."""
        settings = self.settings.loss
        if not settings.counts_parts:
            return None
        return CellSettings(
            lesion=len(self.classes) - 1,
            spacing=self.settings.grid.spacing,
            smallest=settings.smallest_lesion_ml,
            reach=settings.reach_mm,
        )

    @property
    def config_kind(self) -> type[SegmentationConfig]:
        """The class of what lies beside the weights."""
        return SegmentationConfig

    def config(self, common: Mapping[str, Any]) -> SegmentationConfig:
        """Return the configuration of the model, calibrated as the one that training started from."""
        config = SegmentationConfig(classes=self.classes, brain=self.classes[1:-1], **common)
        source = self.settings.start_from
        if source is None or task_of_model(source) != config.task:
            return config
        start = load_config(source, SegmentationConfig)
        if start.classes != self.classes:
            return config
        kept = {name: getattr(start, name) for name in ("threshold", "certain", "temperature")}
        return config.model_copy(update=kept)


def _lesion_probability(network: nn.Module, image: Tensor) -> Tensor:
    """Return the lesion probability (B, X, Y, Z), the last class, of normalised images (B, 1, X, Y, Z)."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        probability: Tensor = network(image).float().softmax(1)[:, -1].cpu()
    network.train(was_training)
    return probability
