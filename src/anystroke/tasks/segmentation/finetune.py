"""A recipe that goes on with a model on scans of one's own."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anystroke.core.config import ConfigError, apply_overrides, validate
from anystroke.learning.targets import TARGET_SCHEMES
from anystroke.models.checkpoints import load_config
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.recipe import TrainingSettings


def finetuning_recipe(
    data: Sequence[Path],
    *,
    model: str = "default",
    simulated: int = 1,
    held_out: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> TrainingSettings:
    """Return a recipe that starts from a model and learns from labelled scans.

    The scans are augmented; their healthy tissue is unknown to the loss, which merges the healthy classes.
    Simulated patients of the package's own anatomy keep the model from forgetting other contrasts.

    Args:
        data: BIDS data sets, nnU-Net raw folders or tables of paths.
        model: Name of a shipped model or a model folder.
        simulated: Simulated cases for each real one; 0 for none.
        held_out: Names of scans that are not learnt from.
        overrides: Changes such as ``"optimiser.steps=500"``.

    Raises:
        CheckpointError: There is no such model.
        ConfigError: An override does not fit, or the model's classes are none of the known schemes.
    """
    config = load_config(model, SegmentationConfig)
    scheme = next((name for name, classes in TARGET_SCHEMES.items() if classes == config.classes), None)
    if scheme is None:
        raise ConfigError(
            f"the model {model!r} tells {', '.join(config.classes)} apart, which no target scheme does; "
            f"known are {', '.join(TARGET_SCHEMES)}"
        )
    scans = {
        "data": [str(path) for path in data],
        "lesion_centred": 0.5,
        "held_out": [glob.escape(name) for name in held_out],
    }
    sources: list[dict[str, Any]] = [{"kind": "scans", "share": 1, "scans": scans}]
    if simulated:
        sources.append({"kind": "simulated", "share": simulated})
    recipe: dict[str, Any] = {
        "name": f"{config.name}-finetuned",
        "start_from": str(model),
        "architecture": config.architecture,
        "classes": scheme,
        "grid": {
            "spacing": config.spacing,
            "shapes": [[64, 80, 64]],
            "normalisation": config.normalisation,
        },
        "data": {"package": 200 if simulated else 0},
        "sources": sources,
        "optimiser": {"steps": 1000, "learning_rate": 1e-4, "warm_up": 50},
    }
    apply_overrides(recipe, list(overrides))
    return validate(recipe, TrainingSettings, source="the recipe of the fine-tuning")
