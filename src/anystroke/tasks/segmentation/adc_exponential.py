"""Look at an ADC map as its exponential, too.

On ADC maps a fresh stroke is a little darker than the brain, between fluid that is far brighter and air that
is black. In the exponential of such a map, exp(-b ADC), fluid is dark and the stroke is bright, as on a
diffusion scan without its T2 weighting.

Source: Provenzale et al., AJR 172:537 (1999), for the exponential ADC.
"""

import torch
from scipy import ndimage
from torch import Tensor, nn

from anystroke.core.volume import Volume
from anystroke.models.model_space import normalise_intensity
from anystroke.models.passes import Processing, class_probabilities
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.second_look import whole_brain
from anystroke.tasks.segmentation.views import SMALLEST_PROBABILITY, log_odds

BRIGHT = 1.4
"""Fluid is bright if its median is so many times that of white matter."""
# b ADC of the brain: b = 1500 s/mm2 of 0.8e-3 mm2/s.
_RATE = 1.2
_LIKELY = 0.5
_FEWEST_VOXELS = 100
# Voxels around the brain that are shown too, and the share of its median below which there is air.
_MARGIN, _AIR = 1, 0.25


def exponential(image: Volume, tissues: Tensor, lesion: Tensor) -> Tensor | None:
    """Turn the contrast of an ADC map.

    Args:
        image: The map from zero, in any unit, on the network's grid.
        tissues: (3, X, Y, Z), probabilities of grey matter, white matter and fluid.
        lesion: (X, Y, Z), lesion probability.

    Returns:
        (1, X, Y, Z): exp(-1.2 image / its median in the brain's tissue), between 0 and 1; zero outside of the
        brain and in air. None if fluid is not bright, as it is on an
        ADC map, or too little of the brain was found.
    """
    data = image.data[0]
    white, fluid = tissues[1] >= _LIKELY, tissues[2] >= _LIKELY
    if min(int(white.sum()), int(fluid.sum())) < _FEWEST_VOXELS:
        return None
    if float(data[fluid].median()) < BRIGHT * float(data[white].median()):
        return None
    healthy = Volume((tissues.sum(0) >= 0.5)[None].to(torch.uint8), image.affine)
    brain = whole_brain(healthy, Volume(lesion[None], image.affine)).data[0] > 0
    tissue = brain & (tissues[0] + tissues[1] >= 0.5)
    middle = float(data[tissue].median()) if bool(tissue.any()) else 0.0
    if middle <= 0:
        return None
    near = torch.from_numpy(ndimage.binary_dilation(brain.numpy(), iterations=_MARGIN))
    shown = near & (data > _AIR * middle)
    return torch.where(shown, torch.exp(-_RATE * data / middle), 0.0)[None]


def lesion_in_both(
    values: Tensor,
    head: Volume,
    affine: Tensor,
    network: nn.Module,
    config: SegmentationConfig,
    processing: Processing,
    device: torch.device,
) -> Tensor | None:
    """Average the log-odds of a lesion in an ADC map and in its exponential.

    Args:
        values: (4, X, Y, Z), probabilities of lesion, grey matter, white matter and fluid.
        head: The map from zero, in RAS order.
        affine: Of the network's grid.
        network: As for `class_probabilities`.
        config: Of the network; says what share the exponential has.
        processing: As for `class_probabilities`.
        device: Likewise.

    Returns:
        (X, Y, Z), lesion probability; None if the map has no exponential.
    """
    lesion = values[0]
    x, y, z = lesion.shape
    image = head.resample_to(affine, (x, y, z), antialias=True)
    other = exponential(image, values[1:], lesion)
    if other is None:
        return None
    again, _ = class_probabilities(
        normalise_intensity(other, config.normalisation),
        network,
        [config.classes.index("lesion")],
        processing,
        device,
        divisor=config.divisor,
        temperature=config.temperature,
    )
    share = config.adc_exponential
    both = torch.sigmoid((1 - share) * log_odds(lesion) + share * log_odds(again[0]))
    return torch.where(torch.maximum(lesion, again[0]) > SMALLEST_PROBABILITY, both, lesion)
