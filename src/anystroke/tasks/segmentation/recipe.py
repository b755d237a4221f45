"""Recipes of segmentations: everything that decides such a training run, read from TOML."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from anystroke.core.config import ConfigError, apply_overrides, validate
from anystroke.learning.buffer import BufferSettings
from anystroke.learning.recipe import (
    DataSettings,
    GridSettings,
    NetworkSettings,
    OptimiserSettings,
    SimulatedPart,
    SomeParts,
    SourcePart,
    Validation,
    read_recipe,
    spread_synthesis,
)
from anystroke.learning.targets import Scheme
from anystroke.models.architectures.catalogue import SECOND_LOOKS
from anystroke.tasks.segmentation.losses import LossSettings

if TYPE_CHECKING:
    from anystroke.tasks.segmentation.task import SegmentationTask


class ValidationSettings(Validation):
    """What a run is judged on while it goes on.

    Attributes:
        every: Steps between validations.
        patients: Simulated patients with a lesion of 1 ml or more, of the anatomies and masks that are held
            out; one after the other takes the next contrast, then the next stage, then skull or none.
        healthy: Simulated patients without a lesion.
        weightings: The contrasts.
        preset: Protocols of the simulated patients.
        scans: Labelled scans, judged apart and never used to choose a model.
    """

    healthy: int = Field(default=0, ge=0)
    weightings: tuple[str, ...] = ("T1w", "T2w", "FLAIR", "DWI")
    preset: str = "realistic"
    scans: tuple[Path, ...] = ()


class TrainingSettings(NetworkSettings):
    """A whole recipe.

    Attributes:
        classes: What the network tells apart: ``"tissues"``, ``"lesion"`` or ``"published"``.
        grid: The voxels that it sees.
        data: Label maps and lesion masks.
        sources: What it is trained on; their shares are the ratio in which cases follow each other.
        contrasts: Scans of each simulated patient, with protocols, fields and artefacts of their own; several
            cost less than as many patients. A source that names no weighting draws those of further scans
            among the weightings that show lesions of the patient's age.
        loss: What is minimised.
        optimiser: How.
        buffer: Cases that are kept on the device and seen several times; none without it.
        validation: What the run is judged on.
    """

    classes: Scheme = "tissues"
    grid: GridSettings = GridSettings()
    data: DataSettings = DataSettings()
    sources: SomeParts[SourcePart]
    contrasts: int = Field(default=1, ge=1, le=16)
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    buffer: BufferSettings | None = None
    validation: ValidationSettings = ValidationSettings()

    def open_task(self) -> "SegmentationTask":
        """Return what the recipe trains a network to do."""
        from anystroke.tasks.segmentation.task import SegmentationTask

        return SegmentationTask(self)

    @model_validator(mode="after")
    def _second_looks_together(self) -> "TrainingSettings":
        seconds = [part.kind == "second_look" for part in self.sources]
        if not any(seconds) and self.architecture not in SECOND_LOOKS:
            return self
        if not all(seconds) or self.architecture not in SECOND_LOOKS:
            raise ValueError(
                f"expected an architecture among {', '.join(SECOND_LOOKS)} and sources of the kind "
                f"'second_look' alone, or neither, got {self.architecture!r} and sources of the kind "
                f"{', '.join(sorted({part.kind for part in self.sources}))}"
            )
        if self.open_task().judged_on_simulated or self.validation.scans:
            raise ValueError(
                "a second network cannot be judged alone; leave validation out, and measure both together "
                "with benchmarks/second_look.py"
            )
        if self.buffer is not None and self.buffer.channels != 1:
            raise ValueError(
                "expected buffer.channels = 1 for a second network, whose second channel is no image, got "
                f"{self.buffer.channels}"
            )
        return self

    @model_validator(mode="after")
    def _simulated_on_device(self) -> "TrainingSettings":
        if self.optimiser.made_on == "cpu":
            return self
        for part in self.sources:
            if not isinstance(part, SimulatedPart) or part.augmentation is not None:
                what = f"kind {part.kind!r}" if part.kind != "simulated" else "augmentation"
                raise ValueError(
                    "expected only simulated sources without augmentation with optimiser.made_on = 'device', "
                    f"got one with {what}; make cases on the CPU"
                )
        return self


def load_recipe(path: Path, overrides: list[str] | None = None) -> TrainingSettings:
    """Read a recipe; its relative data folders are relative to the current folder.

    A recipe may begin with ``base = "other.toml"``, or a list of such files, whose values hold where it gives
    none: tables are merged, a list such as ``sources`` replaces that of the base, and of several bases the
    later ones win. A table ``synthesis`` beside the sources holds for each simulated one, see
    `spread_synthesis`.

    Args:
        path: The file.
        overrides: Changes on top of it, such as ``"optimiser.steps=100"`` or ``"sources.0.share=2"``.

    Raises:
        ConfigError: If a file is missing or is not TOML, bases go round in a circle, a value does not fit, or
            it is the recipe of an estimator.
    """
    data = read_recipe(path)
    if "task" in data:
        raise ConfigError(f"{path} is no recipe of a segmentation; read it with load_any_recipe")
    apply_overrides(data, overrides or [])
    return validate(spread_synthesis(data, source=str(path)), TrainingSettings, source=str(path))


def parse_recipe(text: str, *, source: str = "the recipe") -> TrainingSettings:
    """Read a recipe without a base from a string of TOML."""
    return validate(spread_synthesis(tomllib.loads(text), source=source), TrainingSettings, source=source)
