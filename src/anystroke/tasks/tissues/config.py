"""What lies beside the weights of a network that tells healthy tissues apart."""

from typing import Literal

from anystroke.models.checkpoints import ClassesConfig


class TissueConfig(ClassesConfig):
    """What is needed to use a network that tells healthy tissues apart, beside its weights."""

    task: Literal["tissues"] = "tissues"
