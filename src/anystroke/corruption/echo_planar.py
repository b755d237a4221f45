"""What echo-planar imaging does to an image: shift, piling up, drop-out, ghosts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from anystroke.core.arrays import Array
from anystroke.core.compiled import compiled
from anystroke.core.fields import GridShape, apply_separable, linear_matrix
from anystroke.core.threads import in_threads
from anystroke.corruption.echo_planar_loops import carry_planes, push_planes
from anystroke.corruption.echo_planar_pieces import Piece, carried_lines, pieces_between, pushed_lines
from anystroke.corruption.limits import check_axis, check_same_shape


@dataclass(frozen=True)
class EchoPlanar:
    """The distortion of one echo-planar scan, linear in the image.

    Attributes:
        displacement: (a, b, c) float32 [output voxels] along the phase-encoding axis, at coarse voxels that
            hold ``factor`` output voxels along each axis.
        factor: Whole number, at least 1.
        axis: Phase-encoding axis, 0 or 1 or 2.
        kept: (a, b, c), the share of the signal that dephasing leaves; None for all of it.
        ghost: Amplitude of the Nyquist ghost over that of the image.
        fat_shift: How far fat lies from water along the phase-encoding axis [output voxels].
        computed: Whether images are maps computed from several distorted images, such as the ADC, whose
            values move but are not piled up.

    Raises:
        ValueError: If the axis or a shape is wrong.

    Example:
        >>> still = EchoPlanar(torch.zeros(4, 4, 4))
        >>> still.image(torch.ones(4, 4, 4)).sum()
        tensor(64.)
    """

    displacement: Tensor
    factor: int = 1
    axis: int = 1
    kept: Tensor | None = None
    ghost: float = 0.0
    fat_shift: float = 0.0
    computed: bool = False
    _found: dict[tuple[tuple[int, ...], torch.device], list[Piece]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        check_axis(self.axis)
        if self.kept is not None:
            check_same_shape("the share that is kept", self.kept, self.displacement.shape)

    def image(self, signal: Tensor, fat: Tensor | None = None) -> Tensor:
        """Distort an image; its sum along the phase-encoding axis stays, but for what leaves the grid.

        Args:
            signal: (X, Y, Z), may be negative.
            fat: (X, Y, Z), the part of it that comes from fat; None for nothing.

        Returns:
            (X, Y, Z), a new tensor.
        """
        if fat is not None:
            apart = replace(self, displacement=self.displacement + self.fat_shift)
            return self.image(signal - fat).add_(apart.image(fat))
        if self.computed:
            return self.moved(signal[None])[0]
        if self.kept is not None:
            signal = signal * self._fine(self.kept, signal)
        pushed = self._push(signal)
        if self.ghost:
            pushed = torch.add(pushed, pushed.roll(signal.shape[self.axis] // 2, self.axis), alpha=self.ghost)
        return pushed

    def labels(self, labels: Tensor) -> Tensor:
        """Move labels with the image: each voxel gets that of which most came to lie in it.

        Label 0 is where the others cover less than half of a voxel: air that comes to lie over the head hides
        nothing.

        Args:
            labels: (X, Y, Z) uint8.

        Returns:
            (X, Y, Z) uint8, a new tensor.
        """
        self._check(labels)
        lines = labels.movedim(self.axis, 1).contiguous()
        if compiled(lines.device):
            out = torch.zeros_like(lines)
            _run(carry_planes, lines, self._geometry(lines.shape), out)
        else:
            out = carried_lines(lines, self._pieces(lines))
        return out.movedim(1, self.axis).contiguous()

    def moved(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """Move values with the image, without piling them up: the mean of what came to lie in a voxel.

        Args:
            values: (C, X, Y, Z), such as the shares of classes or a brain mask.
            weight: (X, Y, Z), how much each voxel counts in that mean, such as less where it has no signal;
                all alike if None.

        Returns:
            (C, X, Y, Z); 0 where nothing came to lie.
        """
        weight = torch.ones_like(values[0]) if weight is None else weight
        held = self._push(weight)
        empty = held <= 1e-3
        held[empty] = 1.0
        result = self._push(values * weight)
        return result.div_(held).mul_(~empty)

    def coarse(self, factor: int) -> "EchoPlanar":
        """Return the distortion for images whose voxels hold ``factor`` voxels of these along each axis.

        Raises:
            ValueError: If this distortion's own coarse voxels do not hold whole ones of that size.
        """
        if self.factor % factor:
            raise ValueError(f"expected a divisor of {self.factor}, got {factor}")
        return replace(
            self,
            displacement=self.displacement / factor,
            factor=self.factor // factor,
            fat_shift=self.fat_shift / factor,
        )

    def displacements(self, shape: GridShape) -> Tensor:
        """Return (X, Y, Z) [voxels], how far the middle of each voxel of a grid moves."""
        matrices = [
            _smooth_matrix(n, m, self.factor, edges=False)
            if axis == self.axis
            else _linear(n, m, self.factor)
            for axis, (n, m) in enumerate(zip(shape, self.displacement.shape, strict=True))
        ]
        return apply_separable(self.displacement, (matrices[0], matrices[1], matrices[2]))

    def _push(self, signal: Tensor) -> Tensor:
        """Pile up a signal (..., X, Y, Z) where it comes to lie."""
        self._check(signal)
        axis = self.axis - 3
        lines = signal.float().movedim(axis, -2).contiguous()
        if compiled(lines.device):
            out = torch.zeros_like(lines)
            volumes = zip(lines.reshape(-1, *lines.shape[-3:]), out.view(-1, *lines.shape[-3:]), strict=True)
            geometry = self._geometry(lines.shape[-3:])
            for one, result in volumes:
                _run(push_planes, one, geometry, result)
        else:
            out = pushed_lines(lines, self._pieces(lines))
        return out.movedim(-2, axis).contiguous()

    def _check(self, image: Tensor) -> None:
        expected = tuple(-(-n // self.factor) for n in image.shape[-3:])
        if expected != tuple(self.displacement.shape):
            raise ValueError(
                f"expected an image of {tuple(self.displacement.shape)} coarse voxels of {self.factor}, "
                f"got shape {tuple(image.shape)}"
            )

    def _fine(self, field: Tensor, like: Tensor) -> Tensor:
        x, y, z = (_linear(n, m, self.factor) for n, m in zip(like.shape, field.shape, strict=True))
        return apply_separable(field, (x, y, z))

    def _geometry(self, shape: torch.Size) -> tuple[Array, ...]:
        field = self.displacement.movedim(self.axis, 1).float().contiguous()
        along = [
            _neighbours(n, m, self.factor)
            for n, m in ((shape[0], field.shape[0]), (shape[2], field.shape[2]))
        ]
        taps, weights = _smooth_taps(shape[1], field.shape[1], self.factor, edges=True)
        return tuple(part.numpy() for part in (field, *along, taps, weights))

    def _pieces(self, lines: Tensor) -> list[Piece]:
        """Return where the voxels of (..., X, Y, Z), phase encoding along Y, come to lie."""
        shape = lines.shape[-3:]
        key = (tuple(shape), lines.device)
        if key not in self._found:
            field = self.displacement.movedim(self.axis, 1).to(lines.device)
            edges = apply_separable(
                field,
                (
                    _linear(shape[0], field.shape[0], self.factor),
                    _smooth_matrix(shape[1], field.shape[1], self.factor, edges=True),
                    _linear(shape[2], field.shape[2], self.factor),
                ),
            )
            self._found[key] = pieces_between(edges)
        return self._found[key]


def _run(
    loop: Callable[[Array, tuple[Array, ...], Array, tuple[int, int]], object],
    lines: Tensor,
    geometry: tuple[Array, ...],
    out: Tensor,
) -> None:
    pieces = min(2 * torch.get_num_threads(), len(lines))
    edges = [k * len(lines) // pieces for k in range(pieces + 1)]

    def work(planes: tuple[int, int]) -> None:
        loop(lines.numpy(), geometry, out.numpy(), planes)

    in_threads(work, pairwise(edges))


def _linear(n_out: int, n_in: int, factor: int) -> Tensor | None:
    return None if factor == 1 else linear_matrix(n_out, n_in, factor)


@lru_cache(maxsize=64)
def _neighbours(n_out: int, n_in: int, factor: int) -> Tensor:
    """Return (2, n_out) float32: the lower neighbour of each fine voxel, and the weight of the upper one."""
    position = ((torch.arange(n_out, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, n_in - 1)
    lower = position.floor().clamp(max=max(n_in - 2, 0))
    return torch.stack([lower, position - lower]).float().contiguous()


@lru_cache(maxsize=64)
def _smooth_taps(n_out: int, n_in: int, factor: int, *, edges: bool) -> tuple[Tensor, Tensor]:
    """Return indices (int64) and weights (float32), (n, 4), of an interpolation with a continuous slope.

    Args:
        n_out: Fine voxels.
        n_in: Coarse voxels.
        factor: Fine voxels in a coarse one.
        edges: Whether to interpolate at the ``n_out + 1`` edges of the fine voxels, not in their middles.

    Source: cubic convolution, R. G. Keys, IEEE Trans Acoust 29:1153 (1981).
    """
    place = torch.arange(n_out + edges, dtype=torch.float64) + (0.0 if edges else 0.5)
    position = (place / factor - 0.5).clamp(0, n_in - 1)
    lower = position.floor().clamp(max=max(n_in - 2, 0))
    t = (position - lower)[:, None]
    weights = torch.cat(
        [
            -0.5 * t**3 + t**2 - 0.5 * t,
            1.5 * t**3 - 2.5 * t**2 + 1,
            -1.5 * t**3 + 2 * t**2 + 0.5 * t,
            0.5 * t**3 - 0.5 * t**2,
        ],
        dim=1,
    )
    taps = (lower.long()[:, None] + torch.arange(-1, 3)).clamp(0, n_in - 1)
    return taps.contiguous(), weights.float().contiguous()


@lru_cache(maxsize=64)
def _smooth_matrix(n_out: int, n_in: int, factor: int, *, edges: bool) -> Tensor:
    taps, weights = _smooth_taps(n_out, n_in, factor, edges=edges)
    return torch.zeros(len(taps), n_in).scatter_add_(1, taps, weights)


def dephasing(gradient: Tensor, *, echo_time: float, thickness: float) -> Tensor:
    """Return the share of a gradient echo's signal that a field gradient across a slice leaves.

    Args:
        gradient: Of the field across the slice [Hz/mm].
        echo_time: [s].
        thickness: Of the slice, box profile [mm].

    Source: J. R. Reichenbach et al., J Magn Reson Imaging 7:266 (1997).

    Example:
        >>> dephasing(torch.tensor([0.0, 10.0]), echo_time=0.02, thickness=5.0)
        tensor([1., 0.])
    """
    return torch.sinc(gradient * (echo_time * thickness)).abs_().round_(decimals=6)


def gradient_across(field: Tensor, *, spacing: float, axis: int) -> Tensor:
    """Return the slope of a field along an axis by central differences, one-sided at the ends.

    Args:
        field: (X, Y, Z).
        spacing: Voxel size [mm].
        axis: 0, 1 or 2.

    Returns:
        (X, Y, Z), per mm.
    """
    check_axis(axis)
    slope: Tensor = torch.gradient(field, spacing=spacing, dim=axis)[0]
    return slope


def shift_per_hertz(*, echo_spacing: float, field_of_view: float) -> float:
    """Return the displacement along the phase-encoding axis for each Hz off resonance [mm].

    Args:
        echo_spacing: Effective, that is divided by the acceleration of parallel imaging [s].
        field_of_view: Along the phase-encoding axis [mm].

    Source: P. Jezzard and R. S. Balaban, Magn Reson Med 34:65 (1995).

    Example:
        >>> round(shift_per_hertz(echo_spacing=0.0005, field_of_view=220.0) * 100, 1)
        11.0
    """
    if not (math.isfinite(echo_spacing) and math.isfinite(field_of_view)):
        raise ValueError(f"expected finite numbers, got {echo_spacing} s and {field_of_view} mm")
    return echo_spacing * field_of_view
