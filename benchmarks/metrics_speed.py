"""Time all metrics of a pair of 256^3 masks, beside MONAI's and surface-distance's, as ratios in one run.

    python benchmarks/metrics_speed.py --threads 2

surface-distance is timed if it is installed.
"""

import argparse
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from anystroke.evaluation.metrics import measure
from anystroke.evaluation.metrics.surface_distances import hausdorff

SPACING = (1.0, 1.0, 1.0)
SIDE = 256


def blobs(seed: int, count: int, radius: float) -> np.ndarray:
    """Make irregular lesions anywhere in the image."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIDE,) * 3, bool)
    size = int(2 * radius) + 8
    for _ in range(count):
        noise = ndimage.gaussian_filter(rng.normal(size=(size,) * 3), 3)
        axes = np.indices((size,) * 3) - size / 2
        ball = np.sqrt((axes**2).sum(axis=0)) / radius + 3 * noise < 1
        x, y, z = rng.integers(30, SIDE - 30 - size, 3)
        mask[x : x + size, y : y + size, z : z + size] |= ball
    return mask


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return one large lesion, and lesions all over the head, each with a shifted prediction."""
    one, many = blobs(1, 1, 32.0), blobs(2, 12, 14.0)
    return {
        "one lesion": (np.roll(one, 3, 0), one),
        "lesions everywhere": (np.roll(many, 3, 1) & ~blobs(3, 3, 10.0), many),
    }


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median duration after a first run."""
    work()
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def rivals(prediction: np.ndarray, truth: np.ndarray) -> dict[str, Callable[[], float]]:
    """Return HD95 and surface Dice of other programs."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    both = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
    found: dict[str, Callable[[], float]] = {
        "MONAI HD95": lambda: float(
            compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=SPACING)
        ),
        "MONAI surface Dice": lambda: float(
            compute_surface_dice(*both, [1.0], include_background=True, spacing=SPACING, use_subvoxels=True)
        ),
    }
    # The package uses names that newer NumPy and SciPy have dropped.
    sys.modules.setdefault("scipy.ndimage.filters", types.ModuleType("scipy.ndimage.filters"))
    for name, value in (("filters", ndimage), ("morphology", ndimage)):
        if not hasattr(ndimage, name):
            setattr(ndimage, name, value)
    try:
        import surface_distance
    except ImportError:
        return found

    def theirs() -> float:
        distances = surface_distance.compute_surface_distances(truth, prediction, SPACING)
        surface_distance.compute_surface_dice_at_tolerance(distances, 1.0)
        return float(surface_distance.compute_robust_hausdorff(distances, 95))

    return {**found, "surface-distance HD95 and surface Dice": theirs}


def main() -> None:
    """Print durations and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    affine = torch.eye(4)
    for name, (prediction, truth) in pairs().items():
        probability = (0.9 * prediction).astype(np.float32)
        ours = {
            "all metrics": lambda p=prediction, t=truth: measure(p, t, affine=affine),
            "all metrics and calibration": lambda p=prediction, t=truth, q=probability: measure(
                p, t, affine=affine, probability=q
            ),
            "HD95 alone": lambda p=prediction, t=truth: hausdorff(p, t, spacing=SPACING),
        }
        print(f"{name}: {SIDE}^3, {int(truth.sum())} true voxels, {arguments.threads} threads")
        durations = {title: seconds(work, arguments.repeats) for title, work in ours.items()}
        base = durations["all metrics"]
        for title, work in rivals(prediction, truth).items():
            durations[title] = seconds(work, arguments.repeats)
        for title, duration in durations.items():
            print(f"  {title:40s} {duration:7.3f} s   {duration / base:6.2f} x all metrics")


if __name__ == "__main__":
    main()
