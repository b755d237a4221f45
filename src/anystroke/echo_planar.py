"""Which scans are echo-planar, and how: drawn at random as settings say."""

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anystroke.acquisition.protocols import Protocol
from anystroke.anatomy.anatomies import Anatomy
from anystroke.anatomy.deformation import SamplingGrid
from anystroke.config import StrictModel
from anystroke.corruption.echo_planar import EchoPlanar, dephasing, gradient_across, shift_per_hertz
from anystroke.corruption.head_field import coarse_head, draw_variation, head_field, shimmed_on_grid
from anystroke.corruption.susceptibility import PROTON_HZ_PER_TESLA
from anystroke.rng import chance, log_uniform, uniform

_COARSE_MM = 4.0
_LARGEST_SHIFT_MM = 60.0
_NO_SIGNAL = 0.1


class EchoPlanarSettings(StrictModel):
    """How echo-planar scans are made. Probabilities are engineering estimates of clinical practice.

    Attributes:
        diffusion: Probability that a diffusion-weighted scan, its b = 0 image or its ADC is distorted; some
            are corrected for it, or acquired without echo-planar readout.
        gradient_echo: Probability that a T2*-weighted scan of slices is echo-planar.
        echo_spacing: Range of the effective echo spacing [s], drawn log-uniformly: 0.5 to 0.7 ms over an
            acceleration of 1 to 2. Not accelerated it is 0.58 to 0.78 ms in the Human Connectome Project: M.
            F. Glasser et al., NeuroImage 80:105 (2013).
        field_of_view: Range along the phase-encoding axis [mm].
        left_right: Probability of phase encoding from left to right instead of front to back.
        first_order_shim: Probability of a linear shim, instead of one of second order.
        shim_error: SD of each term of the shim at the brain's surface [ppm].
        ghosts: Probability of a Nyquist ghost.
        largest_ghost: Its largest amplitude relative to the image; a few percent after correction: M. H.
            Buonocore and L. Gao, Magn Reson Med 38:89 (1997).
        slice_thickness: Range in mm, for the drop-out of gradient echoes.
    """

    diffusion: float = Field(default=0.96, ge=0, le=1)
    gradient_echo: float = Field(default=0.2, ge=0, le=1)
    echo_spacing: tuple[float, float] = (0.00025, 0.0007)
    field_of_view: tuple[float, float] = (210.0, 256.0)
    left_right: float = Field(default=0.07, ge=0, le=1)
    first_order_shim: float = Field(default=0.4, ge=0, le=1)
    shim_error: float = Field(default=0.03, ge=0)
    ghosts: float = Field(default=0.5, ge=0, le=1)
    largest_ghost: float = Field(default=0.04, ge=0, le=1)
    slice_thickness: tuple[float, float] = (3.0, 6.0)


@dataclass(frozen=True)
class EchoPlanarScan:
    """The distortion of one scan, with what a scan without one needs: nothing.

    Attributes:
        distortion: Of image, labels and shares; None leaves them as they are.
        facts: Plain values of what was drawn.
    """

    distortion: EchoPlanar | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def image(self, signal: Tensor) -> Tensor:
        """Return what becomes of a signal (X, Y, Z), or of a part of it: the operator is linear."""
        return signal if self.distortion is None else self.distortion.image(signal)

    def labels(self, labels: Tensor) -> Tensor:
        """Return where labels (X, Y, Z) uint8 are seen."""
        return labels if self.distortion is None else self.distortion.labels(labels)

    def shares(self, shares: Tensor | None) -> Tensor | None:
        """Return the shares of classes (C, X, Y, Z) that are seen; where nothing came to lie is the first."""
        if shares is None or self.distortion is None:
            return shares
        moved = torch.empty_like(shares)
        moved[1:] = self.distortion.moved(shares[1:], 1 - (1 - _NO_SIGNAL) * shares[0])
        torch.sub(1.0, moved[1:].sum(0), out=moved[0])
        return moved.clamp_(min=0)

    def moved(self, values: Tensor, factor: int) -> Tensor:
        """Return where a mask (X, Y, Z) is seen, in voxels that hold ``factor`` of the image's each way."""
        if self.distortion is None:
            return values
        # Air that comes to lie over the head hides nothing.
        weight = _NO_SIGNAL + (1 - _NO_SIGNAL) * values
        return self.distortion.coarse(factor).moved(values[None], weight)[0]


