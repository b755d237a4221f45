"""What recipes of all tasks have in common: parts of a training run, as typed settings read from TOML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from anystroke.core.config import ConfigError, StrictModel, read_toml, validate
from anystroke.core.fields import GridShape
from anystroke.learning.augmentation.apply import AUGMENTATIONS, AugmentationSettings
from anystroke.learning.buffer import BufferSettings
from anystroke.learning.shipped_recipes import find_base, find_recipe
from anystroke.learning.sources.maps import MapSettings
from anystroke.learning.sources.scans import ScanSettings
from anystroke.models.architectures.catalogue import ARCHITECTURES, ENCODERS
from anystroke.models.model_space import Normalisation
from anystroke.simulation.random_contrasts import RandomContrastSettings
from anystroke.simulation.settings import SynthesisSettings

Precision = Literal["auto", "float32", "bfloat16", "float64"]


class DataSettings(StrictModel):
    """Where label maps and lesion masks are, and which are kept from training.

    Attributes:
        anatomies: Folders of label maps in the SynthSeg scheme.
        lesions: Folders of lesion masks in MNI space.
        package: Use the package's own anatomy as well (the MNI152 brain, without a skull) and so many made-up
            lesions; what is made up is also held out where nothing else is.
        held_out_anatomies: Stems of label maps that training never sees.
        held_out_lesions: Share of lesion masks, by a hash of the stem, that training never sees.
        split: Name that the hash begins with; another name holds out other masks.
        share: Of the patients that are left, the share that is trained on, of label maps and of lesion masks,
            at least one of each: those whose hash of ``split`` and stem comes first.
        largest_lesion_ml: Masks above this volume are taken for errors and left out.
    """

    anatomies: tuple[Path, ...] = ()
    lesions: tuple[Path, ...] = ()
    package: int = Field(default=0, ge=0)
    held_out_anatomies: tuple[str, ...] = ()
    held_out_lesions: float = Field(default=0.15, ge=0, lt=1)
    split: str = ""
    share: float = Field(default=1.0, gt=0, le=1)
    largest_lesion_ml: float = Field(default=400.0, gt=0)


class GridSettings(StrictModel):
    """The voxels that a network sees.

    Attributes:
        spacing: Voxel size in mm.
        shapes: Sizes of the parts of a head that are cut out; each step draws one.
        shape_weights: Probability of each of them.
        normalisation: How intensities are standardised, see ``normalise_intensity``.
    """

    spacing: float = Field(default=2.0, gt=0)
    shapes: tuple[GridShape, ...] = ((96, 112, 96),)
    shape_weights: tuple[float, ...] = (1.0,)
    normalisation: Normalisation = "foreground"

    @model_validator(mode="after")
    def _fits(self) -> "GridSettings":
        if not self.shapes or len(self.shapes) != len(self.shape_weights):
            raise ValueError(
                f"expected a weight for each of at least one shape, got {len(self.shapes)} shapes and "
                f"{len(self.shape_weights)} weights"
            )
        return self


def _preset(value: Any) -> Any:
    """Turn the name of augmentations into them."""
    if not isinstance(value, str):
        return value
    if value not in AUGMENTATIONS:
        raise ValueError(f"expected a table or one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[value]


Augmentation = Annotated[AugmentationSettings, BeforeValidator(_preset)]


class _Source(StrictModel):
    share: int = Field(default=1, gt=0)
    augmentation: Augmentation | None = None


class SimulatedPart(_Source):
    """Scans simulated by physics.

    Attributes:
        share: Cases of this source in every round.
        augmentation: Changes made to the cases: a table, or ``"tail"`` or ``"baseline"`` for published ones.
        synthesis: What scans look like; grid and voxel size are those of the recipe.
        target: Hard classes, or the share of each class in each voxel.
    """

    kind: Literal["simulated"]
    synthesis: SynthesisSettings = SynthesisSettings()
    target: Literal["hard", "soft"] = "hard"


class SecondLookPart(StrictModel):
    """What a segmentation finds in simulated heads, for a second network that looks there again.

    Attributes:
        share: Cases of this source in every round.
        synthesis: What scans look like; the voxel size is that of the recipe.
        head: Voxels of the grid of a whole head.
        first: Name of a shipped model that segments, or its folder: the first network.
        doubtful: Connected voxels that it finds at least as probable are looked at.
    """

    kind: Literal["second_look"]
    share: int = Field(default=1, gt=0)
    synthesis: SynthesisSettings = SynthesisSettings()
    head: GridShape = (160, 192, 160)
    first: str = "default"
    doubtful: float = Field(default=0.15, gt=0, lt=1)


class RandomContrastPart(_Source):
    """Scans of random contrast, as SynthStroke makes them.

    Attributes:
        share: Cases of this source in every round.
        augmentation: Changes made to the cases: a table, or ``"tail"`` or ``"baseline"`` for published ones.
        contrasts: How random; grid and voxel size are those of the recipe.
        target: Hard classes, or the share of each class in each voxel.
    """

    kind: Literal["random_contrasts"]
    contrasts: RandomContrastSettings = RandomContrastSettings()
    target: Literal["hard", "soft"] = "hard"


class ScansPart(StrictModel):
    """Labelled scans, also pseudo-labelled ones.

    Attributes:
        share: Cases of this source in every round.
        scans: Where they are, and what happens to them.
    """

    kind: Literal["scans"]
    share: int = Field(default=1, gt=0)
    scans: ScanSettings


class MapsPart(_Source):
    """Scans simulated from measured or estimated maps of patients.

    Attributes:
        share: Cases of this source in every round.
        augmentation: Changes made to the cases: a table, or ``"tail"`` or ``"baseline"`` for published ones.
        maps: Where they are.
    """

    kind: Literal["maps"]
    maps: MapSettings


SourcePart = Annotated[
    SimulatedPart | SecondLookPart | RandomContrastPart | ScansPart | MapsPart, Field(discriminator="kind")
]


_Part = TypeVar("_Part")


def _some(sources: tuple[_Part, ...]) -> tuple[_Part, ...]:
    if not sources:
        raise ValueError("expected at least one source of cases")
    return sources


def _unchanged(sources: tuple[_Part, ...]) -> tuple[_Part, ...]:
    """Refuse what changes the cases of a source or softens their targets."""
    for part in sources:
        if getattr(part, "augmentation", None) is not None or getattr(part, "target", "hard") != "hard":
            raise ValueError(
                "the sources of this task have neither 'augmentation' nor 'target'; leave them out, and set "
                "how scans look in other tables of the recipe ('synthesis', 'maps', 'views')"
            )
    return sources


SomeParts = Annotated[tuple[_Part, ...], AfterValidator(_some)]
"""At least one source of cases."""
PlainParts = Annotated[tuple[_Part, ...], AfterValidator(_some), AfterValidator(_unchanged)]
"""At least one source of cases, none with augmentation or a target of its own."""

PatientPart = Annotated[SimulatedPart | MapsPart, Field(discriminator="kind")]
"""A source of patients that are made of maps: drawn, measured or estimated ones."""


class OptimiserSettings(StrictModel):
    """How the network is fitted.

    Attributes:
        steps: Number of optimiser steps; does not count by the clock.
        minutes: By the clock: everything is done and written so many minutes after the call; warm-up and
            decay of the learning rate follow the time that is left. 0 trains by steps.
        batch: Cases per forward pass and process.
        accumulate: Forward passes per step.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: Of AdamW.
        warm_up: Steps over which the rate rises from zero.
        warm_up_share: By the clock: share of the time over which it does.
        power: The rate falls as (1 - step / steps), or the share of the time that is left, to this power.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are the ones that are kept; 0 keeps the last.
        precision: ``"auto"`` is bfloat16 where the device computes it fast.
        compile: Compile the network; worth it on a GPU with shapes that do not change.
        checkpoint_every: Steps between checkpoints and sheets of samples.
        workers: Processes that make cases, per device.
        made_on: Where they compute: ``"cpu"``, or ``"device"``, beside the network. A simulated case is many
            small computations, for which a GPU waits more than it works; so make several at once, in several
            processes. Noise and texture are others than on the CPU, of the same distribution; all sources
            must be simulated, without augmentation.
        made_at_once: Patients that a process makes together on the device; the cases are the same.
    """

    steps: int = Field(default=10_000, gt=0)
    minutes: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    batch: int = Field(default=1, gt=0)
    accumulate: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warm_up: int = Field(default=200, ge=0)
    warm_up_share: float = Field(default=0.02, ge=0, lt=1)
    power: float = Field(default=0.9, ge=0)
    clip: float = Field(default=12.0, gt=0)
    ema: float = Field(default=0.998, ge=0, lt=1)
    precision: Precision = "auto"
    compile: bool = False
    checkpoint_every: int = Field(default=250, gt=0)
    workers: int = Field(default=1, ge=0)
    made_on: Literal["cpu", "device"] = "cpu"
    made_at_once: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _at_once_on_device(self) -> "OptimiserSettings":
        if self.made_at_once > 1 and self.made_on == "cpu":
            raise ValueError(
                f"expected made_at_once = 1 with made_on = 'cpu', got {self.made_at_once}: "
                "it pays on a GPU alone"
            )
        return self


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"expected one of {', '.join(ARCHITECTURES)}")
    return name


Architecture = Annotated[str, AfterValidator(_known_architecture)]
"""A name of ``anystroke.models.architectures.catalogue.ARCHITECTURES``."""


def _has_encoder(name: str) -> str:
    if name not in ENCODERS:
        raise ValueError(f"expected an architecture with an encoder, one of {', '.join(ENCODERS)}")
    return name


EncoderArchitecture = Annotated[str, AfterValidator(_has_encoder)]
"""A name of ``anystroke.models.architectures.catalogue.ENCODERS``."""


class Validation(StrictModel):
    """What a run is judged on while it goes on.

    Attributes:
        every: Steps between validations.
        patients: How many that training has not seen.
    """

    every: int = Field(default=1000, gt=0)
    patients: int = Field(default=0, ge=0)


class NetworkSettings(StrictModel):
    """What recipes of all tasks say of the network.

    Attributes:
        name: Name of the model.
        seed: Seed of weights and cases.
        start_from: Model folder, or name of a shipped model, whose weights training starts from.
        start_from_wider: Whether that model's layers may have more channels; evenly spaced ones are taken. It
            must be of the same kind, with the same outputs.
        start_from_narrower: Whether that model's layers have fewer channels; further ones are added, which
            change nothing at first. Residual U-Nets alone, with the same outputs.
        freeze_encoder: Whether the encoder stays as `start_from` has it, and only the decoder learns.
        architecture: A name of ``anystroke.models.architectures.catalogue.ARCHITECTURES``.
    """

    name: str
    seed: int = 1
    start_from: str | None = None
    start_from_wider: bool = False
    start_from_narrower: bool = False
    freeze_encoder: bool = False
    architecture: Architecture = "compact_unet"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.start_from_wider and self.start_from_narrower:
            raise ValueError("expected start_from_wider or start_from_narrower, got both; leave one out")
        return self


class CpuTaskSettings(NetworkSettings):
    """What recipes of tasks have in common whose cases are made on the CPU.

    Attributes:
        grid: The voxels that the network sees.
        data: Label maps and lesion masks, and the share of them that is trained on.
        optimiser: How it is fitted.
        buffer: Cases that are kept on the device and seen several times; none without it.
        validation: What the run is judged on.
    """

    grid: GridSettings = GridSettings()
    data: DataSettings = DataSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    buffer: BufferSettings | None = None
    validation: Validation = Validation()

    @model_validator(mode="after")
    def _made_on_cpu(self) -> Self:
        if self.optimiser.made_on != "cpu":
            raise ValueError("expected optimiser.made_on = 'cpu': cases of this task are made there")
        return self


class DownstreamSettings(CpuTaskSettings):
    """What recipes of tasks have in common whose networks start from a pre-trained encoder.

    Attributes:
        start_from_wider: False.
        start_from_narrower: False.
        architecture: A name of ``anystroke.models.architectures.catalogue.ENCODERS``.
    """

    start_from_wider: Literal[False] = False
    start_from_narrower: Literal[False] = False
    architecture: EncoderArchitecture = "compact_unet"


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe with its bases as plain values, unchecked.

    Args:
        path: The file, or the name of a shipped recipe.

    Raises:
        ConfigError: If a file is missing or is not TOML, or bases go round in a circle.
    """
    return _with_bases(find_recipe(path), ())


