"""Show a head to the network in several ways, and average what it says: test-time augmentation.

What a network finds depends a little on what should not matter: on where its voxels lie, how the grey values
are spread, and which side is left. Its errors of several views are not the same, and cancel in the mean.

Source: Wang et al., Neurocomputing 338:34 (2019), for test-time augmentation of segmentations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anystroke.core.volume import Grid, Volume
from anystroke.models.model_space import ModelSpace, has_contrast, normalise_intensity, to_model_space
from anystroke.models.passes import Processing, class_probabilities
from anystroke.tasks.segmentation.config import SegmentationConfig, View

SMALLEST_PROBABILITY = 1e-3
"""Log-odds are those of probabilities between this and one less this."""
# A view counts in voxels that its grid covers to this share.
_COVERED = 0.999


def image_of_view(
    view: View, scan: Volume, space: ModelSpace, config: SegmentationConfig, *, crop: bool = True
) -> Volume:
    """Make the image of a view; it is not mirrored, as the passes of the network do so.

    Args:
        view: Which.
        scan: As it was loaded.
        space: The same at the network's own spacing.
        config: Of the network.
        crop: Cut out the head, as for ``space``.

    Returns:
        (1, x, y, z), standardised, on its own grid. Grey values of which too few differ to be raised to a
        power stay as they are.
    """
    if view.spacing is not None and view.spacing != float(space.affine[0, 0]):
        space = to_model_space(
            scan, spacing=view.spacing, divisor=config.divisor, normalise=config.normalisation, crop=crop
        )
    image = space.image
    raised = (image - image.min()).pow(view.gamma)
    if view.gamma != 1 and has_contrast(raised):
        image = normalise_intensity(raised, config.normalisation)
    return Volume(image, space.affine)


def averaged(of_views: Sequence[Volume], grid: Grid) -> Tensor:
    """Average the probabilities of views on a grid: log-odds of the first class, the others as they are.

    Args:
        of_views: (K, x, y, z) of each view, each on its own grid; it counts in the voxels that this covers.
        grid: Where.

    Returns:
        (K, X, Y, Z). Where no view gives the first class more than 0.001, its probabilities are averaged too;
        0 where no view reaches.

    Example:
        >>> one, other = (Volume(torch.full((1, 1, 1, 1), p), torch.eye(4)) for p in (0.5, 0.9))
        >>> round(averaged([one, other], Grid((1, 1, 1), torch.eye(4))).item(), 2)
        0.75
    """
    return _mean(*_on(grid, of_views))


def _on(grid: Grid, of_views: Sequence[Volume]) -> tuple[Tensor, Tensor]:
    """Bring views to a grid: values (views, K, X, Y, Z), and what each counts, (views, 1, X, Y, Z)."""
    values, counts = [], []
    for view in of_views:
        if view.shape == grid.shape and torch.equal(view.affine, grid.affine):
            values.append(view.data)
            counts.append(torch.ones((1, *grid.shape)))
            continue
        covered = torch.cat([view.data, torch.ones((1, *view.shape))])
        there = Volume(covered, view.affine).resample_to(grid.affine, grid.shape, antialias=True).data
        values.append(there[:-1])
        counts.append((there[-1:] > _COVERED).float())
    count = torch.stack(counts)
    return torch.stack(values), count / count.sum(0).clamp(min=1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Average views (views, K, X, Y, Z) by weights (views, 1, X, Y, Z) that add up to 1."""
    if len(values) == 1:
        return values[0]
    mean = (weight * values).sum(0)
    first = values[:, 0]
    together = torch.sigmoid((weight[:, 0] * log_odds(first)).sum(0))
    mean[0] = torch.where(first.amax(0) > SMALLEST_PROBABILITY, together, mean[0])
    return mean


def probabilities_of_views(
    scan: Volume,
    space: ModelSpace,
    network: nn.Module,
    wanted: list[int],
    config: SegmentationConfig,
    processing: Processing,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Average the probabilities of classes over views, and over the passes of each.

    Args:
        scan: As it was loaded.
        space: The same as the processing says.
        network: As for `class_probabilities`.
        wanted: Numbers of the classes; of the first the log-odds are averaged.
        config: Of the network.
        processing: Windows and flips; of a mirrored view the flips are mirrored too.
        device: Where to begin.

    Returns:
        (K, X, Y, Z) on the grid of ``space``, and the standard deviation of the first class (1, X, Y, Z) over
        all passes of all views.
    """
    found = []
    for view in views_of(config, processing):
        image = Volume(space.image, space.affine)
        if view != View():
            image = image_of_view(view, scan, space, config, crop=processing.crop)
        values, deviation = class_probabilities(
            image.data,
            network,
            wanted,
            processing.turned() if view.mirrored else processing,
            device,
            divisor=config.divisor,
            temperature=config.temperature,
        )
        found.append(Volume(torch.cat([values, deviation]), image.affine))
    x, y, z = space.image.shape[1:]
    both, weight = _on(Grid((x, y, z), space.affine), found)
    values, deviations = both[:, :-1], both[:, -1:]
    lesion = values[:, :1]
    between = (lesion - (weight * lesion).sum(0)).square()
    return _mean(values, weight), (weight * (between + deviations.square())).sum(0).sqrt()


def logits_of_views(
    scan: Volume, space: ModelSpace, network: nn.Module, config: SegmentationConfig
) -> list[Volume]:
    """Return what a network puts out of each view, (K, x, y, z), seen at once and mirrored back.

    Args:
        scan: As it was loaded.
        space: The same at the network's own spacing.
        network: Maps (1, 1, X, Y, Z) to logits (1, K, X, Y, Z).
        config: Of the network.
    """
    found = []
    for view in config.views:
        image = image_of_view(view, scan, space, config)
        mirror = [1] if view.mirrored else []
        found.append(Volume(network(image.data.flip(mirror)[None])[0].flip(mirror), image.affine))
    return found


def views_of(config: SegmentationConfig, processing: Processing) -> tuple[View, ...]:
    """Return how heads are shown: in the model's own ways if images are otherwise as in its training."""
    return config.views if as_trained(config, processing) else (View(),)


def as_trained(config: SegmentationConfig, processing: Processing) -> bool:
    """Tell whether images have the spacing and the standardised grey values of the training."""
    return processing.normalisation in (None, config.normalisation) and processing.spacing in (
        None,
        config.spacing,
    )


def log_odds(probability: Tensor) -> Tensor:
    """Return the log-odds of probabilities, of any shape, that are brought between 0.001 and 0.999.

    Example:
        >>> [round(odds, 2) for odds in log_odds(torch.tensor([0.0, 0.5, 1.0])).tolist()]
        [-6.91, 0.0, 6.91]
    """
    return torch.logit(probability.clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
