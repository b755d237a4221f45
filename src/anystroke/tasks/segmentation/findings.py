"""What is known of one segmented scan: its lesions, where they are, and what the sidecar says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anystroke.anatomy.registration.atlas import Atlas
from anystroke.core.files import sha256
from anystroke.core.tables import Cell
from anystroke.core.volume import Volume
from anystroke.io.names import image_stem
from anystroke.io.results import generated_by
from anystroke.models.passes import PRESETS
from anystroke.tasks.segmentation.lesions_found import FoundLesion, find_lesions
from anystroke.tasks.segmentation.mni_places import MniPlace, MniSpace, find_places, with_lesion
from anystroke.tasks.segmentation.signs import driver_of
from anystroke.tasks.segmentation.trust import volume_in_words
from anystroke.tasks.segmentation.views import views_of

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.predict import Segmentation

LESION_COLUMNS = (
    "lesion",
    "volume_ml",
    "low_ml",
    "high_ml",
    "x_mm",
    "y_mm",
    "z_mm",
    "hemisphere",
    "left_ml",
    "diameter_mm",
    "mean_probability",
    "highest_probability",
    "lesion_probability",
    "mni_x_mm",
    "mni_y_mm",
    "mni_z_mm",
    "territory",
    "territory_share",
)
NOTICE = "research use only, not a medical device"
PROBABILITY_STEPS = 4000


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known of one scan, before anything is written.

    Attributes:
        result: The segmentation.
        numbered: Number of each lesion in its voxels.
        lesions: The lesions, the largest first.
        space: How the scan lies in MNI space.
        places: Where each lesion is there; empty if that is not known.
        territories: Volume in each region of an atlas [ml]; empty without one.
    """

    result: "Segmentation"
    numbered: Volume
    lesions: list[FoundLesion]
    space: MniSpace = field(default_factory=MniSpace)
    places: Sequence[MniPlace] = ()
    territories: Mapping[str, float] | None = None

    @classmethod
    def of(cls, result: "Segmentation") -> "Findings":
        """Find the lesions of a segmentation."""
        inside = with_lesion(result.brain, result.mask) or head(result.scan)
        said = result.prediction
        found = find_lesions(
            result.mask,
            said.probability,
            inside,
            result.model.config.lesion_errors,
            said.parts or (),
            said.curve,
        )
        return cls(result, *found)

    def placed(self, space: MniSpace, atlas: Atlas | None) -> "Findings":
        """Say where the lesions are in MNI space."""
        places, territories = find_places(self.numbered, space, atlas)
        return replace(self, space=space, places=places, territories=territories)

    def rows(self) -> list[dict[str, Cell]]:
        """Return the table of lesions."""
        located = dict(enumerate(self.places, start=1))
        return [lesion_row(lesion, located.get(lesion.number)) for lesion in self.lesions]

    def territory_rows(self) -> list[dict[str, Cell]]:
        """Return the table of territories."""
        whole = self.result.lesion_volume
        return [
            {"territory": name, "volume_ml": f"{volume:.3f}", "share": f"{volume / whole:.3f}"}
            for name, volume in (self.territories or {}).items()
        ]

    def facts(
        self, source: Path, messages: Sequence[str], settings: dict[str, Any], atlas: Atlas | None
    ) -> dict[str, Any]:
        """Return what the sidecar says of them.

        Args:
            source: The input file.
            messages: Warnings.
            settings: What the segmentation was asked for.
            atlas: What territories are of.
        """
        problem = self.space.problem
        left = sum(lesion.left_volume for lesion in self.lesions)
        facts = sidecar(source, self.result, list(messages), settings) | {
            "Name": image_stem(source),
            "Notes": [f"no places in MNI space are given: {problem}"] if problem else [],
            "LeftLesionVolume": round(left, 6),
            # All of it on the left leaves less than nothing by rounding.
            "RightLesionVolume": round(max(0.0, self.result.lesion_volume - left), 6),
        }
        if self.result.prediction.parts is not None:
            facts["LesionProbabilities"] = [
                lesion.lesion_probability and round(lesion.lesion_probability, 4) for lesion in self.lesions
            ]
        if atlas is not None:
            facts["TerritoryAtlas"] = {"Name": atlas.source, "SHA256": atlas.sha256}
            volumes = (self.territories or {}).items()
            facts["TerritoryVolumes"] = {name: round(volume, 6) for name, volume in volumes}
        return facts


