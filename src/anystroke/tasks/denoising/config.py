"""What lies beside the weights of a network that finds the noise in a scan."""

from typing import Literal

from anystroke.models.checkpoints import NetworkConfig


class NoiseConfig(NetworkConfig):
    """What is needed to use a network that finds the noise in a scan, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
        classes: Names of the outputs, in order.
    """

    task: Literal["denoising"] = "denoising"
    classes: tuple[str, ...] = ("noise",)
    normalisation: Literal["foreground", "log_tail", "whole", "percentiles"] = "whole"

    @property
    def output_names(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes
