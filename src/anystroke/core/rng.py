"""Named, reproducible random streams.

Everything random in anystroke takes a ``torch.Generator`` called ``rng``. No function touches a global seed.
"""

import hashlib

import torch


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the random stream that belongs to a seed and a path of names.

    Streams of different names are independent; the same seed and names always give the same stream, on any
    machine, in any process, in any order of creation.

    Args:
        seed: The seed of the whole run.
        *names: What the stream is for, from coarse to fine, for example ``"train", 17, "lesion"``.
        device: Where the generator lives.

    Returns:
        A seeded generator.

    Example:
        >>> a, b = stream(1, "noise"), stream(1, "noise")
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(name).__name__}:{name}" for name in names)])
    digest = hashlib.sha256(text.encode()).digest()
    rng = torch.Generator(device=device)
    rng.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return rng


def on_device(rng: torch.Generator, device: torch.device | str) -> torch.Generator:
    """Return a stream for large fields on a device.

    Single numbers are drawn on the CPU, wherever fields are computed: a GPU would be waited for each time,
    and what is drawn would depend on it.

    Args:
        rng: Random stream; where it is that device's own, it is what is returned.
        device: Where fields are computed.

    Returns:
        Else a stream of that device, whose seed is drawn from ``rng``.

    Example:
        >>> rng = stream(1, "field")
        >>> on_device(rng, "cpu") is rng
        True
    """
    device = torch.device(device)
    if device.type == rng.device.type:
        return rng
    other = torch.Generator(device=device)
    other.manual_seed(integer(rng, 0, 2**62))
    return other


def on_cpu(rng: torch.Generator) -> torch.Generator:
    """Return a stream of the CPU with the seed of one of any device, of which nothing was drawn."""
    return rng if rng.device.type == "cpu" else torch.Generator().manual_seed(rng.initial_seed())


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Draw one number uniformly from [low, high)."""
    return low + (high - low) * torch.rand((), generator=rng, device=rng.device, dtype=torch.float64).item()


def normal(rng: torch.Generator, mean: float, sd: float) -> float:
    """Draw one number from a normal distribution."""
    return mean + sd * torch.randn((), generator=rng, device=rng.device, dtype=torch.float64).item()


def log_uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Draw one number whose logarithm is uniform between those of ``low`` > 0 and ``high``."""
    return float(low * (high / low) ** uniform(rng, 0.0, 1.0))


def integer(rng: torch.Generator, low: int, high: int) -> int:
    """Draw one integer uniformly from low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng, device=rng.device).item())


def chance(rng: torch.Generator, probability: float) -> bool:
    """Return True with the given probability."""
    return uniform(rng, 0.0, 1.0) < probability


def choice(rng: torch.Generator, weights: list[float]) -> int:
    """Draw an index with probability proportional to non-negative ``weights``."""
    total = torch.tensor(weights, dtype=torch.float64, device=rng.device)
    return int(torch.multinomial(total, 1, generator=rng).item())
