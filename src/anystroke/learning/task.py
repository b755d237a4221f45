"""What differs between trainings: the network's outputs, the loss, the model that comes out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from anystroke.learning.cells import CellSettings
from anystroke.learning.recipe import TrainingSettings
from anystroke.learning.targets import SCHEMES
from anystroke.models.checkpoints import EstimatorConfig, ModelConfig, load_config
from anystroke.models.perceptual import PerceptualDistance, open_perceptual
from anystroke.qmri.estimated_maps import describe_outputs, start_at_typical
from anystroke.tasks.qmri.losses import estimation_loss
from anystroke.tasks.qmri.recipe import EstimatorSettings, Recipe
from anystroke.tasks.segmentation.lesion_loss import parts_loss
from anystroke.tasks.segmentation.losses import deep_supervision, dice_cross_entropy, logit_regression

Reduce = Callable[[Tensor], Tensor]


class Task(Protocol):
    """What a network is trained to do."""

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""

    def prepare(self, network: nn.Module) -> None:
        """Change the initial weights of a network that starts from nothing."""

    def loss(
        self,
        heads: Sequence[Tensor],
        target: Tensor,
        *,
        cells: Tensor | None = None,
        step: int,
        reduce: Reduce,
    ) -> Tensor:
        """Return the loss of one batch.

        Args:
            heads: What the network puts out, the finest first.
            target: Of the batch.
            cells: Of the batch, if its loss counts lesions one by one.
            step: Number of the step, from 0.
            reduce: Sums over the processes of a distributed run.
        """

    def config(self, common: Mapping[str, Any]) -> ModelConfig | EstimatorConfig:
        """Return the configuration of the model, with what all models have in common."""


class Segmentation:
    """Tell classes apart, the lesion among them.

    Args:
        settings: The recipe.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.classes = SCHEMES[settings.classes]

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.classes)

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

    def config(self, common: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration of the model, calibrated as the one that training started from."""
        config = ModelConfig(classes=self.classes, brain=self.classes[1:-1], **common)
        if self.settings.start_from is None:
            return config
        start = load_config(self.settings.start_from)
        if start.classes != self.classes:
            return config
        kept = {name: getattr(start, name) for name in ("threshold", "certain", "temperature")}
        return config.model_copy(update=kept)


class Estimation:
    """Make quantitative maps of a T1w scan.

    Args:
        settings: The recipe.

    Raises:
        CheckpointError: The perceptual network is missing or of another kind.
    """

    def __init__(self, settings: EstimatorSettings) -> None:
        self.settings = settings
        self.perceptual: PerceptualDistance | None = None
        options = settings.optimiser
        past_l2 = options.minutes > 0 or options.steps > settings.loss.l2_steps
        if settings.loss.perceptual and past_l2:
            self.perceptual = open_perceptual(settings.loss.features)

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return len(self.settings.maps)

    def prepare(self, network: nn.Module) -> None:
        """Let a new network begin near the typical values of the maps."""
        start_at_typical(network, self.settings.maps)

    def loss(
        self,
        heads: Sequence[Tensor],
        target: Tensor,
        *,
        cells: Tensor | None = None,
        step: int,
        reduce: Reduce,
    ) -> Tensor:
        """Return the loss of one batch, see `Task`; deeper heads do not count."""
        if self.perceptual is not None:
            self.perceptual.to(target.device)
        return estimation_loss(
            heads[0],
            target,
            names=self.settings.maps,
            settings=self.settings.loss,
            step=step,
            perceptual=self.perceptual,
            reduce=reduce,
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


def task_of(settings: Recipe) -> Task:
    """Return the task of a recipe."""
    return Estimation(settings) if isinstance(settings, EstimatorSettings) else Segmentation(settings)
