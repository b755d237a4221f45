"""The field that a patient's head makes: its air cavities, its neck, its tilt, on a coarse grid of its own.

Most label maps hold the air of sinuses and ear cells as background within the head. What they lack is added:
the neck below the last slice, larger or smaller cavities, and for brains without a head the head itself.
"""

import math
from dataclasses import dataclass
from weakref import finalize

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.ndimage import binary_closing, binary_fill_holes, generate_binary_structure
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d, pad

from anystroke.anatomy.tissues.anatomies import BRAIN_TISSUES, Anatomy
from anystroke.anatomy.tissues.deformation import SamplingGrid, rotation_matrix, sample_at
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import ShareField
from anystroke.core.rng import chance, normal, uniform
from anystroke.corruption.susceptibility import (
    dipole_field,
    shim_coefficients,
    solid_harmonics,
    susceptibility_table,
)

Triple = tuple[float, float, float]

SPACING = 3.5
"""Voxel size of the field [mm], as near as whole label voxels come to it."""

CAVITIES: dict[str, tuple[Triple, Triple]] = {
    "sphenoid_sinus": ((0.0, 21.0, -43.0), (13.0, 15.0, 10.0)),
    "left_ethmoid_cells": ((-9.0, 46.0, -40.0), (5.5, 20.0, 9.0)),
    "right_ethmoid_cells": ((9.0, 46.0, -40.0), (5.5, 20.0, 9.0)),
    "frontal_sinus": ((0.0, 76.0, -20.0), (23.0, 6.0, 13.0)),
    "nasal_cavity": ((0.0, 42.0, -66.0), (14.0, 32.0, 17.0)),
    "left_maxillary_sinus": ((-30.0, 38.0, -68.0), (13.0, 16.0, 17.0)),
    "right_maxillary_sinus": ((30.0, 38.0, -68.0), (13.0, 16.0, 17.0)),
    "left_mastoid_cells": ((-58.0, -33.0, -48.0), (11.0, 13.0, 13.0)),
    "right_mastoid_cells": ((58.0, -33.0, -48.0), (11.0, 13.0, 13.0)),
}
"""Centre in MNI RAS+ mm and semi-axes [mm] of ellipsoids like the air in 16 whole-head label maps of SynthSeg
(B. Billot et al., Med Image Anal 86:102789, 2023), read from their mean in MNI space and rounded."""

_HEAD: tuple[tuple[Triple, Triple], ...] = (
    ((0.0, -18.0, 10.0), (83.0, 105.0, 92.0)),
    ((0.0, 40.0, -62.0), (66.0, 58.0, 72.0)),
    ((0.0, -25.0, -120.0), (62.0, 65.0, 130.0)),
)
"""Skull, face and neck, likewise: an engineering estimate from the same maps."""

_BOX: tuple[Triple, Triple] = ((-120.0, -150.0, -190.0), (120.0, 140.0, 140.0))
"""Of the field in MNI RAS+ mm, with air around the head."""

_NECK_FADES = (-120.0, -185.0)
"""Where in MNI the neck gives way to the trunk, whose broad shoulders make no end face as a cut neck does."""

_REACH = 80.0
_HEADS: dict[int, "CoarseHead"] = {}


@dataclass(frozen=True)
class CoarseHead:
    """What of an anatomy makes the field.

    Attributes:
        susceptibility: (I, J, K) [ppm] above air.
        hollow: (I, J, K), share of air within the head.
        guarded: (I, J, K), 1 in and next to the brain, where no cavity is added.
        brain: (3, N), indices of voxels in the brain.
        affine: (4, 4) float64, voxel -> the patient's RAS+ mm.
        to_mni: (4, 4) float64, voxel -> MNI RAS+ mm.
        whole: Whether the label map has a head, so that its own cavities are there.
    """

    susceptibility: Tensor
    hollow: Tensor
    guarded: Tensor
    brain: Tensor
    affine: Tensor
    to_mni: Tensor
    whole: bool

    @property
    def spacing(self) -> float:
        """Voxel size [mm]."""
        return math.cbrt(abs(float(torch.linalg.det(self.affine[:3, :3]))))

    def scaled(self, points: Tensor) -> Tensor:
        """Return points (3, N) in the patient's mm relative to the brain's middle, in units of its size."""
        middle = self.affine[:3, :3] @ self.brain.double().mean(1) + self.affine[:3, 3]
        return (points - middle[:, None].to(points)) / _REACH


@dataclass(frozen=True)
class HeadVariation:
    """How a patient's field differs from that of the label map.

    Attributes:
        cavities: For names of ``CAVITIES``, the size of an added one, relative to the table.
        filled: Share of the air in the map's cavities that is bone or mucosa, 0 to 1.
        direction: Of the static field in the patient's RAS+ axes.
    """

    cavities: dict[str, float]
    filled: float = 0.0
    direction: Triple = (0.0, 0.0, 1.0)


