"""Training cases of the estimator: a simulated T1w MPRAGE, and the maps that it was made of."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from anystroke.anatomy.tissues.classes import CLASSES, LESION
from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape
from anystroke.core.rng import integer
from anystroke.learning.cases import Case, first_that_shows_something
from anystroke.learning.sources.maps import MapCases, MapSettings
from anystroke.qmri.estimated_maps import MAP_OUTPUTS, check_maps, same_field
from anystroke.qmri.map_files import MapDataError
from anystroke.qmri.units_check import r2_from_r2star
from anystroke.simulation.cohorts import Pack, load_pack
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings

_FLUID_R1 = 0.4  # 1/s
_CEILINGS = {name: output.ceiling for name, output in MAP_OUTPUTS.items()}


class MapTargetSettings(StrictModel):
    """What an estimator should find.

    Attributes:
        field_strength: Field that the rates belong to, whatever that of the scan [T]; one T1w scan does not
            tell its field, and the maps of a patient at one field are better determined. None gives them at
            the scan's own field. Measured maps must be of this field.
        outside: Weight of voxels that are no brain; the brain has 1. Published is 0.
        lesion: Weight of voxels of the lesion.
        fluid: Weight of voxels of the brain that are nearly all fluid, with R1 below 0.4 1/s. Their rates are
            small numbers of which small errors show: a long TR and a TI of 2.5 s null R1 of ln 2 / TI = 0.28
            1/s, not of 0.4 1/s.
    """

    field_strength: float | None = Field(default=3.0, gt=0)
    outside: float = Field(default=0.1, ge=0, le=1)
    lesion: float = Field(default=1.0, ge=1)
    fluid: float = Field(default=1.0, ge=1)


class SimulatedMapSource:
    """Cases of simulated patients with a T1w scan; a `CaseSource` whose targets are maps and weights.

    Where the scan is exactly zero, as beyond the field of view or where the skull was stripped, the maps are
    too.

    Args:
        pack: Folder with ``anatomies.safetensors`` and ``lesions.safetensors``, or what they hold.
        settings: What scans look like. The grid is that of the case.
        names: The maps, of ``MAP_OUTPUTS``.
        target: What to find.

    Raises:
        ValueError: A map is unknown.

    Example:
        >>> from anystroke.anatomy.tissues.mni import mni_anatomy
        >>> from anystroke.core.rng import stream
        >>> settings = SynthesisSettings(preset="estimator")
        >>> source = SimulatedMapSource(Pack([mni_anatomy()], []), settings, names=["r1"])
        >>> source.case((32, 32, 32), rng=stream(1, "case")).target.shape
        torch.Size([2, 32, 32, 32])
    """

    def __init__(
        self,
        pack: Path | Pack,
        settings: SynthesisSettings,
        *,
        names: Sequence[str],
        target: MapTargetSettings | None = None,
    ) -> None:
        self.names = check_maps(names)
        self.settings = settings
        self.target = target or MapTargetSettings()
        self._pack = pack
        self._generators: dict[GridShape, Generator] = {}

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Simulate one case that shows something, see `CaseSource`."""
        return self.sampled(shape, rng=rng)[0]

    def sampled(self, shape: GridShape, *, rng: torch.Generator) -> tuple[Case, Tensor]:
        """Simulate one case, and tell the class of each of its voxels.

        Args:
            shape: Voxels of the case.
            rng: Random stream.

        Returns:
            As `known`.

        Raises:
            RuntimeError: As `case`.
        """
        anatomies, generator = self.pack.anatomies, self.generator(shape)
        sample = first_that_shows_something(
            lambda: generator(anatomies[integer(rng, 0, len(anatomies) - 1)], rng=rng),
            shape,
            "make the grid larger or move it less",
        )
        return self.known(sample, generator)

    def known(self, sample: Sample, generator: Generator) -> tuple[Case, Tensor]:
        """Make a case of a sample, and tell the class of each of its voxels.

        Args:
            sample: Of the generator.
            generator: That of the shape, see `generator`.

        Returns:
            The case, and (X, Y, Z) uint8, numbers of ``CLASSES``; background where the scan is zero.
        """
        field = self.target.field_strength or sample.protocol.field_strength
        maps = generator.maps_at(sample, field, ceilings=_CEILINGS)
        maps.make(list(dict.fromkeys((*self.names, "r1"))))
        values = torch.stack([maps[name] for name in self.names])
        values *= sample.image != 0
        classes = sample.target * (sample.image != 0)
        brain = classes > CLASSES.index("background")
        weight = _weights(brain, classes == LESION, maps["r1"], self.target)
        return Case(sample.image, _target(values, weight, self.names), sample.record), classes

    @property
    def pack(self) -> Pack:
        """The anatomies and masks, read when they are first needed."""
        return self._pack if isinstance(self._pack, Pack) else load_pack(self._pack)

    def generator(self, shape: GridShape) -> Generator:
        """Return what makes the scans of a shape."""
        if shape not in self._generators:
            settings = self.settings.model_copy(update={"shapes": (shape,), "shape_weights": (1.0,)})
            self._generators[shape] = Generator(settings, self.pack.masks)
        return self._generators[shape]


