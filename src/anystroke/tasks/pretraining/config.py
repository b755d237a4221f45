"""What lies beside the weights of an encoder."""

from typing import Literal

from torch import nn

from anystroke.models.architectures.catalogue import build_twins
from anystroke.models.checkpoints import NetworkConfig

VIEWS = ("first view", "second view")


class EncoderConfig(NetworkConfig):
    """What is needed to use an encoder that was pre-trained, beside its weights.

    Attributes:
        task: Tells it from the models of other tasks.
        reconstructs: Whether the network that makes views again is among the weights.
        equalised: Whether the histogram of a scan is equalised before its intensities are standardised.
    """

    task: Literal["pretraining"] = "pretraining"
    reconstructs: bool = False
    equalised: bool = False

    @property
    def output_names(self) -> tuple[str, ...]:
        """The views."""
        return VIEWS

    def build(self) -> nn.Module:
        """Build the network, with weights that are to be replaced."""
        return build_twins(self.architecture, reconstructs=self.reconstructs, seed=0)
