"""Run a network over a head: whole or in windows, mirrored if asked, and on less memory if it must be."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from anystroke.core.errors import AnystrokeError
from anystroke.models.model_space import Standardisation

# Above this many voxels of the model grid the network sees overlapping windows instead of the whole head.
ONE_PASS_VOXELS = 160**3
WINDOW = 96
_SMALL_WINDOW = 64
ReadLogits = Callable[[Tensor], Tensor]


class PredictionWarning(UserWarning):
    """Something about a prediction that the user should know."""


@dataclass(frozen=True)
class Processing:
    """How a scan is brought to the network and put through it.

    Attributes:
        spacing: Voxel size [mm]; None for the model's own.
        normalisation: How intensities are standardised; None for the model's own.
        crop: Cut out the head instead of taking the whole field of view.
        window: Side of the windows [voxels].
        one_pass_voxels: Up to this many voxels there are no windows.
        flips: Axes along which the head is mirrored in each pass; the passes are averaged.
        averaged: How many of the passes, from the first, count in the average; None for all. The spread is
            that over all.
    """

    spacing: float | None = None
    normalisation: Standardisation | None = None
    crop: bool = True
    window: int = WINDOW
    one_pass_voxels: int = ONE_PASS_VOXELS
    flips: tuple[tuple[int, ...], ...] = ((),)
    averaged: int | None = None

    def turned(self) -> "Processing":
        """Let left and right change places in each pass.

        Example:
            >>> Processing(flips=((), (1,))).turned().flips
            ((0,), (0, 1))
        """
        return replace(self, flips=tuple(flip[1:] if 0 in flip else (0, *flip) for flip in self.flips))

    def mirrored(self) -> "Processing":
        """Add each pass over the head mirrored left to right, where there is none."""
        others = tuple(flip for flip in self.turned().flips if flip not in self.flips)
        return replace(self, flips=(*self.flips, *others))

    def with_spread(self) -> "Processing":
        """Add a mirrored pass for the spread alone, where there is one pass: the average stays what it was.

        Example:
            >>> Processing().with_spread().averaged
            1
        """
        return replace(self.mirrored(), averaged=1) if len(self.flips) < 2 else self


ALL_FLIPS = tuple(
    tuple(axis for axis, chosen in enumerate(choice) if chosen) for choice in product((0, 1), repeat=3)
)
# Chalcroft et al., the test-time processing of SynthStroke and its successors.
_PAPER = Processing(
    spacing=1.0, normalisation="equalised", crop=False, window=192, one_pass_voxels=0, flips=ALL_FLIPS
)
PRESETS = {
    "default": Processing(),
    "paper": _PAPER,
    "paper-one-pass": replace(_PAPER, flips=((),)),
}
"""Ways of processing by name."""


class DeviceError(AnystrokeError):
    """A device that this machine or this PyTorch does not have; the message says what to do."""


_chosen: dict[str, torch.device] = {}


def use_device(name: str) -> None:
    """Choose where networks of this process compute where nothing else is asked for.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Raises:
        DeviceError: There is no such device.

    Example:
        >>> use_device("cpu")
        >>> best_device()
        device(type='cpu')
        >>> use_device("auto")
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, True):
        made_for = "with CUDA" if name == "cuda" else "for Apple's GPUs"
        raise DeviceError(
            f"expected a GPU for {name!r}, but PyTorch {torch.__version__} sees none here; use 'cpu' or "
            f"'auto', or check the driver and that this PyTorch was built {made_for}"
        )
    _chosen.clear()
    if name != "auto":
        _chosen["default"] = torch.device(name)


