"""Which scans are echo-planar, and how: drawn at random as settings say."""

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.deformation import SamplingGrid
from anystroke.core.config import StrictModel
from anystroke.core.rng import chance, log_uniform, uniform
from anystroke.corruption.echo_planar import EchoPlanar, dephasing, gradient_across, shift_per_hertz
from anystroke.corruption.head_field import coarse_head, draw_variation, head_field, shimmed_on_grid
from anystroke.corruption.susceptibility import PROTON_HZ_PER_TESLA

_COARSE_MM = 4.0
_LARGEST_SHIFT_MM = 60.0
FAT_PPM = -3.4
"""Resonance of fat, its methylene peak at 1.3 ppm, relative to water at 4.7 ppm at body temperature.

Source: G. Hamilton et al., NMR Biomed 24:784 (2011).
"""
_NO_SIGNAL = 0.1
_WHOLE_HEAD_MM = 150.0
_PARTITION_OVER_SLICE = 1 / 3


class EchoPlanarSettings(StrictModel):
    """How echo-planar scans are made. Probabilities are engineering estimates of clinical practice.

    Attributes:
        diffusion: Probability that a diffusion-weighted scan, its b = 0 image or its ADC is distorted; some
            are corrected for it, or acquired without echo-planar readout.
        gradient_echo: Probability that a T2*-weighted scan of slices is echo-planar.
        drop_out: Probability that other T2*-weighted scans lose signal where the field varies across slices.
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
        slice_thickness: Range in mm, for the drop-out of gradient echoes; partitions of a volume are a third
            of it.
    """

    diffusion: float = Field(default=0.96, ge=0, le=1)
    gradient_echo: float = Field(default=0.2, ge=0, le=1)
    drop_out: float = Field(default=0.9, ge=0, le=1)
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

    def image(self, signal: Tensor, fat: Tensor | None = None) -> Tensor:
        """Return what becomes of a signal (X, Y, Z), or of a part of it: the operator is linear.

        Args:
            signal: Of all tissues.
            fat: The part of it that comes from fat, if that lies elsewhere, see ``moves_fat``.
        """
        return signal if self.distortion is None else self.distortion.image(signal, fat)

    @property
    def moves_fat(self) -> bool:
        """Whether fat lies elsewhere than water."""
        return self.distortion is not None and self.distortion.fat_shift != 0 and not self.distortion.computed

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
        """Return where a mask (X, Y, Z) is seen, in voxels that hold ``factor`` of the image's each way.

        Only what is above a half is seen, as 1.
        """
        if self.distortion is None:
            return values
        return self.distortion.coarse(factor).labels((values > 0.5).to(torch.uint8)).to(values)


def draw_echo_planar(
    protocol: Protocol,
    anatomy: Anatomy,
    grid: SamplingGrid,
    *,
    factor: int,
    computed: bool = False,
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
        computed: Whether images are maps, such as the ADC, not the images that one is computed of.
        settings: What may happen; None for nothing.
        patient: Random stream of what stays the same between a patient's scans.
        scan: Random stream of the scan.

    Returns:
        Without distortion if the scan is not echo-planar, or free of it. Other gradient echoes have a
        distortion without displacement, whose signal drops out.
    """
    if settings is None:
        return EchoPlanarScan()
    echo_planar = chance(scan, _probability(protocol, settings))
    drops = chance(scan, settings.drop_out) and _is_gradient_echo(protocol)
    if not echo_planar and not drops:
        return EchoPlanarScan()
    spacing = float(torch.linalg.det(grid.affine[:3, :3]).abs()) ** (1 / 3)
    factor *= max(round(_COARSE_MM / (spacing * factor)), 1)
    hertz, facts = _draw_field(protocol, anatomy, grid.coarse(factor), settings, patient=patient, scan=scan)
    kept = None
    if not _is_diffusion(protocol):
        facts["drop_out_slice_thickness"] = _slice_thickness(protocol, settings, scan)
        kept = dephasing(
            gradient_across(hertz, spacing=spacing * factor, axis=2),
            echo_time=float(protocol.to_dict()["echo_time"]),
            thickness=facts["drop_out_slice_thickness"],
        )
    if not echo_planar:
        still = EchoPlanar(torch.zeros_like(hertz), factor, kept=kept)
        return EchoPlanarScan(still, facts)
    readout = _draw_readout(settings, scan)
    axis = readout["phase_encoding_axis"]
    if grid.shape[axis] * spacing < _WHOLE_HEAD_MM:
        readout["nyquist_ghost"] = 0.0
    shift = shift_per_hertz(
        echo_spacing=readout["echo_spacing"], field_of_view=readout["phase_encoding_field_of_view"]
    )
    shift *= readout["phase_encoding_sign"]
    hertz *= shift
    displacement = hertz.clamp_(-_LARGEST_SHIFT_MM, _LARGEST_SHIFT_MM) / spacing
    readout["fat_shift"] = shift * FAT_PPM * 1e-6 * PROTON_HZ_PER_TESLA * protocol.field_strength
    distortion = EchoPlanar(
        displacement,
        factor,
        axis,
        kept,
        readout["nyquist_ghost"],
        readout["fat_shift"] / spacing,
        computed=computed,
    )
    return EchoPlanarScan(distortion, facts | readout)


def _draw_field(
    protocol: Protocol,
    anatomy: Anatomy,
    grid: SamplingGrid,
    settings: EchoPlanarSettings,
    *,
    patient: torch.Generator,
    scan: torch.Generator,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the shimmed field on a grid [Hz], and facts."""
    head = coarse_head(anatomy)
    variation = draw_variation(head, rng=patient)
    order = 1 if chance(scan, settings.first_order_shim) else 2
    offsets = settings.shim_error * torch.randn(9, generator=scan, device=scan.device)
    ppm = shimmed_on_grid(head, head_field(head, variation), grid, order=order, offsets=offsets)
    hertz = ppm * (PROTON_HZ_PER_TESLA * 1e-6 * protocol.field_strength)
    return hertz, {"field_direction": list(variation.direction), "shim_order": order}


def _draw_readout(settings: EchoPlanarSettings, rng: torch.Generator) -> dict[str, Any]:
    ghost = chance(rng, settings.ghosts)
    return {
        "echo_spacing": log_uniform(rng, *settings.echo_spacing),
        "phase_encoding_axis": 0 if chance(rng, settings.left_right) else 1,
        "phase_encoding_field_of_view": uniform(rng, *settings.field_of_view),
        "phase_encoding_sign": 1.0 if chance(rng, 0.5) else -1.0,
        "nyquist_ghost": uniform(rng, 0.0, settings.largest_ghost) if ghost else 0.0,
    }


def _is_diffusion(protocol: Protocol) -> bool:
    return "b_value" in protocol.to_dict()


def _is_gradient_echo(protocol: Protocol) -> bool:
    return protocol.weighting == "T2starw" and "echo_time" in protocol.to_dict()


def _slice_thickness(protocol: Protocol, settings: EchoPlanarSettings, rng: torch.Generator) -> float:
    thickness = uniform(rng, *settings.slice_thickness)
    return thickness if protocol.dimensions == 2 else thickness * _PARTITION_OVER_SLICE


def _probability(protocol: Protocol, settings: EchoPlanarSettings) -> float:
    if _is_diffusion(protocol):
        return settings.diffusion
    return settings.gradient_echo if _is_gradient_echo(protocol) and protocol.dimensions == 2 else 0.0
