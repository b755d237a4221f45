"""One scan without its noise."""

import torch
from torch import Tensor

from anystroke.core.volume import Volume
from anystroke.models.checkpoints import TaskNetwork
from anystroke.models.model_space import to_model_space
from anystroke.models.passes import Processing, average_output
from anystroke.tasks.denoising.config import NoiseConfig


class NoiseModel(TaskNetwork[NoiseConfig]):
    """A network that finds noise, with its configuration."""

    config_kind = NoiseConfig

    @torch.no_grad()
    def without_noise(self, image: Tensor) -> Tensor:
        """Return a standardised image (X, Y, Z) on the network's own grid without what is noise."""
        noise: Tensor = self.network(image[None, None])
        return image - noise[0, 0]


def denoise(scan: Volume, model: NoiseModel) -> Volume:
    """Return a scan without its noise, on the network's grid cut to the head, in the scan's own unit.

    Args:
        scan: One channel that `anystroke.models.model_space.check_scan` accepts.
        model: Finds noise.

    Raises:
        VolumeError: The head has fewer than three different intensities at the network's voxel size.
    """
    config = model.config
    space = to_model_space(scan, spacing=config.spacing, divisor=config.divisor, normalise=None)
    mean, sd = space.image.mean(), space.image.std(correction=0)
    standard = (space.image - mean) / sd
    noise, _ = average_output(
        standard,
        model.network,
        lambda found: found,
        divisor=config.divisor,
        processing=Processing(),
        device=torch.device("cpu"),
    )
    return Volume((standard - noise) * sd + mean, space.affine, scan.space_code)