def best_device(device: torch.device | str | None = None) -> torch.device:
    """Choose where to compute: as asked, as `use_device` says, or a GPU if there is one.

    Example:
        >>> best_device("cpu")
        device(type='cpu')
    """
    if device is not None:
        return torch.device(device)
    if "default" in _chosen:
        return _chosen["default"]
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def class_probabilities(
    image: Tensor,
    network: nn.Module,
    wanted: list[int],
    processing: Processing,
    device: torch.device,
    *,
    divisor: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Average the probabilities of classes as `average_output` does.

    Args:
        image: As there.
        network: As there.
        wanted: Numbers of the classes.
        processing: As there.
        device: As there.
        divisor: As there.
        temperature: Logits are divided by it.
    """

    def read(logits: Tensor) -> Tensor:
        return torch.softmax(logits / temperature, dim=1)[:, wanted]

    return average_output(image, network, read, divisor=divisor, processing=processing, device=device)


def average_output(
    image: Tensor,
    network: nn.Module,
    read: ReadLogits,
    *,
    divisor: int,
    processing: Processing,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Average what a network puts out over windows and flips; with less memory each time it runs out.

    Args:
        image: (1, X, Y, Z), sides multiples of the divisor.
        network: Moved to the device that served.
        read: What is averaged, made of the network's output (1, K, x, y, z) in float32.
        divisor: Of the network.
        processing: Windows and flips.
        device: Where to begin: after smaller windows and half precision, the CPU is used.

    Returns:
        Mean over the flips that count (K, X, Y, Z) and the standard deviation of the first channel over all
        flips (1, X, Y, Z), both on the CPU.

    Raises:
        torch.OutOfMemoryError: The memory is too small on the CPU too.

    Example:
        >>> ones = torch.ones(1, 32, 32, 32)
        >>> eight = Processing(flips=ALL_FLIPS)
        >>> mean, _ = average_output(
        ...     ones, nn.Identity(), lambda x: 3 * x, divisor=8, processing=eight, device=torch.device("cpu")
        ... )
        >>> float(mean.min()), float(mean.max())
        (3.0, 3.0)
    """
    small = replace(processing, window=min(processing.window, _SMALL_WINDOW), one_pass_voxels=0)
    steps: list[tuple[str, Processing, bool, torch.device]] = [("", processing, False, device)]
    if device.type != "cpu":
        steps.append(("smaller windows are used", small, False, device))
        if device.type == "cuda":
            steps.append(("half precision is used", small, True, device))
        steps.append(("the CPU is used instead", processing, False, torch.device("cpu")))
    for i, (words, chosen, half, where) in enumerate(steps):
        if words:
            warnings.warn(
                f"the {device.type} device's memory is too small for this scan; {words}",
                PredictionWarning,
                stacklevel=6,
            )
        try:
            return _passes(image, network, read, divisor, chosen, where, half)
        except RuntimeError as error:
            if "out of memory" not in str(error).lower() or i + 1 == len(steps):
                raise
    raise AssertionError("there is always a last step")


def _passes(
    image: Tensor,
    network: nn.Module,
    read: ReadLogits,
    divisor: int,
    processing: Processing,
    device: torch.device,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Average the passes over the head and its mirror images."""
    network = network.to(device).eval()
    run = _runner(network, read, divisor, processing, device, half)
    head = image[None].to(device)
    total: Tensor | None = None
    sums: tuple[Tensor, Tensor] | None = None
    counted = processing.averaged or len(processing.flips)
    for number, flip in enumerate(processing.flips):
        axes = [axis + 2 for axis in flip]
        values = run(head.flip(axes)).flip(axes) if axes else run(head)
        first = values[:, :1]
        sums = (first, first.square()) if sums is None else (sums[0] + first, sums[1] + first.square())
        if number < counted:
            total = values if total is None else total + values
    if total is None or sums is None:
        raise ValueError("expected at least one pass over the head, got none")
    mean, square = (each / len(processing.flips) for each in sums)
    spread = (square - mean.square()).clamp(min=0).sqrt()
    return (total / counted)[0].cpu(), spread[0].cpu()


def _runner(
    network: nn.Module,
    read: ReadLogits,
    divisor: int,
    processing: Processing,
    device: torch.device,
    half: bool,
) -> Callable[[Tensor], Tensor]:
    """Make the function that puts one head through the network."""
    precision = torch.float16 if half else torch.bfloat16

    def selected(x: Tensor) -> Tensor:
        with torch.autocast(device.type, precision, enabled=half or fast_bfloat16(device)):
            logits: Tensor = network(x)
        return read(logits.float())

    def run(x: Tensor) -> Tensor:
        if x[0, 0].numel() <= processing.one_pass_voxels:
            return selected(x)
        from monai.inferers.utils import sliding_window_inference  # takes seconds to import

        side = divisor * max(1, processing.window // divisor)
        windows = [min(side, n) for n in x.shape[2:]]
        result: Tensor = sliding_window_inference(
            x, windows, 1, selected, overlap=0.5, mode="gaussian", sigma_scale=0.125
        )
        return result

    return run


def fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices in hardware (CPU: AMX or AVX512-BF16).

    Example:
        >>> isinstance(fast_bfloat16(torch.device("cpu")), bool)
        True
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in checks)
