"""How well features of scans tell patients apart, whatever the contrast, and what a line reads in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]


@dataclass(frozen=True)
class Retrieval:
    """How well the same patient is found by a scan of another contrast.

    Attributes:
        first: Share of scans whose nearest scan of the other contrast is the same patient's.
        reciprocal_rank: Mean of 1 / the place of the same patient's scan among those of the other contrast.
        same: Mean cosine of scans of one patient.
        other: Mean cosine of scans of two patients.
        chance: What ``first`` would be by chance.
    """

    first: float
    reciprocal_rank: float
    same: float
    other: float
    chance: float

    @property
    def margin(self) -> float:
        """How much nearer scans of one patient are."""
        return self.same - self.other


def retrieve(queries: Features, gallery: Features) -> Retrieval:
    """Look for each patient among scans of another contrast, by the cosine of centred features, both ways.

    Features are centred over the scans of each set, so that what all of them share does not count.

    Args:
        queries: (N, D), one scan of each patient, N at least 2.
        gallery: (N, D), another scan of the same patients, in the same order.

    Raises:
        ValueError: The sets are of other sizes, or there is one patient alone.

    Example:
        >>> found = retrieve(np.eye(4), np.eye(4))
        >>> found.first, found.reciprocal_rank, found.chance
        (1.0, 1.0, 0.25)
    """
    if queries.shape != gallery.shape or queries.ndim != 2 or len(queries) < 2:
        raise ValueError(
            f"expected features (N, D) of two scans of each of at least two patients, got {queries.shape} "
            f"and {gallery.shape}"
        )
    cosine = _directions(queries) @ _directions(gallery).T
    own = np.diag(cosine)
    ranks = [(side >= own[:, None]).sum(1) for side in (cosine, cosine.T)]
    places = np.concatenate(ranks)
    off = ~np.eye(len(cosine), dtype=bool)
    return Retrieval(
        first=float((places == 1).mean()),
        reciprocal_rank=float((1 / places).mean()),
        same=float(own.mean()),
        other=float(cosine[off].mean()),
        chance=1 / len(cosine),
    )


def _directions(features: Features) -> Features:
    centred = np.asarray(features, dtype=np.float64) - np.mean(features, axis=0, dtype=np.float64)
    directions: Features = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return directions


def split_by_patient(
    patients: Sequence[str], *, test: float = 0.3, seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split scans into those to train on and those to test on, so that no patient is on both sides.

    Args:
        patients: Of each scan.
        test: Share of the patients.
        seed: Of the draw.

    Returns:
        Masks of scans: training, test.

    Raises:
        ValueError: There are too few patients to have some on both sides.

    Example:
        >>> train, test = split_by_patient(["a", "a", "b", "c"], test=0.4)
        >>> bool((train ^ test).all())
        True
    """
    names = sorted(set(patients))
    count = round(test * len(names))
    if not 0 < count < len(names):
        raise ValueError(
            f"expected enough patients for {test:.0%} of them to test on, got {len(names)}; give more"
        )
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    chosen = {names[k] for k in drawn}
    mask = np.array([patient in chosen for patient in patients])
    return ~mask, mask


def check_disjoint(training: Sequence[str], test: Sequence[str]) -> None:
    """Refuse a test set that shares a patient with the training.

    Args:
        training: Patients that were learnt from.
        test: Patients to test on.

    Raises:
        ValueError: There is one in both.
    """
    if shared := sorted(set(training) & set(test)):
        raise ValueError(
            f"expected patients to test on that training has not seen, but {shared[0]} is in both"
            f"{f' as are {len(shared) - 1} others' if len(shared) > 1 else ''}; split by patient"
        )


@dataclass(frozen=True)
class Probe:
    """What a linear layer reads in features.

    Attributes:
        balanced_accuracy: Mean of the shares of each class that are found, of those that are tested.
        chance: What guessing gives: 1 / classes.
        classes: What is told apart.
        test: Number of scans it was tested on.
    """

    balanced_accuracy: float
    chance: float
    classes: tuple[str, ...]
    test: int


def linear_probe(
    features: Features, labels: Sequence[str], patients: Sequence[str], *, test: float = 0.3, seed: int = 0
) -> Probe:
    """Fit a logistic regression to features of some patients, and test it on others.

    Args:
        features: (N, D), one row for each scan.
        labels: What to read, for each scan.
        patients: Of each scan; none is on both sides.
        test: Share of the patients to test on.
        seed: Of the split.

    Raises:
        ValueError: There is one class alone, or there are too few patients; or a class is not among those
            to train on.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes to tell apart, got {', '.join(classes) or 'none'}")
    train, other = split_by_patient(patients, test=test, seed=seed)
    named = np.asarray(labels)
    if missing := sorted(set(classes) - set(named[train])):
        raise ValueError(
            f"expected every class among the patients to train on, but {missing[0]} is not; give more"
        )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features[train], named[train])
    right = model.predict(features[other]) == named[other]
    shares = [right[named[other] == name].mean() for name in classes if (named[other] == name).any()]
    return Probe(
        balanced_accuracy=float(np.mean(shares)),
        chance=1 / len(classes),
        classes=classes,
        test=int(other.sum()),
    )


def peak_signal_to_noise(error: float, *, peak: float = 1.0) -> float:
    """Return the PSNR in dB of a mean squared error.

    Args:
        error: Mean squared error.
        peak: Largest signal; 1 as published for denoising.

    Example:
        >>> round(peak_signal_to_noise(0.04), 2)
        13.98
    """
    return math.inf if error == 0 else 20 * math.log10(peak / math.sqrt(error))
