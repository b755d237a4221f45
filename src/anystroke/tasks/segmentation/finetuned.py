"""The model that a fine-tuning leaves: the better one, with all that belongs to it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anystroke.core.files import write_text
from anystroke.core.staging import staged
from anystroke.io.labelled import LabelledScan
from anystroke.models.checkpoints import find_model, load_config, save_config
from anystroke.tasks.segmentation.calibrate import (
    FEWEST_SCANS,
    LEARNT_FROM,
    Calibration,
    OnPatient,
    calibrate_on_scans,
)
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.own_scans import OwnComparison, total
from anystroke.tasks.segmentation.predict import SECOND_NETWORK, Model

_CARD = "README.md"
_KEPT = ("volume_errors", "lesion_errors", "certain_together", "certain_alone", "small_parts")
_KEPT_OF_SUCH_IMAGES = ("views", "adc_exponential", "calibrated_alone", "calibrated_together")
KEPT_CALIBRATION = (
    "Temperature, thresholds and intervals are those of the model of before: to choose them on scans that "
    f"neither were learnt from nor judge the model, at least {2 * FEWEST_SCANS} held-out scans with a lesion "
    "are needed"
)
"""Why a fine-tuned model is calibrated as the one that it started from."""


@dataclass(frozen=True)
class Recalibration:
    """What a fine-tuned model was calibrated on.

    Attributes:
        names: Of the scans; none of them was learnt from or judges the model.
        calibration: What was chosen.
    """

    names: tuple[str, ...]
    calibration: Calibration

    def sentence(self) -> str:
        """Say what was chosen, and on what."""
        kept = [each for each in ("thresholds", "intervals") if each not in self.calibration.chosen]
        rest = f"; {' and '.join(kept)} are those of the model of before" if kept else ""
        chosen = " and ".join(self.calibration.chosen).capitalize()
        return (
            f"{chosen} chosen on {len(self.names)} held-out scans "
            f"that neither were learnt from nor judge the model{rest}"
        )


def complete_finetuned(tuned: Path, start: str, learnt_from: Sequence[str]) -> None:
    """Give a fine-tuned network what the model that it started from has beside its weights.

    That is the second network, which looks again, the ways in which heads are shown, and the errors that
    intervals of volumes are made of. The risk of masks stays away: it was that of other masks.

    Args:
        tuned: Folder of the fine-tuned model, changed in place.
        start: Name or folder of the other.
        learnt_from: Names of the scans.

    Raises:
        CheckpointError: One of them is damaged.
    """
    source = find_model(start)
    config, before = (load_config(each, SegmentationConfig) for each in (tuned, source))
    kept: dict[str, Any] = {}
    if config.classes == before.classes:
        kept = {name: getattr(before, name) for name in _KEPT}
        if (config.spacing, config.normalisation) == (before.spacing, before.normalisation):
            kept |= {name: getattr(before, name) for name in _KEPT_OF_SUCH_IMAGES}
        if (source / SECOND_NETWORK).is_dir():
            with staged(tuned) as staging:
                shutil.copytree(source / SECOND_NETWORK, staging / SECOND_NETWORK)
    earlier = before.training.get(LEARNT_FROM, [])
    training = config.training | {LEARNT_FROM: sorted({*earlier, *learnt_from})}
    save_config(tuned, config.model_copy(update={**kept, "training": training}))


def recalibrated(
    tuned: Path, scans: Sequence[LabelledScan], *, on_patient: OnPatient = lambda what, done, total: None
) -> Recalibration:
    """Calibrate a fine-tuned model on scans of one's own.

    Args:
        tuned: Folder of the complete model; its configuration is replaced.
        scans: With masks; not learnt from.
        on_patient: Told of each scan.

    Raises:
        CalibrationError: The scans are too few, or the model has learnt from one.
    """
    model = Model.open(tuned)
    found = calibrate_on_scans(model, scans, on_patient=on_patient)
    save_config(tuned, found.applied_to(model.config))
    return Recalibration(tuple(scan.name for scan in scans), found)


def keep_better(
    folder: Path,
    *,
    tuned: Path,
    start: str,
    comparison: OwnComparison | None,
    learnt_from: Sequence[str],
    recalibration: Recalibration | None = None,
) -> Path:
    """Copy the better of two models, with a card that says how it was chosen.

    Args:
        folder: Gets the model; an earlier one in it is replaced.
        tuned: The fine-tuned model, complete.
        start: Name or folder of what it started from.
        comparison: Both on held-out scans; without one the fine-tuned model is taken.
        learnt_from: Names of the scans that were learnt from.
        recalibration: What the fine-tuned model was calibrated on; None if it is as the one of before.

    Returns:
        The folder that was copied.
    """
    chosen = tuned if comparison is None or comparison.helped else find_model(start)
    config = load_config(chosen, SegmentationConfig)
    if comparison is not None:
        record: dict[str, Any] = {
            "before": round(total(comparison.before), 4),
            "after": round(total(comparison.after), 4),
        }
        record |= {"scans": list(comparison.names), "kept": "after" if chosen == tuned else "before"}
        config = config.model_copy(update={"training": config.training | {"finetuning": record}})
    calibrated = None
    if chosen == tuned:
        calibrated = KEPT_CALIBRATION if recalibration is None else recalibration.sentence()
    earlier = folder.with_name(f".{folder.name}-before")
    with staged(folder.parent) as staging:
        new = staging / folder.name
        shutil.copytree(chosen, new, ignore=shutil.ignore_patterns(".*"))
        save_config(new, config)
        write_text(new / _CARD, _card(config, start, comparison, learnt_from, calibrated))
        shutil.rmtree(earlier, ignore_errors=True)
        if folder.exists():
            folder.replace(earlier)
        new.replace(folder)
    shutil.rmtree(earlier, ignore_errors=True)
    return chosen


def _card(
    config: SegmentationConfig,
    start: str,
    comparison: OwnComparison | None,
    learnt_from: Sequence[str],
    calibrated: str | None,
) -> str:
    """Write the card; ``calibrated`` says how the fine-tuned weights are, None stands for those of before."""
    steps = json.dumps(config.training.get("steps"))
    lines = [
        f"# {config.name}",
        "",
        "**Research use only; not a medical device.**",
        "",
        f"Starts from the model `{Path(start).name}`. {len(learnt_from)} scans with masks were learnt from.",
        f"These are the fine-tuned weights ({steps} steps)."
        if calibrated
        else "These are the weights of before: fine-tuning did not help.",
        "",
    ]
    if comparison is None:
        lines += ["No scan was held out, so nothing says whether fine-tuning helped.", ""]
    else:
        lines += [
            "On scans that were not learnt from, before and after:",
            "",
            "```",
            *comparison.lines(),
            "```",
            "",
        ]
    if calibrated:
        lines += [
            f"{calibrated}.",
            "How likely masks fail is not known. `anystroke calibrate --scans` calibrates on more scans that",
            "were not learnt from.",
            "",
        ]
    return "\n".join(lines)
