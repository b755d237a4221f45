"""What the engine asks of a recipe and of its task; it knows no task by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from anystroke.learning.buffer import BufferSettings
from anystroke.learning.cases import CaseSource
from anystroke.learning.cells import CellSettings
from anystroke.learning.recipe import DataSettings, GridSettings, OptimiserSettings
from anystroke.models.architectures.catalogue import DivisibleUNet
from anystroke.models.checkpoints import NetworkConfig

if TYPE_CHECKING:
    from anystroke.learning.run_log import RunLog
    from anystroke.learning.stream import Batch
    from anystroke.learning.trainer import Trainer

VALIDATION_SEED = 786
"""Of the patients that runs are judged on."""
Reduce = Callable[[Tensor], Tensor]
Validate = Callable[["Trainer", "RunLog"], None]


class Task(Protocol):
    """What a network is trained to do."""

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""

    @property
    def freezes_encoder(self) -> bool:
        """Whether the encoder stays as the model that training starts from has it."""

    def network(self) -> DivisibleUNet:
        """Build the network, whose initial weights the recipe's seed decides."""

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

    @property
    def criterion(self) -> str:
        """Column of validations that the best model has most of."""

    @property
    def contrasts(self) -> int:
        """Scans of each simulated patient."""

    @property
    def watches_images(self) -> bool:
        """Whether its models know what images of the training were like."""

    def cells(self) -> CellSettings | None:
        """Return how lesions get the cells that the loss needs; None if it needs none."""

    def open_sources(self, folder: Path) -> Sequence[CaseSource]:
        """Open the sources of the recipe.

        Args:
            folder: Of packed data.
        """

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Make what a run is judged on, and return what judges; None if the recipe wants none.

        Args:
            folder: Of packed data.
            divisor: What the sides of a grid must be multiples of.
        """

    def sheet(self, trainer: "Trainer", batch: "Batch", path: Path) -> None:
        """Draw what the network makes of a few cases.

        Args:
            trainer: With the network.
            batch: The last one.
            path: PNG.
        """

    @property
    def config_kind(self) -> type[NetworkConfig]:
        """The class of what lies beside the weights of its models."""

    def config(self, common: Mapping[str, Any]) -> NetworkConfig:
        """Return the configuration of the model, with what all models have in common."""


class PlainTask:
    """What most tasks answer to most of what is asked of a `Task`: one scan a patient, nothing frozen."""

    @property
    def contrasts(self) -> int:
        """One."""
        return 1

    @property
    def watches_images(self) -> bool:
        """False."""
        return False

    @property
    def freezes_encoder(self) -> bool:
        """False."""
        return False

    def prepare(self, network: nn.Module) -> None:
        """Leave a new network as it is."""

    def cells(self) -> CellSettings | None:
        """Return None: the loss counts no lesions."""
        return None


class Validated(Protocol):
    """When a run is judged, and on how many patients."""

    @property
    def every(self) -> int:
        """Steps between validations."""

    @property
    def patients(self) -> int:
        """Simulated patients that are held out."""


class AnyPart(Protocol):
    """The part of a recipe that is a source of cases."""

    @property
    def kind(self) -> str:
        """Which."""

    @property
    def share(self) -> int:
        """Cases of this source in every round."""


class Recipe(Protocol):
    """What recipes of all tasks say."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def seed(self) -> int:
        """Of weights and cases."""

    @property
    def start_from(self) -> str | None:
        """Model that training starts from."""

    @property
    def start_from_wider(self) -> bool:
        """Whether that model may have more channels."""

    @property
    def architecture(self) -> str:
        """Name of the network."""

    @property
    def grid(self) -> GridSettings:
        """The voxels that the network sees."""

    @property
    def data(self) -> DataSettings:
        """Label maps and lesion masks."""

    @property
    def sources(self) -> Sequence[AnyPart]:
        """What it is trained on."""

    @property
    def optimiser(self) -> OptimiserSettings:
        """How."""

    @property
    def buffer(self) -> BufferSettings | None:
        """Cases that are seen several times."""

    @property
    def validation(self) -> Validated:
        """What the run is judged on."""

    def open_task(self) -> Task:
        """Return what a network is trained to do."""

    def model_dump(self, *, mode: str = ..., exclude: Any = ...) -> dict[str, Any]:
        """Return all values as plain ones."""

    def model_dump_json(self, *, indent: int | None = ...) -> str:
        """Return all values as JSON."""
