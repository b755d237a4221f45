"""Diffusion series as scanners store them, made the images that strokes are read on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anystroke.core.volume import Grid, Volume, VolumeError
from anystroke.io.names import image_stem

UNWEIGHTED = 50.0
"""b-values [s/mm2] up to this count as none."""
CLINICAL = 1500.0
"""The highest shell up to this b-value [s/mm2] is taken; a higher one only where there is no other."""
_SHELL = 0.12
_AIR = 0.05
_SMALLEST_ADC, _LARGEST_ADC = 20.0, 4000.0
_SAMPLE = 500_000
# Share of the head in which the signal must decay for ADC to mean something.
_LEAST_DECAY = 0.3


@dataclass(frozen=True)
class DiffusionImages:
    """What a diffusion series shows.

    Attributes:
        images: By name: ``trace`` (geometric mean of the shell), ``b0`` (mean of the volumes without
            weighting) and ``ADC`` [1e-6 mm2/s]; the last two where there are such volumes, ADC where the
            signal decays.
        b_value: Of the shell [s/mm2].
        directions: Number of its volumes.
    """

    images: dict[str, Volume]
    b_value: float
    directions: int


def find_b_values(path: Path) -> Path | None:
    """Find the file of b-values of a diffusion series: beside it, or above it as BIDS lets them be shared.

    Args:
        path: The series.

    Returns:
        The file; None if there is none.

    Example:
        >>> find_b_values(Path("nowhere/dwi.nii.gz"))
    """
    stem = image_stem(path)
    beside = path.with_name(f"{stem}.bval")
    if beside.is_file():
        return beside
    named = set(stem.split("_"))
    folder = path.parent
    for _ in range(4):
        shared = [
            each
            for each in sorted(folder.glob("*dwi.bval"))
            if set(each.name.removesuffix(".bval").split("_")) <= named
        ]
        if shared:
            return max(shared, key=lambda each: each.name.count("_"))
        if folder.parent == folder or (folder / "dataset_description.json").exists():
            return None
        folder = folder.parent
    return None


def read_b_values(path: Path, count: int) -> Tensor:
    """Read b-values.

    Args:
        path: The file, as dcm2niix and FSL write it: numbers in a row or a column.
        count: How many there must be.

    Returns:
        float64 (count,) [s/mm2].

    Raises:
        VolumeError: The file holds something else.

    Example:
        >>> read_b_values(Path("sub-01_dwi.bval"), 7)[0]  # doctest: +SKIP
        tensor(0., dtype=torch.float64)
    """
    try:
        values = [float(word) for word in path.read_text(encoding="utf-8-sig").replace(",", " ").split()]
    except (OSError, ValueError) as error:
        raise VolumeError(f"{path} holds no b-values ({error}); convert the series again") from error
    found = torch.tensor(values, dtype=torch.float64)
    if len(values) != count or not bool(torch.isfinite(found).all()) or bool((found < 0).any()):
        raise VolumeError(
            f"{path} holds {len(values)} b-values, expected {count} that are 0 or more, one for each "
            "volume of the series; convert it again"
        )
    return found


def split_diffusion(series: Volume, b_values: Tensor) -> DiffusionImages:
    """Make the images that strokes are read on of a diffusion series.

    The trace image is the geometric mean over the directions of the highest shell: of a tensor's signals it
    has the mean diffusivity's decay where the directions are spread evenly. ADC = ln(b0 / trace) / b.

    Args:
        series: One channel a volume.
        b_values: (channels,) [s/mm2].

    Returns:
        The images, float32.

    Raises:
        VolumeError: No volume is diffusion-weighted.

    Example:
        >>> signal = torch.tensor([1000.0, 1000.0 * 2.718281828**-0.8]).view(2, 1, 1, 1).expand(2, 4, 4, 4)
        >>> found = split_diffusion(Volume(signal, torch.eye(4)), torch.tensor([0.0, 1000.0]))
        >>> round(float(found.images["ADC"].data.mean()))
        800
    """
    data = torch.where(torch.isfinite(series.data), series.data, 0.0).clamp(min=0).double()
    weighted = b_values > UNWEIGHTED
    if not bool(weighted.any()):
        raise VolumeError("no volume is diffusion-weighted, expected b-values above 50 s/mm2")
    usual = b_values[weighted & (b_values <= CLINICAL)]
    highest = float(usual.max() if len(usual) else b_values[weighted].min())
    shell = weighted & ((b_values - highest).abs() <= _SHELL * highest)
    b_value = float(b_values[shell].mean())
    floor = max(1e-3 * float(data[shell].amax()), 1e-12)
    trace = data[shell].clamp(min=floor).log().mean(dim=0, keepdim=True).exp()
    trace = torch.where((data[shell] > 0).any(dim=0, keepdim=True), trace, 0.0)
    images = {"trace": trace}
    if not bool(weighted.all()):
        unweighted = data[~weighted].mean(dim=0, keepdim=True)
        sample = unweighted.flatten()[:: 1 + unweighted.numel() // _SAMPLE]
        inside = unweighted > _AIR * torch.quantile(sample, 0.99)
        decay = torch.log(unweighted.clamp(min=floor) / trace.clamp(min=floor)) / b_value * 1e6
        diffusivity = torch.where(inside, decay.clamp(0, _LARGEST_ADC), 0.0)
        images["b0"] = unweighted
        if float((diffusivity > _SMALLEST_ADC).double().mean()) > _LEAST_DECAY * float(
            inside.double().mean()
        ):
            images["ADC"] = diffusivity
    made = {name: Volume(image.float(), series.affine, series.space_code) for name, image in images.items()}
    return DiffusionImages(made, b_value, int(shell.sum()))


def write_diffusion_images(
    path: Path, b_values: Path, folder: Path, *, title: str
) -> tuple[dict[str, Path], str]:
    """Split a series in files.

    Args:
        path: The series.
        b_values: Its b-values.
        folder: Where to write; made if missing. The files are called like the series, with ``trace``, ``b0``
            and ``ADC`` instead of ``dwi``.
        title: How to call the series.

    Returns:
        The files by what they show, and a sentence on how they were made.

    Raises:
        VolumeError: The series or the b-values cannot be used.
    """
    count = Grid.of_file(path).count
    numbers = read_b_values(b_values, count)
    series = Volume.load(path, channels=None)
    try:
        found = split_diffusion(series, numbers)
    except VolumeError as error:
        raise VolumeError(f"{title}: {error}; check {b_values}") from error
    folder.mkdir(parents=True, exist_ok=True)
    stem = image_stem(path)
    begin = stem.removesuffix("_dwi") if stem != "dwi" else stem
    files = {}
    for name, image in found.images.items():
        files[name] = folder / f"{begin}_{name}.nii.gz"
        image.save(files[name], overwrite=True)
    shown = np.unique(np.round(numbers.numpy(), -1)).astype(int).tolist()
    words = (
        f"{title} is a diffusion series of {count} volumes (b = {', '.join(map(str, shown[:6]))} s/mm2): "
        f"{', '.join(files)} are segmented, the trace of {found.directions} at b = {found.b_value:.0f} s/mm2"
    )
    return files, words
