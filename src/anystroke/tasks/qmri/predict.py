"""Estimate quantitative maps from a T1w MPRAGE: the function behind ``anystroke.estimate_qmri``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool3d

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.presets.preset import load_preset
from anystroke.acquisition.sequences.mprage import Mprage
from anystroke.core.errors import OptionError
from anystroke.core.fields import legendre_matrix
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.io.formats import as_volume
from anystroke.models.checkpoints import TrainedNetwork, open_network
from anystroke.models.model_space import check_scan, from_zero, normalise_intensity, to_model_space
from anystroke.models.passes import ALL_FLIPS, Processing, average_output, best_device
from anystroke.qmri.estimated_maps import MAP_OUTPUTS, activate, along_curve, same_field
from anystroke.qmri.units_check import r2_from_r2star
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment
from anystroke.tasks.segmentation.trust import reasons_not_to_trust

NEEDED_TISSUES = ("white_matter", "grey_matter", "csf")
"""Tissues of the segmentation in the order of their brightness in an MPRAGE."""

TYPICAL = "typical"
"""Preset with one protocol for each contrast."""

LEAST_PD = 20.0
"""Proton density below which a voxel is air or compact bone, which gives no signal either, p.u."""

_FIELD_DEGREE = 3
_MOST_SAMPLES = 200_000
_R1_SD, _PD_SD, _NOISE = 0.06, 0.04, 0.02
_REFINEMENTS = 4
_LARGEST_CHANGE = 3.0
_WINDOW = 5
# Contrast, of the brightest tissue, under which a neighbourhood tells no slope.
_FLAT = 0.02


class Estimator(TrainedNetwork[EstimatorConfig]):
    """A network that estimates maps, ready for use: (B, 1, X, Y, Z) to (B, K, X, Y, Z) before activation."""

    @classmethod
    def open(cls, name: str | Path = "estimator") -> "Estimator":
        """Load a shipped estimator by its name, or one from a folder.

        Raises:
            CheckpointError: There is no such estimator, or it is damaged.
        """
        found = open_network(name, EstimatorConfig)
        return cls(found.network, found.config, found.sha256)


@dataclass(frozen=True, eq=False)
class QmriEstimate:
    """Quantitative maps of one scan, in the scan's own grid.

    Attributes:
        scan: The scan.
        maps: Map -> its values, float32, 0 in air; p.u. and 1/s.
        brain: Brain mask, uint8, the lesion included.
        field_strength: Static field that the rates belong to, T.
        protocol: What the scan was simulated again with.
        resimulated: The scan simulated again from the maps; where the scan has negative intensities, without
            their offset.
        correlation: Of scan and simulation within the brain, after gain and bias field.
        refined: Whether the maps were adjusted to the protocol of the scan.
        warnings: What should be known before the maps are used, a sentence each.
        model: Name of the estimator.
        model_version: Its version.
        model_sha256: SHA-256 of its weights.
        flips: Mirror images that were averaged.
    """

    scan: Volume
    maps: dict[str, Volume]
    brain: Volume
    field_strength: float
    protocol: Protocol
    resimulated: Volume
    correlation: float
    refined: bool
    warnings: tuple[str, ...]
    model: str
    model_version: str
    model_sha256: str
    flips: int

    def simulate(self, protocol: Protocol) -> Volume:
        """Make the image that a protocol gives of the maps.

        Args:
            protocol: Any that the maps suffice for; R2 is estimated from R2* and R1 where it is not there.

        Raises:
            ValueError: If the protocol needs another map.
        """
        maps = {name: volume.data[0] for name, volume in self.maps.items()}
        return replace(self.scan, data=_play(protocol, maps, self.field_strength)[None])


@torch.inference_mode()
def estimate_qmri(
    image: str | Path | Volume | Any,
    model: str | Path | Estimator = "estimator",
    *,
    flips: bool = False,
    refine: bool = False,
    protocol: Protocol | None = None,
    segmentation: str | Path | Model | Segmentation = "default",
    device: torch.device | str | None = None,
) -> QmriEstimate:
    """Estimate PD, R1, R2* and MT maps from a T1w MPRAGE, with or without the skull.

    Research use only: this is not a medical device. One scan does not hold four maps; what it does not tell
    is what the training said of tissue that looks like it.

    Args:
        image: Path of a NIfTI, MGH, NRRD or MetaImage file, a `Volume`, or a nibabel image.
        model: Name of a shipped estimator, a model folder, or an opened `Estimator`.
        flips: Average over all eight mirror images, before the activation; takes eight times as long.
        refine: Adjust R1 and PD within their uncertainty until the simulated scan matches this one.
        protocol: What the scan was made with; a typical MPRAGE if None.
        segmentation: What finds the brain: a model, or the result of `segment` for this very scan.
        device: Where to compute; by default a GPU if there is one.

    Returns:
        Maps, brain mask and the scan simulated again, in the grid of ``image``.

    Raises:
        VolumeError: The image cannot be used; the message says why and what to do.
        CheckpointError: A model cannot be loaded.
        ValueError: ``refine`` without the protocol of the scan, or one that is no MPRAGE or of another field
            than the maps.
    """
    if refine and not isinstance(protocol, Mprage):
        what = "none was given" if protocol is None else f"it is a {protocol.sequence}"
        raise ValueError(f"refining needs the MPRAGE protocol of the scan, but {what}; give its sidecar")
    opened = model if isinstance(model, Estimator) else Estimator.open(model)
    field = opened.config.field_strength or (protocol.field_strength if protocol else 3.0)
    other_field = ""
    if protocol is not None and not same_field(protocol.field_strength, field):
        other_field = f"the scan was made at {protocol.field_strength:g} T and the maps belong to {field:g} T"
    if refine and other_field:
        raise ValueError(f"{other_field}: refining would put the difference into the maps; leave it out")
    scan = as_volume(image)
    check_scan(scan)
    found = (
        segmentation
        if isinstance(segmentation, Segmentation)
        else segment(scan, segmentation, tissues=NEEDED_TISSUES, device=device)
    )
    native = estimate_maps(scan, opened, flips=flips, device=device)
    brain = brain_on_scan(found)
    if opened.config.brain_only:
        native = {name: replace(values, data=values.data * brain.data) for name, values in native.items()}
    warnings = contrast_warnings(scan, found) + reasons_not_to_trust(
        scan=scan, volume_ml=found.lesion_volume, interval=None, brain=found.brain
    )
    if other_field:
        warnings += (f"{other_field}: the scan is simulated again from tissue of that field",)
    played = protocol or load_preset(TYPICAL).sample(stream(0), weighting="T1w")
    maps = {name: volume.data[0] for name, volume in native.items()}
    shown = from_zero(scan).data[0]
    if refine:
        maps = refine_maps(shown, maps, brain.data[0] > 0, played)
        native = {name: replace(values, data=maps[name][None]) for name, values in native.items()}
    simulated = _play(played, maps, field)
    matched, correlation = match_bias(simulated, shown, brain.data[0] > 0)
    return QmriEstimate(
        scan=scan,
        maps=native,
        brain=brain,
        field_strength=field,
        protocol=played,
        resimulated=replace(scan, data=matched[None]),
        correlation=correlation,
        refined=refine,
        warnings=warnings,
        model=opened.config.name,
        model_version=opened.config.version,
        model_sha256=opened.sha256,
        flips=len(ALL_FLIPS) if flips else 1,
    )


@torch.inference_mode()
def estimate_maps(
    scan: Volume, opened: Estimator, *, flips: bool = False, device: torch.device | str | None = None
) -> dict[str, Volume]:
    """Estimate maps, without brain mask or simulation.

    What the scan's grid shows beyond the network's comes from the scan: within a few voxels a map is close to
    a linear function of the scan, whose slope is fitted on the network's grid and applied to the difference
    of both grids. At last the calibration's curves are applied; else the network's maps stay as they are.

    Args:
        scan: One channel that `check_scan` accepts.
        opened: The estimator.
        flips: Average over all eight mirror images, before the activation.
        device: Where to compute; by default a GPU if there is one.

    Returns:
        Map -> its values on the grid of ``scan``, float32, 0 in air and compact bone.

    Source:
        The local linear model is that of K. He and J. Sun, Fast guided filter, arXiv:1505.00996.
    """
    config = opened.config
    space = to_model_space(scan, spacing=config.spacing, divisor=config.divisor, normalise=None)
    output, _ = average_output(
        normalise_intensity(space.image, config.normalisation),
        opened.network,
        lambda x: x,
        divisor=config.divisor,
        processing=Processing(flips=ALL_FLIPS if flips else ((),)),
        device=best_device(device),
    )
    values = activate(output[None], config.maps)[0]
    if "proton_density" in config.maps:
        values[:, values[config.maps.index("proton_density")] < LEAST_PD] = 0
    fine = from_zero(scan).data
    # Beyond a stripped skull or the field of view a scan is exactly zero, and so are its maps.
    seen = torch.from_numpy(ndimage.binary_fill_holes((fine[0] > 0).numpy()))[None]
    beyond = fine - space.to_native(space.image).data
    found = {}
    for name, coarse in zip(config.maps, values, strict=True):
        base = space.to_native(coarse[None])
        slope = space.to_native(_slope(coarse, space.image[0])[None])
        detailed = (base.data + slope.data * beyond).clamp(0.0, MAP_OUTPUTS[name].ceiling)
        detailed = along_curve(detailed, config.curves.get(name, ()))
        found[name] = replace(base, data=torch.where((base.data > 0) & seen, detailed, 0.0))
    return found


def _slope(values: Tensor, image: Tensor) -> Tensor:
    """Fit a map as a linear function of an image around each voxel; both (X, Y, Z)."""

    def mean(volume: Tensor) -> Tensor:
        return avg_pool3d(volume[None], _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)[0]

    bright = image.flatten().kthvalue(1 + round(0.99 * (image.numel() - 1))).values
    middle, level = mean(image), mean(values)
    covariance = mean(image * values) - middle * level
    variance = mean(image.square()) - middle.square()
    return mean(covariance / (variance + (_FLAT * bright) ** 2))


def _play(protocol: Protocol, maps: dict[str, Tensor], field_strength: float) -> Tensor:
    named = dict(maps)
    if "r2" in protocol.needs and "r2" not in named and {"r1", "r2star"} <= set(named):
        named["r2"] = r2_from_r2star(named["r2star"], named["r1"], field_strength=field_strength)
    image = protocol.signal(named)
    return torch.where(named["proton_density"] > 0, image, 0.0)


def brain_on_scan(found: Segmentation) -> Volume:
    """Return the brain with the lesion, uint8, on the grid of the scan: one piece without holes.

    Args:
        found: Of a model that tells the brain.

    Raises:
        ValueError: If the model does not, or found none.
    """
    if found.brain is None:
        raise ValueError(
            f"the model {found.model.config.name} does not tell the brain; segment with one that does"
        )
    grid = found.scan
    whole = found.brain
    inside = whole.reorient("RAS")
    smooth = Volume(inside.data.float(), inside.affine)
    on_scan = smooth.resample_to(grid.affine, grid.shape).data[0] >= 0.5
    joined = (on_scan | (found.mask.data[0] > 0)).numpy()
    parts, count = ndimage.label(joined)
    if not count:
        raise ValueError("no brain was found in the scan; give a T1w scan of a head")
    sizes = ndimage.sum_labels(joined, parts, range(1, count + 1))
    filled = ndimage.binary_fill_holes(parts == 1 + int(sizes.argmax()))
    return replace(grid, data=torch.from_numpy(filled)[None].to(torch.uint8))


def contrast_warnings(scan: Volume, found: Segmentation) -> tuple[str, ...]:
    """Say whether the order of the tissues' brightness is that of an MPRAGE.

    Args:
        scan: The scan.
        found: Its segmentation with the tissues.

    Returns:
        A sentence if it is not, or if a tissue was not found.
    """
    levels = {}
    for name in NEEDED_TISSUES:
        inside = found.tissues[name].data[0] > 0.8 if name in found.tissues else torch.zeros(1).bool()
        if int(inside.sum()) >= 50:
            levels[name] = float(scan.data[0][inside].median())
    words = [name.replace("_", " ") for name in NEEDED_TISSUES]
    if len(levels) < len(NEEDED_TISSUES):
        missing = [word for name, word in zip(NEEDED_TISSUES, words, strict=True) if name not in levels]
        return (f"too little {' and '.join(missing)} was found to tell whether the scan is a T1w MPRAGE",)
    ordered = [levels[name] for name in NEEDED_TISSUES]
    if ordered[0] > ordered[1] > ordered[2]:
        return ()
    listed = ", ".join(f"{word} {level:.4g}" for word, level in zip(words, ordered, strict=True))
    return (
        f"this is no T1w MPRAGE: expected white matter brighter than grey matter and that brighter than CSF, "
        f"got {listed}; the maps mean nothing",
    )


def match_bias(simulated: Tensor, scan: Tensor, brain: Tensor) -> tuple[Tensor, float]:
    """Bring a simulated scan to the gain and bias field of a real one.

    The factor is a polynomial of third degree in space, fitted by least squares in the brain.

    Args:
        simulated: (X, Y, Z).
        scan: Likewise.
        brain: (X, Y, Z) bool.

    Returns:
        The simulated scan times the factor, and its correlation with the scan within the brain; NaN where one
        of them is constant, and the factor 0 where nothing was simulated in the brain.

    Example:
        >>> simulated = torch.rand(8, 8, 8) + 1
        >>> ramp = torch.linspace(1, 3, 8).view(-1, 1, 1)
        >>> round(match_bias(simulated, simulated * ramp, torch.ones(8, 8, 8, dtype=torch.bool))[1], 4)
        1.0
    """
    coefficients, axes = _fit_field(simulated, scan, brain)
    factor = torch.einsum("abc,xa,yb,zc->xyz", coefficients, *axes)
    matched = simulated * factor
    a, b = matched[brain].double(), scan[brain].double()
    a, b = a - a.mean(), b - b.mean()
    spread = float(a.norm() * b.norm())
    return matched, float((a @ b) / spread) if spread > 0 else float("nan")


def _fit_field(simulated: Tensor, scan: Tensor, brain: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return coefficients (4, 4, 4) of products of Legendre polynomials, and these along each axis."""
    axes = [legendre_matrix(n, _FIELD_DEGREE + 1) for n in simulated.shape]
    degrees = [
        (a, b, c)
        for a in range(_FIELD_DEGREE + 1)
        for b in range(_FIELD_DEGREE + 1 - a)
        for c in range(_FIELD_DEGREE + 1 - a - b)
    ]
    places = torch.nonzero(brain)
    places = places[:: 1 + len(places) // _MOST_SAMPLES]
    x, y, z = places.unbind(1)
    level = simulated[x, y, z].double()
    columns = [axes[0][x, a].double() * axes[1][y, b] * axes[2][z, c] * level for a, b, c in degrees]
    matrix = torch.stack(columns, dim=1)
    normal = matrix.T @ matrix
    ridge = 1e-6 * normal.diagonal().mean() * torch.eye(len(degrees), dtype=torch.float64)
    if not bool(ridge.any()):
        return torch.zeros((_FIELD_DEGREE + 1,) * 3), axes
    solved = torch.linalg.solve(normal + ridge, matrix.T @ scan[x, y, z].double())
    coefficients = torch.zeros((_FIELD_DEGREE + 1,) * 3)
    for value, degree in zip(solved.tolist(), degrees, strict=True):
        coefficients[degree] = value
    return coefficients, axes


def refine_maps(
    scan: Tensor, maps: dict[str, Tensor], brain: Tensor, protocol: Protocol
) -> dict[str, Tensor]:
    """Adjust R1 and PD within their uncertainty until their simulated scan matches a real one.

    Gain and bias field are fitted in turn with the maps. In each voxel of the brain the logarithms of R1 and
    PD move to the maximum of their posterior: normal around the estimate with SD of 6 and 4 %, noise of 2 %
    of the signal, the protocol linearised; by three SD at most.

    Args:
        scan: (X, Y, Z), any unit.
        maps: Among them ``proton_density``, ``r1`` and what the protocol needs.
        brain: (X, Y, Z) bool; elsewhere the maps stay.
        protocol: Of the scan.

    Returns:
        The maps; those other than R1 and PD are as they were.

    Raises:
        ValueError: If scan and maps have no voxel of the brain in common.
    """
    refined = {name: values.clone() for name, values in maps.items()}
    inside = brain & (maps["proton_density"] > 0) & (scan > 0)
    if not bool(inside.any()):
        raise ValueError("the maps cannot be refined: none of the brain has both signal and a map")
    start = {name: values[inside] for name, values in maps.items()}
    moved = torch.zeros_like(start["r1"]), torch.zeros_like(start["r1"])
    for _ in range(_REFINEMENTS):
        now = dict(start)
        now["r1"] = start["r1"] * moved[0].exp()
        now["proton_density"] = start["proton_density"] * moved[1].exp()
        signal = protocol.signal(now).clamp(min=1e-6)
        faster = protocol.signal({**now, "r1": now["r1"] * 1.01}).clamp(min=1e-6)
        slope = (faster / signal).log() / 0.01
        whole = torch.zeros_like(scan)
        whole[inside] = signal
        matched, _ = match_bias(whole, scan, inside)
        misfit = (scan[inside] / matched[inside].clamp(min=1e-6)).log()
        # Distance from the estimate that explains the scan best, of a scalar observation of two unknowns.
        misfit = misfit + slope * moved[0] + moved[1]
        gain = misfit / (slope.square() * _R1_SD**2 + _PD_SD**2 + _NOISE**2)
        limits = _LARGEST_CHANGE * _R1_SD, _LARGEST_CHANGE * _PD_SD
        moved = (
            (_R1_SD**2 * slope * gain).clamp(-limits[0], limits[0]),
            (_PD_SD**2 * gain).clamp(-limits[1], limits[1]),
        )
    refined["r1"][inside] = start["r1"] * moved[0].exp()
    refined["proton_density"][inside] = start["proton_density"] * moved[1].exp()
    return refined


def named_protocols(names: Sequence[str]) -> list[Protocol]:
    """Return a typical 3 T protocol for each contrast.

    Args:
        names: Such as ``"FLAIR"`` or ``"t2w"``.

    Raises:
        ValueError: If there is no typical protocol of that contrast.

    Example:
        >>> [protocol.weighting for protocol in named_protocols(["flair", "T2w"])]
        ['FLAIR', 'T2w']
    """
    preset = load_preset(TYPICAL)
    known = {weighting.lower(): weighting for weighting in preset.weightings}
    chosen = []
    for name in names:
        if name.lower() not in known:
            raise OptionError(f"expected a contrast among {', '.join(known.values())}, got {name!r}")
        chosen.append(preset.sample(stream(0), weighting=known[name.lower()]))
    return chosen
