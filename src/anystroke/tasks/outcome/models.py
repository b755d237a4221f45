"""Models by name: what they see of a patient, and what learns from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.estimators import ESTIMATORS, FittedPart, Parameters
from anystroke.tasks.outcome.scan_features import SCAN_GROUPS, measure_scans, scan_feature_names
from anystroke.tasks.outcome.table import OutcomeError, TargetKind

_LOADS = ("size", "side", "shape", "territories", "tract")
_COMPONENTS = 30
_WITHOUT_MASKS = {"columns", *SCAN_GROUPS}

REPRESENTATIONS: dict[str, tuple[str, ...]] = {
    "table": ("columns",),
    "size": ("columns", "size", "side"),
    "loads": ("columns", *_LOADS),
    "regions": ("columns", *_LOADS, "regions"),
    "atlas": ("columns", *_LOADS, "atlas"),
    "low-rank": ("columns", "size", "side", "low-rank"),
    "lesion": _LOADS,
    "lesion-low-rank": ("size", "side", "low-rank"),
    "asymmetry": ("columns", "asymmetry"),
    "encoder": ("columns", "encoder"),
}
"""Name -> groups of features; ``lesion`` and ``lesion-low-rank`` see no table, the last two no mask."""

PICTURES = ("stitched", "hybrid", "canvas", "hybrid-canvas", "volume")
"""Representations that networks see, see `tasks.outcome.representations`."""

NETWORKS = ("resnet18", "lightweight", "resnet10", "early-fusion", "early-fusion-3d", "daft", "combined")
"""Networks by name, see `tasks.outcome.networks`."""

_WHOLE_VOLUMES = ("resnet10", "early-fusion-3d", "daft")


@dataclass(frozen=True)
class EnsembleMember:
    """One estimator and what it sees."""

    groups: tuple[str, ...]
    estimator: str


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is fitted.

    Attributes:
        name: As in ``--model``.
        members: Estimators whose predictions are averaged; empty for a network.
        network: Name of a network, or ''.
        picture: What the network sees.
        shrink: How many pixels of it along each axis become one; fewer pixels need less time.
    """

    name: str
    members: tuple[EnsembleMember, ...] = ()
    network: str = ""
    picture: str = ""
    shrink: int = 1

    @property
    def needs_masks(self) -> bool:
        """Whether it cannot do without lesion masks."""
        return any(set(member.groups) - _WITHOUT_MASKS for member in self.members)

    @property
    def sees_scans(self) -> bool:
        """Whether it looks at scans where there are any."""
        return bool(self.network) or any(set(member.groups) & set(SCAN_GROUPS) for member in self.members)


_BLEND = (
    EnsembleMember(REPRESENTATIONS["loads"], "support-vectors"),
    EnsembleMember(REPRESENTATIONS["loads"], "root-support-vectors"),
    EnsembleMember(REPRESENTATIONS["loads"], "boosting"),
)


def find_model_spec(name: str) -> ModelSpec:
    """Return a model by its name.

    Args:
        name: ``default``, ``REPRESENTATION:ESTIMATOR`` such as ``low-rank:ridge`` or ``hybrid:resnet18``, or
            an estimator alone, which sees loads, or the stitched picture if it is a network.

    Raises:
        OutcomeError: There is no such representation or estimator, or they do not fit together.

    Example:
        >>> find_model_spec("table:ridge").members
        (EnsembleMember(groups=('columns',), estimator='ridge'),)
    """
    if name == "default":
        return ModelSpec(name, _BLEND)
    before, colon, estimator = name.rpartition(":")
    if estimator in ESTIMATORS:
        chosen = before if colon else "loads"
        if chosen in REPRESENTATIONS:
            return ModelSpec(name, (EnsembleMember(REPRESENTATIONS[chosen], estimator),))
        raise OutcomeError(
            f"no representation {chosen!r} for {estimator}, expected one of {', '.join(REPRESENTATIONS)}"
        )
    if estimator in NETWORKS:
        picture = before if colon else "volume" if estimator in _WHOLE_VOLUMES else "stitched"
        if picture not in PICTURES or (picture == "volume") != (estimator in _WHOLE_VOLUMES):
            fitting = "volume" if estimator in _WHOLE_VOLUMES else ", ".join(PICTURES[:-1])
            raise OutcomeError(f"no representation {picture!r} for {estimator}, expected {fitting}")
        return ModelSpec(name, network=estimator, picture=picture)
    raise OutcomeError(
        f"no model {name!r}, expected default, or one of {', '.join((*ESTIMATORS, *NETWORKS))}, with a "
        "representation and a colon before it or without"
    )


