"""Lesions drawn from maps of where strokes of an arterial territory are."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from anystroke.anatomy.lesions.bank import LesionMask, crop_mask, largest_part
from anystroke.core.fields import smooth_noise
from anystroke.core.rng import chance, integer, log_uniform
from anystroke.core.volume import Volume
from anystroke.io.datasets import images_in


def load_territories(folder: Path | str) -> dict[str, Volume]:
    """Read a folder of probability maps in MNI space, one per territory.

    Args:
        folder: Of image files; each holds one non-negative map.

    Returns:
        Name (the file's stem) -> map, scaled to at most 1.

    Raises:
        DatasetError: If there is no such folder or no image in it.
        ValueError: If a map is zero everywhere or has negative values.
    """
    found = {}
    for path in images_in(folder):
        volume = Volume.load(path)
        highest, lowest = float(volume.data.max()), float(volume.data.min())
        if not highest > 0 or lowest < 0:
            raise ValueError(
                f"expected a map of probabilities in {path}, got values from {lowest:g} to {highest:g}"
            )
        name = path.name.split(".")[0]
        found[name] = Volume(volume.data.float() / highest, volume.affine, volume.space_code)
    return found


def territory_lesion(
    territory: Volume | Sequence[Volume], *, volume_ml: float, rng: torch.Generator, name: str = "territory"
) -> LesionMask:
    """Draw a connected, irregular lesion within an arterial territory.

    It grows around a point drawn from the map, more willingly where the map is high, and never where it is
    zero.

    Args:
        territory: (1, X, Y, Z) map from 0 to 1 in MNI space; or several on one grid, which become one
            territory.
        volume_ml: Wanted volume; what the territory holds if that is less.
        rng: Random stream.
        name: Identifier of the mask.

    Raises:
        ValueError: If the volume is not positive, the map is zero everywhere or grids differ.

    Example:
        >>> from anystroke.core.rng import stream
        >>> territory = Volume(torch.ones(1, 20, 20, 20), torch.eye(4, dtype=torch.float64))
        >>> lesion = territory_lesion(territory, volume_ml=1.0, rng=stream(1, "lesion"))
        >>> 0.9 < lesion.volume_ml < 1.1
        True
    """
    territory = territory if isinstance(territory, Volume) else _united(territory)
    chance_of = territory.data[0].to(rng.device, torch.float32)
    possible = chance_of > 0
    if volume_ml <= 0 or not bool(possible.any()):
        raise ValueError(f"expected a positive volume and a map that is not zero, got {volume_ml} ml")
    spacing = territory.spacing
    wanted = max(round(volume_ml * 1000 / math.prod(spacing)), 1)
    places = torch.nonzero(possible)
    seed = places[torch.multinomial(chance_of[possible], 1, generator=rng)[0]].tolist()
    radius = (0.75 * volume_ml * 1000 / math.pi) ** (1 / 3)
    x, y, z = (
        ((torch.arange(n, device=rng.device) - s) * mm / radius) ** 2
        for n, s, mm in zip(chance_of.shape, seed, spacing, strict=True)
    )
    shape = (chance_of.shape[0], chance_of.shape[1], chance_of.shape[2])
    control = [max(4, round(n * mm / max(radius, 4.0)) + 3) for n, mm in zip(shape, spacing, strict=True)]
    score = 0.7 * smooth_noise(shape, (control[0], control[1], control[2]), rng=rng)[0]
    score += 0.6 * chance_of - 0.5 * (x[:, None, None] + y[:, None] + z)
    inside = score[possible]
    count, mask = wanted, possible
    for _ in range(4):
        level = inside.kthvalue(max(inside.numel() - count + 1, 1)).values
        mask = largest_part((score >= level) & possible)
        missing = wanted - int(mask.sum())
        if missing < 0.02 * wanted or count >= inside.numel():
            break
        count += missing
    return crop_mask(Volume(mask[None].cpu(), territory.affine, territory.space_code), name)


def _united(territories: Sequence[Volume]) -> Volume:
    """Return the voxel-wise maximum of maps on one grid."""
    if not territories:
        raise ValueError("expected at least one territory, got none")
    first = territories[0]
    for other in territories[1:]:
        if other.data.shape != first.data.shape or not torch.allclose(other.affine, first.affine, atol=1e-3):
            raise ValueError(
                f"expected territories on one grid, got shapes {tuple(first.data.shape)} and "
                f"{tuple(other.data.shape)} and affines {first.affine.tolist()} and "
                f"{other.affine.tolist()}; resample one to the other"
            )
    together = torch.stack([each.data for each in territories]).amax(0)
    return Volume(together, first.affine, first.space_code)


def territory_bank(
    territories: dict[str, Volume],
    count: int,
    *,
    volumes_ml: tuple[float, float] = (0.5, 150.0),
    several: float = 0.0,
    rng: torch.Generator,
) -> list[LesionMask]:
    """Draw a bank of lesions, territories in turn and volumes log-uniform.

    Args:
        territories: As ``load_territories`` returns them.
        count: Number of masks.
        volumes_ml: Range of the wanted volumes.
        several: Probability that a lesion may grow into a second territory, any of the others.
        rng: Random stream.
    """
    names = sorted(territories)
    bank = []
    for number in range(count):
        name = names[number % len(names)]
        volume = log_uniform(rng, *volumes_ml)
        members = [name]
        if len(names) > 1 and chance(rng, several):
            members.append(names[(number + integer(rng, 1, len(names) - 1)) % len(names)])
        maps = [territories[each] for each in members]
        label = "_".join([*members, f"{number:04d}"])
        bank.append(territory_lesion(maps, volume_ml=volume, rng=rng, name=label))
    return bank
