"""What the engine asks of a recipe and of its task; it knows no task by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from anystroke.learning.buffer import BufferSettings
from anystroke.learning.cases import CaseSource
from anystroke.learning.cells import CellSettings
from anystroke.learning.recipe import DataSettings, GridSettings, OptimiserSettings
from anystroke.models.architectures.catalogue import DivisibleUNet, build_network
from anystroke.models.checkpoints import NetworkConfig

if TYPE_CHECKING:
    from anystroke.learning.run_log import RunLog
    from anystroke.learning.stream import Batch
    from anystroke.learning.trainer import Trainer

VALIDATION_SEED = 786
"""Of the patients that runs are judged on."""
Reduce = Callable[[Tensor], Tensor]
Validate = Callable[["Trainer", "RunLog"], None]
ValidationRow = dict[str, str | int | float]
"""Of a table of validations: which patients, and scores."""
Verdict = list[ValidationRow]
"""How good a network is; the first row decides which is the best."""

Config = TypeVar("Config", bound=NetworkConfig)
_HeldOut = TypeVar("_HeldOut")


@dataclass(frozen=True)
class LossContext:
    """What a loss may depend on beside what the network puts out and should.

    Attributes:
        step: Number of the step, from 0.
        reduce: Sums over the processes of a distributed run.
        cells: Of the batch, if its loss counts lesions one by one.
    """

    step: int
    reduce: Reduce
    cells: Tensor | None = None


class Task(ABC, Generic[Config, _HeldOut]):
    """What a network is trained to do: what a run asks, and what most tasks answer.

    Args:
        settings: The recipe.

    Attributes:
        criterion: Column of validations that the best model has most of.
        config_kind: The class of what lies beside the weights of its models.
    """

    criterion: str
    config_kind: type[Config]

    def __init__(self, settings: "Recipe") -> None:
        self.settings = settings

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels of the network's output."""

    @property
    def contrasts(self) -> int:
        """Scans of each simulated patient: one."""
        return 1

    @property
    def watches_images(self) -> bool:
        """Whether its models know what images of the training were like: no."""
        return False

    @property
    def judged_on_simulated(self) -> bool:
        """Whether a run is judged on simulated patients, of anatomies and masks that are held out."""
        return self.settings.validation.patients > 0

    def network(self) -> DivisibleUNet:
        """Build the network, whose initial weights the recipe's seed decides."""
        return build_network(self.settings.architecture, self.outputs, seed=self.settings.seed)

    def prepare(self, network: nn.Module) -> None:
        """Change the initial weights of a network that starts from nothing: leave them."""

    def cells(self) -> CellSettings | None:
        """Return how lesions get the cells that the loss needs; None if it needs none."""
        return None

    @abstractmethod
    def loss(self, heads: Sequence[Tensor], target: Tensor, context: LossContext) -> Tensor:
        """Return the loss of one batch.

        Args:
            heads: What the network puts out, the finest first.
            target: Of the batch.
            context: What else it depends on.
        """

    @abstractmethod
    def open_sources(self, folder: Path) -> Sequence[CaseSource]:
        """Open the sources of the recipe.

        Args:
            folder: Of packed data.
        """

    @abstractmethod
    def held_out(self, folder: Path, divisor: int) -> Sequence[_HeldOut]:
        """Make what a run is judged on; nothing if the recipe wants none.

        Args:
            folder: Of packed data.
            divisor: What the sides of a grid must be multiples of.
        """

    @abstractmethod
    def judge(self, network: nn.Module, config: Config, held_out: Sequence[_HeldOut]) -> Verdict:
        """Return how well a network does, a row for each group; the first decides which model is the best.

        Args:
            network: On the CPU, ready for inference.
            config: Its configuration.
            held_out: What it is judged on.
        """

    def validation(self, folder: Path, divisor: int) -> Validate | None:
        """Return what judges a run; None if the recipe wants none.

        Args:
            folder: Of packed data.
            divisor: What the sides of a grid must be multiples of.
        """
        held_out = self.held_out(folder, divisor)
        return partial(self._validate, held_out) if held_out else None

    def _validate(self, held_out: Sequence[_HeldOut], trainer: "Trainer", record: "RunLog") -> None:
        config = trainer.model_config()
        assert isinstance(config, self.config_kind)
        trainer.judged(self.judge(trainer.averaged(), config, held_out), record)

    @abstractmethod
    def sheet(self, trainer: "Trainer", batch: "Batch", path: Path) -> None:
        """Draw what the network makes of a few cases.

        Args:
            trainer: With the network.
            batch: The cases.
            path: PNG.
        """

    def config(self, common: Mapping[str, Any]) -> Config:
        """Return the configuration of the model, with what all models have in common."""
        return self.config_kind(**common)


AnyTask = Task[Any, Any]


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
    def start_from_narrower(self) -> bool:
        """Whether that model has fewer channels."""

    @property
    def freeze_encoder(self) -> bool:
        """Whether the encoder stays as that model has it."""

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

    def open_task(self) -> AnyTask:
        """Return what a network is trained to do."""

    def model_dump(self, *, mode: str = ..., exclude: Any = ...) -> dict[str, Any]:
        """Return all values as plain ones."""

    def model_dump_json(self, *, indent: int | None = ...) -> str:
        """Return all values as JSON."""
