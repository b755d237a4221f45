"""From a scan and a network to a lesion probability and a mask in the scan's own grid."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from anystroke.inference.preprocessing import check_scan, to_model_space
from anystroke.learning.checkpoints import ModelConfig
from anystroke.volume import Volume

LESION = "lesion"
# Above this many voxels of the model grid the network sees overlapping windows instead of the whole head.
ONE_PASS_VOXELS = 160**3
WINDOW = 96
_NEIGHBOURS = np.ones((3, 3, 3))  # 26 neighbours: voxels that share a corner are connected


class PredictionWarning(UserWarning):
    """Something about a prediction that the user should know."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says about one scan, in the scan's own grid.

    Attributes:
        probability: Lesion probability, float32.
        mask: Where the probability reaches the threshold, less the components that are too small or nowhere
            as probable as the model demands; uint8.
        threshold: The threshold used.
        tissues: Probabilities of the other classes that were asked for, by name.
        seconds: Duration of each stage by name.
    """

    probability: Volume
    mask: Volume
    threshold: float
    tissues: dict[str, Volume] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@torch.inference_mode()
def predict(
    scan: Volume,
    network: nn.Module,
    config: ModelConfig,
    *,
    threshold: float | None = None,
    min_volume: float = 0.0,
    flip: bool = False,
    tissues: tuple[str, ...] = (),
    device: torch.device | str | None = None,
) -> Prediction:
    """Find the lesion in one scan.

    The whole head goes through the network at once; heads that are larger than the limit go in overlapping
    windows.

    Args:
        scan: One channel, any orientation, spacing and contrast.
        network: Maps (1, 1, X, Y, Z) to logits (1, classes, X, Y, Z); it is moved to ``device``.
        config: The network's spacing, divisor, classes, thresholds and temperature.
        threshold: Probability from which a voxel is lesion; by default the model's own.
        min_volume: Lesions smaller than this [ml] are removed from the mask.
        flip: Average with the prediction of the mirrored head; doubles the time.
        tissues: Classes of the model to return beside the lesion.
        device: Where to compute; by default a GPU if there is one.

    Returns:
        Probability and mask in the scan's grid.

    Raises:
        VolumeError: The scan cannot be used (see `check_scan`).
        ValueError: A threshold outside (0, 1), a negative volume, or a class that the model does not have.

    Example:
        >>> scan = Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([2.0, 2, 2, 1])))
        >>> config = ModelConfig(
        ...     name="x", architecture="unet", classes=("background", "lesion"), spacing=2.0, divisor=16
        ... )
        >>> predict(scan, nn.Conv3d(1, 2, 1), config, device="cpu").mask.shape
        (40, 40, 40)
    """
    threshold = config.threshold if threshold is None else threshold
    _check_options(config, threshold, min_volume, tissues)
    seconds: dict[str, float] = {}
    with _timed(seconds, "preprocessing"):
        check_scan(scan)
        space = to_model_space(
            scan, spacing=config.spacing, divisor=config.divisor, normalise=config.normalisation
        )
    with _timed(seconds, "network"):
        wanted = [config.classes.index(name) for name in (LESION, *tissues, *config.brain)]
        values = _probabilities(space.image, network, config, wanted, flip, _device(device))
        if config.brain:
            brain = values[1 + len(tissues) :].sum(0)
            values[0] *= within_brain(values[0] >= threshold / 2, brain >= 0.5)
    with _timed(seconds, "resampling"):
        lesion = space.to_native(values[:1])
        others = {name: space.to_native(values[i + 1 : i + 2]) for i, name in enumerate(tissues)}
        mask = lesion.data >= threshold
        if config.certain > threshold:
            mask = keep_certain(mask, lesion.data, config.certain)
        if min_volume > 0:
            mask = remove_small(mask, min_volume / lesion.voxel_volume)
    return Prediction(lesion, replace(lesion, data=mask.to(torch.uint8)), threshold, others, seconds)


def within_brain(lesion: Tensor, brain: Tensor) -> Tensor:
    """Tell lesions in the brain from what only looks like one: eyes, sinuses, muscles.

    A connected part of the lesion stays if at least a quarter of the voxels around it belong to the largest
    connected part of the healthy brain.

    Args:
        lesion: Boolean (X, Y, Z).
        brain: Boolean (X, Y, Z), healthy brain and its fluid.

    Returns:
        Boolean (X, Y, Z): False in the parts that do not stay, True elsewhere. All True if there is no brain.

    Example:
        >>> line = torch.tensor([1, 1, 0, 0, 0, 1, 0]).bool().view(7, 1, 1)
        >>> brain = torch.tensor([0, 0, 1, 1, 0, 0, 0]).bool().view(7, 1, 1)
        >>> within_brain(line, brain).flatten().tolist()
        [True, True, True, True, True, False, True]
    """
    keep = torch.ones_like(lesion)
    if not bool(brain.any()):
        return keep
    parts, count = ndimage.label(brain.numpy())
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    main = parts == sizes.argmax()
    found, _ = ndimage.label(lesion.numpy(), structure=_NEIGHBOURS)
    for number, box in enumerate(ndimage.find_objects(found), start=1):
        around = tuple(
            slice(max(side.start - 1, 0), min(side.stop + 1, n))
            for side, n in zip(box, found.shape, strict=True)
        )
        inside = found[around] == number
        shell = ndimage.binary_dilation(inside, _NEIGHBOURS) & ~inside
        if main[around][shell].sum() < 0.25 * shell.sum():
            keep[around][torch.from_numpy(inside)] = False
    return keep


def keep_certain(mask: Tensor, probability: Tensor, certain: float) -> Tensor:
    """Keep the connected components (26 neighbours) in which some voxel is as probable as ``certain``.

    Args:
        mask: Boolean (1, X, Y, Z).
        probability: (1, X, Y, Z).
        certain: Probability that a component must reach somewhere.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> probability = torch.tensor([0.6, 0.0, 0.6, 0.9]).view(1, 4, 1, 1)
        >>> keep_certain(probability >= 0.5, probability, 0.8).flatten().tolist()
        [False, False, True, True]
    """
    labels, count = ndimage.label(mask[0].numpy(), structure=_NEIGHBOURS)
    keep = np.zeros(count + 1, dtype=bool)
    keep[labels[probability[0].numpy() >= certain]] = True
    keep[0] = False
    return torch.from_numpy(keep[labels])[None]


def remove_small(mask: Tensor, minimum: float) -> Tensor:
    """Remove connected components (26 neighbours) of fewer than ``minimum`` voxels.

    Args:
        mask: Boolean (1, X, Y, Z).
        minimum: Voxels a component must have to stay.

    Returns:
        Boolean mask of the same shape.

    Example:
        >>> remove_small(torch.tensor([1, 0, 1, 1]).bool().view(1, 4, 1, 1), 2).flatten().tolist()
        [False, False, True, True]
    """
    labels, count = ndimage.label(mask[0].numpy(), structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= minimum
    keep[0] = False
    return torch.from_numpy(keep[labels])[None]


def count_lesions(mask: Tensor) -> int:
    """Count the connected components (26 neighbours) of a mask (1, X, Y, Z).

    Example:
        >>> count_lesions(torch.tensor([1, 0, 1, 1]).view(1, 4, 1, 1))
        2
    """
    return int(ndimage.label(mask[0].numpy(), structure=_NEIGHBOURS)[1])


def _check_options(
    config: ModelConfig, threshold: float, min_volume: float, tissues: tuple[str, ...]
) -> None:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"the threshold is a probability above 0 and below 1, got {threshold:g}; try 0.5")
    if not min_volume >= 0.0:
        raise ValueError(f"the smallest lesion volume is 0 ml or more, got {min_volume:g}")
    for name in (LESION, *tissues, *config.brain):
        if name not in config.classes:
            raise ValueError(
                f"the model {config.name} has no class {name!r}; it has {', '.join(config.classes)}"
            )


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _probabilities(
    image: Tensor,
    network: nn.Module,
    config: ModelConfig,
    wanted: list[int],
    flip: bool,
    device: torch.device,
) -> Tensor:
    """Compute the probabilities of the wanted classes (K, X, Y, Z) on the model grid, on the CPU."""
    try:
        return _forward(image, network, config, wanted, flip, device)
    except torch.OutOfMemoryError:
        warnings.warn(
            "the GPU's memory is too small for this scan; the CPU is used instead",
            PredictionWarning,
            stacklevel=3,
        )
    return _forward(image, network, config, wanted, flip, torch.device("cpu"))


def _forward(
    image: Tensor,
    network: nn.Module,
    config: ModelConfig,
    wanted: list[int],
    flip: bool,
    device: torch.device,
) -> Tensor:
    """Run the network on the head and, if asked, on its mirror image."""
    network = network.to(device).eval()

    def selected(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            logits: Tensor = network(x)
        return torch.softmax(logits.float() / config.temperature, dim=1)[:, wanted]

    def run(x: Tensor) -> Tensor:
        if x[0, 0].numel() <= ONE_PASS_VOXELS:
            return selected(x)
        from monai.inferers.utils import sliding_window_inference  # takes seconds to import

        side = config.divisor * max(1, WINDOW // config.divisor)
        windows = [min(side, n) for n in x.shape[2:]]
        result: Tensor = sliding_window_inference(x, windows, 1, selected, overlap=0.5, mode="gaussian")
        return result

    head = image[None].to(device)
    values = run(head)
    if flip:
        values = 0.5 * (values + run(head.flip(2)).flip(2))
    return values[0].cpu()


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


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
