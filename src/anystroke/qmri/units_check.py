"""Tell the unit of a measured map by its median in the brain, and bring it to the unit of ``MAPS``.

Nothing is changed without a finding that says what, by how much and why; what cannot be told is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.qmri.tissue_priors import MAPS

WHITE_MATTER_PD = 69.0
"""PD of white matter that calibrates maps in arbitrary units, p.u. (Tofts, 2003)."""

UNITS: Mapping[str, str] = dict(zip(MAPS, ("p.u.", "1/s", "1/s", "1/s", "p.u.", "mm^2/s"), strict=True))
"""The unit of each map inside anystroke."""

_MINIMUM_VOXELS = 100
_CALIBRATED_PD = (50.0, 90.0)
# (unit, factor to the unit of MAPS, lowest and highest median in a brain between 0.3 and 7 T)
_READINGS: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "proton_density": (("p.u.", 1.0, 40.0, 130.0), ("fraction", 100.0, 0.4, 1.3)),
    "r1": (("1/s", 1.0, 0.2, 2.5), ("1/ms", 1e3, 0.2e-3, 2.5e-3), ("10^-3/s", 1e-3, 200.0, 2500.0)),
    "r2": (("1/s", 1.0, 4.0, 60.0), ("1/ms", 1e3, 4e-3, 60e-3), ("10^-3/s", 1e-3, 4e3, 60e3)),
    "r2star": (("1/s", 1.0, 4.0, 100.0), ("1/ms", 1e3, 4e-3, 0.1), ("10^-3/s", 1e-3, 4e3, 1e5)),
    "mt_saturation": (("p.u.", 1.0, 0.3, 4.0), ("fraction", 100.0, 3e-3, 0.04)),
    "adc": (
        ("mm^2/s", 1.0, 3e-4, 3e-3),
        ("10^-3 mm^2/s", 1e-3, 0.3, 3.0),
        ("10^-6 mm^2/s", 1e-6, 300.0, 3000.0),
        ("m^2/s", 1e6, 3e-10, 3e-9),
    ),
}
# How units are written in sidecars: lower case, without spaces.
_SPELLINGS: dict[str, str] = {
    "p.u.": "p.u.",
    "pu": "p.u.",
    "percent": "p.u.",
    "%": "p.u.",
    "fraction": "fraction",
    "1/s": "1/s",
    "s^-1": "1/s",
    "s-1": "1/s",
    "hz": "1/s",
    "1/ms": "1/ms",
    "ms^-1": "1/ms",
    "ms-1": "1/ms",
    "khz": "1/ms",
    "mm^2/s": "mm^2/s",
    "mm2/s": "mm^2/s",
    "um^2/ms": "10^-3 mm^2/s",
    "um2/ms": "10^-3 mm^2/s",
    "um^2/s": "10^-6 mm^2/s",
    "um2/s": "10^-6 mm^2/s",
    "m^2/s": "m^2/s",
    "m2/s": "m^2/s",
}
_LIMITS: dict[str, tuple[float, float]] = {
    "proton_density": (0.0, 130.0),
    "r1": (0.1, 5.0),
    "r2": (0.3, 500.0),
    "r2star": (0.0, 500.0),
    "mt_saturation": (0.0, 5.0),
}


class UnitError(AnystrokeError):
    """A map whose unit cannot be told, or whose values cannot be what its name says."""


@dataclass(frozen=True, kw_only=True)
class UnitFinding:
    """What unit a map was found in.

    Attributes:
        map: One of ``MAPS``.
        unit: The unit it came in.
        factor: What it is multiplied by to come to the unit of ``MAPS``; 1 where nothing is to be done.
        evidence: Why, in words for the user.
    """

    map: str
    unit: str
    factor: float
    evidence: str


@dataclass(frozen=True, kw_only=True)
class ClampFinding:
    """How many voxels of the head were outside the limits of a map and moved to them.

    Attributes:
        map: One of ``MAPS``.
        limits: Lowest and highest value that stay, in the unit of ``MAPS``; for R2* the lowest is R2.
        raised: Voxels that were below.
        lowered: Voxels that were above.
        voxels: Voxels of the head.
    """

    map: str
    limits: tuple[float, float]
    raised: int
    lowered: int
    voxels: int


def find_unit(
    name: str,
    values: Tensor,
    *,
    white_matter: Tensor | None = None,
    grey_matter: Tensor | None = None,
    stated: str | None = None,
) -> UnitFinding:
    """Tell the unit of a map by its values in the brain.

    Args:
        name: One of ``MAPS``.
        values: Any shape, the map's voxels in the brain; those not finite are left out.
        white_matter: The voxels in white matter. With them PD in arbitrary units is calibrated to 69 p.u.
        grey_matter: The voxels in cortical grey matter. With both, the contrast must be that of the map.
        stated: Unit that the file's sidecar states; it must agree with the values.

    Returns:
        The finding; the map is not changed.

    Raises:
        UnitError: If there are too few voxels, no variation, no unit or a contradicting unit.

    Example:
        >>> find_unit("r1", torch.linspace(500.0, 900.0, 200)).factor
        0.001
    """
    if name not in MAPS:
        raise UnitError(f"there is no map {name!r}; the maps are {', '.join(MAPS)}")
    finite = values[torch.isfinite(values)]
    if finite.numel() < _MINIMUM_VOXELS:
        raise UnitError(
            f"{name}: expected at least {_MINIMUM_VOXELS} voxels with values in the brain, "
            f"got {finite.numel()}; check the mask or segmentation"
        )
    if bool((finite == finite[0]).all()):
        raise UnitError(f"{name}: every voxel of the brain is {float(finite[0]):g}; this is no measured map")
    median = float(finite.median())
    white = _median(white_matter)
    found = _by_median(name, median)
    if name == "proton_density":
        found = _calibrate(found, median, white)
    if found is None:
        windows = ", ".join(f"{low:g} to {high:g} {unit}" for unit, _, low, high in _READINGS[name])
        raise UnitError(
            f"{name}: the median in the brain is {median:.4g}, expected {windows}; convert the map to "
            f"{UNITS[name]}, or check that the file holds {name}"
            + (" (a PD map in arbitrary units needs white matter)" if name == "proton_density" else "")
        )
    _check_contrast(name, white, _median(grey_matter))
    _check_stated(found, stated)
    return found


def check_units(
    maps: Mapping[str, Tensor],
    brain: Tensor,
    *,
    white_matter: Tensor | None = None,
    grey_matter: Tensor | None = None,
    stated: Mapping[str, str] | None = None,
) -> tuple[dict[str, Tensor], tuple[UnitFinding, ...]]:
    """Bring maps of one subject to the units of ``MAPS``.

    Args:
        maps: Some of ``MAPS``, each (X, Y, Z).
        brain: bool (X, Y, Z).
        white_matter: bool (X, Y, Z), if known.
        grey_matter: bool (X, Y, Z), if known.
        stated: Units that sidecars state, per map.

    Returns:
        The maps in the units of ``MAPS`` (the same tensor where nothing had to change), and a finding for
        each.

    Raises:
        UnitError: As in `find_unit`, or if shapes differ.

    Example:
        >>> r1 = torch.linspace(0.5e-3, 0.9e-3, 1000).view(10, 10, 10)
        >>> maps, findings = check_units({"r1": r1}, torch.ones(10, 10, 10, dtype=torch.bool))
        >>> findings[0].unit, round(float(maps["r1"].max()), 3)
        ('1/ms', 0.9)
    """
    checked: dict[str, Tensor] = {}
    findings = []
    for name, values in maps.items():
        if values.shape != brain.shape:
            raise UnitError(
                f"{name}: expected the shape of the brain mask, {tuple(brain.shape)}, "
                f"got {tuple(values.shape)}"
            )
        finding = find_unit(
            name,
            values[brain],
            white_matter=None if white_matter is None else values[white_matter],
            grey_matter=None if grey_matter is None else values[grey_matter],
            stated=(stated or {}).get(name),
        )
        findings.append(finding)
        checked[name] = values if finding.factor == 1.0 else values * finding.factor
    return checked, tuple(findings)


def clamp_maps(
    maps: Mapping[str, Tensor], head: Tensor
) -> tuple[dict[str, Tensor], tuple[ClampFinding, ...]]:
    """Make measured maps fit for simulation: 0 outside the head, inside within what tissue can have.

    PD 0 to 130 p.u., R1 0.1 to 5 /s, R2 0.3 to 500 /s, R2* R2 to 500 /s, MT 0 to 5 p.u. ADC has no limits.

    Args:
        maps: Some of ``MAPS``, in their units, each (X, Y, Z).
        head: bool (X, Y, Z), where there is tissue.

    Returns:
        New maps, and a finding for each map that has limits.

    Raises:
        UnitError: If a map is not finite somewhere in the head, ADC is negative there, or shapes differ.

    Example:
        >>> r1 = torch.tensor([-0.2, 0.7, 9.0]).view(1, 1, 3)
        >>> maps, findings = clamp_maps({"r1": r1}, torch.ones(1, 1, 3, dtype=torch.bool))
        >>> findings[0].raised, findings[0].lowered
        (1, 1)
    """
    clamped: dict[str, Tensor] = {}
    findings = []
    for name in (name for name in MAPS if name in maps):
        values = maps[name]
        if values.shape != head.shape:
            raise UnitError(
                f"{name}: expected the shape {tuple(head.shape)} of the head mask, got {tuple(values.shape)}"
            )
        inside = values[head]
        if missing := int((~torch.isfinite(inside)).sum()):
            raise UnitError(
                f"{name}: {missing} of {inside.numel()} voxels of the head are not finite; leave them out of "
                "the mask or fill them"
            )
        if name == "adc" and (negative := int((inside < 0).sum())):
            raise UnitError(
                f"adc: {negative} of {inside.numel()} voxels of the head are negative, down to "
                f"{float(inside.min()):.3g} mm^2/s; leave them out of the mask or fit the map again"
            )
        if name in _LIMITS:
            low, high = _LIMITS[name]
            floor = clamped["r2"][head] if name == "r2star" and "r2" in clamped else inside.new_tensor(low)
            findings.append(
                ClampFinding(
                    map=name,
                    limits=(low, high),
                    raised=int((inside < floor).sum()),
                    lowered=int((inside > high).sum()),
                    voxels=inside.numel(),
                )
            )
            inside = torch.maximum(inside, floor).clamp_(max=high)
        clamped[name] = torch.zeros_like(values).masked_scatter_(head, inside)
    return clamped, tuple(findings)


def r2_from_r2star(r2star: Tensor, r1: Tensor, *, field_strength: float = 3.0, ratio: float = 0.65) -> Tensor:
    """Estimate R2 where only R2* was measured; an engineering estimate.

    At 3 T ``ratio`` of R2* in tissue and 0.6 /s in fluid, with a smooth step between R1 of 0.30 and 0.45 /s,
    at most 30 /s. At other fields R2* is first brought to 3 T as it grows with the field, and R2 back.

    Args:
        r2star: R2* in 1/s, any shape.
        r1: R1 in 1/s, of a shape that broadcasts with it.
        field_strength: Static field of the maps, T.
        ratio: R2 / R2* of tissue at 3 T; 0.5 to 0.57 in nuclei rich in iron.

    Returns:
        R2 in 1/s.

    Raises:
        UnitError: If the field is not positive or the ratio not in (0, 1].

    Example:
        >>> round(float(r2_from_r2star(torch.tensor(20.0), torch.tensor(0.98))), 3)
        13.0
    """
    if not (math.isfinite(field_strength) and field_strength > 0.0):
        raise UnitError(f"field_strength must be finite and above 0 T, got {field_strength!r}")
    if not 0.0 < ratio <= 1.0:
        raise UnitError(f"ratio of R2 to R2* must be above 0 and at most 1, got {ratio!r}")
    star_growth = (0.26 + 0.247 * field_strength) / (0.26 + 0.247 * 3.0)
    growth = (9.0 + 1.6 * field_strength) / (9.0 + 1.6 * 3.0)
    fluid_growth = (0.8 + 0.067 * field_strength) / (0.8 + 0.067 * 3.0)
    step = ((r1 - 0.30) / 0.15).clamp(0.0, 1.0)
    tissue = step * step * (3.0 - 2.0 * step)
    r2 = (tissue * (ratio / star_growth) * r2star + (1.0 - tissue) * 0.6).clamp(max=30.0)
    return r2 * (tissue * growth + (1.0 - tissue) * fluid_growth)


def _median(values: Tensor | None) -> float | None:
    if values is None:
        return None
    finite = values[torch.isfinite(values)]
    return float(finite.median()) if finite.numel() >= _MINIMUM_VOXELS else None


def _by_median(name: str, median: float) -> UnitFinding | None:
    for unit, factor, low, high in _READINGS[name]:
        if low <= median <= high:
            evidence = f"median in the brain {median:.4g}, as in {unit} ({low:g} to {high:g})"
            return UnitFinding(map=name, unit=unit, factor=factor, evidence=evidence)
    return None


def _calibrate(found: UnitFinding | None, median: float, white: float | None) -> UnitFinding | None:
    """Calibrate PD to white matter where it is not so already."""
    if white is None or white <= 0 or median <= 0:
        return found
    if found is not None and _CALIBRATED_PD[0] <= white * found.factor <= _CALIBRATED_PD[1]:
        return found
    evidence = (
        f"median in white matter {white:.4g}, neither p.u. nor fraction; "
        f"calibrated to {WHITE_MATTER_PD:g} p.u. there"
    )
    return UnitFinding(
        map="proton_density", unit="arbitrary", factor=WHITE_MATTER_PD / white, evidence=evidence
    )


def _check_contrast(name: str, white: float | None, grey: float | None) -> None:
    """Refuse a map whose contrast between white and grey matter is the reverse: a time given for a rate."""
    if white is None or grey is None or name not in {"proton_density", "r1", "mt_saturation"}:
        return
    ratio = white / grey if grey else math.inf
    higher = name != "proton_density"
    if (ratio < 0.95) if higher else (ratio > 1.05):
        raise UnitError(
            f"{name}: its median is {white:.4g} in white and {grey:.4g} in grey matter, expected "
            f"{'more' if higher else 'less'} in white matter; check that the file holds {name} (a T1 map is "
            "no R1 map) and that the segmentation lies on it"
        )


def _check_stated(found: UnitFinding, stated: str | None) -> None:
    if stated is None:
        return
    meant = _SPELLINGS.get(stated.lower().replace(" ", "").replace("µ", "u").replace("μ", "u"))
    if meant is not None and meant != found.unit:
        raise UnitError(
            f"{found.map}: the sidecar states {stated!r}, but the {found.evidence}; correct the sidecar or "
            "the map"
        )
