"""Signals of whole scans from a table over R1 and B1+, several times faster than equation by voxel.

The signal of most sequences is ``PD S(R1, B1+) exp(-t1 R - t2 ADC)``. ``S`` is smooth, so a table of it is
made with the exact equation, once per image, and read with cubics along R1 and lines along B1+.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anystroke.acquisition.fast import tabulated_loops
from anystroke.core.compiled import compiled
from anystroke.core.threads import in_threads

WORTHWHILE = 300_000
"""Voxels from which the table pays."""

_RECOVERIES = {True: 256, False: 2048}
_ROWS = 129
# A thread that is held up leaves the rest to the others.
_LARGEST_PART = 2**18
_LARGEST_R1 = 1e6
_LOG2_E = math.log2(math.e)


def can_tabulate(maps: Mapping[str, Tensor]) -> bool:
    """Whether maps are large, of one shape, float32, on the CPU and without gradients.

    Args:
        maps: Tensors by name.

    Example:
        >>> can_tabulate({"r1": torch.ones(2)})
        False
    """
    first = next(iter(maps.values()))
    gradients = torch.is_grad_enabled()
    return first.numel() >= WORTHWHILE and all(
        one.shape == first.shape
        and one.dtype == torch.float32
        and compiled(one.device)
        and not (gradients and one.requires_grad)
        for one in maps.values()
    )


def tabulated_signal(
    exact: Callable[[dict[str, Tensor]], Tensor],
    maps: Mapping[str, Tensor],
    *,
    decay_times: Mapping[str, float],
    losses: Mapping[str, float],
) -> Tensor:
    """Make the signed image of a sequence that is ``PD S(R1, B1+)`` times decays and losses.

    Differs from the equation by less than 1e-4 of the largest signal.

    Args:
        exact: Signed signal of maps by name, in float64 too.
        maps: float32 CPU tensors of one shape: ``proton_density``, ``r1``, those that decay or lose,
            ``b1_plus`` if it is given.
        decay_times: For one or two maps, ``t`` of ``exp(-t map)``.
        losses: For one map or none, ``s`` of ``1 - s map``.

    Returns:
        float32 image of the maps' shape.

    Example:
        >>> ramp = torch.linspace(0.2, 2, 10)
        >>> maps = {"proton_density": ramp, "r1": ramp, "r2": 10 * ramp}
        >>> def exact(m):
        ...     return m["proton_density"] * (1 - torch.exp(-2 * m["r1"])) * torch.exp(-0.1 * m["r2"])
        >>> torch.allclose(tabulated_signal(exact, maps, decay_times={"r2": 0.1}, losses={}), exact(maps))
        True
    """
    flat = {name: one.contiguous().reshape(-1) for name, one in maps.items()}
    image = torch.empty_like(flat["r1"])
    unused = flat["r1"]
    rates = [*(flat[name] for name in decay_times), unused][:2]
    powers = [*(np.float32(-time * _LOG2_E) for time in decay_times.values()), np.float32(0.0)][:2]
    loss, slope = next(((flat[name], slope) for name, slope in losses.items()), (unused, 0.0))
    table, rows = _table(exact, maps)
    columns = [image, flat["proton_density"], flat["r1"], *([flat["b1_plus"]] if rows else [])]

    def fill(part: slice) -> None:
        arrays = [column.numpy()[part] for column in columns]
        others = [(rates[0].numpy()[part], rates[1].numpy()[part]), tuple(powers), loss.numpy()[part]]
        if rows:
            tabulated_loops.fill_rows(*arrays, table, rows, *others, np.float32(slope))
        else:
            tabulated_loops.fill_row(*arrays, table, *others, np.float32(slope))

    step = min(-(-len(image) // torch.get_num_threads()), _LARGEST_PART)
    in_threads(fill, [slice(start, start + step) for start in range(0, len(image), step)])
    return image.view(maps["r1"].shape)


def _table(
    exact: Callable[[dict[str, Tensor]], Tensor], maps: Mapping[str, Tensor]
) -> tuple[Any, tuple[Any, ...]]:
    """Return cubics of S, and how they follow B1+: smallest, rows per unit; empty without."""
    transmit = "b1_plus" in maps
    shares = torch.linspace(0, 1, _RECOVERIES[transmit] + 1, dtype=torch.float64)
    r1 = shares / (1 - shares).clamp_min(1 / _LARGEST_R1)
    nodes = {"r1": r1[None].expand(_ROWS if transmit else 1, -1).contiguous()}
    rows: tuple[Any, ...] = ()
    if transmit:
        low, high = (float(end) for end in maps["b1_plus"].aminmax())
        high = max(high, low + 1e-3)
        nodes["b1_plus"] = torch.linspace(low, high, _ROWS, dtype=torch.float64)[:, None].expand_as(
            nodes["r1"]
        )
        rows = tuple(np.float32(number) for number in (low, (_ROWS - 1) / (high - low)))
    for name in maps:
        nodes.setdefault(name, torch.full_like(nodes["r1"], float(name == "proton_density")))
    table = _cubics(exact(nodes)).float().numpy()
    return (table if transmit else table[0]), rows


def _cubics(nodes: Tensor) -> Tensor:
    """Return (rows, n, 4), coefficients on 0..1 of the cubics through the four nearest of (rows, n + 1)."""
    windows = nodes.unfold(1, 4, 1)
    # The first and the last interval have no neighbour on one side.
    first, middle, last = (_through_four(start) for start in (0, -1, -2))
    return torch.cat([windows[:, :1] @ first, windows @ middle, windows[:, -1:] @ last], dim=1)


def _through_four(start: int) -> Tensor:
    """Return (4, 4), from values at ``start``, ``start + 1``... to coefficients, lowest power first."""
    positions = torch.arange(start, start + 4, dtype=torch.float64)
    powers: Tensor = positions[:, None] ** torch.arange(4)
    inverse: Tensor = torch.linalg.inv(powers)
    return inverse.T
