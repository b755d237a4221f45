"""Training cases of measured maps: the path of qATLAS from maps and lesion masks to any contrast.

Source: L. Chalcroft et al., the published program of qATLAS; what its augmentations mean, where a library
took them otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from anystroke.acquisition.base import Protocol as Acquisition
from anystroke.acquisition.presets.preset import load_preset
from anystroke.anatomy.tissues.deformation import (
    Box,
    DeformationSettings,
    SamplingGrid,
    sample_at,
    sampling_grid,
)
from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape
from anystroke.core.rng import chance, integer, stream, uniform
from anystroke.corruption.bias_field import transmit_field
from anystroke.corruption.scanner import ScannerSettings, acquire_scan
from anystroke.learning.cases import HEALTHY, Case, first_that_shows_something
from anystroke.learning.sources.map_packs import PackedSubject, PackReport, open_maps, pack_maps
from anystroke.qmri.map_files import MapDataError, find_map_subjects
from anystroke.qmri.mixture import move_values, moved_mixture
from anystroke.qmri.units_check import r2_from_r2star

_MOST_TRIES = 100
_LEAST_SHARE = 0.05
_STILL = DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0)


class MapSettings(StrictModel):
    """Which maps there are, and what scans of them look like.

    Attributes:
        data: Folders of maps and lesion masks, see `find_map_subjects`.
        preset: Distribution over protocols: a name, or a TOML file. ``"paper"`` has the four sequences of
            the paper, ``"paper_code"`` the six of its program; ``"qatlas"`` is only the MPRAGE of the
            estimator. Protocols that need a map which was not measured are drawn anew.
        weighting: Restrict the preset to one weighting, such as ``"FLAIR"``.
        spacing: Voxel size in mm.
        lesion_centred: Probability that the grid is centred on a voxel of the lesion; else it is anywhere
            within the head.
        deformed: Probability that the patient is turned, scaled and bent.
        deformation: How much. The default bends as steeply as the published field, which has finer detail
            and smaller displacements.
        brain_only: Probability that nothing but the brain is left, where there is a brain mask.
        mixture: Probability that the tissues' values are moved, see `moved_mixture`.
        mixture_mean: Largest shift of a component's mean, as a share of the map's range.
        mixture_sd: Largest change of a component's SD, likewise.
        transmit_field: Whether flip angles vary over the head; the published equations do not know of it.
        scanner: What scanner and patient do to the signal; None leaves it as it is, for the published
            augmentation to follow.
    """

    data: tuple[Path, ...] = ()
    preset: str = "paper"
    weighting: str | None = None
    spacing: float = Field(default=1.0, gt=0)
    lesion_centred: float = Field(default=0.0, ge=0, le=1)
    deformed: float = Field(default=0.8, ge=0, le=1)
    deformation: DeformationSettings = DeformationSettings(
        rotation=15, scaling=0.15, shear=0.012, translation=0, elastic=4, mirror=0
    )
    brain_only: float = Field(default=1.0, ge=0, le=1)
    mixture: float = Field(default=0.0, ge=0, le=1)
    mixture_mean: float = Field(default=0.5, ge=0, le=1)
    mixture_sd: float = Field(default=0.1, ge=0, le=1)
    transmit_field: bool = True
    scanner: ScannerSettings | None = None


@dataclass(frozen=True)
class SimulatedScan:
    """A scan simulated from measured maps, and what it was made of.

    Attributes:
        image: (X, Y, Z).
        maps: (C, X, Y, Z) in the order of ``names``, 0 where the scan shows nothing.
        names: Of the maps.
        head: (X, Y, Z) in [0, 1].
        brain: Likewise.
        lesion: Likewise.
        field_strength: Of the maps, T.
        facts: Plain values of what was drawn.
    """

    image: Tensor
    maps: Tensor
    names: tuple[str, ...]
    head: Tensor
    brain: Tensor
    lesion: Tensor
    field_strength: float
    facts: dict[str, Any]


class Augment(Protocol):
    """What may follow the simulation, such as the published augmentation with its settings filled in."""

    def __call__(self, image: Tensor, target: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change image and target (X, Y, Z) together; their shape stays."""


def pack_data(
    settings: MapSettings, folder: str | Path, *, on_subject: Callable[[str], None] | None = None
) -> PackReport:
    """Find the maps that settings name, and pack them for `MapCases`.

    Args:
        settings: Says where they are, and the voxel size.
        folder: Where to write.
        on_subject: Told one sentence about each subject.

    Raises:
        MapDataError: If a folder holds no subject that can be used, or none could be packed.
        OSError: If the folder cannot be written.
    """
    if not settings.data:
        raise MapDataError("expected at least one folder of maps under 'data', got none; name one")
    subjects = [subject for source in settings.data for subject in find_map_subjects(source)]
    return pack_maps(subjects, folder, spacing=settings.spacing, on_subject=on_subject)


