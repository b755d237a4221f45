"""Tissues of one scan."""

import torch
from torch import Tensor

from anystroke.core.volume import Volume
from anystroke.models.checkpoints import TaskNetwork
from anystroke.models.model_space import normalise_intensity, to_model_space
from anystroke.models.passes import Processing, average_output
from anystroke.tasks.tissues.config import TissueConfig


class TissueModel(TaskNetwork[TissueConfig]):
    """A network that tells tissues apart, with its configuration."""

    config_kind = TissueConfig

    @torch.no_grad()
    def of_image(self, image: Tensor) -> Tensor:
        """Return the number of each voxel's class, for an image (X, Y, Z) on the network's own grid."""
        standard = normalise_intensity(image, self.config.normalisation)
        logits: Tensor = self.network(standard[None, None])
        return logits[0].argmax(0).to(torch.uint8)


def segment_tissues(scan: Volume, model: TissueModel) -> Volume:
    """Return the number of each voxel's class on the scan's own grid.

    Args:
        scan: One channel that `anystroke.models.model_space.check_scan` accepts.
        model: Tells tissues apart.

    Raises:
        VolumeError: The head has fewer than three different intensities at the network's voxel size.
    """
    config = model.config
    space = to_model_space(
        scan, spacing=config.spacing, divisor=config.divisor, normalise=config.normalisation
    )
    shares, _ = average_output(
        space.image,
        model.network,
        lambda logits: logits.softmax(1),
        divisor=config.divisor,
        processing=Processing(),
        device=torch.device("cpu"),
    )
    native = [
        space.to_native(share[None], fill=float(number == 0)).data for number, share in enumerate(shares)
    ]
    return Volume(torch.cat(native).argmax(0, keepdim=True).to(torch.uint8), scan.affine, scan.space_code)
