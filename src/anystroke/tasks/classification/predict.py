"""The class of one scan's patient."""

import torch
from torch import Tensor

from anystroke.core.volume import Volume
from anystroke.models.checkpoints import TaskNetwork
from anystroke.models.model_space import normalise_intensity, to_model_space
from anystroke.tasks.classification.config import ClassConfig


class ClassModel(TaskNetwork[ClassConfig]):
    """A classifier with its configuration."""

    config_kind = ClassConfig

    @torch.no_grad()
    def of_image(self, image: Tensor) -> Tensor:
        """Return the probability of each class for an image (X, Y, Z) on the network's own grid."""
        logits: Tensor = self.network(normalise_intensity(image, self.config.normalisation)[None, None])
        return logits[0].softmax(0)

    def of_scan(self, scan: Volume) -> dict[str, float]:
        """Return the probability of each class for a scan.

        Raises:
            VolumeError: The head has fewer than three different intensities at the network's voxel size.
        """
        config = self.config
        space = to_model_space(scan, spacing=config.spacing, divisor=config.divisor, normalise=None)
        return dict(zip(config.classes, self.of_image(space.image[0]).tolist(), strict=True))