class MapCases:
    """Cases of measured maps; a `CaseSource`.

    Args:
        folder: That of `pack_maps`.
        settings: What scans look like.
        lesion: Number of the lesion's class in the target; all else is ``HEALTHY``.
        names: Subjects to draw from; None for all.
        augment: Follows the simulation.

    Raises:
        MapDataError: If there is no pack, a subject is not in it, or it has another voxel size.
        ValueError: If the preset has no protocol that the maps suffice for.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: MapSettings,
        *,
        lesion: int,
        names: Sequence[str] | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.settings, self.lesion, self.augment = settings, lesion, augment
        subjects = {subject.name: subject for subject in open_maps(folder)}
        if missing := sorted(set(names or ()) - set(subjects)):
            raise MapDataError(f"expected a subject called {missing[0]} in {folder}, but it is not there")
        self.subjects = [subject for name, subject in subjects.items() if names is None or name in names]
        if not self.subjects:
            raise MapDataError(f"expected at least one subject of {folder} to make cases of, got none")
        for subject in self.subjects:
            spacing = subject.affine[:3, :3].norm(dim=0)
            if float((spacing - settings.spacing).abs().max()) > 1e-2:
                raise MapDataError(
                    f"{folder} was packed with voxels of {float(spacing[0]):g} mm, but the settings say "
                    f"{settings.spacing:g} mm; pack the maps again"
                )
        self._preset = load_preset(settings.preset)
        self._protocol(self.subjects[0], stream(0, "check"))

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        """Make one case that shows something, see `CaseSource`."""
        return first_that_shows_something(
            lambda: self.generate(shape, key=integer(rng, 0, 2**62)),
            shape,
            "make the grid larger or check the maps",
        )

    def scan(self, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
        """Make one of several scans of a subject: the same voxels, by another protocol.

        Args:
            shape: Voxels of the case.
            number: Of the scan; 0 is what `case` gives.
            rng: Random stream of the subject, the same for all of the scans.

        Raises:
            RuntimeError: If 100 draws in a row gave constant images.
        """
        return first_that_shows_something(
            lambda: self.generate(shape, key=integer(rng, 0, 2**62), number=number),
            shape,
            "make the grid larger or check the maps",
        )

    def generate(self, shape: GridShape, *, key: int, number: int = 0) -> Case:
        """Make the case that belongs to a key; the same pack, settings and key give the same case to the bit.

        Args:
            shape: Voxels.
            key: Decides all that is random; the case's record holds it.
            number: Of the scan of that subject.

        Raises:
            ValueError: If the augmentation changes the shape.
        """
        scan = self.simulate(shape, key=key, number=number)
        image = scan.image
        target = torch.full(image.shape, HEALTHY, dtype=torch.uint8)
        target[scan.lesion > 0.5] = self.lesion
        if self.augment is not None:
            changes = stream(key, "maps", "augmentation")
            image, target = self.augment(image, target, rng=changes)
            if image.shape != tuple(shape) or target.shape != tuple(shape):
                raise ValueError(
                    f"expected an augmentation that keeps {tuple(shape)} voxels, got {image.shape}"
                )
        return Case(image.contiguous(), target.contiguous(), scan.facts)

    def simulate(self, shape: GridShape, *, key: int, number: int = 0) -> SimulatedScan:
        """Simulate the scan that belongs to a key, before any augmentation.

        Args:
            shape: Voxels.
            key: Decides all that is random.
            number: Of the scan; protocol, transmit field and scanner depend on it.
        """

        def rng(name: str) -> torch.Generator:
            return stream(key, "maps", name)

        def scan_rng(name: str) -> torch.Generator:
            return stream(key, "maps", name, *([number] if number else []))

        settings = self.settings
        subject = self.subjects[integer(rng("subject"), 0, len(self.subjects) - 1)]
        facts: dict[str, Any] = {"source": "maps", "subject": subject.name, "key": key, "shape": list(shape)}
        grid = self._grid(subject, shape, rng("grid"), facts)
        layers = _read(subject, grid)
        maps, (head, brain, lesion) = layers[: len(subject.names)], layers[len(subject.names) :]
        # Interpolated across the border of the head: the mean over the part that is in it.
        maps *= (head > _LEAST_SHARE) / head.clamp(min=_LEAST_SHARE)
        facts["mixture"] = chance(rng("mixture"), settings.mixture)
        if facts["mixture"]:
            self._move(subject, maps, brain > _LEAST_SHARE, rng("moved"))
        facts["brain_only"] = subject.has_brain and chance(rng("brain"), settings.brain_only)
        seen = brain if facts["brain_only"] else head
        maps[0] *= seen
        protocol = self._protocol(subject, scan_rng("protocol"))
        image = self._signal(subject, maps, protocol, scan_rng("transmit"))
        if settings.scanner is not None:
            scan = acquire_scan(
                image.abs_(),
                (brain > 0.5) & (image > 0),
                spacing=settings.spacing,
                weighting=protocol.weighting,
                settings=settings.scanner,
                key=integer(scan_rng("scanner"), 0, 2**62),
            )
            image, facts["scanner"] = scan.image, scan.facts
        facts |= {
            "protocol": protocol.to_dict(),
            "settings": settings.model_dump(mode="json", exclude={"data"}),
        }
        maps[1:] *= seen > _LEAST_SHARE
        return SimulatedScan(image, maps, subject.names, head, brain, lesion, subject.field_strength, facts)

    def _grid(
        self, subject: PackedSubject, shape: GridShape, rng: torch.Generator, facts: dict[str, Any]
    ) -> SamplingGrid:
        """Draw where the voxels of the case are: around the lesion, or anywhere that the head fills."""
        settings = self.settings
        facts["lesion_centred"] = chance(rng, settings.lesion_centred) and len(subject.lesion_voxels) > 0
        if facts["lesion_centred"]:
            place = subject.lesion_voxels[integer(rng, 0, len(subject.lesion_voxels) - 1)].double()
        else:
            room = [max(n - m, 0) / 2 for n, m in zip(subject.shape, shape, strict=True)]
            middle = torch.tensor([(n - 1) / 2 for n in subject.shape], dtype=torch.float64)
            place = middle + torch.tensor([uniform(rng, -r, r) for r in room], dtype=torch.float64)
        facts["deformed"] = chance(rng, settings.deformed)
        return sampling_grid(
            shape,
            settings.spacing,
            centre=subject.affine[:3, :3] @ place + subject.affine[:3, 3],
            settings=settings.deformation if facts["deformed"] else _STILL,
            rng=rng,
        )

    def _move(self, subject: PackedSubject, maps: Tensor, brain: Tensor, rng: torch.Generator) -> None:
        """Move the tissues' values within the brain; what is outside stays."""
        mixture, settings = subject.mixture, self.settings
        moved = moved_mixture(mixture, mean=settings.mixture_mean, sd=settings.mixture_sd, rng=rng)
        maps[:, brain] = move_values(maps[:, brain], mixture, moved)

    def _protocol(self, subject: PackedSubject, rng: torch.Generator) -> Acquisition:
        settings, present = self.settings, {*subject.names, "r2"}
        for _ in range(_MOST_TRIES):
            protocol = self._preset.sample(
                rng, weighting=settings.weighting, field_strength=subject.field_strength
            )
            if present >= set(protocol.needs):
                return protocol
        lacking = ", ".join(sorted(set(protocol.needs) - present))
        raise ValueError(
            f"the preset {settings.preset!r} needs {lacking}, which {subject.name} does not have; choose "
            "another preset or weighting"
        )

    def _signal(
        self, subject: PackedSubject, maps: Tensor, protocol: Acquisition, rng: torch.Generator
    ) -> Tensor:
        named = dict(zip(subject.names, maps, strict=True))
        if "r2" not in named and "r2" in protocol.needs:
            named["r2"] = r2_from_r2star(named["r2star"], named["r1"], field_strength=subject.field_strength)
        if "r2" in named:
            named["r2star"] = torch.maximum(named["r2star"], named["r2"])
        b1_plus = None
        if self.settings.transmit_field:
            shape = (maps.shape[1], maps.shape[2], maps.shape[3])
            b1_plus = transmit_field(shape, field_strength=protocol.field_strength, rng=rng)
        return protocol.signal(named, b1_plus=b1_plus)


def _read(subject: PackedSubject, grid: SamplingGrid) -> Tensor:
    """Read maps and masks at the voxels of a grid: (C + 3, X, Y, Z), interpolated; 0 beyond the pack."""
    points = grid.points()
    inverse = torch.linalg.inv(subject.affine)
    low, high = [], []
    for row in inverse[:3].tolist():
        index = points[0] * row[0]
        index.add_(points[1], alpha=row[1]).add_(points[2], alpha=row[2])
        low.append(float(index.min()) + row[3])
        high.append(float(index.max()) + row[3])
    parts = []
    for first, last, n in zip(low, high, subject.shape, strict=True):
        if last < -1 or first > n:
            return torch.zeros((len(subject.names) + 3, *grid.shape))
        start = min(max(int(first) - 1, 0), n - 2)
        parts.append(slice(start, max(min(int(last) + 2, n), start + 2)))
    box: Box = (parts[0], parts[1], parts[2])
    maps, masks = subject.read(box)
    affine = subject.affine.clone()
    corner = torch.tensor([part.start for part in box], dtype=torch.float64)
    affine[:3, 3] += affine[:3, :3] @ corner
    return sample_at(torch.cat([maps, masks]), affine, points)
