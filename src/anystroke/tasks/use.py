"""What a model of any task makes of scans, in files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from anystroke.models.checkpoints import CheckpointError, task_of_model
from anystroke.tasks.classification.files import write_classes
from anystroke.tasks.classification.predict import ClassModel
from anystroke.tasks.denoising.files import write_denoised
from anystroke.tasks.denoising.predict import NoiseModel
from anystroke.tasks.pretraining.files import write_features
from anystroke.tasks.pretraining.predict import FeatureModel
from anystroke.tasks.tissues.files import write_tissues
from anystroke.tasks.tissues.predict import TissueModel

Use = Callable[[str | Path, Sequence[Path], Path], Path]
"""Takes a model, scans and a folder, writes what is found into it, and returns the table of it."""

USES: dict[str, Use] = {
    "tissues": lambda name, scans, folder: write_tissues(scans, TissueModel.load(name), folder),
    "denoising": lambda name, scans, folder: write_denoised(scans, NoiseModel.load(name), folder),
    "classification": lambda name, scans, folder: write_classes(scans, ClassModel.load(name), folder),
    "pretraining": lambda name, scans, folder: write_features(scans, FeatureModel.load(name), folder),
}
"""By task; tasks with a verb of their own are not among them."""


def use_model(name: str | Path, scans: Sequence[Path], folder: Path) -> Path:
    """Write what a model finds in scans: tissues, scans without noise, classes or features.

    Args:
        name: A model folder, or a shipped model.
        scans: NIfTI and the like.
        folder: Gets the files; made if missing.

    Returns:
        The table of what was found.

    Raises:
        CheckpointError: There is no such model, or its task has a verb of its own.
        VolumeError: A scan cannot be used.
    """
    task = task_of_model(name)
    if task not in USES:
        raise CheckpointError(
            f"expected a model of the task {', '.join(USES)}, but {name} is of the task {task}; use the verb "
            "that is for it, such as 'segment' or 'estimate-qmri'"
        )
    return USES[task](name, scans, folder)