def fitting_spec(spec: ModelSpec, cohort: OutcomeCohort) -> ModelSpec:
    """Leave out of a default model what a cohort has not, and refuse others that need it.

    Raises:
        OutcomeError: There are neither masks nor columns that the model needs.
    """
    kept = []
    for member in spec.members:
        if set(member.groups) & set(SCAN_GROUPS) and not cohort.images:
            raise OutcomeError(f"the model {spec.name} needs scans; give their folder with --images")
        groups = tuple(group for group in member.groups if is_known(group, cohort))
        if "atlas" in groups and cohort.measured is not None and "atlas" not in cohort.measured.values:
            raise OutcomeError(f"the model {spec.name} needs the regions of an atlas; give one with --atlas")
        if spec.name != "default" and spec.needs_masks and cohort.measured is None:
            raise OutcomeError(f"the model {spec.name} needs lesion masks; give their folder with --masks")
        if not groups:
            raise OutcomeError(
                f"nothing is left to predict from with the model {spec.name}; give --masks, or --columns "
                "with "
                "columns of numbers"
            )
        kept.append(EnsembleMember(groups, member.estimator))
    return replace(spec, members=tuple(kept))


def is_known(group: str, cohort: OutcomeCohort) -> bool:
    """Tell whether a cohort has what a group of features is made of."""
    if group == "columns":
        return bool(cohort.columns.shape[1])
    return bool(cohort.images) if group in SCAN_GROUPS else cohort.measured is not None


