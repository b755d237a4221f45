"""Other people's tissue from one person's maps: a mixture of Gaussians whose components are moved.

Source: the training of qATLAS and qSynth (L. Chalcroft et al., 2024-2025): eight components with diagonal
covariance, fitted to normalised maps within the brain; every voxel keeps its standardised place in each
component, weighted with the posterior of the components.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.core.rng import integer

COMPONENTS = 8
_PERCENTILES = (1.0, 99.0)
_MOST_VOXELS = 20_000
_ITERATIONS = 200
_TOLERANCE = 1e-3
_LEAST_SD = 0.1


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with diagonal covariance over maps that were scaled to [0, 1].

    Attributes:
        low: (C,) what became 0, in the unit of each map.
        high: (C,) what became 1.
        weights: (K,) of the components; they sum to one.
        means: (K, C).
        sds: (K, C), above 0.
    """

    low: Tensor
    high: Tensor
    weights: Tensor
    means: Tensor
    sds: Tensor


def fit_mixture(values: Tensor, *, components: int = COMPONENTS, rng: torch.Generator) -> Mixture:
    """Fit a mixture to the voxels of a brain.

    Args:
        values: (C, N) the maps at N voxels; at most 20,000 of them, drawn at random, are used.
        components: Number of Gaussians.
        rng: Random stream.

    Returns:
        The mixture. Each map is scaled by its 1st and 99th percentile, and clipped there.

    Raises:
        ValueError: If there are fewer than 10 voxels per component, or a map does not vary.

    Example:
        >>> from anystroke.core.rng import stream
        >>> values = torch.cat([torch.randn((1, 500), generator=stream(1)) + mean for mean in (10, 20)], 1)
        >>> mixture = fit_mixture(values, components=2, rng=stream(2))
        >>> means = mixture.means * (mixture.high - mixture.low) + mixture.low
        >>> means.flatten().sort().values.round().tolist()
        [10.0, 20.0]
    """
    # scikit-learn takes a second to import, and only fitting needs it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    count = values.shape[1]
    if count < 10 * components:
        raise ValueError(
            f"expected at least {10 * components} voxels for {components} components, got {count}; check the "
            "mask"
        )
    chosen = torch.randperm(count, generator=rng, device=rng.device)[:_MOST_VOXELS]
    sample = values[:, chosen.to(values.device)].double().cpu()
    ends = torch.tensor(_PERCENTILES, dtype=torch.float64) / 100
    low, high = torch.quantile(sample, ends, dim=1)
    if bool((high <= low).any()):
        raise ValueError("expected maps that vary within the mask, but one is the same almost everywhere")
    scaled = ((sample - low[:, None]) / (high - low)[:, None]).clamp(0, 1)
    model = GaussianMixture(
        components,
        covariance_type="diag",
        max_iter=_ITERATIONS,
        tol=_TOLERANCE,
        reg_covar=1e-5,
        random_state=integer(rng, 0, 2**31 - 1),
    )
    with warnings.catch_warnings():
        # A likelihood that still rises a little describes the maps well enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled.T.numpy())
    weights, means, variances = (
        torch.from_numpy(array).float() for array in (model.weights_, model.means_, model.covariances_)
    )
    return Mixture(low.float(), high.float(), weights, means, variances.sqrt())


def moved_mixture(mixture: Mixture, *, mean: float = 0.5, sd: float = 0.1, rng: torch.Generator) -> Mixture:
    """Move the components at random: each mean and SD up, down or not at all.

    Args:
        mixture: What was fitted.
        mean: Largest shift of a mean, as a share of the map's range.
        sd: Largest change of an SD, likewise. An SD keeps a tenth of itself at least, so that no order turns.
        rng: Random stream.

    Raises:
        ValueError: If a largest change is negative.
    """
    if mean < 0 or sd < 0:
        raise ValueError(f"expected largest changes of 0 or more, got {mean} and {sd}")

    def change(largest: float) -> Tensor:
        size = torch.rand(mixture.means.shape, generator=rng, device=rng.device)
        sign = torch.randint(-1, 2, mixture.means.shape, generator=rng, device=rng.device)
        return (largest * size * sign).to(mixture.means)

    means = mixture.means + change(mean)
    sds = torch.maximum(mixture.sds + change(sd), _LEAST_SD * mixture.sds)
    return Mixture(mixture.low, mixture.high, mixture.weights, means, sds)


def posteriors(scaled: Tensor, mixture: Mixture) -> Tensor:
    """Return (N, K), the probability of each component at N voxels (C, N) scaled to [0, 1]."""
    precision = mixture.sds.square().reciprocal()
    constant = mixture.weights.log() - mixture.sds.log().sum(1)
    constant = constant - 0.5 * (mixture.means.square() * precision).sum(1)
    voxels = scaled.T
    score = voxels @ (mixture.means * precision).T - 0.5 * voxels.square() @ precision.T
    return (score + constant).softmax(1)


def move_values(values: Tensor, mixture: Mixture, moved: Mixture) -> Tensor:
    """Give voxels the values that they have when the components are moved.

    Args:
        values: (C, N) the maps at N voxels, in their units.
        mixture: That was fitted to them.
        moved: The same with other means and SDs.

    Returns:
        (C, N), within the 1st and 99th percentiles of the maps. Within one component the order of voxels
        stays; only values at the limits may become equal.

    Example:
        >>> low, high, weight = torch.tensor([0.0]), torch.tensor([10.0]), torch.tensor([1.0])
        >>> mixture = Mixture(low, high, weight, torch.ones(1, 1) / 2, torch.ones(1, 1))
        >>> moved = Mixture(low, high, weight, torch.ones(1, 1), torch.ones(1, 1))
        >>> move_values(torch.tensor([[2.0, 5.0, 9.0]]), mixture, moved)
        tensor([[ 7., 10., 10.]])
    """
    low, span = mixture.low[:, None].to(values), (mixture.high - mixture.low)[:, None].to(values)
    scaled = ((values - low) / span).clamp(0, 1)
    # Within a component k, x becomes mean' + sd' (x - mean) / sd: a line in x, averaged over k.
    slope = moved.sds / mixture.sds
    offset = moved.means - slope * mixture.means
    share = posteriors(scaled, mixture)
    result = scaled * (share @ slope).T + (share @ offset).T
    return result.clamp_(0, 1) * span + low
