"""Share work among as many threads as torch may use."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Part = TypeVar("Part")


def in_threads(work: Callable[[Part], object], parts: Iterable[Part]) -> None:
    """Call a function with each part of some work; the parts must not depend on one another.

    torch's inference mode and its recording of gradients, which belong to a thread, are those of the caller.
    ``work`` must not call this function itself.

    Args:
        work: Called once per part; should spend its time outside of the interpreter.
        parts: What to call it with.

    Raises:
        Exception: Whatever ``work`` raises.

    Example:
        >>> squares = [0] * 3
        >>> in_threads(lambda k: squares.__setitem__(k, k * k), range(3))
        >>> squares
        [0, 1, 4]
    """
    todo = list(parts)
    count = torch.get_num_threads()
    if count == 1 or len(todo) < 2:
        for part in todo:
            work(part)
        return
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def one(part: Part) -> None:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            work(part)

    for _ in _pool(count).map(one, todo):
        pass


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="anystroke")


# A forked process inherits the pool but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