def draw_variation(head: CoarseHead, *, rng: torch.Generator) -> HeadVariation:
    """Draw sinuses and the tilt of the head; spreads are engineering estimates.

    Args:
        head: Of the patient; without a head of its own it needs all cavities.
        rng: Random stream.
    """
    cavities = {}
    for name in CAVITIES:
        likely = 0.93 if not head.whole else 0.5 if "mastoid" in name else 0.25
        present, size = chance(rng, likely), math.exp(normal(rng, 0.0, 0.2))
        if present:
            cavities[name] = size
    filled = uniform(rng, 0.0, 0.45)
    # Pitch and roll; turning about the static field changes nothing.
    tilt = rotation_matrix((normal(rng, 0.0, 9.0), normal(rng, 0.0, 4.0), 0.0))
    x, y, z = tilt[:, 2].tolist()
    return HeadVariation(cavities, filled, (x, y, z))


def head_field(head: CoarseHead, variation: HeadVariation) -> Tensor:
    """Return (I, J, K), the field that the head makes [ppm of the static field], not shimmed."""
    inside = head.susceptibility.amin()
    susceptibility = head.susceptibility + head.hollow * (0.9 * variation.filled * inside)
    for name, size in variation.cavities.items():
        _hollow_out(susceptibility, head, name, size)
    direction = torch.linalg.inv(head.affine[:3, :3]) @ torch.tensor(variation.direction).double()
    x, y, z = direction.tolist()
    return dipole_field(susceptibility, head.spacing, (x, y, z), margin=0.0)


def shimmed_on_grid(
    head: CoarseHead, field: Tensor, grid: SamplingGrid, *, order: int, offsets: Tensor | None = None
) -> Tensor:
    """Return a shimmed field where the voxels of a grid read the patient.

    Args:
        head: Of the patient.
        field: (I, J, K) of ``head_field``.
        grid: Where.
        order: Of the shim, 0 to 2.
        offsets: (terms,) errors of the shim, in the field's unit at 80 mm from the brain's middle.

    Returns:
        (X, Y, Z) float32, on the device of the grid.
    """
    i, j, k = head.brain
    inside = head.affine[:3, :3] @ head.brain.double() + head.affine[:3, 3:]
    coefficients = shim_coefficients(field[i, j, k], head.scaled(inside), order=order)
    if offsets is not None:
        coefficients = coefficients + offsets[: len(coefficients)].to(coefficients)
    points = grid.points()
    seen = sample_at(field[None].to(points), head.affine, points)[0]
    harmonics = solid_harmonics(head.scaled(points.flatten(1)), order)
    return seen - (coefficients.to(points) @ harmonics).reshape(seen.shape)


def coarse_head(anatomy: Anatomy) -> CoarseHead:
    """Return what of an anatomy makes the field; computed once for each anatomy object."""
    key = id(anatomy)
    if key not in _HEADS:
        _HEADS[key] = _build(anatomy)
        finalize(anatomy, _HEADS.pop, key, None)
    return _HEADS[key]


def _build(anatomy: Anatomy) -> CoarseHead:
    whole = anatomy.has_head
    brain_table = torch.tensor([float(t in (*BRAIN_TISSUES, "ventricular_csf")) for t in TISSUES])
    fluid_table = torch.tensor([float(t == "sulcal_csf") for t in TISSUES])
    body_table = torch.tensor([float(t != "background") for t in TISSUES])
    tables = torch.stack([susceptibility_table(), brain_table, fluid_table, body_table])
    pooled, affine = _pooled(anatomy, tables)
    pooled, affine = _fill_box(pooled, affine, anatomy)
    susceptibility, brain, fluid, body = pooled
    to_mni = anatomy.to_mni.double() @ affine
    tissue = susceptibility_table()[TISSUES.index("muscle")]
    hollow = torch.zeros_like(body)
    if whole:
        filled = _without_holes(body)
        hollow = filled * (1 - body)
        lowest = int(torch.nonzero(body.amax((0, 1)) > 0.5)[0])
        # The last slice is often only half there.
        lowest += 1
        susceptibility[:, :, :lowest] = (filled[:, :, lowest : lowest + 1] > 0.5) * tissue
        hollow[:, :, :lowest] = 0
    else:
        for centre, radii in _HEAD:
            outside = body < 1
            cover = _ellipsoid(to_mni, body.shape, centre, radii)
            susceptibility = torch.where(outside, torch.maximum(cover, body) * tissue, susceptibility)
            body = torch.maximum(body, cover)
    height = _mni_height(to_mni, body.shape)
    top, bottom = _NECK_FADES
    susceptibility = susceptibility * ((height - bottom) / (top - bottom)).clamp(0, 1)
    guarded = max_pool3d((brain + fluid)[None].clamp(max=1), 3, stride=1, padding=1)[0]
    index = torch.nonzero(brain > 0.5).T
    return CoarseHead(
        susceptibility.contiguous(), hollow, guarded, index[:, ::5].contiguous(), affine, to_mni, whole
    )