@dataclass(frozen=True, eq=False)
class Transform:
    """How patients become rows of numbers; everything in it is of the training patients alone.

    Attributes:
        groups: Of features.
        names: Of features.
        median: What stands for a missing value.
        mean: Of each feature.
        scale: SD of each feature; 1 for one that never varies.
        components: (components, voxels of the coarse map), rows of length 1; empty if not used.
        centre: Mean coarse map.
    """

    groups: tuple[str, ...]
    names: tuple[str, ...]
    median: Array
    mean: Array
    scale: Array
    components: Array
    centre: Array

    @classmethod
    def fit(cls, groups: Sequence[str], cohort: OutcomeCohort) -> "Transform":
        """Learn it from training patients."""
        empty = np.empty((0, 0))
        components, centre = empty, empty
        if "low-rank" in groups and cohort.measured is not None:
            components, centre = _components(cohort.measured.maps)
        raw = _raw(groups, cohort, components, centre)
        known = np.where(np.isnan(raw).all(axis=0), 0.0, raw)
        median = np.nanmedian(known, axis=0) if raw.shape[1] else np.empty(0)
        filled = np.where(np.isnan(raw), median, raw)
        scale = filled.std(axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        names = _names(groups, cohort, len(components))
        return cls(tuple(groups), names, median, filled.mean(axis=0), scale, components, centre)

    def apply(self, cohort: OutcomeCohort) -> Array:
        """Return float64 (patients, features), standardised and without gaps."""
        raw = _raw(self.groups, cohort, self.components, self.centre)
        filled = np.where(np.isnan(raw), self.median, raw)
        standard: Array = np.clip((filled - self.mean) / self.scale, -8, 8)
        return standard


def _raw(groups: Sequence[str], cohort: OutcomeCohort, components: Array, centre: Array) -> Array:
    parts = []
    for group in groups:
        if group == "columns":
            parts.append(cohort.columns)
        elif group in SCAN_GROUPS:
            parts.append(measure_scans(cohort, group))
        elif cohort.measured is None:
            raise OutcomeError("the model needs lesion masks; give their folder with --masks")
        elif group == "low-rank":
            maps = np.sqrt(cohort.measured.maps.reshape(len(cohort.ids), -1))
            parts.append((maps - centre) @ components.T)
        elif group not in cohort.measured.values:
            raise OutcomeError("the model needs the regions of its atlas; give it with --atlas")
        else:
            parts.append(cohort.measured.values[group])
    return np.concatenate(parts, axis=1) if parts else np.empty((len(cohort.ids), 0))


def _names(groups: Sequence[str], cohort: OutcomeCohort, components: int) -> tuple[str, ...]:
    names: list[str] = []
    for group in groups:
        if group == "columns":
            names += cohort.column_names
        elif group in SCAN_GROUPS:
            names += scan_feature_names(group)
        elif group == "low-rank":
            names += [f"lesion pattern {k + 1}" for k in range(components)]
        elif cohort.measured is not None:
            names += cohort.measured.names[group]
    return tuple(names)


def _components(maps: Array) -> tuple[Array, Array]:
    """Find the patterns in which lesion maps differ most, by a singular value decomposition."""
    flat = np.sqrt(maps.reshape(len(maps), -1)).astype(np.float64)
    centre = flat.mean(axis=0)
    rows, singular, _ = np.linalg.svd((flat - centre) @ (flat - centre).T)
    count = min(_COMPONENTS, len(maps) // 3)
    singular = np.sqrt(singular[:count])
    components = (rows[:, :count] / np.maximum(singular, 1e-9)).T @ (flat - centre)
    # A sign of its own choice would differ from machine to machine.
    signs = np.sign(components[np.arange(len(components)), np.abs(components).argmax(axis=1)])
    return components * signs[:, None], centre


@dataclass(frozen=True, eq=False)
class FittedMember:
    """An estimator after training: how patients become rows, and one part a head."""

    transform: Transform
    parts: tuple[FittedPart, ...]
    chosen: tuple[Parameters, ...] = ()


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model after training.

    Attributes:
        spec: What it is.
        kind: Of the target.
        members: Estimators.
        bounds: Smallest and largest number of the training target.
        network: A fitted network, if it is one; it has the method ``raw``.
    """

    spec: ModelSpec
    kind: TargetKind
    members: tuple[FittedMember, ...] = ()
    bounds: tuple[float, float] = (-np.inf, np.inf)
    network: Any = field(default=None)

    def raw(self, cohort: OutcomeCohort) -> Array:
        """Predict numbers, or logits of lying above each class but the last.

        Returns:
            float64 (patients, heads).
        """
        if self.network is not None:
            found: Array = self.network.raw(cohort)
        else:
            found = self.of_rows([member.transform.apply(cohort) for member in self.members])
        return np.clip(found, *self.bounds) if self.kind == "number" else found

    def of_rows(self, rows: Sequence[Array]) -> Array:
        """Predict from the rows of numbers of each member, float64 (patients, features), without bounds."""
        each = [
            np.stack([part.apply(x) for part in member.parts], axis=1)
            for member, x in zip(self.members, rows, strict=True)
        ]
        mean: Array = np.mean(each, axis=0)
        return mean


def uses_lesions(fitted: FittedModel) -> bool:
    """Tell whether a model of members looks at lesions."""
    return any(set(member.transform.groups) - _WITHOUT_MASKS for member in fitted.members)


def uses_scans(fitted: FittedModel) -> bool:
    """Tell whether a model of members looks at scans."""
    return any(set(member.transform.groups) & set(SCAN_GROUPS) for member in fitted.members)


def head_targets(kind: TargetKind, target: Array) -> list[Array]:
    """Return what each head learns: numbers, or 0 and 1 for lying above a class."""
    if kind == "number":
        return [target]
    return [(target > k).astype(np.float64) for k in range(int(target.max()))]
