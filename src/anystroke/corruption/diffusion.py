"""What scanners compute of diffusion-weighted magnitude images: trace images and maps of the ADC."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anystroke.anatomy.tissues.deformation import sample_at
from anystroke.core.fields import smooth_noise
from anystroke.corruption.limits import check_positive, check_same_shape, check_within

_FIBRE_MM = 12.0
_LATTICE_MM = 4.0
_TINY = 1e-20


def trace_weighted(images: Sequence[Tensor]) -> Tensor:
    """Compute the trace-weighted image: the geometric mean of magnitude images of orthogonal directions.

    Without noise it is the image at the mean ADC of the directions, whatever the anisotropy.

    Args:
        images: One or more, of one shape, none negative.

    Returns:
        Image of the same shape; 0 where one of them is.

    Raises:
        ValueError: If there is no image, or shapes differ.

    Source:
        Sorensen et al., Radiology 199:391 (1996).

    Example:
        >>> trace_weighted([torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([2.0])])
        tensor([2.])
    """
    if not images:
        raise ValueError("expected at least one image of a direction, got none")
    if len(images) == 1:
        return images[0]
    product = images[0].clone()
    for image in images[1:]:
        check_same_shape("images of all directions", image, product.shape)
        product *= image
    return product.log2_().mul_(1 / len(images)).exp2_()


def adc_map(
    low: Tensor,
    high: Tensor,
    *,
    b_value: float,
    thresholds: tuple[float, float] = (0.0, 0.0),
    floor: float = 0.0,
    largest: float = math.inf,
    step: float | None = 1e-6,
    unit: float = 1e-6,
) -> Tensor:
    """Compute a map of the apparent diffusion coefficient as scanners store it: ``ln(low / high) / b_value``.

    Args:
        low: Magnitude image without diffusion weighting.
        high: Magnitude, or trace-weighted, image at ``b_value``, same shape.
        b_value: Diffusion weighting, s/mm^2.
        thresholds: The map is 0 where ``low`` is not above the first or ``high`` not above the second.
        floor: Smaller values of both images count as this, which limits what the map can be in noise.
        largest: Larger values of the map become this, mm^2/s; negative ones become 0.
        step: Values are stored as multiples of this, mm^2/s; None rounds nothing.
        unit: What counts as 1 in the map, mm^2/s.

    Returns:
        Map of the same shape in multiples of ``unit``, not negative.

    Raises:
        ValueError: If shapes differ or a number is out of its range.

    Source:
        Le Bihan et al., Radiology 161:401 (1986).

    Example:
        >>> adc_map(torch.tensor([10.0, 10.0, 1.0]), torch.tensor([4.0, 11.0, 0.5]), b_value=1000.0,
        ...         thresholds=(2.0, 0.0))
        tensor([916.,   0.,   0.])
    """
    check_same_shape("an image at the higher b-value", high, low.shape)
    check_positive("a b-value", b_value, "s/mm^2")
    check_positive("a unit", unit, "mm^2/s")
    if step is not None:
        check_positive("a step", step, "mm^2/s")
    check_within("a largest value", largest, 0.0, math.inf, "mm^2/s")
    check_within("a floor", floor, 0.0, math.inf)
    known = (low > thresholds[0]) & (high > thresholds[1])
    lowest = max(floor, _TINY)
    values = low.clamp(min=lowest).log_().sub_(high.clamp(min=lowest).log_())
    quantum = unit if step is None else step
    values.mul_(1 / (b_value * quantum)).clamp_(0, largest / quantum)
    if step is not None:
        values.round_().mul_(step / unit)
    return values.mul_(known)


def adc_change(
    images: Sequence[Tensor],
    changes: Sequence[Tensor],
    *,
    b_value: float,
    floor: float = 0.0,
    unit: float = 1e-6,
) -> Tensor:
    """Tell what a change of the two images changes in the ADC map without noise.

    Args:
        images: Images without and with diffusion weighting, noise-free, of one shape.
        changes: What each of them has more than it would have without the change.
        b_value: Diffusion weighting, s/mm^2.
        floor: Smaller values, with or without the change, count as this: what noise would make of them.
        unit: What counts as 1 in the map, mm^2/s.

    Returns:
        Map of the same shape in multiples of ``unit``; 0 where nothing changes.

    Example:
        >>> images, changes = (torch.tensor([10.0]), torch.tensor([5.0])), (torch.zeros(1), torch.ones(1))
        >>> adc_change(images, changes, b_value=1000.0).round()
        tensor([-223.])
    """
    lowest = max(floor, _TINY)
    low, high = (
        (image.clamp(min=lowest) / (image - change).clamp(min=lowest)).log_() * (change != 0)
        for image, change in zip(images, changes, strict=True)
    )
    return low.sub_(high).div_(b_value * unit)


def fibre_contrast(
    white_matter: Tensor, positions: Tensor, *, anisotropy: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw by how much the ADC of three orthogonal directions differs from their mean in white matter.

    Fibres run in a smooth random direction ``n``, mirrored in the other half of the brain; along direction k
    the tensor of a bundle with axial symmetry has ``D_k = D + anisotropy (n_k^2 - 1/3)``. Both halves have
    the same contrast, as tracts are alike on both sides and directions are those of the head.

    Args:
        white_matter: (X, Y, Z), share of each voxel or bool.
        positions: (3, X, Y, Z) mm, where each voxel is in the head; the first is 0 between both halves.
        anisotropy: Diffusivity along fibres less that across them, mm^2/s.
        rng: Random stream; fibres turn over some 12 mm.

    Returns:
        Differences (X, Y, Z) in mm^2/s for the three directions, which add up to 0.

    Raises:
        ValueError: If the anisotropy is negative or shapes differ.

    Source:
        Basser, Mattiello, Le Bihan, Biophys J 66:259 (1994).

    Example:
        >>> rng = torch.Generator().manual_seed(1)
        >>> places = torch.stack(torch.meshgrid(*[torch.linspace(-40, 40, 9)] * 3, indexing="ij"))
        >>> parts = fibre_contrast(torch.ones(9, 9, 9), places, anisotropy=9e-4, rng=rng)
        >>> float(sum(parts).abs().max()) < 1e-9, bool(torch.allclose(parts[0], parts[0].flip(0)))
        (True, True)
    """
    check_within("an anisotropy", anisotropy, 0.0, math.inf, "mm^2/s")
    check_same_shape("positions", positions, (3, *white_matter.shape))
    halves = torch.cat([positions[:1].abs(), positions[1:]])
    low = halves.amin((1, 2, 3)).cpu()
    extent = (halves.amax((1, 2, 3)).cpu() - low).tolist()
    nx, ny, nz = (math.ceil(mm / _LATTICE_MM) + 2 for mm in extent)
    a, b, c = (max(round(mm / _FIBRE_MM) + 3, 4) for mm in extent)
    lattice = smooth_noise((nx, ny, nz), (a, b, c), rng=rng, channels=3, device=white_matter.device)
    affine = torch.diag(torch.tensor([_LATTICE_MM, _LATTICE_MM, _LATTICE_MM, 1.0], dtype=torch.float64))
    affine[:3, 3] = low.double()
    direction = sample_at(lattice, affine, halves).square_()
    direction /= direction.sum(0).clamp_(min=_TINY)
    x, y, z = direction.sub_(1 / 3).mul_(anisotropy).mul_(white_matter).unbind()
    return x, y, z