class _Common(StrictModel):
    synthesis: SynthesisSettings = SynthesisSettings()


def spread_synthesis(data: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Give each simulated source what the recipe's own table ``synthesis`` says; the source's values win.

    Args:
        data: A recipe as plain values, left as it is.
        source: Where it comes from, for the message.

    Returns:
        The recipe without that table.

    Raises:
        ConfigError: A key of the table is unknown, a value does not fit, or no source is simulated.

    Example:
        >>> sources = [{"kind": "simulated"}, {"kind": "simulated", "synthesis": {"cut": 0.5}}]
        >>> recipe = {"name": "toy", "synthesis": {"cut": 0.0, "texture": 0.2}, "sources": sources}
        >>> for each in spread_synthesis(recipe, source="the example")["sources"]:
        ...     print(each["synthesis"])
        {'cut': 0.0, 'texture': 0.2}
        {'cut': 0.5, 'texture': 0.2}
    """
    result = dict(data)
    common = result.pop("synthesis", {})
    sources = result.get("sources")
    if not common or not isinstance(sources, list):
        return result
    validate({"synthesis": common}, _Common, source=source)
    kinds = ("simulated", "second_look")
    simulated = [isinstance(part, dict) and part.get("kind") in kinds for part in sources]
    if not any(simulated):
        raise ConfigError(
            f"{source}: 'synthesis' is for sources of the kind 'simulated', but there is none; remove it"
        )
    result["sources"] = [
        part | {"synthesis": _merged(common, part.get("synthesis", {}))} if filled else part
        for part, filled in zip(sources, simulated, strict=True)
    ]
    return result


def _with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: its base recipes lead back to itself; remove one 'base' line")
    data = read_toml(path)
    bases = data.pop("base", [])
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: 'base' should name one recipe or a list of them, but it is {bases!r}")
    for name in reversed(names):
        data = _merged(_with_bases(find_base(path, name), (*seen, path.resolve())), data)
    return data


def _merged(base: Any, changes: Any) -> Any:
    if isinstance(base, dict) and isinstance(changes, dict):
        keys = [*base, *(key for key in changes if key not in base)]
        return {
            key: _merged(base[key], changes[key])
            if key in base and key in changes
            else changes.get(key, base.get(key))
            for key in keys
        }
    return changes
