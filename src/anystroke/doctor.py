"""What this installation can do, and what is wrong with it."""

import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from anystroke.inference.prediction import fast_bfloat16
from anystroke.learning.checkpoints import (
    CheckpointError,
    find_model,
    load_model,
    parameter_count,
    shipped_models,
)

_PACKAGES = ("torch", "monai", "nibabel", "nilearn", "numpy", "scipy", "SimpleITK", "safetensors", "pydantic")


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
    """Look at versions, processors, models and the output folder.

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
    yield from _processors()
    yield from _models()
    yield _writable(folder)


def _processors() -> Iterator[Finding]:
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(f"processor: {os.cpu_count()} cores, {torch.get_num_threads()} threads used, {capability}")
    precision = "bfloat16" if fast_bfloat16(torch.device("cpu")) else "float32 (no AMX)"
    yield Finding(f"training on the processor computes in {precision}")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        yield Finding(f"memory: {memory:.1f} GiB")
    if torch.cuda.is_available():
        yield Finding(f"GPU: {torch.cuda.get_device_name()}")
    else:
        yield Finding("GPU: none; the processor is used")


def _models() -> Iterator[Finding]:
    names = shipped_models()
    if not names:
        yield Finding("models: none comes with this installation; install the package again", good=False)
    for name in names:
        try:
            network, config = load_model(name)
        except CheckpointError as error:
            yield Finding(f"model {name}: {error}", good=False)
        else:
            millions = parameter_count(network.requires_grad_()) / 1e6
            where = find_model(name)
            yield Finding(f"model {name}: version {config.version}, {millions:.1f} M parameters, {where}")


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            f"output: {folder} cannot be written ({error.strerror}); name another folder", good=False
        )
    return Finding(f"output: {folder} can be written")
