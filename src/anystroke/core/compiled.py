"""Whether compiled loops of the CPU do what torch operations do elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_use = True


def compiled(device: torch.device) -> bool:
    """Return whether what lies on a device is computed by compiled loops: on the CPU, if they are in use.

    Args:
        device: Of the tensors.
    """
    return _use and device.type == "cpu"


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Compute with torch operations alone within the block, in all threads, as on a GPU.

    Example:
        >>> with as_on_a_card():
        ...     compiled(torch.device("cpu"))
        False
    """
    global _use
    before, _use = _use, False
    try:
        yield
    finally:
        _use = before