def draw_echo_planar(
    protocol: Protocol,
    anatomy: Anatomy,
    grid: SamplingGrid,
    *,
    factor: int,
    settings: EchoPlanarSettings | None,
    patient: torch.Generator,
    scan: torch.Generator,
) -> EchoPlanarScan:
    """Draw how a scan is distorted.

    Args:
        protocol: Of the scan.
        anatomy: The patient.
        grid: Output voxels.
        factor: Voxels, along each axis, of the coarser images that are to be distorted too.
        settings: What may happen; None for nothing.
        patient: Random stream of what stays the same between a patient's scans.
        scan: Random stream of the scan.

    Returns:
        Without distortion if the scan is not echo-planar, or free of it.
    """
    if settings is None or not chance(scan, _probability(protocol, settings)):
        return EchoPlanarScan()
    spacing = float(torch.linalg.det(grid.affine[:3, :3]).abs()) ** (1 / 3)
    head = coarse_head(anatomy)
    variation = draw_variation(head, rng=patient)
    order = 1 if chance(scan, settings.first_order_shim) else 2
    offsets = settings.shim_error * torch.randn(9, generator=scan, device=scan.device)
    factor *= max(round(_COARSE_MM / (spacing * factor)), 1)
    hertz = shimmed_on_grid(
        head, head_field(head, variation), grid.coarse(factor), order=order, offsets=offsets
    )
    hertz *= PROTON_HZ_PER_TESLA * 1e-6 * protocol.field_strength
    axis = 0 if chance(scan, settings.left_right) else 1
    echo_spacing = log_uniform(scan, *settings.echo_spacing)
    field_of_view = uniform(scan, *settings.field_of_view)
    sign = 1.0 if chance(scan, 0.5) else -1.0
    millimetres = shift_per_hertz(echo_spacing=echo_spacing, field_of_view=field_of_view)
    shift = (hertz * (sign * millimetres)).clamp_(-_LARGEST_SHIFT_MM, _LARGEST_SHIFT_MM)
    ghost = uniform(scan, 0.0, settings.largest_ghost) if chance(scan, settings.ghosts) else 0.0
    thickness = uniform(scan, *settings.slice_thickness)
    facts: dict[str, Any] = {
        "echo_spacing": echo_spacing,
        "phase_encoding_axis": axis,
        "phase_encoding_field_of_view": field_of_view,
        "phase_encoding_sign": sign,
        "shim_order": order,
        "field_direction": list(variation.direction),
        "nyquist_ghost": ghost,
    }
    kept = None
    if not _is_diffusion(protocol):
        facts["echo_planar_slice_thickness"] = thickness
        slope = gradient_across(hertz, spacing=spacing * factor, axis=2)
        kept = dephasing(slope, echo_time=float(protocol.to_dict()["echo_time"]), thickness=thickness)
    distortion = EchoPlanar(
        (shift / spacing).contiguous(), factor, axis, kept, ghost, computed=protocol.weighting == "ADC"
    )
    return EchoPlanarScan(distortion, facts)


def _is_diffusion(protocol: Protocol) -> bool:
    return "b_value" in protocol.to_dict()


def _probability(protocol: Protocol, settings: EchoPlanarSettings) -> float:
    if _is_diffusion(protocol):
        return settings.diffusion
    slices = protocol.weighting == "T2starw" and protocol.dimensions == 2
    return settings.gradient_echo if slices else 0.0
