"""Lesion masks: a bank of them, their random shape, their place in a patient, their tissue."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import torch
from pydantic import Field
from scipy.ndimage import label as label_components
from torch import Tensor

from anystroke.anatomy.lesions.edges import Fading, SoftEdge, soft_copy_paste
from anystroke.anatomy.lesions.habits import LesionHabit, habit_of
from anystroke.anatomy.lesions.stages import STAGES, TISSUES_OF_STAGE, Stage, lesion_shares
from anystroke.anatomy.tissues.cropping import filled_box, shifted
from anystroke.anatomy.tissues.deformation import DeformationSettings, random_affine, sample_at
from anystroke.core.config import StrictModel
from anystroke.core.fields import smooth, smooth_noise
from anystroke.core.packs import PackedTensor, PackEntry, read_pack, write_pack
from anystroke.core.rng import chance, choice, integer, log_uniform, uniform
from anystroke.core.volume import Volume

log = logging.getLogger(__name__)

_MARGIN = 6
_EMBOLI = "-emboli"
_RIM_MM = (2.5, 6.0)


@dataclass(frozen=True)
class LesionMask:
    """One lesion mask, cropped, in MNI space.

    Attributes:
        name: Identifier, the file's stem.
        voxels: (I, J, K) bool, or the same packed.
        affine: (4, 4) voxel -> MNI RAS+ mm.
        count: Voxels of the lesion; counted if None.
    """

    name: str
    voxels: Tensor | PackedTensor
    affine: Tensor
    count: int | None = None

    @property
    def mask(self) -> Tensor:
        """(I, J, K) bool; unpacked at each access."""
        return self.voxels if isinstance(self.voxels, Tensor) else self.voxels.unpack()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the mask's box along each axis."""
        return tuple(self.voxels.shape)

    @cached_property
    def volume_ml(self) -> float:
        """Volume in ml."""
        count = float(self.mask.sum()) if self.count is None else float(self.count)
        return count * abs(float(torch.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def centre(self) -> Tensor:
        """(3,) centre of the bounding box in MNI mm."""
        middle = torch.tensor([*((n - 1) / 2 for n in self.shape), 1.0], dtype=torch.float64)
        return (self.affine @ middle)[:3]

    def mirrored(self) -> "LesionMask":
        """Return the same lesion in the other hemisphere."""
        flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
        return LesionMask(self.name, self.voxels, flip @ self.affine, self.count)


class LesionSettings(StrictModel):
    """How lesions are chosen and changed.

    Where ``several``, ``emboli``, ``stages`` or ``size_power`` is None, it is what scans of the weighting
    show, see `lesion_habits`.

    Attributes:
        absent: Probability of a patient without lesion.
        several: Probability of a second lesion mask on top of the first.
        emboli: Probability of a shower of small emboli instead.
        stages: Probability of each of ``STAGES``.
        size_power: A mask is chosen with probability proportional to its volume to this power.
        size_limits_ml: Volumes outside are counted as the limit when choosing.
        mirror: Probability of moving a mask to the other hemisphere.
        shape: Affine and elastic changes of each mask about its own centre.
        level: Largest relative shift of the mask's iso-level, which moves its border by a fraction of a mm.
        erosion: Largest inward shift of the border, in mm; about a quarter of the volume always remains.
        dilation: Largest outward shift of the border, in mm.
        penumbra: Probability that what surrounds the core of an acute lesion is affected in part only.
        haemorrhage: Probability that a lesion has bled.
        graded: Probability that a lesion is affected ever less towards its border; all of it is taught.
        edge: ``"smooth"``, or the mask's own voxels with the soft edge of SynthStroke: ``"reference"`` as its
            program makes it, ``"morphological"`` as it was meant, see `soft_copy_paste`.
        fading: Grades within the lesion, see `fade`: as published (``"reference"``), or ``"smooth"``.
        target_above: A voxel is a lesion where the membership is above this; SynthStroke says 0.2 for lesions
            that fade, else 0.5.
    """

    absent: float = 0.08
    several: float | None = Field(default=None, ge=0, le=1)
    emboli: float | None = Field(default=None, ge=0, le=1)
    stages: tuple[float, float, float] | None = None
    size_power: float | None = None
    size_limits_ml: tuple[float, float] = (0.1, 40.0)
    mirror: float = 0.5
    shape: DeformationSettings = DeformationSettings(
        rotation=12, scaling=0.2, shear=0.1, translation=6, elastic=2.5, mirror=0
    )
    level: float = 0.2
    erosion: float = Field(default=0.0, ge=0, le=10)
    dilation: float = Field(default=0.0, ge=0, le=10)
    penumbra: float = 0.3
    haemorrhage: float = 0.06
    graded: float = Field(default=0.0, ge=0, le=1)
    edge: Literal["smooth"] | SoftEdge = "smooth"
    fading: Literal["none"] | Fading = "none"
    target_above: float = Field(default=0.5, ge=0, lt=1)

    def habit(self, weighting: str | None = None) -> LesionHabit:
        """Return what holds for scans of a weighting: these settings, and the habit where they say nothing.

        Args:
            weighting: Such as ``"FLAIR"``; None for a patient with scans of several.
        """
        own: dict[str, Any] = {
            name: getattr(self, name) for name in ("several", "emboli", "stages", "size_power")
        }
        return replace(
            habit_of(weighting), **{name: value for name, value in own.items() if value is not None}
        )


def crop_mask(volume: Volume, name: str) -> LesionMask:
    """Cut a lesion mask to its bounding box.

    Raises:
        ValueError: If the mask is empty.
    """
    mask = volume.data[0] > 0.5
    try:
        box = filled_box(mask)
    except ValueError as error:
        raise ValueError(
            f"expected a lesion mask with at least one voxel, but {name} is empty; leave it out"
        ) from error
    return LesionMask(name, mask[box].contiguous(), shifted(volume.affine, [part.start for part in box]))


def load_lesion_mask(path: Path) -> LesionMask:
    """Read a lesion mask in MNI space from an image file.

    Raises:
        ValueError: If the file is no mask, or an empty one.
    """
    return crop_mask(Volume.load(path, dtype=None), path.name.split(".")[0])


def load_masks(paths: Iterable[Path]) -> list[LesionMask]:
    """Read lesion masks in MNI space from image files; empty ones are left out with a warning."""
    masks = []
    for path in paths:
        try:
            masks.append(load_lesion_mask(path))
        except ValueError as error:
            log.warning("%s", error)
    return masks


def pack_mask(lesion: LesionMask, source: str = "") -> PackEntry:
    """Compress a mask.

    Args:
        lesion: The mask.
        source: Names the input that it was made from.
    """
    voxels = lesion.voxels
    if isinstance(voxels, Tensor):
        voxels = PackedTensor.of(voxels)
    count = int(lesion.mask.sum()) if lesion.count is None else lesion.count
    return PackEntry(lesion.name, voxels, {"affine": lesion.affine.tolist(), "count": count}, source)


def unpack_mask(entry: PackEntry) -> LesionMask:
    """Return the mask that `pack_mask` compressed; its voxels stay packed."""
    affine = torch.tensor(entry.facts["affine"], dtype=torch.float64)
    return LesionMask(entry.name, entry.content, affine, entry.facts["count"])


def save_bank(masks: Sequence[LesionMask], path: Path) -> None:
    """Write cropped masks to one compressed safetensors file."""
    write_pack([pack_mask(lesion) for lesion in masks], path, kind="lesions")


def load_bank(path: Path) -> list[LesionMask]:
    """Read what ``save_bank`` wrote; each mask is unpacked when it is used.

    Raises:
        PackError: If the file is of another version; the message says how to pack again.
    """
    return [unpack_mask(entry) for entry in read_pack(path, kind="lesions")]


def choose_mask(
    masks: Sequence[LesionMask],
    settings: LesionSettings,
    rng: torch.Generator,
    *,
    weighting: str | None = None,
) -> LesionMask:
    """Draw one mask, larger ones more often as ``size_power`` says.

    Args:
        masks: To choose from.
        settings: Preferences.
        rng: Random stream.
        weighting: Of the scan, for what the settings leave open.
    """
    low, high = settings.size_limits_ml
    power = settings.habit(weighting).size_power
    weights = [min(max(m.volume_ml, low), high) ** power for m in masks]
    return masks[choice(rng, weights)]


def place_mask(
    lesion: LesionMask, mni_points: Tensor, *, settings: LesionSettings, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give a mask a random shape and read it at the patient's voxels.

    The steps that thick slices leave in a mask are smoothed away; the iso-level that keeps its volume becomes
    its boundary, moved outwards or inwards at random.

    Args:
        lesion: The mask.
        mni_points: (3, X, Y, Z) MNI position of each voxel, mm.
        settings: Ranges.
        rng: Random stream.

    Returns:
        ``(membership, depth)``, each (X, Y, Z): soft membership in [0, 1] with a soft edge, and the smoothed
        mask's height above its boundary, positive inside, 0.5 to 1 in the depth of a large lesion.
    """
    move = 0.0
    if settings.erosion > 0 or settings.dilation > 0:
        move = uniform(rng, -settings.erosion, settings.dilation)
    smoothed, affine, level = _iso_surface(lesion, move, mni_points.device, rng)
    level *= 1 + uniform(rng, -settings.level, settings.level)

    change = random_affine(settings.shape, rng)
    centre = torch.eye(4, dtype=torch.float64)
    centre[:3, 3] = lesion.centre
    moved = centre @ change @ torch.linalg.inv(centre) @ affine
    if settings.shape.elastic > 0 and mni_points.numel():
        mni_points = _elastic(mni_points, settings.shape.elastic, rng).add_(mni_points)
    height = _read(smoothed, moved, mni_points).sub_(level)
    if settings.edge != "smooth" and mni_points.numel():
        return soft_copy_paste(height > 0, mode=settings.edge).clamp_(0, 1), height
    edge = uniform(rng, 0.1, 0.3)
    return (height / edge).add_(0.5).clamp_(0, 1), height


def _iso_surface(
    lesion: LesionMask, move: float, device: torch.device, rng: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Smooth a mask and find the level of its border, moved outwards by some mm or, if negative, inwards.

    Returns:
        The smoothed mask with a margin, its affine, and the level.
    """
    spacing = lesion.affine[:3, :3].norm(dim=0).tolist()
    sigma_mm = (uniform(rng, 0.7, 1.2), uniform(rng, 0.7, 1.2), uniform(rng, 1.5, 2.5))
    if lesion.name.endswith(_EMBOLI):
        # They have no steps of thick slices, and the smallest would be smoothed away.
        sigma_mm = (0.7, 0.7, 0.7)
    # Smoothed as widely as the border moves, a mask still has a slope where the border goes to.
    wide = [math.hypot(s, move) for s in sigma_mm]
    margin = _MARGIN + math.ceil(2 * abs(move) / min(spacing))
    mask = lesion.mask
    inside = torch.nn.functional.pad(mask.to(device, torch.float32), (margin,) * 6)
    affine = lesion.affine.clone()
    affine[:3, 3] -= lesion.affine[:3, :3] @ torch.full((3,), float(margin), dtype=torch.float64)
    x, y, z = (s / v for s, v in zip(wide, spacing, strict=True))
    smoothed = smooth(inside, (x, y, z))
    count = int(mask.sum())
    level = _height_of_volume(smoothed, count)
    if move:
        normal = NormalDist()
        steepness = move / math.prod(wide) ** (1 / 3)
        moved = normal.cdf(normal.inv_cdf(min(max(level, 1e-3), 1 - 1e-3)) - steepness)
        level = min(moved, _height_of_volume(smoothed, max(count // 4, 1))) if move < 0 else moved
    return smoothed, affine, level


def _height_of_volume(field: Tensor, count: int) -> float:
    """Return the value that ``count`` voxels of a field reach."""
    high = field[field > 0.1]
    if high.numel() < count:
        high = field.flatten()
    return float(high.kthvalue(high.numel() - count + 1).values)


def _read(smoothed: Tensor, affine: Tensor, points: Tensor) -> Tensor:
    """Read a smoothed mask at (3, X, Y, Z) points in mm, zero beyond its margin."""
    height = points.new_zeros(points.shape[1:])
    inverse = torch.linalg.inv(affine)
    near = torch.ones_like(height, dtype=torch.bool)
    for row, n in zip(inverse.tolist()[:3], smoothed.shape, strict=True):
        index = points[0] * row[0]
        index.add_(points[1], alpha=row[1]).add_(points[2], alpha=row[2])
        near &= (index > -1 - row[3]) & (index < n - row[3])
    plane = near.any(0)
    filled = [torch.nonzero(some) for some in (near.flatten(1).any(1), plane.any(1), plane.any(0))]
    if not len(filled[0]):
        return height
    x, y, z = (slice(int(places[0]), int(places[-1]) + 1) for places in filled)
    height[x, y, z] = sample_at(smoothed[None], affine, points[:, x, y, z])[0]
    return height


def _elastic(points: Tensor, largest: float, rng: torch.Generator) -> Tensor:
    """Return a smooth random displacement in mm, its control points about 20 mm apart."""
    shape = (points.shape[1], points.shape[2], points.shape[3])
    spacing = _spacing(points)
    x, y, z = (max(4, min(16, round(n * spacing / 20) + 3)) for n in shape)
    return uniform(rng, 0.0, largest) * smooth_noise(
        shape, (x, y, z), rng=rng, channels=3, device=points.device
    )


def _spacing(points: Tensor) -> float:
    """Return the voxel size in mm of (3, X, Y, Z) points, along their first axis."""
    extent = float((points[:, -1, 0, 0] - points[:, 0, 0, 0]).norm())
    return max(extent / max(points.shape[1] - 1, 1), 0.1)


@dataclass(frozen=True)
class PlacedLesion:
    """Lesions of one patient on the output grid.

    Attributes:
        membership: (X, Y, Z) in [0, 1].
        shares: Tissue of the prior table -> (X, Y, Z), its share of the voxel; together at most the
            membership.
        stage: Age of the lesion.
        names: Masks used.
    """

    membership: Tensor
    shares: Mapping[str, Tensor]
    stage: Stage
    names: tuple[str, ...]


def place_lesions(
    masks: Sequence[LesionMask],
    mni_points: Tensor,
    *,
    settings: LesionSettings,
    rng: torch.Generator,
    stage: Stage | None = None,
    weighting: str | None = None,
    severity: Tensor | None = None,
) -> PlacedLesion:
    """Put given masks, all of one age, into a patient.

    Args:
        masks: Zero or more.
        mni_points: (3, X, Y, Z) MNI position of each voxel, mm.
        settings: Ranges.
        rng: Random stream.
        stage: Age of the lesions; None draws it.
        weighting: Of the scan, which says how old lesions are where the settings do not.
        severity: (X, Y, Z) in [0, 1], multiplies the membership; None for 1.
    """
    drawn = STAGES[choice(rng, list(settings.habit(weighting).stages))]
    stage = stage or drawn
    membership = mni_points.new_zeros(mni_points.shape[1:])
    names = tuple(mask.name for mask in masks)
    if not masks or not mni_points.numel():
        nothing = {tissue: membership.clone() for tissue in TISSUES_OF_STAGE[stage]}
        return PlacedLesion(membership, nothing, stage, names)
    for lesion in masks:
        member, _ = place_mask(lesion, mni_points, settings=settings, rng=rng)
        torch.maximum(membership, member, out=membership)
    if severity is not None:
        membership *= severity
    spacing = _spacing(mni_points)
    shares = lesion_shares(
        membership,
        smooth(membership, uniform(rng, *_RIM_MM) / spacing),
        stage=stage,
        spacing=spacing,
        penumbra=settings.penumbra,
        haemorrhage=settings.haemorrhage,
        graded=settings.graded,
        rng=rng,
    )
    return PlacedLesion(membership, shares, stage, names)


def draw_masks(
    masks: Sequence[LesionMask],
    settings: LesionSettings,
    rng: torch.Generator,
    *,
    weighting: str | None = None,
) -> list[LesionMask]:
    """Draw the masks of one patient: none, one, two, or emboli within one; each in either hemisphere.

    Args:
        masks: To draw from.
        settings: Preferences.
        rng: Random stream.
        weighting: Of the scan, for what the settings leave open.
    """
    if chance(rng, settings.absent) or not masks:
        return []
    habit = settings.habit(weighting)
    count = 2 if chance(rng, habit.several) else 1
    chosen = [choose_mask(masks, settings, rng, weighting=weighting) for _ in range(count)]
    if habit.emboli and chance(rng, habit.emboli):
        chosen = [embolic_shower(mask, rng=rng) for mask in chosen]
    return [mask.mirrored() if chance(rng, settings.mirror) else mask for mask in chosen]


def embolic_shower(territory: LesionMask, *, rng: torch.Generator) -> LesionMask:
    """Make small separate lesions where one mask is: emboli that came to rest along the same arteries.

    Args:
        territory: A mask whose place is that of the emboli; a small one is grown to a reach of 12 mm.
        rng: Random stream.

    Returns:
        3 to 20 round parts of 0.03 to 1 ml, some of them joined, on the grid of the mask; numbers and sizes
        are engineering estimates. `place_mask` smooths masks, so parts below 0.05 ml may vanish there.

    Example:
        >>> from anystroke.core.rng import stream
        >>> territory = blob_lesion(centre=(40.0, 0.0, 10.0), volume_ml=60.0, rng=stream(1, "territory"))
        >>> 0.05 < embolic_shower(territory, rng=stream(1, "emboli")).volume_ml < 20
        True
    """
    spacing = territory.affine[:3, :3].norm(dim=0).tolist()
    margin = [math.ceil(12 / size) for size in spacing]
    reach = torch.nn.functional.pad(territory.mask, [m for size in reversed(margin) for m in (size, size)])
    if territory.volume_ml < 10:
        x, y, z = (6 / size for size in spacing)
        wide = smooth(reach.float(), (x, y, z))
        reach = wide > 0.1 * wide.max()
    places = torch.nonzero(reach)
    parts = torch.zeros_like(reach)
    axes = [torch.arange(n) * size for n, size in zip(reach.shape, spacing, strict=True)]
    for _ in range(round(log_uniform(rng, 3, 20))):
        radius = (0.75 / math.pi * 1000 * log_uniform(rng, 0.03, 1.0)) ** (1 / 3)
        centre = places[integer(rng, 0, len(places) - 1)].tolist()
        stretch = [uniform(rng, 0.75, 1.3) for _ in axes]
        x2, y2, z2 = (
            ((axis - c * size) / (radius * s)) ** 2
            for axis, c, size, s in zip(axes, centre, spacing, stretch, strict=True)
        )
        parts |= x2[:, None, None] + y2[:, None] + z2 <= 1
    affine = territory.affine.clone()
    affine[:3, 3] -= affine[:3, :3] @ torch.tensor(margin, dtype=torch.float64)
    return crop_mask(Volume(parts[None], affine, 4), territory.name + _EMBOLI)


def blob_lesion(
    *, centre: tuple[float, float, float], volume_ml: float, rng: torch.Generator, name: str = "blob"
) -> LesionMask:
    """Make an irregular lesion mask: a ball whose surface smooth noise pushes in and out.

    Args:
        centre: About where, in MNI RAS+ mm.
        volume_ml: Wanted volume; the mask comes within a few percent of it.
        rng: Random stream.
        name: Identifier.

    Returns:
        One connected mask on a 1 mm grid.

    Raises:
        ValueError: If the volume is not between 0.1 and 400 ml.

    Example:
        >>> from anystroke.core.rng import stream
        >>> lesion = blob_lesion(centre=(-40.0, 0.0, 10.0), volume_ml=20.0, rng=stream(1, "lesion"))
        >>> 19 < lesion.volume_ml < 21
        True
    """
    if not 0.1 <= volume_ml <= 400:
        raise ValueError(f"expected a lesion of 0.1 to 400 ml, got {volume_ml}")
    wanted = round(volume_ml * 1000)
    radius = (0.75 / math.pi * wanted) ** (1 / 3)
    half = math.ceil(2 * radius) + 3
    shape = (2 * half + 1,) * 3
    axis = torch.arange(-half, half + 1, device=rng.device) / radius
    falloff = -(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) / 2
    score = falloff + 0.6 * smooth_noise(shape, (9, 9, 9), rng=rng)[0]
    score += 0.35 * smooth_noise(shape, (18, 18, 18), rng=rng)[0]
    count, mask = wanted, score > 0
    for _ in range(6):
        level = score.flatten().kthvalue(score.numel() - count + 1).values
        mask = largest_part(score >= level)
        found = int(mask.sum())
        if abs(found - wanted) < 0.01 * wanted:
            break
        count = min(count + wanted - found, score.numel() // 3)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = torch.tensor(centre, dtype=torch.float64) - half
    return crop_mask(Volume(mask[None].cpu(), affine, 4), name)


def largest_part(mask: Tensor) -> Tensor:
    """Return the largest connected part of a mask (X, Y, Z), faces joined."""
    parts = torch.from_numpy(label_components(mask.cpu().numpy())[0]).to(mask.device)
    sizes = torch.bincount(parts.flatten())
    sizes[0] = 0
    return parts == sizes.argmax()
