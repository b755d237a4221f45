"""A few numbers that say what an image is like, to compare a scan with the images of a training."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from anystroke.models.model_space import LARGEST_SAMPLE

FEATURES = {
    "sharpest_axis_mm": "the smoothness (FWHM) along the sharpest axis [mm]",
    "smoothest_axis_mm": "the smoothness (FWHM) along the smoothest axis [mm]",
    "noise": "the noise (over the standard deviation of the image)",
    "skewness": "the skewness of the histogram",
    "entropy_bits": "the entropy of the histogram [bits]",
    "centre_contrast": "the brightness of the centre over that of the border (in standard deviations)",
}
"""Name of each feature -> what it is."""

RANGE_QUANTILES = (0.005, 0.995)
"""Between which the features of training images count as usual."""

# Of the width of a range, by which a feature may be outside: a few hundred images do not tell their
# rarest ones.
_MARGIN = 0.1
_BINS = 64
_BORDER = 0.25


def image_features(image: Tensor, *, spacing: float) -> dict[str, float]:
    """Measure an image.

    Args:
        image: Standardised intensities on the grid of a network, (X, Y, Z), at least three voxels a side.
        spacing: Voxel size [mm].

    Returns:
        ``sharpest_axis_mm`` and ``smoothest_axis_mm``: full width at half maximum of a Gaussian field whose
        neighbours are as alike as the voxels of the foreground along that axis (Forman et al., Magn Reson Med
        33:636, 1995); thick slices are smooth, noise is sharp. ``noise``: median absolute difference of a
        voxel to the mean of its six neighbours, scaled to the standard deviation of white noise, over that
        of the foreground. ``skewness`` of the foreground. ``entropy_bits`` of its histogram of 64 bins.
        ``centre_contrast``: mean of the middle half along each axis less that of the outer eighths, in
        standard deviations of the foreground. The foreground is what is above the minimum.

    Example:
        >>> noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(1))
        >>> round(image_features(noise, spacing=2.0)["noise"], 1)
        1.0
    """
    image = image.float()
    inside = image > image.min()
    values = image[inside]
    if values.numel() < 2 or not bool(values.max() > values.min()):
        return dict.fromkeys(FEATURES, math.nan)
    sd = float(values.std(correction=0))
    widths = sorted(_width(image, inside, axis, sd) * spacing for axis in range(3))
    standard = (values - values.mean()) / sd
    counts = torch.histc(standard[:: 1 + standard.numel() // LARGEST_SAMPLE], _BINS)
    shares = counts[counts > 0] / counts.sum()
    return {
        "sharpest_axis_mm": widths[0],
        "smoothest_axis_mm": widths[-1],
        "noise": _noise(image, inside) / sd,
        "skewness": float(standard.pow(3).mean()),
        "entropy_bits": float(-(shares * shares.log2()).sum()),
        "centre_contrast": _centre_contrast(image) / sd,
    }


def image_range(features: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Find the usual range of each feature.

    Args:
        features: Of each image; those that are not finite are left out.

    Returns:
        Feature -> 0.5 and 99.5 % quantiles, rounded to four digits; empty without an image.

    Example:
        >>> image_range([{"noise": 0.0}, {"noise": 1.0}])
        {'noise': (0.005, 0.995)}
    """
    rows = [row for row in features if all(map(math.isfinite, row.values()))]
    if not rows:
        return {}
    quantiles = torch.tensor(RANGE_QUANTILES, dtype=torch.float64)
    found = {}
    for name in rows[0]:
        low, high = (
            torch.tensor([row[name] for row in rows], dtype=torch.float64).quantile(quantiles).tolist()
        )
        found[name] = (float(f"{low:.4g}"), float(f"{high:.4g}"))
    return found


def outside_range(features: Mapping[str, float], usual: Mapping[str, tuple[float, float]]) -> list[str]:
    """Say which features of an image are far from those of the training.

    Args:
        features: Of the image.
        usual: Range of each feature; one that is not there is not judged.

    Returns:
        Part of a sentence for each feature that is outside by more than a tenth of its range.

    Example:
        >>> outside_range({"skewness": 5.0}, {"skewness": (-2.0, 2.5)})
        ['the skewness of the histogram is 5, expected -2 to 2.5']
    """
    if features and all(map(math.isnan, features.values())) and usual:
        return ["what is above the minimum has one intensity only"]
    words = []
    for name, (low, high) in usual.items():
        if name not in features or name not in FEATURES:
            continue
        value, margin = features[name], _MARGIN * (high - low)
        if not low - margin <= value <= high + margin:
            words.append(f"{FEATURES[name]} is {value:.3g}, expected {low:.3g} to {high:.3g}")
    return words


def _width(image: Tensor, inside: Tensor, axis: int, sd: float) -> float:
    """Compute the smoothness along an axis [voxels]; 0 where neighbours are not alike at all."""
    last = image.shape[axis] - 1
    both = inside.narrow(axis, 0, last) & inside.narrow(axis, 1, last)
    steps = image.diff(dim=axis)[both]
    alike = 1 - float(steps.square().mean()) / (2 * sd**2) if steps.numel() else 0.0
    return math.sqrt(-2 * math.log(2) / math.log(min(alike, 1 - 1e-6))) if alike > 0 else 0.0


def _noise(image: Tensor, inside: Tensor) -> float:
    """Compute the standard deviation of white noise that differs from its neighbours as the image does."""
    centre = (slice(1, -1),) * 3
    total = torch.zeros_like(image[centre])
    whole = inside[centre].clone()
    for axis in range(3):
        for shift in (0, 2):
            place = tuple(
                slice(shift, image.shape[a] - 2 + shift) if a == axis else slice(1, -1) for a in range(3)
            )
            total += image[place]
            whole &= inside[place]
    difference = (image[centre] - total / 6)[whole].abs()
    if not difference.numel():
        return 0.0
    return float(difference.median()) * 1.4826 / math.sqrt(1 + 1 / 6)


def _centre_contrast(image: Tensor) -> float:
    middle = tuple(slice(round(_BORDER * n), n - round(_BORDER * n)) for n in image.shape)
    inner = tuple(slice(round(_BORDER / 2 * n), n - round(_BORDER / 2 * n)) for n in image.shape)
    outer = torch.ones_like(image, dtype=torch.bool)
    outer[inner] = False
    return float(image[middle].mean() - image[outer].mean())
