"""Labels and lesions -> quantitative maps -> protocol -> signal -> corruption -> image and target."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.presets.preset import Preset, load_preset
from anystroke.anatomy.lesions.bank import LesionMask, PlacedLesion, draw_masks, place_lesions
from anystroke.anatomy.lesions.edges import fade
from anystroke.anatomy.lesions.habits import ANY
from anystroke.anatomy.lesions.mass_effect import displaced
from anystroke.anatomy.lesions.placement import lesion_area, lesion_box, mni_points
from anystroke.anatomy.lesions.stages import LESION_TISSUES, STAGES, Stage
from anystroke.anatomy.lesions.visibility import VisibleTruth, visible_truth
from anystroke.anatomy.lookalikes.confounders import WHITE_MATTER_HYPERINTENSITY
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.classes import CLASS_OF_TISSUE as CLASS_OF_TISSUE
from anystroke.anatomy.tissues.classes import CLASSES as CLASSES
from anystroke.anatomy.tissues.classes import LESION, class_shares
from anystroke.anatomy.tissues.deformation import Box, SamplingGrid, grid_affine, sampling_grid
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import TissueField, read_once
from anystroke.anatomy.tissues.texture import spread_left
from anystroke.core.fields import GridShape, refine
from anystroke.core.rng import chance, choice, integer, stream, uniform
from anystroke.corruption.bias_field import transmit_field
from anystroke.corruption.diffusion_scan import WhiteMatter
from anystroke.corruption.echo_planar_scan import draw_echo_planar
from anystroke.corruption.scanner import Scan, acquire_scan
from anystroke.qmri.patient_maps import Exchange, Inclusion, PatientMaps, Played
from anystroke.qmri.tissue_priors import MAPS, TissueDraw, TissuePriors, load_table
from anystroke.simulation.field_of_view import cut_ends, strip_head
from anystroke.simulation.healthy import FATS, Where, draw_exchanges, draw_inclusions
from anystroke.simulation.patient import Patient
from anystroke.simulation.settings import SynthesisSettings

_MOST_DRAWS = 100
_FAT_ROWS = [TISSUES.index(name) - 1 for name in FATS]
_DRAWN = (*TISSUES[1:], *LESION_TISSUES, WHITE_MATTER_HYPERINTENSITY)


@dataclass(frozen=True)
class Sample:
    """One simulated scan with everything it was made of.

    Attributes:
        image: (X, Y, Z) magnitude image in arbitrary units, not normalised.
        target: (X, Y, Z) uint8, numbers of ``CLASSES``.
        affine: (4, 4) voxel -> RAS+ mm.
        maps: The quantitative maps, made on access.
        protocol: The acquisition.
        record: Plain values that, with the same anatomies and masks, regenerate the sample.
        shares: (5, X, Y, Z) float32, the share of each of ``CLASSES`` in each voxel, if asked for.
        unseen: (X, Y, Z) bool, voxels of lesions that nobody could see, see `visible_truth`; None if that is
            not known. They are lesions in the target.
        change: (X, Y, Z), what the lesions change in the scan, noise aside; None if that is not known.
    """

    image: Tensor
    target: Tensor
    affine: Tensor
    maps: Mapping[str, Tensor]
    protocol: Protocol
    record: dict[str, Any]
    shares: Tensor | None = None
    unseen: Tensor | None = None
    change: Tensor | None = None

    def __repr__(self) -> str:
        sides = " x ".join(map(str, self.image.shape))
        size = float(self.affine[:3, 0].norm())
        voxels = int((self.target == CLASSES.index("lesion")).sum())
        volume = voxels * abs(float(torch.linalg.det(self.affine[:3, :3]))) / 1000
        told = self.protocol.describe()
        return f"Sample({sides} voxels of {size:g} mm, {told}, lesion of {volume:.1f} ml)"


class Generator:
    """Simulated scans of patients with lesions.

    Args:
        settings: What scans look like.
        masks: Lesion masks in MNI space to draw from.
        priors: Tissue properties; the table of the settings if None.

    Example:
        >>> from anystroke.anatomy.tissues.mni import mni_anatomy
        >>> generator = Generator(SynthesisSettings(shapes=((32, 32, 32),)))
        >>> sample = generator(mni_anatomy(), rng=stream(1, "example"))
        >>> sample.image.shape
        torch.Size([32, 32, 32])
    """

    def __init__(
        self,
        settings: SynthesisSettings,
        masks: Sequence[LesionMask] = (),
        *,
        priors: TissuePriors | None = None,
    ) -> None:
        self.settings = settings
        self.masks = list(masks)
        self.priors = priors or load_table(settings.priors)
        self.preset: Preset = load_preset(settings.preset)

    def __call__(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        rng: torch.Generator,
        stage: Stage | None = None,
    ) -> Sample:
        """Simulate one scan.

        Args:
            anatomy: The patient.
            lesions: Masks to put in; None draws them from the generator's own.
            rng: Random stream; one number is taken from it and becomes the sample's key.
            stage: Age of the lesion; None draws it.
        """
        key = integer(rng, 0, 2**62)
        return self.generate(anatomy, lesions, key=key, stage=stage, device=rng.device)

    def session(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        weightings: Sequence[str | None],
        rng: torch.Generator,
        stage: Stage | None = None,
    ) -> list[Sample]:
        """Simulate several scans of one patient: the same anatomy, position, lesion, tissue and scanner.

        All are made at the field strength of the first, where the preset has such a protocol.

        Args:
            anatomy: The patient.
            lesions: Masks to put in; None draws them from the generator's own.
            weightings: One scan for each, such as ``["T1w", "FLAIR"]``; None draws any protocol.
            rng: Random stream; one number is taken from it and becomes the samples' key.
            stage: Age of the lesion; None draws it.
        """
        key = integer(rng, 0, 2**62)
        shown_on = (weightings[0] if len(set(weightings)) == 1 else None) or ANY
        patient = self.patient(anatomy, lesions, key=key, stage=stage, shown_on=shown_on, device=rng.device)
        scans: list[Sample] = []
        for number, weighting in enumerate(weightings):
            field_strength = scans[0].protocol.field_strength if scans else None
            scans.append(self.scan(patient, scan=number, weighting=weighting, field_strength=field_strength))
        return scans

    def further_weighting(self, patient: Patient, scan: int) -> str | None:
        """Draw the weighting of a further scan of a patient, one that shows lesions as old as the patient's.

        The preset is drawn from, and a draw is taken with the probability that the lesions seen on its
        weighting are of that age. So age and weighting go together as in patients with one scan each. How
        many lesions there are, and how large, remains as the first scan's weighting had it.

        Args:
            patient: Of this generator.
            scan: Number of the scan.

        Returns:
            The weighting; that of the settings, if any.
        """
        if self.settings.weighting is not None:
            return self.settings.weighting
        rng = stream(patient.key, "contrast", scan)
        row = STAGES.index(patient.placed.stage)
        for _ in range(_MOST_DRAWS):
            weighting = self.preset.sample(rng).weighting
            share = self.settings.lesions.habit(weighting).stages[row]
            if not patient.placed.names or chance(rng, share):
                return weighting
        return patient.shown_on

    def generate(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        key: int,
        stage: Stage | None = None,
        scan: int = 0,
        weighting: str | None = None,
        device: torch.device | str = "cpu",
    ) -> Sample:
        """Simulate the scan that belongs to a key; the same arguments give the same scan to the bit.

        Lesions are as scans of its weighting show them; for others, or a field strength of choice, make the
        `patient` and the `scan` of it.

        Args:
            anatomy: The patient.
            lesions: Masks to put in; None draws them from the generator's own.
            key: Decides all that is random.
            stage: Age of the lesion; None draws it.
            scan: Number of the scan within the patient's session; only protocol and corruption depend on it.
            weighting: Restricts the protocol; that of the settings if None.
            device: Where to compute.
        """
        shown_on = self.weighting_of(key, scan=scan, weighting=weighting)
        patient = self.patient(anatomy, lesions, key=key, stage=stage, shown_on=shown_on, device=device)
        return self.scan(patient, scan=scan, weighting=weighting)

    def weighting_of(self, key: int, *, scan: int = 0, weighting: str | None = None) -> str:
        """Return the weighting that a scan of the patient of a key will have; arguments as for `generate`."""
        rng = stream(key, "protocol", *([scan] if scan else []))
        return self.preset.sample(rng, weighting=weighting or self.settings.weighting).weighting

    def patient(
        self,
        anatomy: Anatomy,
        lesions: Sequence[LesionMask] | None = None,
        *,
        key: int,
        shown_on: str,
        stage: Stage | None = None,
        device: torch.device | str = "cpu",
    ) -> Patient:
        """Make the patient that belongs to a key: anatomy, position, lesions and confounders.

        Args:
            anatomy: The patient's own.
            lesions: Masks to put in; None draws them from the generator's own.
            key: Decides all that is random.
            shown_on: Weighting whose scans show such lesions, see `lesion_habits`.
            stage: Age of the lesion; None draws it.
            device: Where to compute.
        """
        settings, drawn = self.settings, lesions is None

        def rng(name: str) -> torch.Generator:
            return stream(key, name)

        shape = settings.shapes[choice(rng("shape"), list(settings.shape_weights))]
        if lesions is None:
            lesions = draw_masks(self.masks, settings.lesions, rng("choice"), weighting=shown_on)
        centre = anatomy.centre
        if chance(rng("anywhere"), settings.anywhere):
            centre = anatomy.place_in_head(rng("place"))
        if lesions and chance(rng("centre"), settings.lesion_centred):
            centre = anatomy.from_mni(lesions[0].centre)
        grid = sampling_grid(
            shape,
            settings.spacing,
            centre=centre,
            settings=settings.deformation,
            rng=rng("deformation"),
            device=device,
        )
        tissues = anatomy.tissues.to(device)
        placed, box, grid = self.place(
            anatomy, tissues, grid, lesions, rng("lesion"), stage=stage, weighting=shown_on
        )
        tissues = read_once(tissues, grid)
        where = Where(anatomy, tissues, grid, settings.spacing, self.settings.coarse_factor)
        inclusions = draw_inclusions(
            where,
            settings.healthy,
            leukoaraiosis=settings.leukoaraiosis,
            lacunes=settings.lacunes,
            microbleeds=settings.microbleeds,
            key=key,
        )
        if box is not None:
            inclusions.append(Inclusion(box, placed.shares, watched=True))
        return Patient(key, shape, where, placed, box, tuple(inclusions), drawn, shown_on)

    def scan(
        self,
        patient: Patient,
        *,
        scan: int = 0,
        weighting: str | None = None,
        field_strength: float | None = None,
    ) -> Sample:
        """Scan a patient; the same number gives the same scan to the bit, whichever others are made.

        Args:
            patient: Of this generator.
            scan: Number of the scan within the patient's session; only protocol and corruption depend on it.
            weighting: Restricts the protocol; that of the settings if None.
            field_strength: Of the scanner [T], where the preset has it; None draws it.
        """
        settings, key = self.settings, patient.key
        weighting = weighting or settings.weighting
        anatomy, tissues, grid, placed = patient.anatomy, patient.tissues, patient.grid, patient.placed

        def rng(name: str) -> torch.Generator:
            return stream(key, name)

        def scan_rng(name: str) -> torch.Generator:
            return stream(key, name, *([scan] if scan else []))

        protocol = self.preset.sample(
            scan_rng("protocol"), weighting=weighting, field_strength=field_strength
        )
        draw, fat_left = self._draw_tissues(protocol, rng("tissue"))
        smoothing, texture = self._draw_texture(rng("smoothing"))
        maps = PatientMaps(
            tissues,
            grid,
            draw,
            inclusions=patient.inclusions,
            key=key,
            smoothing=smoothing,
            texture=texture,
            tiles=patient.tiles,
        )
        exchanges = draw_exchanges(
            patient.where, protocol, settings.healthy, scan_rng("exchanges"), fat_left=fat_left
        )
        b1_plus = None
        if settings.transmit_field:
            b1_plus = transmit_field(
                patient.shape,
                field_strength=protocol.field_strength,
                rng=scan_rng("transmit"),
                device=patient.device,
            )
        measured = self._measured(protocol)
        if len(measured) > 1:
            exchanges = []
        played = self._signals(maps, measured, b1_plus, exchanges)
        target = played[0].winners
        images, changes = [each.image for each in played], [each.change for each in played]
        shares = None
        if settings.soft_target:
            shares = class_shares(tissues, grid, patient.membership, patient.box)
        white = target == CLASSES.index("white_matter")
        if patient.box is not None:
            target[patient.box][placed.membership > settings.lesions.target_above] = LESION
        echo_planar = draw_echo_planar(
            protocol,
            anatomy,
            grid,
            factor=self.settings.coarse_factor,
            computed=protocol.weighting == "ADC" and len(images) == 1,
            settings=settings.echo_planar if settings.corrupted else None,
            patient=rng("susceptibility"),
            scan=scan_rng("echo_planar"),
        )
        if echo_planar.distortion is not None:
            fats: list[Tensor | None] = []
            if echo_planar.moves_fat:
                fats += maps.parts_of(FATS, images, measured, b1_plus=b1_plus, exchanges=exchanges)
            images = [
                echo_planar.image(image, fat)
                for image, fat in zip(images, fats or [None] * len(images), strict=True)
            ]
            target = echo_planar.labels(target)
            changes = [None if each is None else echo_planar.image(each) for each in changes]
            shares, white = echo_planar.shares(shares), target == CLASSES.index("white_matter")
        scan_key = integer(scan_rng("scanner"), 0, 2**62)
        acquired = acquire_scan(
            images,
            WhiteMatter(white, partial(mni_points, anatomy, grid)),
            spacing=settings.spacing,
            weighting=protocol.weighting,
            settings=settings,
            key=scan_key,
            b_value=getattr(protocol, "b_value", 0.0),
            change=[each for each in changes if each is not None],
        )
        truth = self._visible(acquired, target, white)
        image = strip_head(
            acquired.image, patient, settings=settings, echo_planar=echo_planar, rng=scan_rng("strip")
        )
        cut_ends(image, target, truth.unseen, shares, probability=settings.cut, rng=scan_rng("cut"))
        record = {
            "key": key,
            "scan": scan,
            "anatomy": anatomy.name,
            "lesions": list(placed.names),
            "lesions_drawn": patient.lesions_drawn,
            "stage": placed.stage,
            "weighting": weighting,
            "shown_on": patient.shown_on,
            "field_strength": field_strength,
            "protocol": protocol.to_dict(),
            "scanner": acquired.facts | echo_planar.facts,
            "visibility": truth.lesions,
            "settings": settings.model_dump(mode="json"),
        }
        affine = grid_affine(patient.shape, settings.spacing)
        return Sample(image, target, affine, maps, protocol, record, shares, truth.unseen, acquired.change)

    def _visible(self, scan: Scan, target: Tensor, white: Tensor) -> VisibleTruth:
        lesion = target == LESION
        if scan.change is None or not bool(lesion.any()):
            return VisibleTruth(torch.zeros_like(lesion), [])
        return visible_truth(
            lesion,
            scan.change,
            scan.image,
            white & ~lesion,
            spacing=self.settings.spacing,
            visible_from=self.settings.visible_from,
        )

    def maps_at(
        self, sample: Sample, field_strength: float, *, ceilings: Mapping[str, float] | None = None
    ) -> PatientMaps:
        """Return the maps that the patient of a sample would have at another field: each tissue's own draw.

        Args:
            sample: Of this generator.
            field_strength: Static field [T].
            ceilings: For some maps, the largest mean of a tissue, ten times the largest SD within it. A
                voxel of brain that holds a little bone has not the mean of their R2*: bone gives no signal.

        Raises:
            TypeError: If the sample was not made by a generator.
        """
        if not isinstance(sample.maps, PatientMaps):
            raise TypeError(
                f"expected a sample of a generator, but its maps are {type(sample.maps).__name__}"
            )
        rng = stream(sample.record["key"], "tissue")
        draw = self.priors.sample(
            rng, _DRAWN, field_strength=field_strength, spread=self.settings.prior_spread
        )
        limits = torch.tensor([(ceilings or {}).get(name, math.inf) for name in MAPS]).to(draw.mean)
        draw = replace(draw, mean=torch.minimum(draw.mean, limits), sd=torch.minimum(draw.sd, limits / 10))
        return sample.maps.with_tissues(draw)

    def place(
        self,
        anatomy: Anatomy,
        tissues: TissueField,
        grid: SamplingGrid,
        lesions: Sequence[LesionMask],
        rng: torch.Generator,
        *,
        stage: Stage | None = None,
        weighting: str | None = None,
    ) -> tuple[PlacedLesion, Box | None, SamplingGrid]:
        """Put lesions on tissue that can have them; nothing is computed outside the box that holds them.

        Args:
            anatomy: The patient.
            tissues: Of the patient, on the device of the grid.
            grid: Output voxels.
            lesions: Zero or more masks.
            rng: Random stream.
            stage: Age of the lesions; None draws it.
            weighting: Of the scan, which says how old lesions are where the settings do not.

        Returns:
            The lesions within the box, the box, and the grid with the space that the lesions take or leave.
        """
        settings = self.settings
        box = lesion_box(anatomy, grid, lesions)
        coarse = grid.crop(box or (slice(0, 0),) * 3).coarse(self.settings.coarse_factor)
        severity = self._fading(grid, box, coarse.shape, rng)
        placed = place_lesions(
            lesions,
            mni_points(anatomy, coarse),
            settings=settings.lesions,
            rng=rng,
            stage=stage,
            weighting=weighting,
            severity=severity,
        )
        if box is None:
            return placed, None, grid
        spacing = settings.spacing * self.settings.coarse_factor
        if chance(rng, settings.mass_effect):
            amount = uniform(rng, -2.0, 0.0) if placed.stage == "chronic" else uniform(rng, 0.0, 4.0)
            grid = displaced(
                grid, placed.membership, box, spacing=spacing, largest_mm=amount, reach_mm=uniform(rng, 8, 14)
            )
        part = grid.crop(box)
        area = lesion_area(tissues, part.coarse(self.settings.coarse_factor), spacing)
        membership, *shares = (
            refine(field.mul_(area), part.shape, self.settings.coarse_factor)
            for field in (placed.membership.clone(), *placed.shares.values())
        )
        return (
            replace(placed, membership=membership, shares=dict(zip(placed.shares, shares, strict=True))),
            box,
            grid,
        )

    def _fading(
        self, grid: SamplingGrid, box: Box | None, part: GridShape, rng: torch.Generator
    ) -> Tensor | None:
        """Draw how severe lesions are, over the whole coarse grid as published, and cut out the box."""
        mode, factor = self.settings.lesions.fading, self.settings.coarse_factor
        if mode == "none" or box is None:
            return None
        whole = torch.ones([-(-n // factor) for n in grid.shape], device=grid.control.device)
        x, y, z = (
            slice(start, start + n)
            for start, n in (
                (min(cut.start // factor, m - n), n) for cut, n, m in zip(box, part, whole.shape, strict=True)
            )
        )
        return fade(whole, mode=mode, rng=rng)[x, y, z]

    def _draw_texture(self, rng: torch.Generator) -> tuple[float | None, float]:
        """Return the SD of the texture's smoothing in voxels, None to draw it for each map, and its scale."""
        settings = self.settings
        if settings.largest_fwhm is None:
            return None, settings.texture
        fwhm = int(uniform(rng, 0.0, settings.largest_fwhm))
        left = 1.0 if settings.rescale_texture else spread_left(fwhm)
        return fwhm / math.sqrt(8 * math.log(2)), settings.texture * left

    def _signals(
        self,
        maps: PatientMaps,
        measured: Sequence[Protocol],
        b1_plus: Tensor | None,
        exchanges: Sequence[Exchange],
    ) -> list[Played]:
        """Return the noise-free images that are measured."""
        if self.settings.partial_volume == "maps":
            return [maps.signal_of_means(each, b1_plus=b1_plus, classes=CLASS_OF_TISSUE) for each in measured]
        return maps.signals(measured, b1_plus=b1_plus, classes=CLASS_OF_TISSUE, exchanges=exchanges)

    def _measured(self, protocol: Protocol) -> Sequence[Protocol]:
        """Return the images that are measured, of which a protocol's own may be computed."""
        computed = self.settings.corrupted and self.settings.diffusion.computed
        return protocol.measured if computed else (protocol,)

    def _draw_tissues(self, protocol: Protocol, rng: torch.Generator) -> tuple[TissueDraw, float]:
        """Return the properties of the tissues, and what is left of the signal of fat."""
        draw = self.priors.sample(
            rng, _DRAWN, field_strength=protocol.field_strength, spread=self.settings.prior_spread
        )
        if chance(rng, self.settings.fat_suppression.get(protocol.weighting, 0.0)):
            remaining = uniform(rng, 0.03, 0.2)
            for row in _FAT_ROWS:
                draw.mean[row, 0] *= remaining
                draw.sd[row, 0] *= remaining
            return draw, remaining
        return draw, 1.0
