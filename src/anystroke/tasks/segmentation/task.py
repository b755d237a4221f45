"""To tell classes apart, the lesion among them: what the engine asks of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anystroke.io.labelled import find_labelled_scans
from anystroke.learning.cases import CaseSource
from anystroke.learning.cells import CellSettings
from anystroke.learning.stream import Batch
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.learning.task import VALIDATION_SEED, LossContext, Task, Verdict
from anystroke.learning.trainer import Trainer
from anystroke.models.architectures.catalogue import SECOND_LOOKS
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
    PatientOptions,
    judge,
    real_patients,
    simulated_patients,
    summarise_scores,
)

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.recipe import TrainingSettings


class SegmentationTask(Task[SegmentationConfig, JudgedPatient]):
    """Tell classes apart, the lesion among them."""

    settings: "TrainingSettings"
    criterion = SCORE
    config_kind = SegmentationConfig

    def __init__(self, settings: "TrainingSettings") -> None:
        super().__init__(settings)
        self.classes = TARGET_SCHEMES[settings.classes]
        self._calibration = self._calibration_of_start()

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.classes)

    @property
    def contrasts(self) -> int:
        """Scans of each simulated patient."""
        return self.settings.contrasts

    @property
    def watches_images(self) -> bool:
        """True: a scan unlike those of the training is not to be trusted."""
        return True

    @property
    def judged_on_simulated(self) -> bool:
        """Whether there are patients to judge it on, with a lesion or without."""
        return self.settings.validation.patients + self.settings.validation.healthy > 0

    def open_sources(self, folder: Path) -> list[CaseSource]:
        """Open the sources of the recipe, see `Task`."""
        return open_sources(self.settings, folder)

    def held_out(self, folder: Path, divisor: int) -> Sequence[JudgedPatient]:
        """Simulate patients, see `Task`."""
        wanted = self.settings.validation
        if not self.judged_on_simulated:
            return []
        patients = simulated_patients(
            held_out_pack(folder),
            count=wanted.patients,
            healthy=wanted.healthy,
            seed=VALIDATION_SEED,
            weightings=wanted.weightings,
            options=PatientOptions(preset=wanted.preset),
            spacing=self.settings.grid.spacing,
        )
        return list(patients)

    def judge(
        self, network: nn.Module, config: SegmentationConfig, held_out: Sequence[JudgedPatient]
    ) -> Verdict:
        """Return scores of simulated patients, which decide, and of labelled scans, see `Task`."""
        model = Model(network, config)
        rows = summarise_scores(judge(model, held_out))
        if sources := self.settings.validation.scans:
            scans = [scan for source in sources for scan in find_labelled_scans(source)]
            rows += summarise_scores(judge(model, real_patients(scans)))
        return rows

    def sheet(self, trainer: Trainer, batch: Batch, path: Path) -> None:
        """Draw images, lesions and what the network makes of them, see `Task`."""
        image, target = batch.image, batch.target.cpu()
        probability = trainer.heads_of(image)[0].softmax(1)[:, -1]
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

    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch, see `Task`."""
        settings = self.settings.loss
        if not target.is_floating_point():
            target = target.long()
        if context.step < settings.l2_steps:
            return deep_supervision(heads, target, partial(logit_regression, reduce=context.reduce))
        one = partial(
            dice_cross_entropy,
            dice_weights=settings.weights(len(self.classes)),
            cross_entropy_weights=settings.cross_entropy_weights,
            absent_classes=settings.absent_classes,
            partial_labels=settings.partial_labels,
            reduce=context.reduce,
        )
        total = deep_supervision(heads, target, one)
        if not settings.counts_parts:
            return total
        if context.cells is None:
            raise ValueError("loss.lesion_wise and loss.false_parts need batches with cells, got one without")
        spacing = self.settings.grid.spacing
        return total + parts_loss(
            heads[0], target, context.cells, settings=settings, spacing=spacing, reduce=context.reduce
        )

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

    def config(self, common: Mapping[str, Any]) -> SegmentationConfig:
        """Return the configuration of the model, calibrated as the one that training started from."""
        config = SegmentationConfig(classes=self.classes, brain=self.classes[1:-1], **common)
        return config.model_copy(update=self._calibration)

    def _calibration_of_start(self) -> dict[str, float]:
        """Return what a model of the same task says of its masks; read once, as it may be replaced later."""
        source = self.settings.start_from
        if source is None or self.settings.architecture in SECOND_LOOKS:
            return {}
        if task_of_model(source) != SegmentationConfig.model_fields["task"].default:
            return {}
        start = load_config(source, SegmentationConfig)
        if start.classes != self.classes:
            return {}
        return {name: getattr(start, name) for name in ("threshold", "certain", "temperature")}
