"""What healthy scans show and networks take for lesions: moving fluid, bright structures, fat and vessels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from pydantic import Field
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
from anystroke.acquisition.sequences.flair import Flair
from anystroke.acquisition.sequences.gradient_echo import SpoiledGradientEcho
from anystroke.acquisition.sequences.mprage import Mprage
from anystroke.acquisition.sequences.turbo_spin_echo import TurboSpinEcho
from anystroke.anatomy.lesions.placement import mni_points
from anystroke.anatomy.lookalikes.confounders import LACUNE, WHITE_MATTER_HYPERINTENSITY, draw_confounders
from anystroke.anatomy.lookalikes.fluid_flow import inflow_share, void_share
from anystroke.anatomy.lookalikes.normal_structures import (
    bright_shares,
    cap_weight,
    fluid_pouch,
    periventricular_rim,
)
from anystroke.anatomy.lookalikes.places import Place, place_weights, uneven
from anystroke.anatomy.tissues.anatomies import BRAIN_TISSUES, Anatomy
from anystroke.anatomy.tissues.deformation import Box, SamplingGrid, boxes_of
from anystroke.anatomy.tissues.labels import tissue_groups
from anystroke.anatomy.tissues.mixing import TissueField, mix
from anystroke.core.config import StrictModel
from anystroke.core.fields import refine
from anystroke.core.rng import chance, stream, uniform
from anystroke.qmri.patient_maps import Exchange, Inclusion

_FLUIDS = ("ventricular_csf", "sulcal_csf")
FATS = ("fat", "bone_marrow")
_FRESH_REPETITION = 30.0
# Corners in MNI mm of what holds the bright structures, and the arteries.
_BRIGHT_BOX = ((-50.0, -80.0, -48.0), (50.0, 56.0, 62.0))
_ARTERIES = ((-50.0, -60.0, -90.0), (50.0, 50.0, 20.0))
_POOR_SHIM = (
    Place("orbits", (32, 62, -36), (22, 22, 20)),
    Place("ear cells", (60, -30, -45), (25, 30, 25)),
    Place("neck", (0, -40, -95), (90, 90, 25)),
    Place("face", (0, 75, -60), (45, 30, 40)),
    Place("vertex", (0, -20, 95), (60, 60, 20)),
)
"""Where the field is so uneven that fat is missed; engineering estimates."""


class HealthySettings(StrictModel):
    """How often healthy scans show what may be taken for a lesion. All numbers are engineering estimates.

    Attributes:
        inflow_slices: Probability that a FLAIR of slices shows fluid that flowed in after the inversion.
        inflow_volume: The same for a FLAIR of a whole volume, whose inversion takes in the whole head;
            there it shows less.
        flow_voids: Probability that fluid at the base of the brain is dark in a turbo spin echo.
        bright_structures: Probability that limbic cortex, corticospinal tracts, terminal zones, temporal
            poles and the rim of the ventricles are brighter on T2w and FLAIR than the tissue around them.
        fluid_pouches: Probability of an arachnoid cyst at a temporal pole or a large cisterna magna.
        missed_fat: Probability that fat suppression, where there is one, fails somewhere; not in diffusion
            images.
        fresh_blood: Probability that vessels are bright in a gradient echo since blood was not yet saturated.
    """

    inflow_slices: float = Field(default=0.75, ge=0, le=1)
    inflow_volume: float = Field(default=0.3, ge=0, le=1)
    flow_voids: float = Field(default=0.6, ge=0, le=1)
    bright_structures: float = Field(default=0.8, ge=0, le=1)
    fluid_pouches: float = Field(default=0.02, ge=0, le=1)
    missed_fat: float = Field(default=0.3, ge=0, le=1)
    fresh_blood: float = Field(default=0.5, ge=0, le=1)


NOTHING = HealthySettings(
    inflow_slices=0,
    inflow_volume=0,
    flow_voids=0,
    bright_structures=0,
    fluid_pouches=0,
    missed_fat=0,
    fresh_blood=0,
)
"""None of it, as in published generators."""


@dataclass(frozen=True)
class Where:
    """A patient on the grid of a scan.

    Attributes:
        anatomy: The patient.
        tissues: Of the patient, on the device of the grid.
        grid: Voxels of the scan.
        spacing: Their size in mm.
        factor: How many of them make one in which small structures are computed.
    """

    anatomy: Anatomy
    tissues: TissueField
    grid: SamplingGrid
    spacing: float
    factor: int
    _known: dict[str, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)

    @property
    def coarse(self) -> int:
        """How many voxels make one in which what depends on the place alone is computed."""
        return 2 * self.factor

    @property
    def points(self) -> Tensor:
        """(3, x, y, z), the MNI position of each of these large voxels."""
        # Not a cached property, whose lock in Python 3.11 all patients share.
        if "points" not in self._known:
            self._known["points"] = mni_points(self.anatomy, self.grid.coarse(self.coarse))
        return self._known["points"]

    @property
    def shares(self) -> Tensor:
        """(4, x, y, z), shares of cortex, white matter, deep nuclei and ventricles, for small structures."""
        if "shares" not in self._known:
            deep = ("thalamus", "caudate", "putamen", "pallidum")
            groups = tissue_groups(("cortical_grey_matter",), ("white_matter",), deep, ("ventricular_csf",))
            self._known["shares"] = mix(self.tissues, self.grid.coarse(self.factor), groups)[0]
        return self._known["shares"]

    def near(self, low: tuple[float, float, float], high: tuple[float, float, float]) -> Box | None:
        """Find the voxels of the scan between two corners in MNI space; None if there are none."""
        ends = zip(self.points, low, high, strict=True)
        inside = torch.stack([(axis > a) & (axis < b) for axis, a, b in ends]).all(0)
        return boxes_of(inside, self.coarse, self.grid.shape)[1] if bool(inside.any()) else None


def draw_inclusions(
    where: Where,
    settings: HealthySettings,
    *,
    leukoaraiosis: float,
    lacunes: float,
    microbleeds: float,
    key: int,
) -> list[Inclusion]:
    """Draw all that is in a brain beside its tissues and is no lesion, each kind from its own stream.

    Args:
        where: The patient on the scan's grid.
        settings: How often there are bright structures and pouches.
        leukoaraiosis: Probability of white matter hyperintensities.
        lacunes: Probability of old lacunes.
        microbleeds: Probability of microbleeds.
        key: Of the patient.
    """
    found = draw_structures(where, settings, stream(key, "bright structures"))
    found += draw_pouch(where, settings, stream(key, "pouch"))
    rng = stream(key, "confounders")
    present = [float(chance(rng, each)) for each in (leukoaraiosis, lacunes, microbleeds)]
    if any(present):
        drawn = draw_confounders(
            *where.shares[1:].unbind(),
            spacing=where.spacing * where.factor,
            leukoaraiosis=present[0],
            lacunes=present[1],
            microbleeds=present[2],
            rng=rng,
        )
        found += include(where, drawn)
    return found


def draw_structures(where: Where, settings: HealthySettings, rng: torch.Generator) -> list[Inclusion]:
    """Draw structures that are bright in healthy brains too; they are no lesion.

    Args:
        where: The patient on the scan's grid.
        settings: How often.
        rng: Random stream.

    Returns:
        One inclusion, or none.
    """
    if not chance(rng, settings.bright_structures):
        return []
    box = where.near(*_BRIGHT_BOX)
    if box is None:
        return []
    part = replace(where, grid=where.grid.crop(box))
    cortex, white, _, ventricles = part.shares.unbind()
    shape = (white.shape[0], white.shape[1], white.shape[2])
    of_cortex, of_white = bright_shares(part.points, spacing=part.spacing * part.coarse, rng=rng)
    caps = refine(cap_weight(part.points), shape, 2)
    rim = periventricular_rim(ventricles, white, caps, spacing=part.spacing * part.factor, rng=rng)
    share = torch.maximum(rim, refine(of_white, shape, 2).mul_(white))
    share.addcmul_(refine(of_cortex, shape, 2), cortex)
    return [
        Inclusion(_moved(one.box, box), one.shares)
        for one in include(part, {WHITE_MATTER_HYPERINTENSITY: share.mul_(share > 0.02)})
    ]


def draw_pouch(where: Where, settings: HealthySettings, rng: torch.Generator) -> list[Inclusion]:
    """Draw a pouch of fluid at a temporal pole or behind the cerebellum, at times.

    Args:
        where: The patient on the scan's grid.
        settings: How often.
        rng: Random stream.

    Returns:
        One inclusion, or none.
    """
    if not chance(rng, settings.fluid_pouches):
        return []
    part = where.grid.coarse(where.factor)
    inside = mix(where.tissues, part, tissue_groups((*BRAIN_TISSUES, *_FLUIDS)))[0][0]
    pouch = refine(fluid_pouch(where.points, rng=rng), part.shape, 2)
    return include(where, {LACUNE: pouch.mul_(inside)})


def include(where: Where, shares: Mapping[str, Tensor]) -> list[Inclusion]:
    """Return an inclusion in the box that holds it, none if it is nowhere.

    Args:
        where: The patient on the scan's grid.
        shares: Tissue -> (x, y, z) share, on the grid of small structures.
    """
    if not shares:
        return []
    found = torch.stack(list(shares.values())).sum(0) > 0
    if not bool(found.any()):
        return []
    coarse, box = boxes_of(found, where.factor, where.grid.shape)
    size = (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start)
    return [
        Inclusion(box, {name: refine(share[coarse], size, where.factor) for name, share in shares.items()})
    ]


def _moved(box: Box, within: Box) -> Box:
    """Return a box of a part of the grid as one of the grid."""
    x, y, z = (slice(one.start + by.start, one.stop + by.start) for one, by in zip(box, within, strict=True))
    return x, y, z


def draw_exchanges(
    where: Where,
    protocol: Protocol,
    settings: HealthySettings,
    rng: torch.Generator,
    *,
    fat_left: float = 1.0,
) -> list[Exchange]:
    """Draw which parts of fluid, fat and blood give another signal than their tissue at rest.

    Args:
        where: The patient on the scan's grid.
        protocol: What is played.
        settings: How often.
        rng: Random stream.
        fat_left: What suppression leaves of the fat's signal; 1 for none.
    """
    found = []
    other = replaced_fluid(protocol)
    step = where.spacing * where.coarse
    if isinstance(protocol, Flair) and other is not None:
        slices = protocol.dimensions == 2
        if chance(rng, settings.inflow_slices if slices else settings.inflow_volume):
            scale = 1.0 if slices else 0.5
            share = inflow_share(where.points, spacing=step, scale=scale, rng=rng)
            found.append(_exchange(where, _FLUIDS, share, other))
    elif isinstance(protocol, TurboSpinEcho) and chance(rng, settings.flow_voids):
        found.append(_exchange(where, _FLUIDS, void_share(where.points, spacing=step, rng=rng), None))
    echo_planar = isinstance(protocol, DiffusionWeighted)
    if protocol.additive and not echo_planar and fat_left < 1 and chance(rng, settings.missed_fat):
        share = _missed_fat(where.points, step, rng)
        found.append(_exchange(where, FATS, share, protocol, density=1 / fat_left))
    fresh = fresh_blood(protocol)
    if fresh is not None and chance(rng, settings.fresh_blood):
        found.append(_exchange(where, ("arterial_blood",), _fresh_share(where, protocol, rng), fresh))
    return found


def replaced_fluid(protocol: Protocol) -> TurboSpinEcho | None:
    """Return what fluid sees that flowed into a FLAIR's slice after the inversion: the same without it.

    Example:
        >>> flair = Flair(repetition_time=9.0, inversion_time=2.4, echo_time=0.1, echo_spacing=0.01,
        ...               echo_train_length=16)
        >>> replaced_fluid(flair).describe()
        'FLAIR tse 3D at 3 T: TR 9 s, TE 100 ms, ESP 10 ms, ETL 16'
    """
    if not isinstance(protocol, Flair) or protocol.weighting != "FLAIR":
        return None
    return TurboSpinEcho(
        weighting=protocol.weighting,
        field_strength=protocol.field_strength,
        dimensions=protocol.dimensions,
        repetition_time=protocol.repetition_time,
        echo_time=protocol.echo_time,
        echo_spacing=protocol.echo_spacing,
        echo_train_length=protocol.echo_train_length,
        incidental_mt=protocol.incidental_mt,
    )


def fresh_blood(protocol: Protocol) -> SpoiledGradientEcho | None:
    """Return what blood sees that was not excited before: the first pulse of a gradient echo."""
    if not isinstance(protocol, (SpoiledGradientEcho, Mprage)):
        return None
    return SpoiledGradientEcho(
        weighting=protocol.weighting,
        field_strength=protocol.field_strength,
        dimensions=protocol.dimensions,
        repetition_time=_FRESH_REPETITION,
        echo_time=protocol.echo_time,
        flip_angle=protocol.flip_angle,
    )


def _exchange(
    where: Where,
    tissues: tuple[str, ...],
    share: Tensor,
    protocol: Protocol | None,
    *,
    density: float = 1.0,
) -> Exchange:
    return Exchange(tissues, refine(share, where.grid.shape, where.coarse), protocol, density)


def _missed_fat(points: Tensor, spacing: float, rng: torch.Generator) -> Tensor:
    """Draw the part of the fat that suppression misses, (x, y, z) in [0, 1]."""
    amounts = [uniform(rng, 0.4, 1.3) * chance(rng, 0.5) for _ in _POOR_SHIM]
    total = place_weights(points, _POOR_SHIM, amounts)
    noise = uneven(total, spacing=spacing, grain=50.0, rng=rng)
    return total.add_(noise, alpha=0.25).clamp_(0, 1)


def _fresh_share(where: Where, protocol: Protocol, rng: torch.Generator) -> Tensor:
    """Draw the part of arterial blood that is fresh: less the further it came within a slab."""
    height = where.points[2]
    most, reach = uniform(rng, 0.3, 1.0), uniform(rng, 20.0, 80.0)
    corners = zip(where.points, *_ARTERIES, strict=True)
    share = torch.stack([(axis > a) & (axis < b) for axis, a, b in corners]).all(0) * most
    if protocol.dimensions == 2:
        return share
    return share.mul_((height + 80.0).div_(-reach).clamp_(max=0).exp_())
