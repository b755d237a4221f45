"""Splits by patient: stratified folds, matched groups, and the lock box that is opened once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anystroke.core.arrays import Array
from anystroke.core.files import write_json
from anystroke.core.rng import stream


def stratified_folds(target: Array, count: int, *, seed: int, classes: bool) -> Array:
    """Deal patients to folds so that each has about the same targets.

    Args:
        target: Numbers or classes of the patients.
        count: Of folds.
        seed: Of the order within strata.
        classes: Whether the target has classes; numbers are dealt in their order, in packs of ``count``.

    Returns:
        int64 (patients,): the fold of each.

    Example:
        >>> folds = stratified_folds(np.array([0.0, 0, 0, 1, 1, 1]), 3, seed=1, classes=True)
        >>> sorted(folds[:3].tolist()), sorted(folds[3:].tolist())
        ([0, 1, 2], [0, 1, 2])
    """
    rng = stream(seed, "outcome", "folds", count)
    shuffled = torch.randperm(len(target), generator=rng).numpy()
    order = shuffled[np.argsort(target[shuffled], kind="stable")]
    folds = np.empty(len(target), dtype=np.int64)
    if classes:
        folds[order] = np.arange(len(target)) % count
        return folds
    for start in range(0, len(order), count):
        pack = order[start : start + count]
        folds[pack] = torch.randperm(count, generator=rng).numpy()[: len(pack)]
    return folds


def matched_groups(values: Array, count: int, *, seed: int) -> Array:
    """Deal patients to groups whose means of several values agree.

    Patients are sorted along the main direction of the standardised values, dealt in packs, and then
    exchanged
    between groups while that brings the means nearer to each other.

    Args:
        values: (patients, values), such as severity, time since the stroke and lesion size; no NaN.
        count: Of groups.
        seed: Of the start and of the tried exchanges.

    Returns:
        int64 (patients,): the group of each; means differ by less than 0.1 SD where there are enough
        patients.

    Example:
        >>> groups = matched_groups(np.arange(40.0)[:, None], 4, seed=1)
        >>> means = [float(np.arange(40.0)[groups == k].mean()) for k in range(4)]
        >>> bool(max(means) - min(means) < 0.1 * np.arange(40).std())
        True
    """
    scale = values.std(axis=0)
    standard = (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    _, _, directions = np.linalg.svd(standard, full_matrices=False)
    groups = stratified_folds(standard @ directions[0], count, seed=seed, classes=False)
    sizes = np.bincount(groups, minlength=count)
    rng = stream(seed, "outcome", "groups", count)
    sums = np.stack([standard[groups == k].sum(axis=0) for k in range(count)])
    tried = torch.randint(0, len(values), (20 * len(values), 2), generator=rng).numpy()
    for first, second in tried:
        a, b = groups[first], groups[second]
        if a == b:
            continue
        moved = standard[second] - standard[first]
        before = (sums[a] / sizes[a]) ** 2 + (sums[b] / sizes[b]) ** 2
        after = ((sums[a] + moved) / sizes[a]) ** 2 + ((sums[b] - moved) / sizes[b]) ** 2
        if after.sum() < before.sum():
            groups[first], groups[second] = b, a
            sums[a] += moved
            sums[b] -= moved
    return groups


def group_differences(values: Array, groups: Array) -> Array:
    """Return the largest distance of the mean of a group from another's, in SD, of each value."""
    scale = values.std(axis=0)
    means = np.stack([values[groups == k].mean(axis=0) for k in np.unique(groups)])
    distance: Array = (means.max(axis=0) - means.min(axis=0)) / np.where(scale > 0, scale, 1.0)
    return distance


@dataclass(frozen=True)
class LockBox:
    """Patients that nothing is learnt from and that a study looks at once.

    Attributes:
        ids: Of the patients, sorted.
        sha256: Of the ids and their targets.
        openings: How often it was opened, this time included.
    """

    ids: tuple[str, ...]
    sha256: str
    openings: int = 0


def close_box(ids: Sequence[str], targets: Array, inside: Array) -> LockBox:
    """Put patients into a lock box.

    Args:
        ids: Of all patients.
        targets: Of all patients.
        inside: bool, who goes into it.

    Example:
        >>> box = close_box(["a", "b"], np.array([1.0, 2.0]), np.array([True, False]))
        >>> box.ids, len(box.sha256)
        (('a',), 64)
    """
    content = sorted((ids[k], f"{targets[k]:.8g}") for k in np.flatnonzero(inside).tolist())
    text = "\n".join("\t".join(line) for line in content)
    return LockBox(tuple(name for name, _ in content), hashlib.sha256(text.encode()).hexdigest())


def open_box(box: LockBox, record: Path) -> LockBox:
    """Open a lock box and write down that it was.

    Args:
        box: Which.
        record: JSON file of all openings, made if missing.

    Returns:
        The box, with the number of openings of the same content.
    """
    opened: dict[str, int] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    opened[box.sha256] = opened.get(box.sha256, 0) + 1
    write_json(record, opened)
    return LockBox(box.ids, box.sha256, opened[box.sha256])
