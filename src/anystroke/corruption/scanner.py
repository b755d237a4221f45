"""What scanner and patient do to the noise-free signal, drawn at random as settings say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from anystroke.anatomy.tissues.deformation import boxes_of
from anystroke.core.config import StrictModel
from anystroke.core.fields import GridShape, smooth
from anystroke.core.rng import chance, choice, integer, log_uniform, stream, uniform
from anystroke.corruption.bias_field import receive_field
from anystroke.corruption.coils import slice_gains, surface_coil_field
from anystroke.corruption.diffusion import adc_change, adc_map
from anystroke.corruption.diffusion_scan import DiffusionScan, DiffusionSettings, WhiteMatter
from anystroke.corruption.intensity import percentiles, scale_to_percentiles
from anystroke.corruption.kspace import Pose, Spike, Window, ghosting, rigid_motion, spikes
from anystroke.corruption.noise import non_central_chi
from anystroke.corruption.resolution import (
    AcquiredGrids,
    Interpolation,
    Profile,
    SliceGrid,
    at_acquired_resolution,
    encoded_grid,
    slice_grid,
)

_COMPUTED = ("ADC", "UNIT1")
# Echo-planar scans of the head have axial slices; phase encoding runs within them.
_AXIAL = ("DWI", "ADC")
_WINDOWS: tuple[Window | None, ...] = (None, "tukey", "hamming")
_PROFILES: tuple[Profile, ...] = ("box", "trapezoid", "gaussian")


class ScannerSettings(StrictModel):
    """How good scans are. Probabilities and ranges are engineering estimates of clinical practice.

    Attributes:
        corrupted: Whether anything of what follows happens; False leaves the signal as it is.
        blur: Largest point-spread SD in voxels.
        receive_strength: Largest SD of the receive field's logarithm.
        surface_coils: Probability that the shading of an array of coils on the head was not corrected.
        coil_strength: Largest exponent of that shading; 1 for what the loops see.
        uneven_slices: Probability that thick slices are not equally bright, as their interleaves were.
        slice_strength: Largest SD of the gains of the interleaves.
        snr: Range of the signal-to-noise ratio of white matter, drawn log-uniformly: its mean signal over the
            noise SD of one channel. Of a trace-weighted image it is that of the image after its directions
            were put together, where the signal is high; of an ADC map, that of the trace-weighted image.
        several_channels: Probability of root-sum-of-squares (non-central chi) instead of Rician noise.
        thick_slices: Probability of thick slices for weightings other than T1w; T1w has half of it.
        slice_thickness: Range in mm.
        few_lines: Probability that k-space is encoded with few lines, which blurs and rings.
        large_voxels: Probability that the acquired voxels are larger within slices than those of the grid;
            half of the scans without thick slices then have them as large across.
        voxel_size: Range of their sides in mm.
        motion: Probability that the head moves during the scan.
        largest_motion: Largest shift in mm, and turn in degrees, of a movement.
        ghosts: Probability of ghosts along the phase-encoding axis.
        spikes: Probability of false points in k-space; none in ADC maps computed of two images.
        clipped: Probability that the brightest voxels were clipped before the scan was stored.
        diffusion: How trace-weighted images and ADC maps are computed.
    """

    corrupted: bool = True
    blur: float = Field(default=0.5, ge=0)
    receive_strength: float = Field(default=0.15, ge=0)
    surface_coils: float = Field(default=0.25, ge=0, le=1)
    coil_strength: float = Field(default=0.8, ge=0, le=1)
    uneven_slices: float = Field(default=0.25, ge=0, le=1)
    slice_strength: float = Field(default=0.06, ge=0)
    snr: tuple[float, float] = (12.0, 80.0)
    several_channels: float = Field(default=0.2, ge=0, le=1)
    thick_slices: float = Field(default=0.5, ge=0, le=1)
    slice_thickness: tuple[float, float] = (2.5, 7.0)
    few_lines: float = Field(default=0.15, ge=0, le=1)
    large_voxels: float = Field(default=0.0, ge=0, le=1)
    voxel_size: tuple[float, float] = (1.2, 2.4)
    motion: float = Field(default=0.06, ge=0, le=1)
    largest_motion: float = Field(default=3.0, ge=0)
    ghosts: float = Field(default=0.04, ge=0, le=1)
    spikes: float = Field(default=0.02, ge=0, le=1)
    clipped: float = Field(default=0.1, ge=0, le=1)
    diffusion: DiffusionSettings = DiffusionSettings()


@dataclass(frozen=True)
class Scan:
    """A scan and what was done to it.

    Attributes:
        image: (X, Y, Z), non-negative if the signal was.
        facts: Plain values of what happened: ``snr`` always, the others at times.
        change: (X, Y, Z), what was asked for changes in it, as far as blur, slices and shading go; None if
            nothing was.
    """

    image: Tensor
    facts: dict[str, Any]
    change: Tensor | None = None


def acquire_scan(
    signal: Tensor | Sequence[Tensor],
    white_matter: Tensor | WhiteMatter,
    *,
    spacing: float,
    weighting: str,
    settings: ScannerSettings,
    key: int,
    b_value: float = 0.0,
    change: Tensor | Sequence[Tensor] | None = None,
) -> Scan:
    """Make a scan of the noise-free signal.

    Every effect has a random stream of its own, so that one does not change another's draws.

    Args:
        signal: (X, Y, Z); is changed. Two of them, without and with diffusion weighting, for an ADC map that
            is computed as scanners do; all but noise happens to both alike.
        white_matter: (X, Y, Z) bool, the reference of the signal-to-noise ratio; the whole image if it is
            nowhere. Without positions the middle of the image is that of the head.
        spacing: Voxel size in mm.
        weighting: Of the protocol.
        settings: What may happen.
        key: Seed.
        b_value: Diffusion weighting, s/mm^2, by which a DWI is acquired in several directions; 0 for other
            scans, and where a DWI is treated as any other scan.
        change: (X, Y, Z), a part of the signal to be followed, such as what a lesion changes; is changed. As
            many as there are signals.
    """
    white = (
        WhiteMatter.in_the_middle(white_matter, spacing) if isinstance(white_matter, Tensor) else white_matter
    )
    images = [signal] if isinstance(signal, Tensor) else list(signal)
    changes = [change] if isinstance(change, Tensor) else list(change or [])
    if not settings.corrupted:
        if len(images) == 1:
            return Scan(images[0], {}, changes[0] if changes else None)
        followed = adc_change(images, changes, b_value=b_value) if changes else None
        return Scan(adc_map(*images, b_value=b_value, step=None), {}, followed)

    def rng(name: str) -> torch.Generator:
        return stream(key, name)

    shape = (images[0].shape[0], images[0].shape[1], images[0].shape[2])
    facts: dict[str, Any] = {}
    shading = receive_field(
        shape, strength=settings.receive_strength, rng=rng("receive"), device=images[0].device
    )
    if weighting not in _COMPUTED and chance(draws := rng("coils"), settings.surface_coils):
        facts["coil_shading"] = uniform(draws, 0.0, settings.coil_strength)
        strength = facts["coil_shading"]
        shading *= surface_coil_field(
            shape, spacing=spacing, strength=strength, rng=draws, device=shading.device
        )
    blur = uniform(rng("blur"), 0.0, settings.blur)
    images = [smooth(image.mul_(shading), blur) for image in images]
    changes = [_smooth_part(each.mul_(shading), blur) for each in changes]
    facts["snr"] = log_uniform(rng("snr"), *settings.snr)
    reference = white.region if bool(white.region.any()) else images[-1] > 0
    sd = float((images[-1] * reference).sum() / reference.sum().clamp(min=1)) / facts["snr"]

    images = [_move(image, spacing, settings, rng("motion"), facts) for image in images]
    images = [_ghost(image, settings, rng("ghosts"), facts) for image in images]
    grids = _grids(shape, spacing, weighting, settings, rng, facts)
    draws = rng("noise")
    channels = integer(draws, 2, 8) if chance(draws, settings.several_channels) else 1
    if channels > 1:
        facts["channels"] = channels
    uneven = _slices_differ(weighting, settings, rng("slices"), facts)
    diffusion = DiffusionScan(
        settings=settings.diffusion,
        b_value=b_value,
        grids=grids,
        slice_axis=facts.get("slice_axis"),
        sd=sd,
        channels=channels,
        key=key,
        uneven=uneven,
    )

    def noise(low: Tensor) -> Tensor:
        if uneven is not None:
            low = uneven(low)
        return non_central_chi(low, sd=sd, channels=channels, rng=draws)

    if len(images) == 2:
        image = diffusion.adc(images[0], images[1], white.region, facts)
    elif weighting == "DWI" and b_value > 0 and settings.diffusion.computed:
        image = diffusion.trace(images[0], white, facts)
    else:
        image = at_acquired_resolution(images[0], grids, noise=noise)
    followed = diffusion.followed(images, changes, facts)
    if chance(draws := rng("spikes"), settings.spikes) and len(images) == 1:
        facts["spikes"] = integer(draws, 1, 3)
        image = spikes(image, [_spike(shape, draws) for _ in range(facts["spikes"])])
    if chance(draws := rng("clipped"), settings.clipped) and float(image.max()) > float(image.min()):
        facts["clipped_above_percentile"] = uniform(draws, 97.0, 99.9)
        low, high = percentiles(image, lower=0.0, upper=facts["clipped_above_percentile"])
        image = scale_to_percentiles(image, lower=0.0, upper=facts["clipped_above_percentile"])
        followed = None if followed is None else followed.div_(high - low)
    return Scan(image, facts, followed)


def _smooth_part(image: Tensor, sigma: float) -> Tensor:
    """Smooth an image that is zero nearly everywhere, where it is not."""
    some = image != 0
    if not bool(some.any()):
        return image
    (x, y, z), _ = boxes_of(some, 1, (image.shape[0], image.shape[1], image.shape[2]))
    margin = math.ceil(5 * sigma) + 1
    box = tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in (x, y, z))
    image[box] = smooth(image[box], sigma)
    return image


def _ghost(image: Tensor, settings: ScannerSettings, rng: torch.Generator, facts: dict[str, Any]) -> Tensor:
    if not chance(rng, settings.ghosts):
        return image
    facts["ghost_axis"], facts["ghost_period"] = choice(rng, [0.3, 0.7, 0.0]), integer(rng, 2, 5)
    facts["ghost_strength"] = uniform(rng, 0.03, 0.25)
    return ghosting(
        image, axis=facts["ghost_axis"], period=facts["ghost_period"], strength=facts["ghost_strength"]
    )


def _slices_differ(
    weighting: str, settings: ScannerSettings, rng: torch.Generator, facts: dict[str, Any]
) -> Callable[[Tensor], Tensor] | None:
    """Return what scales the slices of the acquired image, if there are any and they differ."""
    axis = facts.get("slice_axis")
    if axis is None or weighting in _COMPUTED or not chance(rng, settings.uneven_slices):
        return None
    strength, interleaves = uniform(rng, 0.0, settings.slice_strength), choice(rng, [0.0, 0.3, 0.5, 0.2])
    facts |= {"slice_gain_sd": strength, "interleaves": interleaves}

    def scale(low: Tensor) -> Tensor:
        gains = slice_gains(low.shape[axis], interleaves=interleaves, strength=strength, rng=rng)
        return low * gains.to(low).reshape([-1 if k == axis else 1 for k in range(3)])

    return scale


def _move(
    image: Tensor, spacing: float, settings: ScannerSettings, rng: torch.Generator, facts: dict[str, Any]
) -> Tensor:
    if not chance(rng, settings.motion):
        return image
    size = uniform(rng, 0.1, 1.0) * settings.largest_motion
    moves = integer(rng, 1, 3)
    # Away from the centre of k-space, so that the head appears where its labels are.
    late = chance(rng, 0.5)
    moments = sorted(uniform(rng, 0.55, 0.95) if late else uniform(rng, 0.05, 0.4) for _ in range(moves))
    poses = [
        Pose(
            (uniform(rng, -size, size), uniform(rng, -size, size), uniform(rng, -size, size)),
            (uniform(rng, -size, size), uniform(rng, -size, size), uniform(rng, -size, size)),
        )
        for _ in range(moves)
    ]
    if not late:
        moments.append(0.45)
        poses.append(Pose())
    facts["motion_mm_and_degrees"], facts["motion_times"] = size, moments
    axis = choice(rng, [0.3, 0.6, 0.1])
    return rigid_motion(image, poses, starts=moments, axis=axis, spacing=spacing)


def _grids(
    shape: GridShape,
    spacing: float,
    weighting: str,
    settings: ScannerSettings,
    streams: Callable[[str], torch.Generator],
    facts: dict[str, Any],
) -> AcquiredGrids:
    rng = streams("resolution")
    grids: list[SliceGrid | None] = [None, None, None]
    across = choice(rng, [0.1, 0.15, 0.75])
    if weighting in _AXIAL:
        across = 2
    if chance(rng, settings.few_lines):
        window = _WINDOWS[choice(rng, [0.4, 0.3, 0.3])]
        facts["encoded_share"] = uniform(rng, 0.5, 0.95)
        for axis in {0, 1, 2} - {across}:
            lines = max(round(shape[axis] * facts["encoded_share"]), 8)
            grids[axis] = encoded_grid(shape[axis], lines=min(lines, shape[axis]), window=window)
    if chance(rng, settings.thick_slices * (0.5 if weighting == "T1w" else 1.0)):
        thickness = uniform(rng, *settings.slice_thickness)
        distance = max(thickness * uniform(rng, 1.0, 1.25), spacing)
        facts |= {"slice_axis": across, "slice_thickness": thickness, "slice_distance": distance}
        grids[across] = slice_grid(
            shape[across],
            spacing=spacing,
            thickness=thickness,
            distance=distance,
            offset=uniform(rng, 0.0, 1.0),
            profile=_PROFILES[choice(rng, [0.4, 0.3, 0.3])],
        )
    if chance(draws := streams("voxels"), settings.large_voxels):
        size = facts["voxel_size"] = max(uniform(draws, *settings.voxel_size), spacing)
        between: Interpolation = "linear" if chance(draws, 0.5) else "sinc"
        for axis in {0, 1, 2} - {across}:
            lines = min(max(round(shape[axis] * spacing / size), 8), shape[axis])
            grids[axis] = encoded_grid(shape[axis], lines=lines, interpolation=between)
        if grids[across] is None and chance(draws, 0.5):
            grids[across] = slice_grid(
                shape[across],
                spacing=spacing,
                thickness=size,
                distance=size,
                offset=uniform(draws, 0.0, 1.0),
            )
    return grids[0], grids[1], grids[2]


def _spike(shape: GridShape, rng: torch.Generator) -> Spike:
    x, y, z = (integer(rng, 1, max(n // 2 - 1, 1)) * (1 if chance(rng, 0.5) else -1) for n in shape)
    return Spike((x, y, z), uniform(rng, 0.05, 0.4), uniform(rng, 0.0, 360.0))
