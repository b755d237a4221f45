"""How much memory a piece of work takes, as the kernel of Linux tells."""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path


def give_back() -> bool:
    """Return freed memory to the system, which processes forked from this one would have too.

    Returns:
        False where there is no glibc.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return False
    return True


def rise(work: Callable[[], object]) -> float | None:
    """Do some work; return how far it lifts the memory of this process above what it had [GiB].

    Args:
        work: What to do.

    Returns:
        None where there is no Linux with glibc.
    """
    refs = Path("/proc/self/clear_refs")
    if not give_back() or not os.access(refs, os.W_OK):
        work()
        return None
    # Lets the kernel forget the peak so far.
    refs.write_text("5")
    before = _read("status", os.getpid(), "VmRSS")
    work()
    return (_read("status", os.getpid(), "VmHWM") - before) / 2**20


def own(process: int) -> float | None:
    """Return the memory that a process shares with no other [GiB]; None where there is no Linux.

    Args:
        process: Its number.
    """
    if not Path(f"/proc/{process}/smaps_rollup").exists():
        return None
    return _read("smaps_rollup", process, "Private_Clean", "Private_Dirty") / 2**20


def _read(file: str, process: int, *keys: str) -> int:
    lines = Path(f"/proc/{process}/{file}").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(keys))
