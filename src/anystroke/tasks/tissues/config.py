"""What lies beside the weights of a network that tells healthy tissues apart."""

from typing import Literal

from anystroke.models.checkpoints import NetworkConfig


class TissueConfig(NetworkConfig):
    """What is needed to use a network that tells healthy tissues apart, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
        classes: Names of the outputs, in order.
    """

    task: Literal["tissues"] = "tissues"
    classes: tuple[str, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes
