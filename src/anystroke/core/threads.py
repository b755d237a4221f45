"""Share work among as many threads as torch may use; read and write while the network computes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

ThreadItem = TypeVar("ThreadItem")
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def in_threads(work: Callable[[ThreadItem], Written], parts: Iterable[ThreadItem]) -> list[Written]:
    """Call a function with each part of some work; the parts must not depend on one another.

    torch's inference mode and its recording of gradients, which belong to a thread, are those of the caller.
    ``work`` must not call this function itself.

    Args:
        work: Called once per part; should spend its time outside of the interpreter.
        parts: What to call it with.

    Returns:
        What it returned, in the order of the parts.

    Raises:
        Exception: Whatever ``work`` raises.

    Example:
        >>> in_threads(lambda k: k * k, range(3))
        [0, 1, 4]
    """
    todo = list(parts)
    count = torch.get_num_threads()
    if count == 1 or len(todo) < 2:
        return [work(part) for part in todo]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def one(part: ThreadItem) -> Written:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(part)

    return list(_pool(count).map(one, todo))


def in_stages(
    items: Iterable[Item],
    read: Callable[[Item], Loaded],
    compute: Callable[[Item, Loaded], Computed],
    write: Callable[[Item, Computed], Written],
) -> Iterator[tuple[Item, Written | Exception]]:
    """Take items through three stages: a thread reads the next and another writes the last meanwhile.

    An item that fails in one stage skips the next, and stops no other. At most two items are read ahead.

    Args:
        items: What to take.
        read: The first stage, in a thread of its own.
        compute: The second, in the thread of the caller.
        write: The third, in a thread of its own; what was begun is finished even if the caller stops.

    Yields:
        Each item with what ``write`` returned, or with what a stage raised; in order.

    Example:
        >>> for item, result in in_stages("30", int, lambda _, n: 6 // n, lambda _, n: n + 1):
        ...     print(item, repr(result))
        3 3
        0 ZeroDivisionError('integer division or modulo by zero')
    """
    waiting = deque(items)
    ahead: deque[tuple[Item, Future[Loaded]]] = deque()
    behind: deque[tuple[Item, Future[Written]]] = deque()
    with ThreadPoolExecutor(1, "reading") as reader, ThreadPoolExecutor(1, "writing") as writer:
        try:
            while waiting or ahead or behind:
                while waiting and len(ahead) < 2:
                    item = waiting.popleft()
                    ahead.append((item, reader.submit(read, item)))
                if ahead:
                    item, reading = ahead.popleft()
                    try:
                        behind.append((item, writer.submit(write, item, compute(item, reading.result()))))
                    except Exception as error:  # noqa: BLE001  # one item stops no other
                        failed: Future[Written] = Future()
                        failed.set_exception(error)
                        behind.append((item, failed))
                while behind and (len(behind) > 1 or not (ahead or waiting)):
                    item, writing = behind.popleft()
                    raised = writing.exception()
                    if raised is not None and not isinstance(raised, Exception):
                        raise raised
                    yield item, writing.result() if raised is None else raised
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=True)


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="anystroke")


# A forked process inherits the pool but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