class MeasuredMapSource:
    """Cases simulated from measured maps; a `CaseSource` whose targets are maps and weights.

    Args:
        folder: That of `pack_maps`.
        settings: What scans look like.
        names: The maps, of ``MAP_OUTPUTS``. R2 is estimated from R2* and R1 where it was not measured.
        target: What to find.

    Raises:
        MapDataError: As `MapCases`, or maps are not of the field of the target.
        ValueError: A map is unknown.
    """

    def __init__(
        self,
        folder: Path,
        settings: MapSettings,
        *,
        names: Sequence[str],
        target: MapTargetSettings | None = None,
    ) -> None:
        self.names = check_maps(names)
        self.target = target or MapTargetSettings()
        self._cases = MapCases(folder, settings, lesion=LESION)
        field = self.target.field_strength
        for subject in self._cases.subjects:
            if field is not None and not same_field(subject.field_strength, field):
                raise MapDataError(
                    f"the maps of {subject.name} were measured at {subject.field_strength:g} T, but "
                    f"target.field_strength is {field:g} T; set it to the field of all maps"
                )

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case that shows something, see `CaseSource`."""
        scan = first_that_shows_something(
            lambda: self._cases.simulate(shape, key=integer(rng, 0, 2**62)),
            shape,
            "make the grid larger or check the maps",
        )
        named = dict(zip(scan.names, scan.maps, strict=True))
        if "r2" in self.names and "r2" not in named:
            named["r2"] = r2_from_r2star(named["r2star"], named["r1"], field_strength=scan.field_strength) * (
                named["proton_density"] > 0
            )
        values = torch.stack([named[name] for name in self.names])
        weight = _weights(scan.brain > 0.5, scan.lesion > 0.5, named["r1"], self.target)
        return Case(scan.image.contiguous(), _target(values, weight, self.names), scan.facts)


def _weights(brain: Tensor, lesion: Tensor, r1: Tensor, settings: MapTargetSettings) -> Tensor:
    weight = torch.full(brain.shape, settings.outside)
    weight[brain] = 1.0
    weight[lesion] = settings.lesion
    fluid = brain & (r1 < _FLUID_R1)
    weight[fluid] = weight[fluid].clamp(min=settings.fluid)
    return weight


def _target(values: Tensor, weight: Tensor, names: Sequence[str]) -> Tensor:
    """Clip maps to what their scan can tell, and put the weight behind them."""
    ceilings = torch.tensor([MAP_OUTPUTS[name].ceiling for name in names]).view(-1, 1, 1, 1)
    return torch.cat([torch.minimum(values, ceilings), weight[None]]).contiguous()
