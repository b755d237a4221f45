"""Keep freed memory pages in the process: large tensors come and go many times a second.

By default glibc returns every large block to the operating system and asks for it again; touching the new
pages can cost more than the arithmetic done on them.
"""

import ctypes
import platform
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_pages() -> bool:
    """Tell glibc's allocator to reuse memory instead of returning it.

    Call once, at the start of a program that works on large tensors. The process keeps its peak memory.

    Returns:
        True if the allocator took the setting; False where there is no glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    )


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held [MB], None where that is not known."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)
