"""What this installation can do, and what is wrong with it."""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from anystroke.models.checkpoints import (
    CheckpointError,
    find_model,
    open_network,
    parameter_count,
    shipped_models,
)
from anystroke.models.passes import fast_bfloat16
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.segmentation.config import SegmentationConfig

_PACKAGES = ("torch", "monai", "nibabel", "nilearn", "numpy", "scipy", "SimpleITK", "safetensors", "pydantic")
_DICOM = ("pydicom", "dcm2niix")
# A whole head through the shipped network takes about this much.
_NEEDED_GIB = 2.5
_NEEDED_DISK_MB = 200.0


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        text: What was found.
        good: False if something has to be done about it.
    """

    text: str
    good: bool = True


def examine(folder: Path) -> Iterator[Finding]:
    """Look at versions, processors, memory, models, DICOM, and the output and temporary folders.

    Args:
        folder: Where results are to be written.

    Yields:
        The findings.

    Example:
        >>> next(examine(Path("."))).text.split()[0]
        'anystroke'
    """
    yield Finding(
        f"anystroke {version('anystroke')}, Python {platform.python_version()}, {platform.platform()}"
    )
    for name in _PACKAGES:
        try:
            yield Finding(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(f"{name} is missing; install it with pip", good=False)
    yield from _dicom()
    yield from _processors()
    yield from _models()
    yield _writable("output", folder, "name another folder")
    yield _space(folder)
    yield _writable("temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder that can")


def _dicom() -> Iterator[Finding]:
    for name in _DICOM:
        if find_spec(name) is None:
            yield Finding(f"DICOM folders cannot be read: {name} is missing; install it with pip", good=False)
            return
    import dcm2niix

    try:
        done = subprocess.run(
            [dcm2niix.bin, "--version"], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(f"DICOM folders cannot be read: dcm2niix does not run ({error})", good=False)
        return
    words = (done.stdout + done.stderr).split()
    name = next((word for word in words if word.startswith("v1.")), "of an unknown version")
    yield Finding(f"DICOM folders can be read: dcm2niix {name}, pydicom {version('pydicom')}")


def _processors() -> Iterator[Finding]:
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(f"processor: {os.cpu_count()} cores, {torch.get_num_threads()} threads used, {capability}")
    precision = "bfloat16" if fast_bfloat16(torch.device("cpu")) else "float32 (no AMX)"
    yield Finding(f"training on the processor computes in {precision}")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        if memory < _NEEDED_GIB:
            yield Finding(f"memory: {memory:.1f} GiB, a scan needs {_NEEDED_GIB:g} GiB; use more", good=False)
        else:
            yield Finding(f"memory: {memory:.1f} GiB")
    if torch.cuda.is_available():
        yield Finding(f"GPU: {torch.cuda.get_device_name()}")
    elif torch.backends.mps.is_available():
        yield Finding("GPU: Apple; it computes in float32")
    elif torch.version.cuda and Path("/proc/driver/nvidia/version").exists():
        yield Finding(
            "GPU: there is an NVIDIA driver, but PyTorch does not see it; compare their CUDA versions",
            good=False,
        )
    else:
        yield Finding("GPU: none; the processor is used")


def _models() -> Iterator[Finding]:
    for name in shipped_models("qmri"):
        try:
            estimator = open_network(name, EstimatorConfig).config
        except CheckpointError as error:
            yield Finding(f"model {name}: {error}", good=False)
            continue
        maps = ", ".join(estimator.maps)
        yield Finding(f"model {name}: version {estimator.version}, makes {maps}, {find_model(name)}")
    names = shipped_models()
    if not names:
        yield Finding("models: none comes with this installation; install the package again", good=False)
    for name in names:
        try:
            model = open_network(name, SegmentationConfig)
        except CheckpointError as error:
            yield Finding(f"model {name}: {error}", good=False)
            continue
        millions = parameter_count(model.network.requires_grad_()) / 1e6
        where = find_model(name)
        yield Finding(f"model {name}: version {model.config.version}, {millions:.1f} M parameters, {where}")
        yield _computes(name, model.network, model.config)


@torch.inference_mode()
def _computes(name: str, network: torch.nn.Module, config: SegmentationConfig) -> Finding:
    """Put a small image through a network."""
    side = 2 * config.divisor
    logits = network(torch.rand(1, 1, side, side, side, generator=torch.Generator().manual_seed(1)))
    if tuple(logits.shape) != (1, len(config.classes), side, side, side):
        return Finding(
            f"model {name}: gives {tuple(logits.shape)} for a small image; copy it again", good=False
        )
    if not bool(torch.isfinite(logits).all()):
        return Finding(f"model {name}: gives numbers that are not finite; copy it again", good=False)
    return Finding(f"model {name}: computes")


def _space(folder: Path) -> Finding:
    """Look at the room on the disk of a folder, or of the nearest folder above it that exists."""
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path())
    free = shutil.disk_usage(place).free / 2**20
    if free < _NEEDED_DISK_MB:
        return Finding(
            f"disk: {free:.0f} MB free, a scan needs up to {_NEEDED_DISK_MB:.0f} MB; make room", False
        )
    return Finding(f"disk: {free / 1024:.1f} GiB free")


def _writable(what: str, folder: Path, cure: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(f"{what}: {folder} cannot be written ({error.strerror}); {cure}", good=False)
    return Finding(f"{what}: {folder} can be written")
