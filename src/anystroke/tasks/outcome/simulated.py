"""A made-up cohort whose outcome is a known function of damage to two regions, severity and time."""

import numpy as np
import torch

from anystroke.anatomy.regions.grid import REGION_SHAPE, REGION_SPACING, positions, tissue
from anystroke.anatomy.regions.regions import region_labels, region_names
from anystroke.core.rng import stream
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.features import measure_lesions
from anystroke.tasks.outcome.masks import Lesion

PLANTED = ("superior_temporal", "insula")
"""Regions of the left hemisphere whose damage lowers the outcome."""


def simulated_cohort(
    count: int, *, seed: int = 1, noise: float = 0.25, severity: float = 2.0, time: float = 1.0
) -> OutcomeCohort:
    """Draw patients with left lesions.

    The outcome is 1 for good if ``2 severity + time - 6 (summed damage of the planted regions)`` and noise
    is above its median; severity and time are uniform from 0 to 1, damage is the share of the region.

    Args:
        count: Of patients.
        seed: Of all that is drawn.
        noise: SD of the noise.
        severity: Its weight instead of 2.
        time: Its weight instead of 1.

    Example:
        >>> cohort = simulated_cohort(8)
        >>> cohort.column_names, sorted(set(cohort.target.tolist()))
        (('severity', 'time'), [0.0, 1.0])
    """
    rng = stream(seed, "outcome", "simulated")
    lesions = tuple(_lesion(rng) for _ in range(count))
    columns = torch.rand(count, 2, generator=rng, dtype=torch.float64).numpy()
    labels = region_labels().reshape(-1)
    left = (positions()[:, 0] < 0) & (labels > 0)
    damage = np.zeros((count, len(PLANTED)))
    for j, name in enumerate(PLANTED):
        inside = left & (labels == region_names().index(name) + 1)
        damage[:, j] = [float(x.shares[inside[x.voxels]].sum()) / inside.sum() for x in lesions]
    drawn = torch.randn(count, generator=rng, dtype=torch.float64).numpy() * noise
    score = severity * columns[:, 0] + time * columns[:, 1] - 6 * damage.sum(axis=1) + drawn
    ids = tuple(f"sub-{k + 1:04d}" for k in range(count))
    target = (score > np.median(score)).astype(np.float64)
    # Columns on the scales of the symbols: severity from 1 to 7, time in years up to 5.
    shown = columns * np.array([6.0, 5.0]) + np.array([1.0, 0.0])
    return OutcomeCohort(ids, shown, ("severity", "time"), target, lesions, measure_lesions(lesions))


def _lesion(rng: torch.Generator) -> Lesion:
    """Draw an ellipsoid of 2 to 60 ml in the left hemisphere, about the territory of its middle artery."""
    u = torch.rand(7, generator=rng, dtype=torch.float64).numpy()
    centre = np.array([-50, -45, -10]) + u[:3] * np.array([26, 65, 40])
    radius = (3 * 1000 * 2 * 30 ** u[3] / (4 * np.pi)) ** (1 / 3)
    stretch = 0.7 + 0.6 * u[4:7]
    axes = [
        np.arange(n) * REGION_SPACING + start
        for n, start in zip(REGION_SHAPE, (-90.0, -126.0, -72.0), strict=True)
    ]
    parts = [((x - c) / (radius * s)) ** 2 for x, c, s in zip(axes, centre, stretch, strict=True)]
    inside = parts[0][:, None, None] + parts[1][:, None] + parts[2] <= 1
    inside &= (tissue().template > 0) & (axes[0] < 0)[:, None, None]
    voxels = np.flatnonzero(inside).astype(np.int32)
    return Lesion(voxels, np.ones(len(voxels), dtype=np.float32))
