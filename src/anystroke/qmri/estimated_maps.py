"""What an estimator of quantitative maps puts out: its channels, their activations, scales and limits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from anystroke.qmri.units_check import UNITS

MapActivation = Literal["exp", "tenth_exp", "percent_sigmoid"]

LOWEST_LOG, HIGHEST_LOG = -10.0, 12.0
"""Limits of the network's output before an exponential, as published."""


@dataclass(frozen=True, kw_only=True)
class MapOutput:
    """One map that a network can put out.

    Attributes:
        activation: ``"exp"``; ``"tenth_exp"``, a tenth of it; or ``"percent_sigmoid"``, 100 times the
            logistic function. The exponent is clamped to -10..12.
        typical: Size of the map in brain tissue, in its unit, which errors are measured by.
        ceiling: Value in its unit that targets are clipped to; above are bone and old blood, not brain.
    """

    activation: MapActivation
    typical: float
    ceiling: float


MAP_OUTPUTS: Mapping[str, MapOutput] = {
    "proton_density": MapOutput(activation="exp", typical=80.0, ceiling=130.0),
    "r1": MapOutput(activation="tenth_exp", typical=0.8, ceiling=4.0),
    "r2star": MapOutput(activation="tenth_exp", typical=20.0, ceiling=100.0),
    "mt_saturation": MapOutput(activation="percent_sigmoid", typical=1.2, ceiling=5.0),
    "r2": MapOutput(activation="tenth_exp", typical=13.0, ceiling=40.0),
}
"""The maps by name; p.u., 1/s, 1/s, p.u., 1/s. Activations as in the published program of qATLAS."""

_SAME_FIELD = 0.1

DEFAULT_MAPS = ("proton_density", "r1", "r2star", "mt_saturation")
"""The maps of qATLAS."""


def check_maps(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of maps that can be estimated together, in their order.

    Raises:
        ValueError: If one is unknown or named twice, or there is none.

    Example:
        >>> check_maps(["r1", "proton_density"])
        ('r1', 'proton_density')
    """
    if not names or len(set(names)) < len(names) or not set(names) <= set(MAP_OUTPUTS):
        raise ValueError(f"expected different maps among {', '.join(MAP_OUTPUTS)}, got {list(names)}")
    return tuple(names)


def activate(output: Tensor, names: Sequence[str]) -> Tensor:
    """Turn what a network puts out into maps.

    Args:
        output: (B, K, X, Y, Z), any real numbers.
        names: K names of ``MAP_OUTPUTS``.

    Returns:
        (B, K, X, Y, Z) in the units of the maps, none negative.

    Raises:
        ValueError: If there are not as many channels as names.

    Source: L. Chalcroft et al., the published program of qATLAS.

    Example:
        >>> activate(torch.zeros(1, 2, 1, 1, 1), ["r1", "mt_saturation"]).flatten().tolist()
        [0.10000000149011612, 50.0]
    """
    if output.shape[1] != len(names):
        raise ValueError(f"expected {len(names)} channels for {', '.join(names)}, got {output.shape[1]}")
    maps = []
    for values, name in zip(output.unbind(1), names, strict=True):
        kind = MAP_OUTPUTS[name].activation
        if kind == "percent_sigmoid":
            maps.append(100 * values.sigmoid())
        else:
            grown = values.clamp(LOWEST_LOG, HIGHEST_LOG).exp()
            maps.append(grown if kind == "exp" else grown / 10)
    return torch.stack(maps, dim=1)


def same_field(first: float, second: float) -> bool:
    """Say whether two static fields [T] are the same but for how scanners are called: 2.89 T are sold as 3 T.

    Example:
        >>> same_field(2.89, 3.0), same_field(1.5, 3.0)
        (True, False)
    """
    return abs(first / second - 1) <= _SAME_FIELD


Curve = tuple[tuple[float, float], ...]
"""Points (estimate, median of the truth there) in the unit of a map, both rising."""


def along_curve(values: Tensor, curve: Curve) -> Tensor:
    """Replace estimates by the median of the truth where that estimate was made.

    Between points a straight line; below the first and above the last their ratio of truth and estimate.

    Args:
        values: Any shape, not negative.
        curve: Its points; none leaves the values as they are.

    Example:
        >>> along_curve(torch.tensor([0.5, 1.5, 4.0]), ((1.0, 2.0), (2.0, 3.0)))
        tensor([1.0000, 2.5000, 6.0000])
    """
    if not curve:
        return values
    x, y = values.new_tensor(curve).T.contiguous()
    # Beyond the ends the factor of the end stays.
    within = values.clamp(float(x[0]), float(x[-1])).contiguous()
    right = torch.searchsorted(x, within).clamp(max=len(x) - 1)
    left = (right - 1).clamp(min=0)
    share = (within - x[left]) / (x[right] - x[left]).clamp(min=torch.finfo(x.dtype).tiny)
    corrected: Tensor = (y[left] + share * (y[right] - y[left])) * (values / within)
    return corrected


def start_at_typical(network: nn.Module, names: Sequence[str]) -> None:
    """Set the bias of a network's last convolution so that it begins near the maps' typical values.

    Nothing is done where no convolution has a bias for each map.

    Args:
        network: Is changed.
        names: The maps.

    Example:
        >>> network = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1))
        >>> start_at_typical(network, ["r1"])
        >>> round(activate(network(torch.zeros(1, 1, 4, 4, 4)), ["r1"])[0, 0, 2, 2, 2].item(), 4)
        0.8
    """
    found = [m for m in network.modules() if isinstance(m, nn.Conv3d) and m.out_channels == len(names)]
    if not found or found[-1].bias is None:
        return
    starts = []
    for name in names:
        output = MAP_OUTPUTS[name]
        if output.activation == "percent_sigmoid":
            starts.append(math.log(output.typical / (100 - output.typical)))
        else:
            starts.append(math.log(output.typical * (1 if output.activation == "exp" else 10)))
    with torch.no_grad():
        found[-1].bias.copy_(torch.tensor(starts))


def describe_outputs(names: Sequence[str]) -> dict[str, dict[str, str | list[float] | float]]:
    """Say in plain values what each channel of a network is, for its configuration.

    Example:
        >>> describe_outputs(["r1"])["r1"]["unit"]
        '1/s'
    """
    return {
        name: {
            "unit": UNITS[name],
            "activation": MAP_OUTPUTS[name].activation,
            "clamp": [LOWEST_LOG, HIGHEST_LOG],
            "ceiling": MAP_OUTPUTS[name].ceiling,
        }
        for name in names
    }
