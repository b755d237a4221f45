"""What happens in k-space: truncation, ghosts, spikes, motion between lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from anystroke.corruption.limits import check_axis, check_positive, check_within

Window = Literal["hann", "hamming", "tukey"]
Triple = tuple[float, float, float]

_SLAB = 4


def window_weights(position: Tensor, window: Window | None) -> Tensor:
    """Return the weights of a window on k-space.

    Args:
        position: Distance from the centre of k-space over that of its edge, 0 to 1.
        window: ``"hann"``, ``"hamming"``, ``"tukey"`` (flat in the inner half) or None for one everywhere.

    Raises:
        ValueError: If the window is another.

    Source: F. J. Harris, Proc IEEE 66:51 (1978).
    """
    if window is None:
        return torch.ones_like(position)
    if window == "hann":
        return 0.5 + 0.5 * torch.cos(math.pi * position)
    if window == "hamming":
        return 0.54 + 0.46 * torch.cos(math.pi * position)
    if window == "tukey":
        return 0.5 + 0.5 * torch.cos(math.pi * (2 * position - 1).clamp(min=0))
    raise ValueError(f"expected a window hann, hamming or tukey, or None, got {window!r}")


def gibbs_ringing(image: Tensor, *, kept: Triple, window: Window | None = None) -> Tensor:
    """Cut the outer part of k-space off, which blurs an image and makes its edges ring.

    Args:
        image: (..., X, Y, Z), real.
        kept: Share of k-space that is kept along each axis, above 0 and up to 1; 1 leaves the axis alone.
            The number of lines is rounded to an odd one.
        window: Weighs the kept lines, which weakens the ringing.

    Returns:
        Magnitude image of the same shape.

    Raises:
        ValueError: If a share is out of its range.

    Source: D. Gottlieb and C.-W. Shu, SIAM Review 39:644 (1997).
    """
    for share in kept:
        if not 0 < share <= 1:
            raise ValueError(f"expected a kept share of k-space above 0 and up to 1, got {share}")
    result = image
    for axis, share in enumerate(kept):
        if share == 1:
            continue
        dim, n = axis - 3, image.shape[axis - 3]
        lines = max(round(share * n / 2), 1)
        spectrum = torch.fft.rfft(result, dim=dim)
        total = spectrum.shape[dim]
        spectrum.narrow(dim, lines, total - lines).zero_()
        if window is not None:
            weights = window_weights(torch.arange(lines, device=image.device) / lines, window)
            spectrum.narrow(dim, 0, lines).mul_(_along(weights, axis))
        result = torch.fft.irfft(spectrum, n=n, dim=dim)
    return image.abs() if result is image else result.abs_()


def ghosting(image: Tensor, *, axis: int, period: int, strength: float = 0.0, phase: float = 0.0) -> Tensor:
    """Modulate every n-th phase-encoding line, which adds ghosts shifted by multiples of N / n voxels.

    Args:
        image: (..., X, Y, Z), real.
        axis: Phase-encoding axis, 0, 1 or 2.
        period: Every how many lines, counted from the centre of k-space, one is modulated; at least 2.
        strength: Share of the line's amplitude that is lost, 0 to 1; each ghost has ``strength / period``.
        phase: Error of the line's phase in degrees; 2 lines and a phase make the Nyquist ghost of
            echo-planar imaging.

    Returns:
        Magnitude image of the same shape.

    Raises:
        ValueError: If an argument is out of its range.
    """
    check_axis(axis)
    n = image.shape[axis - 3]
    check_within("a ghost's period", period, 2, n, "lines")
    check_within("a ghost's strength", strength, 0.0, 1.0)
    if not math.isfinite(phase):
        raise ValueError(f"expected a finite phase in degrees, got {phase}")
    real = (1 - strength) * math.cos(math.radians(phase)) - 1
    imaginary = (1 - strength) * math.sin(math.radians(phase))
    if real == imaginary == 0:
        return image.abs()
    spectrum = torch.fft.rfft(image, dim=axis - 3)
    lines = torch.arange(spectrum.shape[axis - 3], device=image.device)
    spectrum.mul_(_along((lines % period == 0).to(image.dtype), axis))
    comb = torch.fft.irfft(spectrum, n=n, dim=axis - 3)
    del spectrum
    result = torch.add(image, comb, alpha=real)
    if abs(imaginary) < 1e-12:
        return result.abs_()
    return torch.hypot(result, comb.mul_(imaginary), out=result)


@dataclass(frozen=True)
class Spike:
    """One false point of k-space.

    Attributes:
        frequency: Where, in cycles over the field of view along X, Y and Z.
        strength: Its magnitude over that of the centre of k-space.
        phase: Its phase in degrees.
    """

    frequency: tuple[int, int, int]
    strength: float
    phase: float = 0.0


def spikes(image: Tensor, found: Sequence[Spike]) -> Tensor:
    """Add points to k-space, each of which lays a plane wave over the complex image.

    The amplitude of a wave is its strength times the mean of the image.

    Args:
        image: (..., X, Y, Z), real.
        found: The spikes.

    Returns:
        Magnitude image of the same shape.

    Raises:
        ValueError: If a strength is negative or a frequency beyond what the grid can hold.
    """
    for spike in found:
        check_within("a spike's strength", spike.strength, 0.0, 1e6)
        for frequency, n in zip(spike.frequency, image.shape[-3:], strict=True):
            check_within("a spike's frequency", frequency, -(n // 2), n // 2, "cycles per field of view")
    if not any(spike.strength for spike in found):
        return image.abs()
    nx, ny, nz = image.shape[-3:]
    real, imaginary, last = _plane_waves(found, (nx, ny, nz), image)
    volumes = image.reshape(-1, nx, ny, nz)
    out = torch.empty_like(volumes)
    for volume, result in zip(volumes, out, strict=True):
        mean = volume.mean()
        for start in range(0, nx, _SLAB):
            rows = slice(start * ny, min(start + _SLAB, nx) * ny)
            part = result.view(-1, nz)[rows]
            torch.mm(imaginary[rows], last, out=part)
            wave = torch.addmm(volume.reshape(-1, nz)[rows], real[rows] * mean, last)
            part.mul_(mean)
            part.square_().addcmul_(wave, wave).sqrt_()
    return out.view(image.shape)


def _plane_waves(
    found: Sequence[Spike], shape: tuple[int, int, int], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (X * Y, 2 K) twice and (2 K, Z): the first and second times the last are real and imaginary."""
    angles = []
    for axis, n in enumerate(shape):
        cycles = torch.tensor([spike.frequency[axis] for spike in found], dtype=torch.float64)
        angles.append(2 * math.pi * torch.arange(n, dtype=torch.float64)[:, None] * cycles / n)
    phase = torch.tensor([math.radians(spike.phase) for spike in found], dtype=torch.float64)
    strength = torch.tensor([spike.strength for spike in found], dtype=torch.float64)
    plane = (angles[0][:, None] + angles[1] + phase).reshape(-1, len(found))
    cosine, sine = strength * plane.cos(), strength * plane.sin()
    first, second = torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)
    last = torch.cat([angles[2].cos(), angles[2].sin()], 1).T.contiguous()
    return first.to(like), second.to(like), last.to(like)


