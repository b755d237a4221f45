"""What metrics mean, as data: definitions, connectivity, empty masks, and presets of others' conventions."""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Any, Self

from pydantic import Field, model_validator

from anystroke.core.config import ConfigError, StrictModel, validate
from anystroke.evaluation.metrics.lesion_wise import Connectivity, OverlapRule
from anystroke.evaluation.metrics.overlap import EmptyPolicy
from anystroke.evaluation.metrics.surface_distances import HausdorffDefinition, MissedDistance


class MetricSettings(StrictModel):
    """Everything that decides what a metric is; printed with every result.

    Attributes:
        preset: Name of the convention.
        source: Where it comes from.
        differences: Where a number here is not what the published code gives.
        hausdorff: Definition of surface and percentile of Hausdorff distances.
        tolerance: Distance within which surfaces agree, for the surface Dice [mm].
        connectivity: 6, 18 or 26 neighbours make one lesion.
        overlap_rule: When a lesion counts as found, see ``match_lesions``.
        overlap_threshold: For the rules ``coverage`` and ``iou``.
        smallest_mm3: Smaller lesions do not count lesion by lesion; volumes and Dice include them.
        merge: True lesions closer than this number of dilations are one.
        both_empty: What shares are worth if there is no lesion and none was predicted.
        missed_distance: Distance [mm] if just one mask is empty.
        resample_to: Voxel size to which both masks are brought first [mm]; None for the truth's own grid.
        pad_to: Voxels along each axis to which the image is padded with background; it changes the
            specificity and the image's diagonal alone.
        calibration_bins: Number of bins of the calibration error.
        calibration_floor: Smallest probability of a healthy voxel that counts for the calibration.
    """

    preset: str = "anystroke"
    source: str = ""
    differences: tuple[str, ...] = ()
    hausdorff: HausdorffDefinition = "monai"
    tolerance: float = Field(default=1.0, ge=0)
    connectivity: Connectivity = 26
    overlap_rule: OverlapRule = "voxel"
    overlap_threshold: float = Field(default=0.0, ge=0, le=1)
    smallest_mm3: float = Field(default=0.0, ge=0)
    merge: int = Field(default=0, ge=0, le=20)
    both_empty: EmptyPolicy = "undefined"
    missed_distance: MissedDistance = "diagonal"
    resample_to: float | None = Field(default=None, gt=0)
    pad_to: int | None = Field(default=None, gt=0)
    calibration_bins: int = Field(default=10, ge=1)
    calibration_floor: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _rule_has_threshold(self) -> Self:
        if self.overlap_rule != "voxel" and not self.overlap_threshold > 0:
            raise ValueError(
                f"the rule {self.overlap_rule} needs an overlap_threshold above 0, got "
                f"{self.overlap_threshold:g}"
            )
        return self

    def describe(self) -> str:
        """Say in one line what decides the numbers."""
        missed = self.missed_distance
        parts = [
            f"preset {self.preset}",
            f"Hausdorff as in {self.hausdorff}, {missed if isinstance(missed, str) else f'{missed:g} mm'} "
            "if one mask is empty",
            f"surface Dice at {self.tolerance:g} mm",
            f"lesions of {self.connectivity} neighbours"
            + (f" merged over {self.merge} dilations" if self.merge else "")
            + (f" from {self.smallest_mm3:g} mm^3" if self.smallest_mm3 else ""),
            "found by one voxel"
            if self.overlap_rule == "voxel"
            else f"found by {self.overlap_rule} of {self.overlap_threshold:g}",
            f"two empty masks are {self.both_empty}",
            "native grid" if self.resample_to is None else f"masks at {self.resample_to:g} mm",
        ]
        return "; ".join(parts)


def metric_presets() -> tuple[str, ...]:
    """Return the names of the presets."""
    return tuple(_tables())


def load_settings(preset: str = "anystroke", **changes: Any) -> MetricSettings:
    """Return the settings of a preset.

    Args:
        preset: Its name.
        **changes: Fields that shall differ from it.

    Raises:
        ConfigError: There is no such preset, or a value does not fit.

    Example:
        >>> load_settings("atlas").connectivity, load_settings("atlas", connectivity=26).connectivity
        (6, 26)
    """
    tables = _tables()
    if preset not in tables:
        raise ConfigError(f"expected a preset among {', '.join(tables)}, got {preset!r}; name one of them")
    return validate(
        {"preset": preset, **tables[preset], **changes}, MetricSettings, source=f"preset {preset}"
    )


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[str, Any]]:
    text = (resources.files("anystroke.evaluation.metrics") / "presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