def sidecar(
    source: Path, result: "Segmentation", messages: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Collect what a mask's JSON sidecar says.

    Args:
        source: The input file.
        result: Its segmentation.
        messages: Warnings.
        settings: What the run was asked for.

    Returns:
        BIDS fields and those of anystroke.
    """
    interval = result.interval
    return {
        "Description": f"Stroke lesion found by a neural network; {NOTICE}",
        "Type": "Lesion",
        "Sources": [source.as_posix()],
        "SourceSHA256": sha256(source) if source.is_file() else None,
        "SpatialReference": "orig",
        "SkullStripped": False,
        "Manual": False,
        "GeneratedBy": generated_by(),
        "Model": result.model.identity,
        "Settings": settings,
        "Preset": result.options.preset,
        "Threshold": result.threshold,
        "MinimumLesionVolume": result.options.min_volume,
        "MirrorAveraging": result.options.flip or len(PRESETS[result.options.preset].flips) > 1,
        "TestTimeViews": [
            view.model_dump() for view in views_of(result.model.config, PRESETS[result.options.preset])
        ],
        "LesionVolume": round(result.lesion_volume, 6),
        "LesionVolumeUnits": "ml",
        "LesionVolumeInterval": [round(interval.low, 6), round(interval.high, 6)] if interval else None,
        "LesionVolumeIntervalRate": interval.rate if interval else None,
        "LesionVolumeMeaning": volume_in_words(result.lesion_volume, interval) if interval else None,
        "LesionCount": result.lesion_count,
        "LesionConnectivity": 26,
        "DoNotTrust": not result.trusted,
        "ReasonsNotToTrust": list(result.reasons),
        **_risk_facts(result),
        "ImageFeatures": {
            name: round(value, 4) for name, value in result.prediction.features.items() if isfinite(value)
        },
        "Seconds": {name: round(value, 3) for name, value in result.prediction.seconds.items()},
        "TorchVersion": torch.__version__,
        "Warnings": messages,
    }


def _risk_facts(result: "Segmentation") -> dict[str, Any]:
    """Say how likely the mask is to fail, and what speaks most against it."""
    risk = result.risk
    if risk is None:
        return {"Risk": None}
    return {
        "Risk": round(risk.probability, 4),
        "RiskThreshold": risk.threshold,
        "RiskMeaning": f"{risk.in_words}, of simulated scans from easy to hopeless",
        "RiskDriver": driver_of(risk) or None,
    }


def of_probability(facts: dict[str, Any]) -> dict[str, Any]:
    """Reduce a mask's sidecar to what is true of the probability map."""
    of_mask = (
        "Type", "Threshold", "MinimumLesionVolume", "LesionCount", "LesionConnectivity",
        "LesionProbabilities",
    )  # fmt: skip
    kept = {
        key: value
        for key, value in facts.items()
        if key not in of_mask and "LesionVolume" not in key and not key.startswith("Risk")
    }
    words = f"Probability (0 to 1) of stroke lesion in steps of 1/{PROBABILITY_STEPS}; {NOTICE}"
    return kept | {"Description": words}


def of_numbers(facts: dict[str, Any]) -> dict[str, Any]:
    """Reduce a mask's sidecar to what is true of the numbered lesions."""
    kept = {key: value for key, value in facts.items() if key != "Type"}
    return kept | {"Description": f"Number of each lesion, the largest is 1; {NOTICE}"}


def lesion_row(lesion: FoundLesion, place: MniPlace | None = None) -> dict[str, Cell]:
    """Write a lesion as a row of the table.

    Args:
        lesion: The lesion.
        place: Where it is in MNI space, if that is known.

    Example:
        >>> row = lesion_row(FoundLesion(1, 1.0, (1.0, 2.0, 3.0), "left", 1.0, 12.0, 0.9, 1.0))
        >>> row["volume_ml"], row["x_mm"], row["territory"]
        ('1.000', '1.0', 'n/a')
    """
    interval = lesion.interval
    values = (
        str(lesion.number),
        f"{lesion.volume:.3f}",
        *(("n/a",) * 2 if interval is None else (f"{interval.low:.3f}", f"{interval.high:.3f}")),
        *(f"{value:.1f}" for value in lesion.centroid),
        lesion.hemisphere,
        f"{lesion.left_volume:.3f}",
        f"{lesion.diameter:.1f}",
        f"{lesion.mean_probability:.3f}",
        f"{lesion.highest_probability:.3f}",
        "n/a" if lesion.lesion_probability is None else f"{lesion.lesion_probability:.2f}",
        *(("n/a",) * 3 if place is None else (f"{value:.1f}" for value in place.centroid)),
        *((place.region, f"{place.share:.3f}") if place is not None and place.region else ("n/a", "n/a")),
    )
    return dict(zip(LESION_COLUMNS, values, strict=True))


def head(scan: Volume) -> Volume:
    """Return a mask of what is brighter than the mean: the head, where the brain is not known.

    Example:
        >>> head(Volume(torch.arange(8.0).reshape(1, 2, 2, 2), torch.eye(4))).data.sum()
        tensor(4)
    """
    return Volume((scan.data > scan.data.mean()).to(torch.uint8), scan.affine)
