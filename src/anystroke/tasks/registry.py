"""All tasks by name, and their recipes."""

from pathlib import Path

from anystroke.core.config import apply_overrides, validate
from anystroke.learning.recipe import read_recipe, spread_synthesis
from anystroke.tasks.qmri.recipe import EstimatorSettings
from anystroke.tasks.segmentation.recipe import TrainingSettings, load_recipe

AnyRecipe = TrainingSettings | EstimatorSettings
"""A recipe of any task."""


def load_any_recipe(path: Path, overrides: list[str] | None = None) -> AnyRecipe:
    """Read a recipe of any task; ``task = "qmri"`` makes it that of an estimator.

    Args:
        path: The file.
        overrides: As in `load_recipe`.

    Raises:
        ConfigError: As `load_recipe`.
    """
    data = read_recipe(path)
    if "task" not in data:
        return load_recipe(path, overrides)
    apply_overrides(data, overrides or [])
    return validate(spread_synthesis(data, source=str(path)), EstimatorSettings, source=str(path))