def _pooled(anatomy: Anatomy, tables: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tables' means (C, I, J, K) in coarse voxels, and their affine."""
    field = anatomy.tissues.to("cpu")
    fine = math.cbrt(abs(float(torch.linalg.det(field.affine[:3, :3]))))
    factor = max(round(SPACING / fine), 1)
    if not isinstance(field, ShareField):
        labels = field.labels.long()
        parts = [_pool(table[labels], factor) for table in tables]
    else:
        parts = [
            _pool(torch.tensordot(table[1:] - table[0], field.shares, dims=1) + table[0], factor)
            for table in tables
        ]
    grow = torch.diag(torch.tensor([factor, factor, factor, 1.0], dtype=torch.float64))
    grow[:3, 3] = (factor - 1) / 2
    return torch.stack(parts), field.affine.double() @ grow


def _pool(values: Tensor, factor: int) -> Tensor:
    ends = [edge for n in reversed(values.shape) for edge in (0, -n % factor)]
    return avg_pool3d(pad(values, ends)[None], factor)[0]


def _fill_box(pooled: Tensor, affine: Tensor, anatomy: Anatomy) -> tuple[Tensor, Tensor]:
    """Grow the grid by air so that it covers the box in MNI space."""
    corners = torch.cartesian_prod(*torch.tensor(_BOX, dtype=torch.float64).T)
    to_voxel = torch.linalg.inv(anatomy.to_mni.double() @ affine)
    index = corners @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    size = torch.tensor(pooled.shape[1:])
    before = (-index.amin(0)).ceil().long().clamp(min=0)
    after = (index.amax(0).ceil().long() + 1 - size).clamp(min=0)
    total = size + before + after
    after += torch.tensor([next_fast_len(int(n), real=True) for n in total]) - total
    ends = [int(edge) for axis in (2, 1, 0) for edge in (before[axis], after[axis])]
    moved = affine.clone()
    moved[:3, 3] -= affine[:3, :3] @ before.double()
    return pad(pooled, ends), moved


def _without_holes(body: Tensor) -> Tensor:
    """Return (I, J, K), 1 within the head's outline in each axial slice, its openings closed."""
    width = 4
    array = np.pad((body > 0.5).numpy(), ((width, width), (width, width), (0, 0)))
    disc = generate_binary_structure(3, 1)
    disc[:, :, 0] = disc[:, :, 2] = False
    array = binary_closing(array, disc, iterations=width)
    for k in range(array.shape[2]):
        array[:, :, k] = binary_fill_holes(array[:, :, k])
    closed = array[width:-width, width:-width]
    return torch.maximum(torch.from_numpy(np.ascontiguousarray(closed)).float(), body)


def _mni_height(to_mni: Tensor, shape: torch.Size) -> Tensor:
    x, y, z = (torch.arange(n, dtype=torch.float64) * to_mni[2, k] for k, n in enumerate(shape))
    return ((x[:, None, None] + y[:, None]) + (z + to_mni[2, 3])).float()


def _ellipsoid(to_mni: Tensor, shape: torch.Size, centre: Triple, radii: Triple) -> Tensor:
    """Return (I, J, K), about the share of each voxel that is within an ellipsoid in MNI space."""
    matrix = (to_mni[:3, :3] / torch.tensor(radii)[:, None]).float()
    offset = ((to_mni[:3, 3] - torch.tensor(centre)) / torch.tensor(radii)).float()
    square = torch.zeros(shape)
    for row, first in zip(matrix, offset, strict=True):
        x, y, z = (torch.arange(n) * float(row[k]) for k, n in enumerate(shape))
        square += ((x[:, None, None] + y[:, None]) + (z + first)).square()
    # Distance from the surface in voxels, exact for a sphere.
    steepness = 1 / float(matrix.norm(dim=0).mean())
    return ((1 - square.sqrt()) * steepness + 0.5).clamp(0, 1)


def _hollow_out(susceptibility: Tensor, head: CoarseHead, name: str, size: float) -> None:
    """Put the air of one cavity in, where the brain is not."""
    centre, radii = CAVITIES[name]
    grown = (radii[0] * size, radii[1] * size, radii[2] * size)
    to_voxel = torch.linalg.inv(head.to_mni)
    middle = to_voxel[:3, :3] @ torch.tensor(centre).double() + to_voxel[:3, 3]
    reach = to_voxel[:3, :3].abs() @ torch.tensor(grown).double() + 1
    first = (middle - reach).floor().long().clamp(min=0)
    last = torch.minimum((middle + reach).ceil().long() + 1, torch.tensor(susceptibility.shape))
    if bool((last <= first).any()):
        return
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    part = head.to_mni.clone()
    part[:3, 3] += part[:3, :3] @ first.double()
    cover = _ellipsoid(part, susceptibility[box].shape, centre, grown)
    susceptibility[box] *= 1 - cover * (1 - head.guarded[box])