@dataclass(frozen=True)
class Pose:
    """Where the head is.

    Attributes:
        translation: In mm along X, Y and Z.
        rotation: In degrees about X, then Y, then Z through the middle of the grid, right-handed.
    """

    translation: Triple = (0.0, 0.0, 0.0)
    rotation: Triple = (0.0, 0.0, 0.0)


def rigid_motion(
    image: Tensor, poses: Sequence[Pose], *, starts: Sequence[float], axis: int, spacing: float
) -> Tensor:
    """Let the head move while the lines of k-space are acquired, from the most negative frequency up.

    The head rests until the first start. The centre of k-space is acquired at 0.5, and the pose of that
    moment is where the head appears: to keep labels valid, let that pose be none.

    Args:
        image: (X, Y, Z), real.
        poses: Where the head goes, each relative to rest.
        starts: When it arrives there, as increasing shares of the acquisition, 0 to 1.
        axis: Phase-encoding axis, 0, 1 or 2.
        spacing: Voxel size in mm.

    Returns:
        Magnitude image of the same shape. Translations wrap around the field of view; what rotates out of it
        is lost.

    Raises:
        ValueError: If there is not one start per pose, starts do not increase, or a number is out of range.

    Source: R. Shaw et al., Proc Mach Learn Res 102:427 (2019).
    """
    check_axis(axis)
    check_positive("a voxel size", spacing, "mm")
    if image.ndim != 3:
        raise ValueError(f"expected an image (X, Y, Z), got shape {tuple(image.shape)}")
    if len(poses) != len(starts):
        raise ValueError(f"expected one start per pose, got {len(starts)} starts for {len(poses)} poses")
    for start in starts:
        check_within("a start", start, 0.0, 1.0, "of the acquisition")
    if any(later <= earlier for earlier, later in pairwise(starts)):
        raise ValueError(f"expected starts that increase, got {tuple(starts)}")
    if all(pose == Pose() for pose in poses):
        return image.abs()
    n = image.shape[axis]
    up, down = _active_poses(n, starts)
    real, imaginary = None, None
    for index, pose in enumerate([Pose(), *poses]):
        rising, falling = (up == index).double(), (down == index).double()
        if not bool((rising + falling).any()):
            continue
        spectrum = torch.fft.rfft(_moved(image, pose, spacing), dim=axis)
        # A line and its mirror line may see different poses; even and odd halves make two real images.
        even = spectrum * _along((rising + falling) / 2, axis).to(spectrum)
        odd = spectrum.mul_(_along((rising - falling) / 2, axis).to(spectrum) * -1j)
        real = even if real is None else real.add_(even)
        imaginary = odd if imaginary is None else imaginary.add_(odd)
    assert real is not None
    assert imaginary is not None
    result = torch.fft.irfft(real, n=n, dim=axis)
    del real
    return torch.hypot(result, torch.fft.irfft(imaginary, n=n, dim=axis), out=result)


