"""Where lesions lie in MNI space: coordinates, regions of an atlas, and a coarse map for pictures."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.volume import Volume

TEMPLATE = "MNI152NLin2009aSym"


@dataclass(frozen=True, eq=False)
class MniSpace:
    """How a scan lies in MNI space.

    Attributes:
        affine: float64 (4, 4), RAS mm of the scan -> MNI mm; None if it is not known.
        overlap: Dice of the moved brain with that of MNI152; None if it is not known.
        problem: Why there is no affine, as a sentence; empty if there is one, or the brain is not known.
    """

    affine: Tensor | None = None
    overlap: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class MniPlace:
    """Where a lesion is.

    Attributes:
        centroid: MNI mm.
        region: That which holds most of its voxels; empty if there is none, or no atlas.
        share: Of the lesion's voxels in that region; 0 if there is none.
    """

    centroid: tuple[float, float, float]
    region: str = ""
    share: float = 0.0


def with_lesion(brain: Volume | None, lesion: Volume) -> Volume | None:
    """Return the whole brain: a large stroke leaves half a hemisphere less of the healthy one.

    Args:
        brain: Mask of the healthy brain; None if it is not known.
        lesion: Mask on any grid of the same world.

    Returns:
        uint8 mask on the grid of ``brain``; that itself if it is empty or not known.

    Example:
        >>> healthy, lesion = torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 0])
        >>> both = with_lesion(*(Volume(mask.view(1, 4, 1, 1), torch.eye(4)) for mask in (healthy, lesion)))
        >>> both.data.flatten().tolist()
        [1, 1, 1, 0]
    """
    if brain is None or not bool(brain.data.any()):
        return brain
    x, y, z = brain.shape
    share = (
        replace(lesion, data=lesion.data.float()).resample_to(brain.affine, (x, y, z), antialias=True).data
    )
    return replace(brain, data=((brain.data > 0) | (share >= 0.5)).to(torch.uint8))


def find_mni_space(scan: Volume, brain: Volume | None) -> MniSpace:
    """Register a scan to MNI space, and say so if that cannot be believed.

    Args:
        scan: One channel.
        brain: The whole brain on any grid of the scan's world, see `with_lesion`; None if it is not known.

    Returns:
        The affine, or the reason why there is none; neither where the brain is not known.
    """
    if brain is None:
        return MniSpace()
    from anystroke.anatomy.registration.affine import RegistrationError  # with SimpleITK
    from anystroke.anatomy.registration.mni import SMALLEST_BRAIN_OVERLAP, register_scan

    try:
        found = register_scan(scan, brain=brain)
    except RegistrationError as error:
        return MniSpace(problem=f"the registration to MNI space failed: {error}")
    if found.overlap < SMALLEST_BRAIN_OVERLAP:
        return MniSpace(
            overlap=found.overlap,
            problem=f"the registration to MNI space failed: the brains overlap by {found.overlap:.2f}, "
            f"expected at least {SMALLEST_BRAIN_OVERLAP:g}",
        )
    return MniSpace(found.affine, found.overlap)


def find_places(
    numbered: Volume, space: MniSpace, atlas: Atlas | None = None
) -> tuple[list[MniPlace], dict[str, float]]:
    """Find where each lesion is.

    Args:
        numbered: Numbers of the lesions from 1, without a gap; 0 elsewhere.
        space: Of the scan.
        atlas: Regions to look up.

    Returns:
        A place for each lesion, by number; and the lesions' volume in each region [ml], the largest first.
        Both are empty where the scan's place in MNI space is not known. Volumes are those in the scan.

    Example:
        >>> numbered = Volume(torch.ones(1, 3, 3, 3), torch.eye(4))
        >>> find_places(numbered, MniSpace(torch.eye(4, dtype=torch.float64)))
        ([MniPlace(centroid=(1.0, 1.0, 1.0), region='', share=0.0)], {})
    """
    if space.affine is None:
        return [], {}
    index = numbered.data[0].nonzero()
    numbers = numbered.data[0][tuple(index.T)].long()
    matrix = space.affine @ numbered.affine
    points = index.double() @ matrix[:3, :3].T + matrix[:3, 3]
    regions = atlas.at(points) if atlas else torch.zeros(len(points), dtype=torch.int64)
    places = []
    for number in range(1, int(numbers.max()) + 1 if len(numbers) else 1):
        own = numbers == number
        x, y, z = (float(value) for value in points[own].mean(dim=0))
        region, share = _main_region(regions[own])
        named = atlas.name(region) if atlas and region else ""
        places.append(MniPlace((x, y, z), named, share))
    volumes: dict[str, float] = {}
    if atlas:
        found, counts = torch.unique(regions[regions > 0], return_counts=True)
        for i in counts.argsort(descending=True, stable=True).tolist():
            name = atlas.name(int(found[i]))
            volumes[name] = volumes.get(name, 0.0) + int(counts[i]) * numbered.voxel_volume
    return places, volumes


def coarse_map(mask: Volume, space: MniSpace) -> Volume | None:
    """Bring a lesion to the grid of 3 mm on which those of several scans are compared.

    Args:
        mask: Not zero inside.
        space: Of the scan.

    Returns:
        float32 (1, 66, 78, 63), the share of each voxel that is lesion; None where the scan's place in MNI
        space is not known.
    """
    if space.affine is None:
        return None
    from anystroke.anatomy.registration.mni import mni_grid

    affine, shape = mni_grid()
    moved = Volume((mask.data > 0).float(), space.affine @ mask.affine)
    data = moved.resample_to(affine, shape, antialias=True).data.clamp(0, 1)
    return Volume(torch.where(data < 0.01, 0.0, data), affine, 4)


def _main_region(regions: Tensor) -> tuple[int, float]:
    """Return the region with most voxels, and its share of all voxels."""
    inside = regions[regions > 0]
    if not len(inside):
        return 0, 0.0
    numbers, counts = torch.unique(inside, return_counts=True)
    best = int(counts.argmax())
    return int(numbers[best]), float(counts[best]) / len(regions)
