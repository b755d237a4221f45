"""Lesions drawn from maps of where strokes of an arterial territory are."""

import math
from pathlib import Path

import torch

from anystroke.anatomy.lesions import LesionMask, crop_mask, largest_part
from anystroke.datasets import images_in
from anystroke.fields import smooth_noise
from anystroke.rng import choice, log_uniform
from anystroke.volume import Volume


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
    territory: Volume, *, volume_ml: float, rng: torch.Generator, name: str = "territory"
) -> LesionMask:
    """Draw a connected, irregular lesion within an arterial territory.

    It grows around a point drawn from the map, more willingly where the map is high, and never where it is
    zero.

    Args:
        territory: (1, X, Y, Z) map from 0 to 1 in MNI space.
        volume_ml: Wanted volume; what the territory holds if that is less.
        rng: Random stream.
        name: Identifier of the mask.

    Raises:
        ValueError: If the volume is not positive or the map is zero everywhere.
    """
    chance_of = territory.data[0].float()
    possible = chance_of > 0
    if volume_ml <= 0 or not bool(possible.any()):
        raise ValueError(f"expected a positive volume and a map that is not zero, got {volume_ml} ml")
    spacing = territory.spacing
    wanted = max(round(volume_ml * 1000 / math.prod(spacing)), 1)
    seed = torch.nonzero(possible)[choice(rng, chance_of[possible].tolist())]
    radius = (0.75 * volume_ml * 1000 / math.pi) ** (1 / 3)
    x, y, z = (
        ((torch.arange(n) - int(s)) * mm / radius) ** 2
        for n, s, mm in zip(chance_of.shape, seed, spacing, strict=True)
    )
    shape = (chance_of.shape[0], chance_of.shape[1], chance_of.shape[2])
    control = [max(4, round(n * mm / max(radius, 4.0)) + 3) for n, mm in zip(shape, spacing, strict=True)]
    score = 0.7 * smooth_noise(shape, (control[0], control[1], control[2]), rng=rng)[0]
    score += 0.6 * chance_of - 0.5 * (x[:, None, None] + y[:, None] + z)
    inside = score[possible]
    level = inside.kthvalue(max(inside.numel() - wanted + 1, 1)).values
    mask = largest_part((score >= level) & possible)
    return crop_mask(Volume(mask[None], territory.affine, territory.space_code), name)


def territory_bank(
    territories: dict[str, Volume],
    count: int,
    *,
    volumes_ml: tuple[float, float] = (0.5, 150.0),
    rng: torch.Generator,
) -> list[LesionMask]:
    """Draw a bank of lesions, territories in turn and volumes log-uniform.

    Args:
        territories: As ``load_territories`` returns them.
        count: Number of masks.
        volumes_ml: Range of the wanted volumes.
        rng: Random stream.
    """
    names = sorted(territories)
    bank = []
    for number in range(count):
        name = names[number % len(names)]
        volume = log_uniform(rng, *volumes_ml)
        bank.append(
            territory_lesion(territories[name], volume_ml=volume, rng=rng, name=f"{name}_{number:04d}")
        )
    return bank