def _active_poses(n: int, starts: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the pose, 0 for rest, at each non-negative frequency and at its mirror frequency."""
    lines = torch.arange(n // 2 + 1)
    moments = torch.tensor(list(starts), dtype=torch.float64)
    middle = n // 2

    def pose_at(line: Tensor) -> Tensor:
        share = (line.double() + 0.5) / n
        return (share[:, None] >= moments).sum(1)

    # With an even number of lines the highest frequency is acquired once, as the first line.
    last = torch.where(lines + middle < n, lines + middle, middle - lines)
    return pose_at(last), pose_at(middle - lines)


def _moved(image: Tensor, pose: Pose, spacing: float) -> Tensor:
    for axis, degrees in enumerate(pose.rotation):
        check_within("a rotation", degrees, -90.0, 90.0, "degrees")
        if degrees:
            image = _rotated(image, axis, degrees)
    for axis, distance in enumerate(pose.translation):
        if distance:
            image = _shifted(image, axis, distance / spacing)
    return image


def _shifted(image: Tensor, axis: int, voxels: float) -> Tensor:
    n = image.shape[axis]
    check_within("a translation", voxels, -n / 2, n / 2, "voxels")
    if voxels == round(voxels):
        return image.roll(int(voxels), axis)
    spectrum = torch.fft.rfft(image, dim=axis)
    phase = -2 * math.pi * voxels / n * torch.arange(spectrum.shape[axis], dtype=torch.float64)
    spectrum.mul_(_along(torch.polar(torch.ones_like(phase), phase), axis).to(spectrum))
    shifted: Tensor = torch.fft.irfft(spectrum, n=n, dim=axis)
    return shifted


def _rotated(image: Tensor, axis: int, degrees: float) -> Tensor:
    """Turn the planes across one axis by cubic convolution (Keys, 1981); nothing is outside the grid.

    All lines along the axis move alike, so one small table of 16 neighbours and weights per plane position
    serves them all.
    """
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    shape = (image.shape[first], image.shape[second])
    a, b = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    source = (
        cosine * a[:, None] + sine * b + (shape[0] - 1) / 2,
        -sine * a[:, None] + cosine * b + (shape[1] - 1) / 2,
    )
    (rows, row_weights), (columns, column_weights) = (
        _cubic_taps(position.reshape(-1), n) for position, n in zip(source, shape, strict=True)
    )
    index = (rows[:, :, None] * shape[1] + columns[:, None]).flatten(1)
    weight = (row_weights[:, :, None] * column_weights[:, None]).flatten(1)
    lines = image.movedim((first, second), (0, 1)).contiguous()
    turned: Tensor = torch.nn.functional.embedding_bag(
        index.to(image.device),
        lines.view(shape[0] * shape[1], -1),
        per_sample_weights=weight.to(image),
        mode="sum",
    )
    return turned.reshape(lines.shape).movedim((0, 1), (first, second)).contiguous()


def _cubic_taps(position: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return indices and weights (P, 4) of cubic convolution; neighbours outside the grid weigh nothing."""
    lower = position.floor()
    t = (position - lower)[:, None] + torch.tensor([1.0, 0.0, -1.0, -2.0], dtype=torch.float64)
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    index = lower.long()[:, None] + torch.arange(-1, 3)
    inside = (index >= 0) & (index < n)
    return index.clamp(0, n - 1), torch.where(t < 1, near, far) * inside


def _along(weights: Tensor, axis: int) -> Tensor:
    """Shape (n,) so that it multiplies one axis of (..., X, Y, Z)."""
    return weights.reshape(-1, *(1,) * (2 - axis))
