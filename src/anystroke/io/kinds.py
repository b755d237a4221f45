"""Tell scans from phase images, label maps, probability maps and quantitative maps."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from anystroke.core.volume import Volume
from anystroke.io.names import Name, image_stem
from anystroke.io.results import read_facts

_LABELS = (
    *("dseg", "mask", "roi", "msk", "seg", "segmentation", "label", "labels", "lesion", "lesions", "aseg"),
    *("aparc", "wmparc", "ribbon", "parcellation", "atlas", "lesionmask", "groundtruth", "gt", "pveseg"),
)
_PROBABILITIES = ("probseg", "prob", "probability", "probmap", "pve", "probtissue", "spread")
_PARTS = {
    **dict.fromkeys(("phase", "phasemap", "ph", "pha", "phase1", "phase2", "phasediff"), "a phase image"),
    **dict.fromkeys(("real", "re"), "the real part of an image"),
    **dict.fromkeys(("imag", "imaginary", "im"), "the imaginary part of an image"),
}
# Names of BIDS, and of what is computed of diffusion and perfusion.
_MAPS = (
    *("T1map", "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "PDmap", "MTRmap", "MTsat", "MTVmap"),
    *(
        "M0map",
        "S0map",
        "MWFmap",
        "Chimap",
        "QSM",
        "TB1map",
        "RB1map",
        "B1map",
        "B0map",
        "fieldmap",
        "PDT2map",
    ),
    *("FA", "MD", "AD", "RD", "FAmap", "MDmap", "colFA", "CBF", "CBV", "rCBF", "rCBV", "MTT", "TTP", "Tmax"),
    *("qT1", "qT2", "qR1", "qR2", "qPD", "T1q", "T2q", "MTR", "R1", "R2", "R2s", "R2star", "PDq"),
)
_FUNCTIONAL = ("bold", "sbref", "cbv", "asl", "m0scan", "epi", "pet", "perf", "meg", "eeg", "func")
_SAMPLE = 200_000
# Share of a label map's voxels that have a neighbour's value; in scans noise makes neighbours differ.
_FLAT = 0.55
_MOST_NUMBERS = 3000
_BLOCK = 96
_FIRST = 1e-3
_HALF_TURN = (3.05, 3.15)
_PROBABILITY_MAP = "it is a map of probabilities: its values go from 0 to 1, most are 0 or 1"
# Shares of voxels, as found in blurred and partial-volume label maps, mixtures of Gaussians and networks'
# posteriors on the one hand, in simulated and real scans cut off by 5 to 40 % on the other.
_SMALLEST_HEAD = 0.03
_LEAST_ZEROS = 0.05
_CERTAIN = 1 - 10 * _FIRST
_CUT_OFF = 0.15
_TAIL, _EMPTY_MIDDLE = 0.1, 0.05
# Least median difference of neighbours where tissues end within one voxel; in scans of 1 to 4 mm below 0.9.
_STEEP = 0.95


def reason_by_name(path: Path, sidecar: Mapping[str, Any] | None = None) -> str | None:
    """Say why a file is no scan to segment, if its name or its sidecar tells.

    Args:
        path: The image file; it need not exist.
        sidecar: Content of the JSON file beside it.

    Returns:
        The end of a sentence such as "it is a phase image"; None for what may be a scan.

    Example:
        >>> reason_by_name(Path("sub-01_part-phase_T2starw.nii.gz"))
        'it is a phase image'
        >>> reason_by_name(Path("sub-01_T2w.nii.gz"))
    """
    stem = image_stem(path)
    entities = dict(part.split("-", 1) for part in stem.split("_") if part.count("-") == 1)
    words = [word for word in re.split(r"[_\s.]+|(?<=\D)-", stem) if word]
    last = words[-1] if words else ""
    part = entities.get("part", "").casefold()
    if part in ("phase", "real", "imag"):
        return f"it is {_PARTS[part]}"
    if found := _PARTS.get(last.casefold()) if len(words) > 1 else None:
        return f"it is {found}"
    if "label" in entities or last.casefold() in _LABELS or re.search(r"aparc|\baseg\b", stem):
        return "it is a mask or a label map"
    if last.casefold() in _PROBABILITIES or re.search(r"_pve_\d$", stem):
        return "it is a map of probabilities"
    if last in _MAPS or (re.search(r"[a-z0-9]map$", last, re.IGNORECASE) and last.casefold() != "adcmap"):
        return "it is a quantitative map"
    if last.casefold() in _FUNCTIONAL and last.casefold() == last:
        return f"it is no structural scan ({last})"
    return _by_sidecar(sidecar or {})


def sidecar_of(path: Path) -> dict[str, Any]:
    """Read the JSON file beside an image; empty if there is none that can be read.

    Args:
        path: The image.

    Example:
        >>> sidecar_of(Path("nowhere.nii"))
        {}
    """
    return read_facts(Name.parse(path).sidecar)


def reason_by_voxels(scan: Volume) -> str | None:
    """Say why voxels are those of no scan, if that is certain.

    Args:
        scan: One channel.

    Returns:
        The end of a sentence; None for what may be a scan.

    Example:
        >>> reason_by_voxels(Volume(torch.rand(1, 40, 40, 40), torch.eye(4)))
        >>> blocks = torch.arange(8).repeat_interleave(5).view(-1, 1, 1).expand(40, 40, 40)
        >>> reason_by_voxels(Volume((100 * blocks + blocks.movedim(0, 2) * 7).float()[None], torch.eye(4)))
        'it is a label map: whole numbers in flat regions'
    """
    data = scan.data[0]
    sample = data.flatten()[:: 1 + data.numel() // _SAMPLE]
    sample = sample[torch.isfinite(sample)]
    if sample.numel() == 0:
        return None
    low, high = (float(v) for v in sample.aminmax())
    if not high > low:
        return None
    if bool((sample == sample.round()).all()) and high > 1:
        return _labels(data)
    if low >= -_FIRST and 0.2 < high <= 1 + _FIRST:
        return _probabilities(data, sample)
    whole_turn = all(_HALF_TURN[0] < end < _HALF_TURN[1] for end in (-low, high))
    return "it is a phase image: its values go from -pi to pi" if whole_turn else None


def _by_sidecar(sidecar: Mapping[str, Any]) -> str | None:
    kinds = sidecar.get("ImageType", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    component = str(sidecar.get("ComplexImageComponent", "")).upper()
    return reason_by_image_type([*map(str, kinds), component] if component else list(map(str, kinds)))


def reason_by_image_type(values: list[str]) -> str | None:
    """Say why an image is no scan, if DICOM's ImageType tells.

    Example:
        >>> reason_by_image_type(["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"])
        'it is a phase image'
    """
    kinds = {value.upper() for value in values}
    if kinds & {"P", "PHASE", "PHASE MAP", "PHASEMAP"} and not kinds & {"M", "MAGNITUDE", "MIXED"}:
        return "it is a phase image"
    if kinds & {"R", "REAL", "R_FFE", "R_IR", "R_SE"} and not kinds & {"M", "MAGNITUDE", "MIXED"}:
        return "it is the real part of an image"
    if kinds & {"I", "IMAGINARY", "I_FFE", "I_IR", "I_SE"} and not kinds & {"M", "MAGNITUDE", "MIXED"}:
        return "it is the imaginary part of an image"
    if kinds & {"T1 MAP", "T2 MAP", "T2_STAR MAP", "T2STAR MAP", "R1 MAP", "R2 MAP", "R2_STAR MAP", "PD MAP"}:
        return "it is a quantitative map"
    return None


def _labels(data: Tensor) -> str | None:
    """Tell a label map by its flat regions."""
    starts = [max(0, n // 2 - _BLOCK // 2) for n in data.shape]
    middle = data[tuple(slice(start, start + _BLOCK) for start in starts)]
    if min(middle.shape) < 3 or torch.unique(middle.flatten()[::7]).numel() > _MOST_NUMBERS:
        return None
    for axis in range(3):
        first, second = (middle.narrow(axis, start, middle.shape[axis] - 1) for start in (1, 0))
        inside = first != data[0, 0, 0]
        if int(inside.sum()) < 100 or float((first == second)[inside].float().mean()) < _FLAT:
            return None
    return "it is a label map: whole numbers in flat regions"


def _probabilities(data: Tensor, sample: Tensor) -> str | None:
    """Tell a map of probabilities from a scan that was scaled to 1 and cut off there.

    Where tissues end, a map falls to 0 through all values and leaves many close to it, or within one voxel.
    Of a scan, what was not cut off has the grey values of tissues; air that is not 0 is that of a scan.
    """
    if bool(((sample == 0) | (sample == 1)).all()):
        return "it is a mask of zeros and ones"
    above = sample[sample > _FIRST]
    if above.numel() < _SMALLEST_HEAD * sample.numel():
        return _PROBABILITY_MAP
    certain = float((above > _CERTAIN).float().mean())
    between = above[above <= _CERTAIN]
    if above.numel() > (1 - _LEAST_ZEROS) * sample.numel() or certain <= _CUT_OFF or not between.numel():
        return None
    low, third, two = (float((between < value).float().mean()) for value in (0.05, 1 / 3, 2 / 3))
    is_map = low >= _TAIL or two - third < _EMPTY_MIDDLE or _step(data) > _STEEP
    return _PROBABILITY_MAP if is_map else None


def _step(data: Tensor) -> float:
    """Return by how much values differ around voxels that are neither near 0 nor near 1: their median."""
    starts = [max(0, n // 2 - _BLOCK // 2) for n in data.shape]
    middle = data[tuple(slice(start, start + _BLOCK) for start in starts)]
    padded = middle[None, None]
    spread = max_pool3d(padded, 3, 1, 1) + max_pool3d(-padded, 3, 1, 1)
    uncertain = spread[0, 0][(middle > 0.05) & (middle < 0.95)]
    return float(uncertain.median()) if uncertain.numel() else 1.0
