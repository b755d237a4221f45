"""Lesions made up where no masks of real ones are given."""

import torch

from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings, blob_lesion
from anystroke.core.rng import chance, log_uniform, stream, uniform

# Where centres are in MNI mm (left or right), and volumes in ml.
_CENTRE = ((22.0, 52.0), (-45.0, 35.0), (-8.0, 42.0))
_VOLUME = (1.0, 120.0)


def random_blob(settings: LesionSettings, *, rng: torch.Generator) -> list[LesionMask]:
    """Draw the made-up lesion of one patient: none, or one in either hemisphere.

    Args:
        settings: Says how often there is none.
        rng: Random stream.

    Returns:
        No mask or one.

    Example:
        >>> len(random_blob(LesionSettings(absent=0.0), rng=stream(1, "lesion")))
        1
    """
    if chance(rng, settings.absent):
        return []
    x, y, z = (uniform(rng, low, high) for low, high in _CENTRE)
    side = -1.0 if chance(rng, 0.5) else 1.0
    volume = log_uniform(rng, *_VOLUME)
    name = f"blob_{side * x:+.0f}{y:+.0f}{z:+.0f}_{volume:.0f}ml"
    return [blob_lesion(centre=(side * x, y, z), volume_ml=volume, rng=rng, name=name)]


def blob_bank(count: int, *, seed: int) -> list[LesionMask]:
    """Make up a number of lesions.

    Args:
        count: Of lesions.
        seed: Decides them.

    Example:
        >>> len(blob_bank(2, seed=1))
        2
    """
    settings = LesionSettings(absent=0.0)
    return [random_blob(settings, rng=stream(seed, "blob", k))[0] for k in range(count)]
