"""All tasks by name, and their recipes."""

from pathlib import Path

from anystroke.core.config import ConfigError, apply_overrides, validate
from anystroke.learning.recipe import read_recipe, spread_synthesis
from anystroke.tasks.classification.recipe import ClassificationSettings
from anystroke.tasks.denoising.recipe import DenoisingSettings
from anystroke.tasks.pretraining.recipe import PretrainingSettings
from anystroke.tasks.qmri.recipe import EstimatorSettings
from anystroke.tasks.segmentation.recipe import TrainingSettings, load_recipe
from anystroke.tasks.tissues.recipe import TissueSettings

NamedRecipe = (
    EstimatorSettings | PretrainingSettings | TissueSettings | DenoisingSettings | ClassificationSettings
)
"""A recipe that names its task."""
AnyRecipe = TrainingSettings | NamedRecipe
"""A recipe of any task."""

_RECIPES: dict[str, type[NamedRecipe]] = {
    "qmri": EstimatorSettings,
    "pretraining": PretrainingSettings,
    "tissues": TissueSettings,
    "denoising": DenoisingSettings,
    "classification": ClassificationSettings,
}


def load_any_recipe(path: Path, overrides: list[str] | None = None) -> AnyRecipe:
    """Read a recipe of any task; ``task`` says which, such as ``"qmri"``; without it, lesions are segmented.

    Args:
        path: The file.
        overrides: As in `load_recipe`.

    Raises:
        ConfigError: As `load_recipe`, or there is no such task.
    """
    data = read_recipe(path)
    if "task" not in data:
        return load_recipe(path, overrides)
    if data["task"] not in _RECIPES:
        raise ConfigError(
            f"expected a task in {path} among {', '.join(_RECIPES)}, got {data['task']!r}; name one of them"
        )
    apply_overrides(data, overrides or [])
    return validate(spread_synthesis(data, source=str(path)), _RECIPES[data["task"]], source=str(path))
