"""What lies beside the weights of a network that finds the noise in a scan."""

from typing import Literal

from anystroke.models.checkpoints import ClassesConfig


class NoiseConfig(ClassesConfig):
    """What is needed to use a network that finds the noise in a scan, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
    """

    task: Literal["denoising"] = "denoising"
    classes: tuple[str, ...] = ("noise",)
    normalisation: Literal["foreground", "log_tail", "whole", "percentiles"] = "whole"
