"""What lies beside the weights of a network that tells patients apart."""

from typing import Literal

from torch import nn

from anystroke.models.architectures.catalogue import build_classifier
from anystroke.models.checkpoints import ClassesConfig


class ClassConfig(ClassesConfig):
    """What is needed to use a network that tells patients apart, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
    """

    task: Literal["classification"] = "classification"

    def build(self) -> nn.Module:
        """Build the network, with weights that are to be replaced."""
        return build_classifier(self.architecture, len(self.classes), seed=0)
